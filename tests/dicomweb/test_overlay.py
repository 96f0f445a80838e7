"""What leaves after a merge, a move, a re-key, a decision of the desk or a correction.

PS3.3 C.12.1.1.9; the bytes that are kept never change.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, FileDataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from models.patient import Identifier, Patient, PersonName
from models.study import new_uid
from services.archive.tiers import Tiers
from services.database.store import Store
from services.settings import Settings
from services.workflow.desk import Action, decide, undo
from services.workflow.identity import merge, move, rekey, unmerge
from tests.dicom.department import JANE, JOHN, image, place
from tests.dicomweb.serving import AS_STORED, EXPLICIT, file_of, keep, parts, served

WHO = {"by": "EMR|HOSP", "why": "ADT^A40"}
SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
    *(ExplicitVRBigEndian, RLELossless, JPEG2000Lossless),
)
DOE = Patient(
    id="doe",
    identifiers=(Identifier(value="TEMP77", authority="HOSP"),),
    name=PersonName(family="DOE", given="UNKNOWN"),
)


@pytest.fixture
def tiers(settings: Settings) -> Tiers:
    return Tiers(settings.model_copy(update={"disk_floor_mb": 1}))


@pytest.fixture
def client(store: Store, tiers: Tiers) -> Iterator[httpx.Client]:
    with served(store, tiers) as client:
        yield client


class Kept:
    """A study with one image, as it was received and as it leaves."""

    def __init__(
        self,
        client: httpx.Client,
        store: Store,
        tiers: Tiers,
        *,
        patient: Patient = DOE,
        ordered: bool = True,
        syntax: str = ExplicitVRLittleEndian,
        change: Callable[[FileDataset], None] = lambda _: None,
    ) -> None:
        self._client, self._store, self._tiers = client, store, tiers
        self.uid = new_uid()
        if ordered:
            place(store, patient=patient, accession=self.uid[-12:], study_uid=self.uid)
        made = image(self.uid, patient=patient)
        change(made)
        self.original = file_of(made, syntax)
        keep(store, tiers, self.original)
        with store() as uow:
            found = uow.studies.find(self.uid)
            assert found is not None
            self.id = found.id

    def get(self, headers: dict[str, str] = AS_STORED) -> bytes:
        ((_, body),) = parts(self._client.get(f"studies/{self.uid}", headers=headers))
        return body

    def read(self) -> FileDataset:
        return dcmread(io.BytesIO(self.get()))

    def metadata(self) -> Dataset:
        (record,) = self._client.get(f"studies/{self.uid}/metadata").json()
        record.pop("7FE00010", None)
        return Dataset.from_json(record)

    def found(self) -> Dataset:
        (record,) = self._client.get("studies", params={"StudyInstanceUID": self.uid}).json()
        return Dataset.from_json(record)

    def spoil(self) -> bytes:
        """Put as many bytes on the disk as came, which no parser reads; return them."""
        with self._store() as uow:
            (row,) = uow.studies.instances(self.id)
        spoilt = self.original[:132].ljust(len(self.original), b"\xff")
        (self._tiers.settings.hot_root / row.path).write_bytes(spoilt)
        return spoilt

    def check_disk(self) -> None:
        """The file that is kept is the file that came."""
        with self._store() as uow:
            (row,) = uow.studies.instances(self.id)
        with self._tiers.open(row.tier, row.path) as stream:
            assert sha256(stream.read()).digest() == sha256(self.original).digest()


@pytest.fixture
def kept(client: httpx.Client, store: Store, tiers: Tiers) -> Callable[..., Kept]:
    def make(**said: Any) -> Kept:
        return Kept(client, store, tiers, **said)

    return make


def saved(store: Store, *patients: Patient) -> None:
    with store() as uow:
        for patient in patients:
            uow.patients.save(patient)


def merged(store: Store, survivor: Patient, retired: Patient = DOE) -> int:
    with store() as uow:
        return merge(uow, survivor.id, retired.id, **WHO).id


def last(ds: Dataset) -> tuple[Dataset, Dataset]:
    """Return the newest item of (0400,0561) and the values that it keeps."""
    item = ds.OriginalAttributesSequence[-1]
    (former,) = item.ModifiedAttributesSequence
    return item, former


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_after_a_merge_a_file_leaves_as_the_survivors_and_after_its_undoing_as_it_came(
    kept: Callable[..., Kept], store: Store, syntax: str
) -> None:
    def with_private(ds: FileDataset) -> None:
        block = ds.private_block(0x0009, "SYNTHETIC", create=True)
        block.add_new(0x01, "UN", b"\xff\x00\x80\x81")
        ds.private_block(0x0011, "SYNTHETIC", create=True).add_new(0x02, "LO", "kept")

    study = kept(syntax=syntax, change=with_private)
    saved(store, JANE)
    assert study.get() == study.original
    change = merged(store, JANE)
    before, after = dcmread(io.BytesIO(study.original)), study.read()
    assert after.file_meta == before.file_meta
    assert (after.PatientName, after.PatientID) == ("DOE^JANE", "0012345")
    assert (after.IssuerOfPatientID, after.PatientBirthDate, after.PatientSex) == (
        *("HOSP", "19800214"),
        "F",
    )
    assert [i.PatientID for i in after.OtherPatientIDsSequence] == ["TEMP77"]
    item, former = last(after)
    assert (item.ReasonForTheAttributeModification, item.ModifyingSystem) == ("COERCE", "SPINECHO")
    assert item.SourceOfPreviousValues == "MR1"
    with store() as uow:
        at = uow.merges.of_patient(JANE.id)[0].at
    assert item.AttributeModificationDateTime == f"{at:%Y%m%d%H%M%S}+0000"
    assert (former.PatientName, former.PatientID) == ("DOE^UNKNOWN", "TEMP77")
    assert (former.PatientBirthDate, former.PatientSex) == ("", "")
    changed = {e.tag for e in former} | {after["OriginalAttributesSequence"].tag}
    assert [e for e in after if e.tag not in changed] == [e for e in before if e.tag not in changed]
    assert study.get() == study.get()
    told = study.metadata()
    assert (told.PatientID, told.PatientName) == ("0012345", "DOE^JANE")
    assert last(told)[1].PatientID == "TEMP77"
    answer = study.found()
    assert (answer.PatientID, answer.PatientName) == ("0012345", "DOE^JANE")
    assert answer.IssuerOfPatientID == "HOSP"
    plain = dcmread(io.BytesIO(study.get(EXPLICIT)))
    assert (plain.PatientID, last(plain)[1].PatientID) == ("0012345", "TEMP77")
    study.check_disk()
    with store() as uow:
        unmerge(uow, change, by="chief", why="two persons")
    assert study.get() == study.original
    assert "OriginalAttributesSequence" not in study.metadata()
    assert study.found().PatientID == "TEMP77"


def test_a_study_without_a_cause_is_not_opened_by_a_parser(
    kept: Callable[..., Kept], store: Store
) -> None:
    study = kept(patient=JANE)
    other = kept()
    saved(store, JOHN)
    merged(store, JOHN)
    unreadable = [one.spoil() for one in (study, other)]
    assert study.get() == unreadable[0]
    with pytest.raises(httpx.RemoteProtocolError):
        other.get()


def test_what_comes_under_the_retired_number_leaves_as_the_survivors(
    kept: Callable[..., Kept], store: Store
) -> None:
    saved(store, DOE, JANE)
    change = merged(store, JANE)
    study = kept()
    assert study.read().PatientID == JANE.mrn.value
    with store() as uow:
        unmerge(uow, change, by="chief", why="two persons")
    assert study.get() == study.original


def test_a_file_that_says_what_is_so_leaves_as_it_came(
    kept: Callable[..., Kept], store: Store
) -> None:
    own = kept(patient=JANE)
    saved(store, DOE)
    merged(store, JANE)
    assert own.get() == own.original
    under_the_new_number = kept(patient=JANE)
    assert under_the_new_number.get() == under_the_new_number.original


def test_earlier_items_are_kept_and_appended_to(kept: Callable[..., Kept], store: Store) -> None:
    def modified_before(ds: FileDataset) -> None:
        former, item = Dataset(), Dataset()
        former.PatientID = "ELSEWHERE"
        item.SourceOfPreviousValues, item.ModifyingSystem = "OTHER", "GATEWAY"
        item.AttributeModificationDateTime = "20250101120000"
        item.ReasonForTheAttributeModification = "COERCE"
        item.ModifiedAttributesSequence = Sequence([former])
        ds.OriginalAttributesSequence = Sequence([item])

    study = kept(change=modified_before)
    saved(store, JANE)
    merged(store, JANE)
    items = study.read().OriginalAttributesSequence
    assert [i.ModifyingSystem for i in items] == ["GATEWAY", "SPINECHO"]
    assert items[0].ModifiedAttributesSequence[0].PatientID == "ELSEWHERE"


def test_a_moved_study_keeps_nothing_of_the_other_person(
    kept: Callable[..., Kept], store: Store
) -> None:
    def described(ds: FileDataset) -> None:
        ds.PatientComments, ds.OtherPatientIDs = "synthetic", "OLD"

    study = kept(patient=JANE, change=described)
    nobody = replace(DOE, sex="")
    saved(store, nobody)
    with store() as uow:
        move(uow, JANE.id, nobody.id, study_ids=[study.id], by="EMR", why="A43")
    ds = study.read()
    assert (ds.PatientID, ds.PatientBirthDate, ds.PatientSex) == ("TEMP77", "", "")
    assert "PatientComments" not in ds
    assert "OtherPatientIDs" not in ds
    assert "OtherPatientIDsSequence" not in ds
    item, former = last(ds)
    assert item.ReasonForTheAttributeModification == "CORRECT"
    assert (former.PatientComments, former.OtherPatientIDs) == ("synthetic", "OLD")
    assert (former.PatientBirthDate, former.PatientSex) == ("19800214", "F")


def test_a_rekey_changes_the_number_alone(kept: Callable[..., Kept], store: Store) -> None:
    study = kept(patient=JANE)
    new = Identifier(value="H2-1", authority="HOSP", universal_id="1.2.3", universal_type="ISO")
    with store() as uow:
        change = rekey(uow, JANE.mrn, new, by="EMR", why="A47").id
    ds = study.read()
    assert (ds.PatientID, ds.PatientName) == ("H2-1", "DOE^JANE")
    assert [i.PatientID for i in ds.OtherPatientIDsSequence] == ["0012345"]
    assert "PatientName" not in last(ds)[1]
    with store() as uow:
        unmerge(uow, change, by="chief", why="typing error")
    assert study.get() == study.original


def test_a_decision_of_the_desk_and_its_undoing(
    kept: Callable[..., Kept], store: Store, settings: Settings
) -> None:
    saved(store, JANE)
    study = kept(patient=JOHN, ordered=False)
    assert study.get() == study.original
    with store() as uow:
        (row,) = uow.studies.desk(study.id)
        made = decide(
            *(uow, row.id, Action.FILE),
            patient_id=JANE.id,
            by="Dr. Grey",
            why="wrong entry of the worklist",
            settings=settings,
        )
    ds = study.read()
    assert (ds.PatientID, ds.PatientName, ds.PatientSex) == ("0012345", "DOE^JANE", "F")
    item, former = last(ds)
    assert item.ReasonForTheAttributeModification == "CORRECT"
    assert (former.PatientID, former.PatientName) == ("0099999", "ROE^JOHN")
    with store() as uow:
        undo(uow, made.id, by="Dr. Grey", why="it was John")
    assert study.get() == study.original
    study.check_disk()


def test_corrected_demographics_are_laid_over_what_came_before_them(
    kept: Callable[..., Kept], store: Store
) -> None:
    study = kept(patient=JANE)
    corrected = replace(JANE, birth_date=date(1981, 2, 14))
    saved(store, corrected)
    ds = study.read()
    item, former = last(ds)
    assert ds.PatientBirthDate == "19810214"
    assert [e.keyword for e in former] == ["PatientBirthDate"]
    assert item.ReasonForTheAttributeModification == "CORRECT"
    after = kept(patient=corrected)
    assert after.get() == after.original
    saved(store, JANE)
    assert study.get() == study.original


@pytest.mark.parametrize(
    ("declared", "said", "name", "expected"),
    [
        (None, "DOE^UNKNOWN", "МЮЛЛЕР^ЁРГ", "ISO_IR 192"),
        ("ISO_IR 100", "DÖE^UNKNOWN", "МЮЛЛЕР^ЁРГ", "ISO_IR 192"),
        ("ISO_IR 100", "DOE^UNKNOWN", "MÜLLER^JÖRG", "ISO_IR 100"),
        ("ISO_IR 144", "DOE^UNKNOWN", "MÜLLER^JÖRG", "ISO_IR 192"),
        ("ISO_IR 192", "DOE^UNKNOWN", "МЮЛЛЕР^ЁРГ", "ISO_IR 192"),
        ("ISO_IR 100", "DÖE^UNKNOWN", "MUELLER^JOERG", "ISO_IR 100"),
    ],
)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_name_in_another_script(
    kept: Callable[..., Kept],
    store: Store,
    *,
    syntax: str,
    declared: str | None,
    said: str,
    name: str,
    expected: str,
) -> None:
    doe = replace(DOE, name=PersonName.parse(said))
    description = "Schädel" if declared == "ISO_IR 100" else "Head"

    def written(ds: FileDataset) -> None:
        if declared is not None:
            ds.SpecificCharacterSet = declared
        ds.SeriesDescription = description
        ds.private_block(0x0009, "SYNTHETIC", create=True).add_new(0x01, "UN", b"\xff\x00\x80\x81")

    study = kept(patient=doe, change=written, syntax=syntax)
    jorg = replace(JOHN, name=PersonName.parse(name))
    saved(store, jorg)
    change = merged(store, jorg)
    ds = study.read()
    ds.decode()
    assert ds.SpecificCharacterSet == expected
    assert ds.PatientName == name
    assert ds.SeriesDescription == description
    assert last(ds)[1].PatientName == said
    assert study.metadata().PatientName == name
    assert last(study.metadata())[1].PatientName == said
    assert study.found().PatientName == name
    assert ds[0x0009, 0x1001].value == b"\xff\x00\x80\x81"
    assert ds.PixelData == dcmread(io.BytesIO(study.original)).PixelData
    with store() as uow:
        unmerge(uow, change, by="chief", why="two persons")
    assert study.get() == study.original


def test_an_enhanced_object_leaves_with_its_frames_untouched(
    kept: Callable[..., Kept], store: Store
) -> None:
    def enhanced(ds: FileDataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        ds.NumberOfFrames = 3
        ds.PixelData *= 3
        frames = []
        for number in (1, 2, 3):
            content = Dataset()
            content.FrameAcquisitionNumber, content.FrameComments = number, "synthetic"
            frame = Dataset()
            frame.FrameContentSequence = Sequence([content])
            frames.append(frame)
        ds.PerFrameFunctionalGroupsSequence = Sequence(frames)

    study = kept(change=enhanced)
    saved(store, JANE)
    merged(store, JANE)
    sent = study.get()
    tail = study.original[study.original.index(b"\x00\x52\x30\x92") :]
    assert sent.endswith(tail)
    assert dcmread(io.BytesIO(sent)).PatientID == JANE.mrn.value


def test_dciodvfy_finds_no_new_error(
    kept: Callable[..., Kept], store: Store, tmp_path: Path
) -> None:
    validator = Path(sys.executable).parent / "dciodvfy"
    study = kept()
    saved(store, JANE)
    merged(store, JANE)

    def errors(data: bytes) -> set[str]:
        path = tmp_path / "image.dcm"
        path.write_bytes(data)
        verdict = subprocess.run([validator, path], capture_output=True, text=True, check=False)
        return {line for line in verdict.stderr.splitlines() if line.startswith("Error")}

    assert errors(study.get()) <= errors(study.original)
