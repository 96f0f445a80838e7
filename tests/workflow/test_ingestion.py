"""A directory as it lies on a desk: images, other things, and things that only look like images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from deployments.cli import app
from models.study import new_uid
from services.archive.tiers import Tiers
from services.database.store import Store
from services.settings import Settings
from services.workflow.ingestion import Ingestion, files_below, ingest
from tests.dicom.department import JOHN, image, place, series, write


@pytest.fixture
def tiers(settings: Settings) -> Tiers:
    return Tiers(settings.model_copy(update={"disk_floor_mb": 1}))


def take(store: Store, tiers: Tiers, folder: Path) -> Ingestion:
    seen: list[Path] = []
    done = ingest(store, tiers, files_below(folder), on_file=seen.append)
    assert seen == files_below(folder) or done.failure
    assert list(tiers.incoming("ingest").iterdir()) == []
    return done


def dicomdir(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = new_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = Dataset()
    content.FileSetID = "TEST"
    FileDataset(None, content, b"\0" * 128, meta).save_as(path, enforce_file_format=True)


def test_images_are_filed_and_everything_else_is_named(
    store: Store, tiers: Tiers, tmp_path: Path
) -> None:
    folder = tmp_path / "disc"
    ordered, _ = place(store)
    series(folder / "a", ordered.study_uid, 3)
    series(folder / "b", stray := new_uid(), 2)
    write(image(ordered.study_uid, patient=JOHN), folder / "other-patient.dcm")
    (folder / "README.txt").write_text("hello")
    (folder / "empty").touch()
    (folder / "more.TAR.XZ").write_bytes(b"\xfd7zXZ\0")
    dicomdir(folder / "DICOMDIR")
    whole = (folder / "a" / "0001.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:-100])
    before = {path: path.read_bytes() for path in files_below(folder)}

    done = take(store, tiers, folder)

    assert {(s.study_uid, s.stored, s.apart, s.has_order, s.desk) for s in done.studies} == {
        (ordered.study_uid, 3, 1, True, ("wrong-patient",)),
        (stray, 2, 0, False, ("no-order",)),
    }
    assert [(each.file.name, each.code) for each in done.refused] == [("cut.dcm", "malformed")]
    assert {each.file.name: each.reason.split()[0:2] for each in done.skipped} == {
        "README.txt": ["not", "a"],
        "empty": ["not", "a"],
        "more.TAR.XZ": ["an", "archive;"],
        "DICOMDIR": ["a", "DICOMDIR;"],
    }
    assert {path: path.read_bytes() for path in files_below(folder)} == before
    with store() as uow:
        # A text file on a disc is no trouble for anybody to clear up.
        kinds = [row.kind for row in uow.studies.desk()]
        assert sorted(kinds) == ["no-order", "unreadable", "wrong-patient"]
        assert [stage.flow for stage in uow.outbox.pending()] == ["acquisition_receipt"] * 2


def test_the_same_directory_again_makes_nothing_second(
    store: Store, tiers: Tiers, tmp_path: Path
) -> None:
    series(tmp_path / "disc", new_uid(), 3)
    take(store, tiers, tmp_path / "disc")
    (study,) = take(store, tiers, tmp_path / "disc").studies
    assert (study.stored, study.duplicates) == (0, 3)


def test_a_full_disk_ends_it_early_and_announces_what_was_filed(
    store: Store, tiers: Tiers, tmp_path: Path
) -> None:
    series(tmp_path / "disc", new_uid(), 2)
    full = Tiers(tiers.settings.model_copy(update={"disk_floor_mb": 1 << 40}))
    files = files_below(tmp_path / "disc")
    done = ingest(store, full, files, on_file=lambda _: None)
    assert done.failure is not None
    assert done.failure.code == "out-of-resources"
    assert done.studies == []
    (study,) = take(store, tiers, tmp_path / "disc").studies
    assert study.stored == 2


def test_the_command_tells_people_and_programs(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_HOME", str(settings.home))
    monkeypatch.setenv("SPINECHO_DATABASE_URL", settings.store_url)
    monkeypatch.setenv("SPINECHO_DISK_FLOOR_MB", "1")
    folder = tmp_path / "disc [old]"
    series(folder, uid := new_uid(), 2)
    (folder / "README.txt").write_text("hello")
    people = CliRunner().invoke(app, ["ingest", str(folder)])
    assert people.exit_code == 0, people.output
    for words in (uid, "no-order", f"{folder}/README.txt: not a DICOM file", "order"):
        assert words in people.output.replace("\n", "")
    programs = CliRunner().invoke(app, ["ingest", str(folder), "--json"])
    assert programs.exit_code == 0
    told = json.loads(programs.stdout)
    assert [study["duplicates"] for study in told["studies"]] == [2]
    assert [skipped["file"] for skipped in told["skipped"]] == [f"{folder}/README.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert CliRunner().invoke(app, ["ingest", str(empty)]).exit_code == 1
    assert CliRunner().invoke(app, ["ingest", str(tmp_path / "absent")]).exit_code == 2
