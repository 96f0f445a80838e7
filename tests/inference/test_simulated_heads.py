"""The simulated department's patients: another maker's heads than the ones the tests draw."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from services.inference.assess import assess
from services.inference.registry import TriageModel
from tests.inference.phantom import store


def simulators(name: str) -> Any:
    return pytest.importorskip(
        f"services.simulators.{name}", reason="the simulators are not part of this checkout"
    )


@pytest.mark.parametrize(
    ("seed", "pathology", "outcome"),
    [
        (1, "none", "normal"),
        (1, "unilateral_ventricle", "critical"),
        (2, "unilateral_ventricle", "critical"),
        (3, "none", "normal"),
        (4, "enlarged_ventricles", "normal"),  # symmetrical: outside what the model can see
    ],
)
def test_a_patient_is_triaged_as_made(
    model: TriageModel, tmp_path: Path, seed: int, pathology: str, outcome: str
) -> None:
    anatomy, header, imaging = (simulators(n) for n in ("anatomy", "header", "imaging"))
    volume = anatomy.head(seed, pathology, matrix=96, slices=30, slice_mm=5.0, tilt_deg=10.0)
    exam = header.Exam(
        key=f"triage-{seed}-{pathology}",
        patient_name="Test^Head",
        patient_id="T1",
        study_uid="2.25.4711",
        started=datetime(2026, 1, 2, 8, 0),
    )
    found = assess(model, store(imaging.classic_mr(volume, exam), tmp_path))
    assert found.outcome == outcome, found.reason
    if outcome == "critical":
        assert found.side == volume.truth["side"]
