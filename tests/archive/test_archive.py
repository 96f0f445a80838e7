"""Landing, tiers and headers, without the network."""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from models.errors import DamagedCopy, Malformed, PeerError
from models.study import new_uid
from models.tier import Tier
from services.archive.landing import land
from services.archive.part10 import digest_of, read_header
from services.archive.tiers import Tiers
from services.settings import Settings
from tests.dicom.department import image, write


@pytest.fixture
def tiers(tmp_path: Path) -> Tiers:
    return Tiers(Settings(home=tmp_path, disk_floor_mb=1))


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return digest_of(stream)


def landed(tiers: Tiers) -> tuple[str, str]:
    received = write(image(new_uid()), tiers.incoming("test") / "a.dcm")
    header, found = read_header(received), digest(received)
    path = tiers.place(header, found)
    tiers.land(received, path, found)
    return path, found


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_headers_of_every_encoding_say_the_same(tmp_path: Path, syntax: str) -> None:
    ds = image("1.2.3", sop_uid="1.2.3.4")
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "MÜLLER^ANNA"
    plain = read_header(write(ds, tmp_path / "plain.dcm"))
    ds.file_meta.TransferSyntaxUID = syntax
    dcmwrite(tmp_path / "other.dcm", ds, enforce_file_format=True)
    other = read_header(tmp_path / "other.dcm")
    assert other.patient_name == "MÜLLER^ANNA"
    for name in ("sop_uid", "study_uid", "number", "modality", "attributes", "study_attributes"):
        assert getattr(other, name) == getattr(plain, name), name
    assert plain.attributes["00280010"] == {"vr": "US", "Value": [32]}


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write(image("1.2.3"), tmp_path / "whole.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    noticed = 0
    for length in range(len(whole) - 2200, len(whole)):
        cut.write_bytes(whole[:length])
        try:
            read_header(cut)
        except PeerError:
            noticed += 1
    # a cut between two elements is a whole file: only the object's definition misses something
    assert 2200 - noticed <= 25


def test_encapsulated_pixel_data_without_end_is_malformed(tmp_path: Path) -> None:
    ds = image("1.2.3")
    del ds.PixelData
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
    path = write(ds, tmp_path / "a.dcm")
    body = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", 4)
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    start = path.read_bytes()
    path.write_bytes(start + body + item + b"1234" + end)
    assert read_header(path).sop_class == MRImageStorage
    for rest in (b"", item, item + b"12", item + b"1234", item + b"1234" + b"\0" * 8):
        path.write_bytes(start + body + rest)
        with pytest.raises(Malformed):
            read_header(path)


@hypothesis_settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.integers(132, 1200), st.binary(min_size=1, max_size=12))
@pytest.mark.filterwarnings("ignore")
def test_no_damage_makes_anything_but_a_peer_error(tmp_path: Path, at: int, damage: bytes) -> None:
    data = bytearray(write(image("1.2.3", sop_uid="1.2.3.4"), tmp_path / "a.dcm").read_bytes())
    data[at : at + len(damage)] = damage
    path = tmp_path / "b.dcm"
    path.write_bytes(bytes(data))
    with suppress(PeerError):
        read_header(path)


def test_landing_the_same_twice_is_landing_once(tiers: Tiers, tmp_path: Path) -> None:
    path, found = landed(tiers)
    target = tiers.settings.hot_root / path
    again = tmp_path / "again.dcm"
    again.write_bytes(target.read_bytes())
    land(again, target, found)
    assert not again.exists()
    assert tiers.verify(Tier.HOT, path, found)


def test_a_damaged_orphan_makes_room(tiers: Tiers, tmp_path: Path) -> None:
    path, found = landed(tiers)
    target = tiers.settings.hot_root / path
    good = target.read_bytes()
    target.write_bytes(good[:-1] + b"\xff")
    again = tmp_path / "again.dcm"
    again.write_bytes(good)
    tiers.land(again, path, found)
    assert target.read_bytes() == good
    assert len(list((tiers.quarantine_root / "damaged").iterdir())) == 1


@pytest.mark.parametrize("target", [Tier.WARM, Tier.COLD])
def test_a_copy_is_proved_and_may_be_repeated(tiers: Tiers, target: Tier) -> None:
    path, found = landed(tiers)
    original = (tiers.settings.hot_root / path).read_bytes()
    for _ in range(2):
        assert tiers.copy_all(Tier.HOT, target, [(path, found)]) == 1
    assert tiers.verify(target, path, found)
    tiers.delete(Tier.HOT, path)
    tiers.delete(Tier.HOT, path)
    assert not tiers.exists(Tier.HOT, path)
    assert not (tiers.settings.hot_root / path).parent.parent.exists()
    with tiers.open(target, path) as stream:
        stream.seek(128)
        assert stream.read(4) == b"DICM"
    with tiers.local(target, path) as near:
        assert near.read_bytes() == original
    tiers.copy(target, Tier.HOT, path, found)
    assert (tiers.settings.hot_root / path).read_bytes() == original
    tiers.delete(target, path)
    assert not tiers.exists(target, path)


def test_the_cold_tier_is_any_file_system_of_fsspec(tmp_path: Path) -> None:
    tiers = Tiers(Settings(home=tmp_path, disk_floor_mb=1, cold_url=f"memory://{new_uid()}"))
    path, found = landed(tiers)
    tiers.copy(Tier.HOT, Tier.COLD, path, found)
    assert tiers.verify(Tier.COLD, path, found)
    tiers.delete(Tier.COLD, path)
    assert not tiers.verify(Tier.COLD, path, found)


def test_a_damaged_source_is_not_copied_as_good(tiers: Tiers) -> None:
    path, found = landed(tiers)
    source = tiers.settings.hot_root / path
    source.write_bytes(source.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedCopy):
        tiers.copy(Tier.HOT, Tier.WARM, path, found)
    assert source.exists()


def test_a_half_copy_is_made_whole(tiers: Tiers) -> None:
    path, found = landed(tiers)
    half = tiers.settings.warm_root / path
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    tiers.copy(Tier.HOT, Tier.WARM, path, found)
    assert tiers.verify(Tier.WARM, path, found)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", ""])
def test_no_path_leaves_its_root(tiers: Tiers, path: str) -> None:
    for tier in Tier:
        with pytest.raises(ValueError, match="relative"):
            tiers.open(tier, path)


def test_a_digest_does_not_depend_on_the_meta_information(tmp_path: Path) -> None:
    ds = image("1.2.3")
    one = digest(write(ds, tmp_path / "1.dcm"))
    ds.file_meta.ImplementationVersionName = "ANOTHER"
    assert digest(write(ds, tmp_path / "2.dcm")) == one
    with pytest.raises(Malformed):
        digest_of(BytesIO(b"not DICOM" * 30))
