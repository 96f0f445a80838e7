"""The same object written in other ways, and others that only look like it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from models.study import new_uid
from services.archive.recoding import same_object
from services.archive.tiers import Tiers
from services.database.store import Store
from services.settings import Settings
from services.workflow.acquisition import Disposition, receive_instance
from tests.dicom.department import image, write


@pytest.fixture
def original() -> FileDataset:
    ds = image(new_uid())
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "MÜLLER^ÄNNE"
    ds.EchoTime = "2.340"
    block = ds.private_block(0x0019, "SPINECHO TEST", create=True)
    block.add_new(0x01, "DS", "1.5")
    block.add_new(0x02, "FL", [0.1, 0.2])
    item = Dataset()
    item.ReferencedSOPInstanceUID = new_uid()
    ds.ReferencedImageSequence = [item]
    return ds


def rewritten(original: FileDataset, syntax: str, path: Path, **options: object) -> Path:
    ds = deepcopy(original)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless):
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False, **options)
        return write(ds, path)
    bare = Dataset()
    bare.update(ds)
    if syntax == ExplicitVRBigEndian:
        halves = zip(ds.PixelData[1::2], ds.PixelData[::2], strict=True)
        bare.PixelData = bytes(byte for pair in halves for byte in pair)
    bare.file_meta, bare.preamble = ds.file_meta, b"\0" * 128
    dcmwrite(path, bare, enforce_file_format=True)
    return path


LOSSLESS = [
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_other_ways_of_writing_are_the_same_object(
    original: FileDataset, tmp_path: Path, syntax: str
) -> None:
    first = write(original, tmp_path / "first.dcm")
    second = rewritten(original, syntax, tmp_path / "second.dcm")
    assert dcmread(second).file_meta.TransferSyntaxUID == syntax
    assert same_object(first, second)
    assert same_object(second, first)


def test_lengths_and_padding_say_nothing(original: FileDataset, tmp_path: Path) -> None:
    first = write(original, tmp_path / "first.dcm")
    original["ReferencedImageSequence"].is_undefined_length = True
    original.ReferencedImageSequence[0].is_undefined_length_sequence_item = True
    original.add_new(0xFFFCFFFC, "OB", b"\0" * 64)
    second = rewritten(original, ImplicitVRLittleEndian, tmp_path / "second.dcm")
    assert same_object(first, second)


@pytest.mark.parametrize("change", ["attribute", "private", "item", "pixel", "more", "charset"])
def test_one_value_makes_another_object(original: FileDataset, tmp_path: Path, change: str) -> None:
    first = write(original, tmp_path / "first.dcm")
    match change:
        case "attribute":
            original.EchoTime = "2.341"
        case "private":
            original.private_block(0x0019, "SPINECHO TEST")[0x02].value = [0.1, 0.3]
        case "item":
            original.ReferencedImageSequence[0].ReferencedSOPInstanceUID = new_uid()
        case "pixel":
            original.PixelData = bytes([original.PixelData[0] ^ 1]) + original.PixelData[1:]
        case "more":
            original.PatientComments = "new"
        case "charset":
            original.SpecificCharacterSet = "ISO_IR 192"
    second = rewritten(original, ImplicitVRLittleEndian, tmp_path / "second.dcm")
    assert not same_object(first, second)


def test_what_cannot_be_read_is_not_the_same(original: FileDataset, tmp_path: Path) -> None:
    first = write(original, tmp_path / "first.dcm")
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(first.read_bytes()[:-64])
    assert not same_object(first, cut)
    (tmp_path / "text").write_text("hello")
    assert not same_object(first, tmp_path / "text")


def test_a_recoded_object_is_a_duplicate_and_a_lossy_one_a_conflict(
    store: Store, settings: Settings, tmp_path: Path, original: FileDataset
) -> None:
    tiers = Tiers(settings.model_copy(update={"disk_floor_mb": 1}))

    def receive(path: Path) -> Disposition:
        return receive_instance(store, tiers, path, source_ae="TEST").disposition

    first = write(original, tmp_path / "first.dcm")
    kept = first.read_bytes()
    assert receive(first) is Disposition.STORED
    for number, syntax in enumerate(LOSSLESS):
        path = rewritten(original, syntax, tmp_path / f"{number}.dcm")
        assert receive(path) is Disposition.DUPLICATE, syntax
        assert not path.exists()
    lossy = rewritten(original, JPEGLSNearLossless, tmp_path / "lossy.dcm", jls_error=3)
    assert receive(lossy) is Disposition.CONFLICT
    with store() as uow:
        assert [row.kind for row in uow.studies.desk()] == ["no-order", "uid-conflict"]
    (filed,) = settings.hot_root.rglob(f"{original.StudyInstanceUID}/**/*.dcm")
    assert filed.read_bytes() == kept
