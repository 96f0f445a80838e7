"""One verified model and a few heads, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.inference import registry
from services.inference.assess import assess
from services.inference.assessment import Assessment
from services.inference.registry import TriageModel
from tests.inference.phantom import classic, head, store

CORPORA = Path(__file__).parents[3] / "shared" / "corpora" / "dicom"
# third-party images that lie beside the project, not in it
collect_ignore = [] if CORPORA.is_dir() else ["test_corpora.py"]


@pytest.fixture(scope="session")
def model() -> TriageModel:
    return registry.load("asymmetry")


@pytest.fixture(scope="session")
def normal_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return store(classic(head(1)), tmp_path_factory.mktemp("normal"))


@pytest.fixture(scope="session")
def ill_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A head with an enlarged left lateral ventricle."""
    return store(classic(head(2, "left")), tmp_path_factory.mktemp("ill"))


@pytest.fixture(scope="session")
def ill_assessment(model: TriageModel, ill_paths: list[Path]) -> Assessment:
    return assess(model, ill_paths)
