"""What the model says of a folder, without a store or a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Terminal
from tests.inference.phantom import classic, head, store

KEYS = {"outcome", "measurements", "findings", "reason", "model"}


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with an enlarged left lateral ventricle, beside files that are no DICOM."""
    folder = tmp_path_factory.mktemp("ill")
    files = store(classic(head(2, "left")), folder / "series")
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.dcm").write_bytes(files[0].read_bytes()[:3000])
    return folder


def test_the_keys_are_those_that_operators_were_promised(terminal: Terminal, ill: Path) -> None:
    said = terminal.json("triage", "try", ill)
    assert said.keys() >= KEYS
    assert (said["outcome"], said["model"]) == ("critical", "asymmetry@1.0.0")
    assert all(m.keys() == {"name", "value", "unit"} for m in said["measurements"])
    units = {m["name"]: m["unit"] for m in said["measurements"]}
    assert units["left lateral ventricle volume"] == "ml"
    assert units["midline shift"] == "mm"
    assert any("left lateral ventricle" in finding for finding in said["findings"])
    assert {Path(s["file"]).name for s in said["skipped"]} == {"notes.txt", "cut.dcm"}


def test_people_are_shown_outcome_reason_and_what_was_skipped(
    terminal: Terminal, ill: Path
) -> None:
    result = terminal.run("triage", "try", ill)
    assert result.exit_code == 0
    for word in ("critical", "asymmetry index", "midline shift", "notes.txt", "not a DICOM file"):
        assert word in result.stdout


def test_several_studies_are_judged_each_by_itself_the_most_urgent_first(
    terminal: Terminal, ill: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "three"
    uids = {"StudyInstanceUID": "2.25.200", "SeriesInstanceUID": "2.25.201"}
    store(classic(head(1), **uids), folder / "normal")
    knee = {"StudyInstanceUID": "2.25.300", "BodyPartExamined": "KNEE"}
    store(classic(head(1, slices=3), **knee), folder / "knee")
    (folder / "ill").symlink_to(ill / "series")
    for file in (ill / "series").iterdir():
        (folder / file.name).symlink_to(file)
    said = terminal.json("triage", "try", folder)
    assert said["outcome"] == "critical"
    outcomes = [(s["study_uid"], s["outcome"]) for s in said["studies"]]
    assert outcomes == [
        ("2.25.100", "critical"),
        ("2.25.300", "abstained"),
        ("2.25.200", "normal"),
    ]
    assert "another body part" in said["studies"][1]["reason"]


def test_an_abstention_is_an_outcome_not_a_failure(terminal: Terminal, tmp_path: Path) -> None:
    store(classic(head(1, slices=3)), tmp_path / "thin")
    said = terminal.json("triage", "try", tmp_path / "thin")
    assert (said["outcome"], said["measurements"]) == ("abstained", [])
    assert "slices" in said["reason"]


def test_one_file_can_be_tried(terminal: Terminal, tmp_path: Path) -> None:
    (file, *_) = store(classic(head(1, slices=3)), tmp_path / "thin")
    assert terminal.json("triage", "try", file)["files"] == 1


@pytest.mark.parametrize(
    ("files", "words"), [({}, "it is empty"), ({"a.txt": b"hello"}, "not a DICOM file")]
)
def test_nothing_to_try_is_a_clear_error(
    terminal: Terminal, tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    result = terminal.run("triage", "try", folder, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no DICOM file" in result.stderr
    assert words in result.stderr


def test_a_folder_that_is_not_there_is_named(terminal: Terminal, tmp_path: Path) -> None:
    result = terminal.run("triage", "try", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_a_model_that_is_not_there_is_told_by_its_code(
    terminal: Terminal, ill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_TRIAGE_MODEL", "other@1.0.0")
    result = terminal.run("triage", "try", ill)
    assert result.exit_code == 1
    assert result.stderr.startswith("model.not_found: ")
