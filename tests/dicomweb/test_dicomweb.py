"""QIDO-RS and WADO-RS as a client sees them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from models.study import new_uid
from models.tier import Tier
from services.archive.part10 import meta_of
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicomweb.media import Accepted, accepted
from services.settings import Settings
from services.workflow.acquisition import receive_instance
from tests.dicom.department import CORPORA, JOHN, image, place
from tests.dicomweb.serving import AS_STORED, EXPLICIT, file_of, keep, parts, served

FRAMES = {"Accept": 'multipart/related; type="application/octet-stream"'}
JSON = {"Accept": "application/dicom+json"}


@pytest.fixture
def tiers(settings: Settings) -> Tiers:
    return Tiers(settings.model_copy(update={"disk_floor_mb": 1}))


@pytest.fixture
def client(store: Store, tiers: Tiers) -> Iterator[httpx.Client]:
    with served(store, tiers) as client:
        yield client


@pytest.fixture
def study(store: Store, tiers: Tiers) -> dict[str, Any]:
    _, record = place(store, accession="A1")
    made = [image(record.study_uid, number=n) for n in (1, 2, 3)]
    localizer = image(record.study_uid, number=1, series_uid=f"{record.study_uid}.2")
    localizer.SeriesNumber, localizer.SeriesDescription = 2, "Localizer"
    files = [file_of(ds) for ds in (*made, localizer)]
    keep(store, tiers, *files)
    return {
        "uid": record.study_uid,
        "series": f"{record.study_uid}.1",
        "sop": [ds.SOPInstanceUID for ds in made],
        "datasets": made,
        "files": files,
        "id": record.id,
    }


def value(record: dict[str, Any], tag: str) -> Any:
    return record[tag].get("Value", [None])[0]


# --- QIDO


def test_a_study_is_found_with_everything_the_standard_asks_for(
    client: httpx.Client, study: dict[str, Any]
) -> None:
    response = client.get("studies", headers=JSON)
    assert response.headers["content-type"].startswith("application/dicom+json")
    (found,) = response.json()
    assert value(found, "0020000D") == study["uid"]
    assert value(found, "00100010") == {"Alphabetic": "DOE^JANE"}
    assert value(found, "00100020") == "0012345"
    assert value(found, "00100030") == "19800214"
    assert value(found, "00100040") == "F"
    assert value(found, "00080050") == "A1"
    assert value(found, "00080020") == "20260301"
    assert value(found, "00080056") == "ONLINE"
    assert found["00080061"]["Value"] == ["MR"]
    assert (value(found, "00201206"), value(found, "00201208")) == (2, 4)
    assert value(found, "00081190") == f"{client.base_url}studies/{study['uid']}"


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({"PatientID": "0012345"}, 1),
        ({"00100020": "0012345"}, 1),
        ({"PatientID": "12345"}, 0),
        ({"PatientName": "doe*"}, 1),
        ({"PatientName": "*JANE"}, 1),
        ({"PatientName": "DOE"}, 0),
        ({"PatientName": "%"}, 0),
        ({"AccessionNumber": "A1"}, 1),
        ({"AccessionNumber": "A*"}, 1),
        ({"AccessionNumber": "B1"}, 0),
        ({"StudyDate": "20260301"}, 1),
        ({"StudyDate": "20260201-20260331"}, 1),
        ({"StudyDate": "-20260228"}, 0),
        ({"StudyDate": "20260302-"}, 0),
        ({"StudyTime": "0900-1000"}, 1),
        ({"StudyTime": "1000-"}, 0),
        ({"ModalitiesInStudy": "MR"}, 1),
        ({"ModalitiesInStudy": "CT"}, 0),
        ({"PatientBirthDate": "19800214"}, 1),
        ({"StudyID": "1"}, 1),
        ({"limit": "0"}, 0),
        ({"offset": "1"}, 0),
        ({"includefield": "all", "limit": "101"}, 1),
        ({"StudyInstanceUID": "1.2.3"}, 0),
    ],
)
def test_studies_are_filtered(
    client: httpx.Client, study: dict[str, Any], parameters: dict[str, str], count: int
) -> None:
    response = client.get("studies", params=parameters)
    assert response.status_code == 200, response.text
    assert len(response.json()) == count


def test_series_and_instances_are_searched(client: httpx.Client, study: dict[str, Any]) -> None:
    series = client.get(f"studies/{study['uid']}/series").json()
    assert [value(s, "00200011") for s in series] == [1, 2]
    assert [value(s, "00201209") for s in series] == [3, 1]
    assert value(series[1], "0008103E") == "Localizer"
    assert len(client.get("series", params={"SeriesDescription": "Loc*"}).json()) == 1
    assert len(client.get(f"studies/{study['uid']}/instances").json()) == 4
    found = client.get(f"studies/{study['uid']}/series/{study['series']}/instances").json()
    assert [value(i, "00200013") for i in found] == [1, 2, 3]
    assert (value(found[0], "00280010"), value(found[0], "00280008")) == (32, 1)
    assert value(found[0], "00081190").endswith(f"/instances/{study['sop'][0]}")
    assert len(client.get("instances", params={"SOPInstanceUID": study["sop"][0]}).json()) == 1
    assert len(client.get("instances", params={"InstanceNumber": "1"}).json()) == 2


def test_what_cannot_be_asked_is_said(client: httpx.Client, study: dict[str, Any]) -> None:
    for parameters in ({"NoSuchThing": "1"}, {"limit": "-1"}, {"StudyDate": "yesterday"}):
        response = client.get("studies", params=parameters)
        assert response.status_code == 400
        assert response.json()["message"]
    for parameters in ({"EchoTime": "80"}, {"fuzzymatching": "true"}, {"limit": "0"}):
        response = client.get("studies", params=parameters)
        assert response.status_code == 200
        assert response.headers["warning"].startswith("299 ")
    assert client.get("studies", headers={"Accept": "text/html"}).status_code == 406


def test_a_study_of_the_desk_shows_what_its_objects_say(
    client: httpx.Client, store: Store, tiers: Tiers
) -> None:
    uid = new_uid()
    keep(store, tiers, file_of(image(uid, patient=JOHN)))
    (found,) = client.get("studies", params={"PatientID": JOHN.mrn.value}).json()
    assert value(found, "00100010") == {"Alphabetic": "ROE^JOHN"}
    assert value(found, "00100030") == "19510701"


# --- WADO


def test_a_study_is_read_back_byte_for_byte(client: httpx.Client, study: dict[str, Any]) -> None:
    for headers in (AS_STORED, EXPLICIT, {}):
        found = parts(client.get(f"studies/{study['uid']}", headers=headers))
        assert sorted(body for _, body in found) == sorted(study["files"])
    assert "transfer-syntax=1.2.840.10008.1.2.1" in found[0][0]
    one = f"studies/{study['uid']}/series/{study['series']}/instances/{study['sop'][0]}"
    assert parts(client.get(one, headers=AS_STORED))[0][1] == study["files"][0]
    bare = client.get(one, headers={"Accept": "application/dicom"})
    assert bare.content == study["files"][0]
    of_series = client.get(f"studies/{study['uid']}/series/{study['series']}", headers=AS_STORED)
    assert len(parts(of_series)) == 3


@pytest.mark.parametrize("tier", [Tier.WARM, Tier.COLD])
def test_a_study_is_read_from_whatever_tier_it_is_on(
    client: httpx.Client, store: Store, tiers: Tiers, study: dict[str, Any], tier: Tier
) -> None:
    with store() as uow:
        rows = uow.studies.instances(study["id"])
        tiers.copy_all(Tier.HOT, tier, [(r.path, r.digest) for r in rows])
        uow.studies.set_tier(study["id"], tier, [(r.sop_uid, r.path) for r in rows])
    for row in rows:
        tiers.delete(Tier.HOT, row.path)
    found = parts(client.get(f"studies/{study['uid']}", headers=AS_STORED))
    assert sorted(body for _, body in found) == sorted(study["files"])
    (record,) = client.get("studies").json()
    assert value(record, "00080056") == "NEARLINE"


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless]
)
def test_every_syntax_comes_as_stored_or_as_explicit_little_endian(
    client: httpx.Client, store: Store, tiers: Tiers, syntax: str
) -> None:
    uid = new_uid()
    plain = image(uid)
    pixels = plain.PixelData
    data = file_of(plain, syntax)
    keep(store, tiers, data)
    path = f"studies/{uid}/series/{uid}.1/instances/{plain.SOPInstanceUID}"
    ((_, stored),) = parts(client.get(path, headers=AS_STORED))
    assert stored == data
    ((label, sent),) = parts(client.get(path, headers=EXPLICIT))
    assert "1.2.840.10008.1.2.1" in label
    ds = dcmread(io.BytesIO(sent))
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.PixelData == pixels
    assert ds.Rows == 32
    ((_, polite),) = parts(client.get(path))
    compressed = syntax in (RLELossless, JPEG2000Lossless)
    assert (polite == data) is compressed
    ((kind, frame),) = parts(client.get(f"{path}/frames/1", headers=FRAMES))
    assert (kind, frame) == ("application/octet-stream", pixels)
    if compressed:
        anything = client.get(f"{path}/frames/1")
        ((kind, frame),) = parts(anything)
        assert kind.startswith("image/")
        assert frame in data
    other = {"Accept": EXPLICIT["Accept"] + "; transfer-syntax=1.2.840.10008.1.2.4.80"}
    refused = client.get(path, headers=other)
    assert refused.status_code == 406
    assert syntax in refused.json()["message"]


def test_frames_count_from_one(client: httpx.Client, store: Store, tiers: Tiers) -> None:
    uid = new_uid()
    ds = image(uid)
    ds.NumberOfFrames = 3
    ds.PixelData = b"".join(bytes([n]) * 2048 for n in (1, 2, 3))
    keep(store, tiers, file_of(ds))
    path = f"studies/{uid}/series/{uid}.1/instances/{ds.SOPInstanceUID}"
    found = parts(client.get(f"{path}/frames/3,1", headers=FRAMES))
    assert [body[0] for _, body in found] == [3, 1]
    assert all(len(body) == 2048 for _, body in found)
    assert client.get(f"{path}/frames/0", headers=FRAMES).status_code == 404
    assert client.get(f"{path}/frames/4", headers=FRAMES).status_code == 404
    assert client.get(f"{path}/frames/x", headers=FRAMES).status_code == 400
    assert client.get(f"{path}/frames/1", headers={"Accept": "text/html"}).status_code == 406
    assert client.get(f"{path}/frames/2/rendered").headers["content-type"] == "image/jpeg"


def test_single_bit_frames_are_cut_where_they_end(
    client: httpx.Client, store: Store, tiers: Tiers
) -> None:
    uid = new_uid()
    ds = image(uid)
    ds.Rows, ds.Columns, ds.NumberOfFrames = 3, 3, 2
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    bits = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1], np.uint8)
    packed = np.packbits(bits, bitorder="little").tobytes()
    ds.PixelData = packed + b"\0"
    ds["PixelData"].VR = "OB"
    keep(store, tiers, file_of(ds))
    path = f"studies/{uid}/series/{uid}.1/instances/{ds.SOPInstanceUID}"
    found = parts(client.get(f"{path}/frames/1,2", headers=FRAMES))
    for number, (_, body) in enumerate(found):
        unpacked = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[:9]
        assert unpacked.tolist() == bits[number * 9 : number * 9 + 9].tolist()


def test_metadata_is_the_header_without_the_pixels(
    client: httpx.Client, study: dict[str, Any]
) -> None:
    found = client.get(f"studies/{study['uid']}/metadata", headers=JSON).json()
    assert len(found) == 4
    record = next(r for r in found if value(r, "00080018") == study["sop"][0])
    assert value(record, "00280010") == 32
    assert "Value" not in record["7FE00010"]
    assert "InlineBinary" not in record["7FE00010"]
    uri = record["7FE00010"]["BulkDataURI"]
    body = client.get(uri, headers={"Accept": "application/octet-stream"}).content
    assert body == study["datasets"][0].PixelData
    for suffix in (f"/series/{study['series']}/metadata",):
        assert len(client.get(f"studies/{study['uid']}{suffix}").json()) == 3
    ds = Dataset.from_json(json.dumps({k: v for k, v in record.items() if k != "7FE00010"}))
    assert ds.PatientName == "DOE^JANE"


def test_an_image_is_rendered_with_its_window(client: httpx.Client, study: dict[str, Any]) -> None:
    path = f"studies/{study['uid']}/series/{study['series']}/instances/{study['sop'][0]}"
    png = client.get(f"{path}/rendered", headers={"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(png.content)))
    stored = pixel_array(study["datasets"][0])
    expected = np.clip(((stored - 2047.5) / 4095 + 0.5) * 255, 0, 255)
    assert np.abs(shown.astype(float) - expected).max() <= 1
    dark = client.get(
        f"{path}/rendered", params={"window": "9000,10"}, headers={"Accept": "image/png"}
    )
    assert np.asarray(Image.open(io.BytesIO(dark.content))).max() == 0
    small = client.get(f"{path}/rendered", params={"viewport": "16,16", "accept": "image/png"})
    assert Image.open(io.BytesIO(small.content)).size == (16, 16)
    assert client.get(f"{path}/rendered").headers["content-type"] == "image/jpeg"
    assert client.get(f"{path}/thumbnail").status_code == 200
    assert client.get(f"{path}/rendered", params={"window": "a,b"}).status_code == 400
    assert client.get(f"{path}/rendered", headers={"Accept": "image/gif"}).status_code == 406


def test_what_is_not_there(client: httpx.Client, study: dict[str, Any]) -> None:
    for path, status in (
        ("studies/1.2.3", 404),
        (f"studies/{study['uid']}/series/1.2.3", 404),
        (f"studies/{study['uid']}/series/{study['series']}/instances/1.2.3/metadata", 404),
        ("studies/..%2F..%2Fetc", 404),
        ("studies/abc", 400),
        ("nothing", 404),
    ):
        response = client.get(path)
        assert response.status_code == status, path


def test_reading_is_noted_for_the_tiers(
    client: httpx.Client, store: Store, study: dict[str, Any]
) -> None:
    client.get(f"studies/{study['uid']}", headers=AS_STORED)
    with store() as uow:
        assert uow.studies.row(study["id"]).last_read_at is not None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Accepted(type="*/*")),
        ("", Accepted(type="*/*")),
        (
            'multipart/related; type="application/dicom"; transfer-syntax=*, text/html;q=0.1',
            Accepted(type="application/dicom", multipart=True, transfer_syntax="*"),
        ),
        (
            "text/html;q=0.5, multipart/related; type=image/jls; transfer-syntax=1.2",
            Accepted(type="image/jls", multipart=True, transfer_syntax="1.2"),
        ),
    ],
)
def test_accept_headers(header: str | None, expected: Accepted) -> None:
    assert accepted(header)[0] == expected


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not here")
@pytest.mark.filterwarnings("ignore")
def test_the_corpus_is_read_back_exactly_and_rendered(
    client: httpx.Client, store: Store, tiers: Tiers
) -> None:
    folders = ("pydicom_mr_variants", "siemens_xa30_enhanced", "sr_seg", "unsupported_syntax")
    files = [p for f in folders for p in sorted((CORPORA / "dicom" / f).rglob("*")) if p.is_file()]
    files += sorted((CORPORA / "dicom" / "wg04_mr_syntaxes").glob("MR1_*"))[:1]
    rendered = exact = 0
    for path in files:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                continue
            meta_of(stream)
        received = tiers.incoming("test") / path.name
        shutil.copyfile(path, received)
        outcome = receive_instance(store, tiers, received, source_ae="CORPUS")
        if outcome.disposition.value != "stored":
            continue
        ds = dcmread(path, stop_before_pixels=True)
        address = (
            f"studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
            f"/instances/{ds.SOPInstanceUID}"
        )
        ((_, body),) = parts(client.get(address, headers=AS_STORED))
        assert body == path.read_bytes(), path.name
        exact += 1
        assert client.get(f"{address}/metadata").status_code == 200
        picture = client.get(f"{address}/rendered")
        assert picture.status_code in (200, 406), (path.name, picture.text)
        rendered += picture.status_code == 200
    assert exact > 10
    assert rendered >= 8
