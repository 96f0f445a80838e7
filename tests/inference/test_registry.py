from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from models.errors import (
    CardError,
    ChecksumError,
    GoldenCaseError,
    ModelError,
    ModelNotFoundError,
    ModelRunError,
)
from services.inference import registry
from services.inference.registry import TriageModel

SHIPPED = registry.MODELS / "asymmetry" / "1.0.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models with a copy of the shipped one."""
    home = tmp_path / "asymmetry" / "1.0.0"
    home.mkdir(parents=True)
    for name in ("card.json", "model.onnx", "golden.npz"):
        shutil.copy(SHIPPED / name, home / name)
    return tmp_path


def edit_card(home: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((home / "card.json").read_text())
    change(card)
    (home / "card.json").write_text(json.dumps(card))


def test_the_shipped_model_loads_and_says_what_it_is(model: TriageModel) -> None:
    assert model.card.identity == "asymmetry@1.0.0"
    assert "priority" in model.card.intended_use
    assert registry.versions("asymmetry") == ["1.0.0"]


def test_its_card_for_people_states_the_limits() -> None:
    card = (SHIPPED / "CARD.md").read_text()
    assert "not a diagnosis" in card
    assert "not a trained network" in card


def test_a_tampered_weight_file_is_refused(folder: Path) -> None:
    path = folder / "asymmetry" / "1.0.0" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"model\.onnx .* SHA-256"):
        registry.load("asymmetry", folder=folder)


def test_a_golden_case_that_comes_out_otherwise_is_refused(folder: Path) -> None:
    home = folder / "asymmetry" / "1.0.0"
    with np.load(home / "golden.npz") as case:
        volumes, expected = case["volumes"], case["expected"]
    expected[0, 1] += 0.5
    np.savez_compressed(home / "golden.npz", volumes=volumes, expected=expected)
    digest = hashlib.sha256((home / "golden.npz").read_bytes()).hexdigest()
    edit_card(home, lambda card: card["files"].update({"golden.npz": digest}))
    with pytest.raises(GoldenCaseError, match="asymmetric_volume"):
        registry.load("asymmetry", folder=folder)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 broken"])
def test_an_unreadable_golden_case_is_refused(folder: Path, content: bytes) -> None:
    home = folder / "asymmetry" / "1.0.0"
    (home / "golden.npz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_card(home, lambda card: card["files"].update({"golden.npz": digest}))
    with pytest.raises(GoldenCaseError):
        registry.load("asymmetry", folder=folder)


def test_weights_that_are_no_model_are_refused_even_with_a_right_checksum(folder: Path) -> None:
    home = folder / "asymmetry" / "1.0.0"
    (home / "model.onnx").write_bytes(b"not a graph")
    digest = hashlib.sha256(b"not a graph").hexdigest()
    edit_card(home, lambda card: card["files"].update({"model.onnx": digest}))
    with pytest.raises(ModelRunError):
        registry.load("asymmetry", folder=folder)


@pytest.mark.parametrize("file", ["card.json", "model.onnx", "golden.npz"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / "asymmetry" / "1.0.0" / file).unlink()
    with pytest.raises(ModelNotFoundError, match=file):
        registry.load("asymmetry", "1.0.0", folder=folder)


def test_an_unknown_model_is_not_found(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no version"):
        registry.load("haemorrhage", folder=folder)


def test_the_newest_version_is_the_default_in_numbers_not_letters(folder: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        shutil.copytree(folder / "asymmetry" / "1.0.0", folder / "asymmetry" / version)
        edit_card(folder / "asymmetry" / version, lambda card, v=version: card.update(version=v))
    assert registry.load("asymmetry", folder=folder).card.version == "1.10.0"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda card: card.pop("threshold"), "threshold"),
        (lambda card: card.update(threshold="high"), "threshold"),
        (lambda card: card.update(threshold=2), "threshold"),
        (lambda card: card.update(score="unknown"), "score"),
        (lambda card: card["files"].update({"model.onnx": "abc"}), "model.onnx"),
        (lambda card: card["input"].update(shape=[32, 52]), "shape"),
        (lambda card: card.update(input=[]), "input"),
        (lambda card: card["plausibility"].update(region_mm=[[0, 1]]), "region_mm"),
        (lambda card: card.update(version="1.0"), "version"),
    ],
)
def test_an_incomplete_card_is_refused_and_the_field_named(
    folder: Path, change: Callable[[dict[str, Any]], object], field: str
) -> None:
    edit_card(folder / "asymmetry" / "1.0.0", change)
    with pytest.raises(CardError, match=field):
        registry.load("asymmetry", folder=folder)


def test_a_card_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "asymmetry" / "1.0.0" / "card.json").write_bytes(b"\xff{")
    with pytest.raises(CardError):
        registry.load("asymmetry", folder=folder)


def test_a_card_of_another_model_is_refused(folder: Path) -> None:
    edit_card(folder / "asymmetry" / "1.0.0", lambda card: card.update(name="other"))
    with pytest.raises(CardError, match=r"other@1\.0\.0"):
        registry.load("asymmetry", folder=folder)


def test_errors_have_stable_codes_of_their_own() -> None:
    kinds = (ModelNotFoundError, CardError, ChecksumError, GoldenCaseError, ModelRunError)
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(issubclass(kind, ModelError) for kind in kinds)


def test_a_volume_of_another_shape_is_refused(model: TriageModel) -> None:
    with pytest.raises(ValueError, match="shape"):
        model.run(np.zeros((2, 2, 2), dtype=np.float32))


def test_a_volume_outside_the_scan_gives_numbers_all_the_same(model: TriageModel) -> None:
    for value in (-1, 0, 1e6):
        values = model.run(np.full(model.card.grid.shape, value, dtype=np.float32))
        assert values["asymmetry_index"] == pytest.approx(0, abs=1e-6)


def test_mirroring_a_head_swaps_its_sides_and_nothing_else(model: TriageModel) -> None:
    with np.load(SHIPPED / "golden.npz") as case:
        volume = case["volumes"][0].astype(np.float32)
    here = model.run(volume)
    there = model.run(np.ascontiguousarray(volume[:, :, ::-1]))
    assert there["asymmetry_index"] == pytest.approx(here["asymmetry_index"], rel=1e-4)
    assert there["fluid_left"] == pytest.approx(here["fluid_right"], rel=1e-4)
    assert there["midline_shift"] == pytest.approx(-here["midline_shift"], abs=0.05)


def build_script() -> ModuleType:
    pytest.importorskip("onnx", reason="a development dependency")
    spec = importlib.util.spec_from_file_location("asymmetry_build", SHIPPED / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_what_the_build_script_makes(tmp_path: Path) -> None:
    home = tmp_path / "asymmetry" / "1.0.0"
    home.mkdir(parents=True)
    build_script().main(home)
    built, shipped = (json.loads((h / "card.json").read_text()) for h in (home, SHIPPED))
    # another version of onnx may write other bytes for the same graph
    built.pop("files"), shipped.pop("files")
    assert built == shipped
    with np.load(home / "golden.npz") as new, np.load(SHIPPED / "golden.npz") as old:
        assert np.array_equal(new["volumes"], old["volumes"])
        np.testing.assert_allclose(new["expected"], old["expected"], atol=1e-3)
    registry.load("asymmetry", folder=tmp_path)
