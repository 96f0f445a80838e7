"""WADO-RS (PS3.18 §10.4): instances, metadata, frames, out of whatever tier they lie on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any, BinaryIO, Final

import numpy as np
from pydicom import DataElement, Dataset, FileDataset, dcmread, dcmwrite
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from sqlalchemy import select

from models.errors import InvalidValue, NotAcceptable, UnknownKey
from models.overlay import Overlay
from models.tier import Tier
from services.archive.overlay import coerce, overlaid
from services.archive.part10 import check_uid
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import instance, series, study
from services.dicomweb.media import ANY, Accepted
from services.workflow.overlay import overlay_of, under_uids

FRAME_TYPES: Final = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
"""Media type of a compressed frame (PS3.18 Table 8.7.3-5)."""
_RAW: Final = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
_FORBIDDEN: Final = {ImplicitVRLittleEndian, ExplicitVRBigEndian}
"""PS3.18 §8.7.3.5.2: shall not be used, unless the client asks for exactly what is stored."""
_CHUNK: Final = 1 << 20
_LARGEST_INLINE: Final = 1024
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One instance and where its bytes lie."""

    sop_uid: str
    series_uid: str
    study_uid: str
    syntax: UID
    frames: int
    tier: Tier
    path: str
    source_ae: str = ""
    overlay: Overlay | None = None
    """The patient as whom it leaves, where its study's record has changed since."""


def find(
    store: Store, study_uid: str, series_uid: str | None = None, sop_uid: str | None = None
) -> list[Stored]:
    """Return the instances below a resource, in series and number order; note the access.

    Raises
    ------
    UnknownKey
        If there is none.
    InvalidValue
        If a UID is none.
    """
    for uid, keyword in (
        (study_uid, "StudyInstanceUID"),
        (series_uid, "SeriesInstanceUID"),
        (sop_uid, "SOPInstanceUID"),
    ):
        if uid is not None:
            check_uid(uid, keyword)
    query = (
        select(instance, study.c.study_uid, study.c.last_read_at)
        .join_from(instance, study, instance.c.study_id == study.c.id)
        .join(series, series.c.series_uid == instance.c.series_uid)
        .where(study.c.study_uid == study_uid)
        .order_by(series.c.number, series.c.series_uid, instance.c.number, instance.c.sop_uid)
    )
    if series_uid is not None:
        query = query.where(instance.c.series_uid == series_uid)
    if sop_uid is not None:
        query = query.where(instance.c.sop_uid == sop_uid)
    with store() as uow:
        rows = uow.studies.select(query)
        if rows and _stale(rows[0].last_read_at, uow.now):
            # A study that is looked at stays on its tier; to the hour is exact enough.
            uow.studies.change(rows[0].study_id, last_read_at=uow.now)
        overlay = overlay_of(uow, rows[0].study_id) if rows else None
    if not rows:
        raise UnknownKey("no such study, series or instance", location="path")
    return [
        Stored(
            sop_uid=row.sop_uid,
            series_uid=row.series_uid,
            study_uid=row.study_uid,
            syntax=UID(row.transfer_syntax),
            frames=row.frames,
            tier=Tier(row.tier),
            path=row.path,
            source_ae=row.source_ae,
            overlay=overlay
            if row.apart_at is None
            else under_uids(overlay, row.study_uid, row.series_uid, row.apart_at),
        )
        for row in rows
    ]


def _stale(last_read_at: datetime | None, now: datetime) -> bool:
    return last_read_at is None or now - last_read_at > timedelta(hours=1)


# --- whole instances


def syntax_for(stored: Stored, wanted: Accepted) -> UID:
    """Return the transfer syntax in which an instance is sent.

    ``transfer-syntax=*`` is what is stored, byte for byte. A type without a transfer syntax is
    Explicit VR Little Endian (PS3.18 §8.7.3.5.2). Whoever accepts anything gets what is stored,
    unless that is a syntax that DICOMweb forbids.

    Raises
    ------
    NotAcceptable
        If we cannot make the wanted syntax from the stored one.
    """
    asked = wanted.transfer_syntax
    if asked in (ANY, stored.syntax):
        return stored.syntax
    if wanted.free and not asked and stored.syntax not in _FORBIDDEN:
        return stored.syntax
    if asked not in ("", ExplicitVRLittleEndian):
        raise NotAcceptable(
            f"can be sent in the stored transfer syntax {stored.syntax} (transfer-syntax=*) or in "
            f"{ExplicitVRLittleEndian}",
            location="Accept",
        )
    if stored.syntax == ExplicitVRLittleEndian or stored.syntax in _RAW or _decodable(stored):
        return UID(ExplicitVRLittleEndian)
    raise NotAcceptable(
        f"no decoder for transfer syntax {stored.syntax}; ask with transfer-syntax=*",
        location="Accept",
    )


def _decodable(stored: Stored) -> bool:
    try:
        return bool(get_decoder(stored.syntax).is_available)
    except NotImplementedError:
        return False


def whole(tiers: Tiers, stored: Stored, syntax: UID) -> Iterator[bytes]:
    """Yield an instance as a DICOM file in `syntax`, with its current patient.

    In its own syntax, and of a patient who never changed, it is exactly what is stored.
    """
    with tiers.open(stored.tier, stored.path) as stream:
        if syntax != stored.syntax:
            dataset = dcmread(stream)
            _lay_over(tiers, stored, dataset)
            yield explicit(dataset)
        elif stored.overlay is not None:
            system = tiers.settings.ae_title
            yield from overlaid(stream, stored.overlay, source=stored.source_ae, system=system)
        else:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _lay_over(tiers: Tiers, stored: Stored, dataset: Dataset) -> None:
    if stored.overlay is not None:
        system = tiers.settings.ae_title
        coerce(dataset, stored.overlay, source=stored.source_ae, system=system)


def explicit(dataset: FileDataset) -> bytes:
    """Write a data set in Explicit VR Little Endian, decompressed and in our byte order."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _RAW:
        dataset.decompress(generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        for keyword in _PIXELS:
            if keyword in dataset:
                element = dataset[keyword]
                element.value = _swapped(element.value, dataset.BitsAllocated, element.VR)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def _swapped(value: bytes, bits: int, vr: str) -> bytes:
    # OW is a stream of 16-bit words whatever a pixel is (PS3.5 §6.2)
    width = {"OB": 1, "OF": 4, "OD": 8}.get(vr, max(bits // 8, 2))
    return (
        value if width == 1 else np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
    )


# --- metadata


def metadata(tiers: Tiers, found: Iterable[Stored], base: str) -> Iterator[dict[str, Any]]:
    """Yield every instance's attributes as DICOM JSON; pixels and other bulk as BulkDataURI."""
    for stored in found:
        url = (
            f"{base}/studies/{stored.study_uid}/series/{stored.series_uid}"
            f"/instances/{stored.sop_uid}/bulkdata"
        )
        with tiers.open(stored.tier, stored.path) as stream:
            dataset = dcmread(stream, stop_before_pixels=True)
        _lay_over(tiers, stored, dataset)
        record: dict[str, Any] = {}
        for element in _elements(dataset):
            model = _json(element, url)
            if model is not None:
                record[f"{element.tag:08X}"] = model
        record["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
        record["00083002"] = {"vr": "UI", "Value": [str(stored.syntax)]}
        if "Rows" in dataset:
            record["7FE00010"] = {"vr": "OW", "BulkDataURI": f"{url}/7FE00010"}
        yield dict(sorted(record.items()))


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    for tag in sorted(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:  # noqa: BLE001, S112 (a value that nobody can read hides no other)
            continue


def _json(element: DataElement, url: str) -> dict[str, Any] | None:
    def linked(bulk: DataElement) -> str:
        return f"{url}/{bulk.tag:08X}"

    # The address of a bulk value names a tag of the root; inside sequences it is sent inline.
    handler = None if element.VR == "SQ" else linked
    try:
        model = element.to_json_dict(handler, _LARGEST_INLINE)
    except Exception:  # noqa: BLE001 (as above)
        return None
    finite: dict[str, Any] = _finite(model)
    return finite


def _finite(value: Any) -> Any:
    """Write NaN and infinities as text: JSON has no number for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return value


def bulk(tiers: Tiers, stored: Stored, tag: str) -> bytes:
    """Return the value of one attribute of the root as bytes, uncompressed.

    Raises
    ------
    InvalidValue, UnknownKey
    """
    try:
        number = int(tag, 16)
    except ValueError:
        raise InvalidValue("bulk data is named by a tag of eight digits", location="tag") from None
    if number in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        return b"".join(frames(tiers, stored, range(1, stored.frames + 1), compressed=False))
    with tiers.open(stored.tier, stored.path) as stream:
        dataset = dcmread(stream, stop_before_pixels=True)
    value = dataset[number].value if number in dataset else None
    if not isinstance(value, bytes):
        raise UnknownKey("the instance has no bulk data under this tag", location="tag")
    return value


# --- frames


def frame_numbers(text: str, stored: Stored) -> list[int]:
    """Read a frame list; frames count from 1.

    Raises
    ------
    InvalidValue
        If it is no list of numbers.
    UnknownKey
        If a frame does not exist.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InvalidValue("frames are whole numbers separated by commas", location="frames")
    numbers = [int(part) for part in parts]
    if any(not 1 <= number <= stored.frames for number in numbers):
        raise UnknownKey(f"the instance has frames 1 to {stored.frames}", location="frames")
    return numbers


def frames(
    tiers: Tiers, stored: Stored, numbers: Sequence[int], *, compressed: bool
) -> Iterator[bytes]:
    """Yield frames, as stored if `compressed`, else as Little Endian pixels.

    Raises
    ------
    NotAcceptable
        If the object has no pixels, or there is no decoder.
    """
    if stored.syntax in _RAW and stored.syntax != DeflatedExplicitVRLittleEndian:
        with _native(tiers, stored) as (stream, header, start, vr):
            for number in numbers:
                yield _native_frame(stream, header, start, vr, number, stored)
        return
    with tiers.open(stored.tier, stored.path) as stream:
        dataset = dcmread(stream)
    _require_pixels(dataset)
    if stored.syntax not in _RAW and compressed:
        wanted = set(numbers)
        kept = {
            number: frame
            for number, frame in enumerate(
                generate_frames(dataset.PixelData, number_of_frames=stored.frames), 1
            )
            if number in wanted
        }
        yield from (kept[number] for number in numbers)
        return
    for number in numbers:
        yield _decoded(dataset, stored, number).tobytes()


def _decoded(dataset: Dataset, stored: Stored, number: int) -> Any:
    try:
        return pixel_array(dataset, index=number - 1, raw=True)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        raise NotAcceptable(
            f"transfer syntax {stored.syntax} cannot be decoded; ask with transfer-syntax=*",
            location="Accept",
        ) from error


@contextmanager
def _native(tiers: Tiers, stored: Stored) -> Iterator[tuple[BinaryIO, Dataset, int, str]]:
    with tiers.open(stored.tier, stored.path) as stream:
        header = dcmread(stream, stop_before_pixels=True)
        head = stream.read(12)
        _require_pixels(header, head)
        implicit = stored.syntax == ImplicitVRLittleEndian
        start = stream.tell() - (4 if implicit else 0)
        yield stream, header, start, "OW" if implicit else head[4:6].decode("ascii", "replace")


def _native_frame(
    stream: BinaryIO, header: Dataset, start: int, vr: str, number: int, stored: Stored
) -> bytes:
    bits = header.Rows * header.Columns * header.get("SamplesPerPixel", 1) * header.BitsAllocated
    first, last = (number - 1) * bits, number * bits
    stream.seek(start + first // 8)
    data = stream.read(math.ceil(last / 8) - first // 8)
    if len(data) * 8 < bits:
        raise UnknownKey("the object ends before this frame", location="frames")
    if stored.syntax == ExplicitVRBigEndian:
        data = _swapped(data, header.BitsAllocated, vr)
    if bits % 8 or first % 8:  # frames of single-bit pixels follow each other without a gap
        pixels = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        inside = pixels[first % 8 : first % 8 + bits]
        data = np.packbits(inside, bitorder="little").tobytes()
    return data


def _require_pixels(header: Dataset, head: bytes = b"\xe0\x7f") -> None:
    # the group in either byte order; an object may describe pixels and have none
    if "Rows" not in header or head[:2] not in (b"\xe0\x7f", b"\x7f\xe0"):
        raise NotAcceptable("the object has no pixels", location="path")
