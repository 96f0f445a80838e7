"""DICOM files (PS3.10 §7) as they arrive: their header, their digest, and whether they are whole.

Only the header is read, straight from the encoded elements: no value is validated, so that an odd
value never refuses an object, and no pixel is loaded, so that a large object costs no memory.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom import charset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import data_element_generator
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from models.errors import InvalidValue, Malformed, MissingField
from models.study import Instance
from services.archive.elements import json_value, text_of

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_PIXELS: Final = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_CHUNK: Final = 1 << 20
_LARGEST_INFLATED: Final = 1 << 30

_STUDY: Final = (
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyDescription", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"),
)
_SERIES: Final = (
    *("SeriesDate", "SeriesTime", "ProtocolName", "BodyPartExamined", "StationName"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)
_INSTANCE: Final = ("Rows", "Columns", "BitsAllocated", "ImageType", "AcquisitionNumber")
_PLAIN: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("SeriesDescription", "SeriesNumber", "InstanceNumber", "NumberOfFrames"),
    *("PatientName", "PatientID", "SpecificCharacterSet"),
)


def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    return {tag: keyword for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


_WANTED: Final = _tags(_STUDY + _SERIES + _INSTANCE + _PLAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What filing needs to know of one SOP Instance.

    The ``*_attributes`` are DICOM JSON (PS3.18 F.2) of what the object says at each level.
    """

    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    transfer_syntax: str
    modality: str = ""
    series_description: str = ""
    series_number: int | None = None
    number: int | None = None
    frames: int = 1
    patient_name: str = ""
    patient_id: str = ""
    issuer: str = ""
    birth_date: date | None = None
    accession: str = ""
    study_description: str = ""
    study_attributes: dict[str, Any] = field(default_factory=dict)
    series_attributes: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def filed(self, path: str, *, size: int, digest: str) -> Instance:
        """Return the record of the object, whose `size` bytes of this `digest` lie at `path`."""
        return Instance(
            sop_uid=self.sop_uid,
            sop_class=self.sop_class,
            series_uid=self.series_uid,
            study_uid=self.study_uid,
            transfer_syntax=self.transfer_syntax,
            number=self.number,
            path=path,
            size=size,
            digest=digest,
            frames=self.frames,
        )

    @property
    def told(self) -> dict[str, Any]:
        """What `Studies.add_instance` keeps of the object and its series besides."""
        return {
            "modality": self.modality,
            "series_description": self.series_description,
            "series_number": self.series_number,
            "attributes": self.attributes,
            "series_attributes": self.series_attributes,
        }


def check_uid(value: str, keyword: str) -> str:
    """Return `value` if it is a UID that may become part of a path.

    PS3.5 §9.1 also forbids leading zeros in a component; scanners write them and they are harmless.

    Raises
    ------
    MissingField, InvalidValue
    """
    if not value:
        raise MissingField(f"{keyword} is absent or empty", location=keyword)
    if len(value) > 64 or not _UID.fullmatch(value):
        raise InvalidValue(
            f"{keyword} is no UID: {len(value)} characters, only digits and dots are allowed",
            location=keyword,
        )
    return value


def meta_of(stream: BinaryIO) -> dict[int, str]:
    """Read preamble, prefix and File Meta Information (PS3.10 §7.1), always Explicit VR LE.

    The stream is left at the first byte of the data set. The group length is not trusted: the
    group ends where another group begins.

    Raises
    ------
    Malformed
        If the file does not begin as a DICOM file.
    """
    stream.seek(0)
    if stream.read(132)[128:] != b"DICM":
        raise Malformed("no DICM prefix after a preamble of 128 bytes: not a DICOM file")
    meta: dict[int, str] = {}
    while True:
        at = stream.tell()
        head = stream.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            stream.seek(at)
            return meta
        _, element, vr, length = struct.unpack("<HH2sH", head)
        if vr in (b"OB", b"OW", b"UN", b"UT", b"SQ"):
            length = int.from_bytes(stream.read(4), "little")
            if length > _CHUNK:
                raise Malformed("an element of the File Meta Information is too long")
        value = stream.read(length)
        if len(value) < length:
            raise Malformed("the file ends inside its File Meta Information")
        meta[element] = value.rstrip(b"\0 ").decode("ascii", "replace")


def digest_of(stream: BinaryIO) -> str:
    """Return the SHA-256 over the data set: the bytes after the File Meta Information.

    The meta information names who wrote the file, so it differs between copies of one object.
    """
    meta_of(stream)
    digest = sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def read_header(path: Path) -> Header:
    """Read the header of a DICOM file and make sure that the file is whole.

    Raises
    ------
    Malformed
        If it is no DICOM file, cannot be parsed or ends too early.
    MissingField, InvalidValue
        If a UID without which it cannot be filed is absent or is none.
    """
    with path.open("rb") as file, _parsing():
        meta = meta_of(file)
        syntax = meta.get(0x0010, "")
        if not syntax:
            raise Malformed("File Meta Information names no Transfer Syntax UID (0002,0010)")
        stream: BinaryIO = file
        if syntax == DeflatedExplicitVRLittleEndian:
            stream = inflated(file)
        little = syntax != ExplicitVRBigEndian
        values = _scan(stream, implicit=syntax == ImplicitVRLittleEndian, little=little)
    return _header(values, syntax, little=little)


@contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except (
        *(EOFError, ValueError, struct.error, zlib.error, LookupError, RecursionError),
        *(NotImplementedError, AttributeError, TypeError, MemoryError, UserWarning),
    ) as error:
        raise Malformed(f"the data set cannot be parsed ({type(error).__name__})") from error


def inflated(file: BinaryIO) -> BinaryIO:
    """Return the data set of a deflated file that is read up to it.

    Raises
    ------
    Malformed
        If it is cut off, or larger than a gigabyte.
    """
    # PS3.5 A.5; bounded, because a few kilobytes can inflate to more than the memory holds
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), _LARGEST_INFLATED)
    if not inflater.eof:
        raise Malformed("the deflated data set is cut off or inflates beyond measure")
    return BytesIO(data)


def _scan(stream: BinaryIO, *, implicit: bool, little: bool) -> dict[str, bytes]:
    """Collect the wanted values; walk over everything else, and to the very end."""
    start = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(start)
    watched = _Watched(stream)
    values: dict[str, bytes] = {}
    at_pixels: list[int] = []

    def is_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            at_pixels.append(length)
            return True
        return False

    while stream.tell() < end:
        at_pixels.clear()
        for element in data_element_generator(
            cast("BinaryIO", watched),
            implicit,
            little,
            stop_when=is_pixels,
            specific_tags=[*_WANTED],
        ):
            keyword = _WANTED.get(int(element.tag))
            # the same tag twice is a broken file; the first one is what everybody reads
            value = b"" if element.value is None else element.value
            if keyword is not None and isinstance(value, bytes):
                values.setdefault(keyword, value)
        if not at_pixels:
            break
        _skip_pixels(stream, at_pixels[0], implicit=implicit, little=little)
    if watched.cut:
        raise Malformed("the file ends in the middle of an element")
    if stream.tell() > end:
        raise Malformed(f"the file ends {stream.tell() - end} bytes before its last element does")
    if not values:
        raise Malformed("the data set is empty")
    return values


class _Watched:
    """A stream that remembers whether a read came short: pydicom takes that for the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self.cut = False
        self.seek, self.tell = stream.seek, stream.tell
        self._read = stream.read

    def read(self, size: int = -1) -> bytes:
        """Read; nothing at all, where an element might begin, is a proper end."""
        data = self._read(size)
        if 0 < len(data) < size:
            self.cut = True
        return data


def _skip_pixels(stream: BinaryIO, length: int, *, implicit: bool, little: bool) -> None:
    # every VR that pixel data may have is written with a four-byte length (PS3.5 §7.1.2)
    stream.seek(8 if implicit else 12, 1)
    if length != 0xFFFFFFFF:
        stream.seek(length, 1)
        return
    unpack = struct.Struct("<HHL" if little else ">HHL").unpack
    while True:  # the fragments of PS3.5 A.4
        head = stream.read(8)
        if len(head) < 8:
            raise Malformed("the encapsulated pixel data has no end")
        group, element, size = unpack(head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return
        if (group, element) != (0xFFFE, 0xE000) or size == 0xFFFFFFFF:
            raise Malformed("the encapsulated pixel data is no sequence of fragments")
        stream.seek(size, 1)


def _header(values: dict[str, bytes], syntax: str, *, little: bool) -> Header:
    encodings = _encodings(values.get("SpecificCharacterSet", b""))

    def text(keyword: str) -> str:
        return text_of(values.get(keyword, b""), encodings)

    def number(keyword: str) -> int | None:
        try:
            return int(float(text(keyword)))
        except (ValueError, OverflowError):
            return None

    def attributes(keywords: tuple[str, ...]) -> dict[str, Any]:
        return {
            f"{tag:08X}": json_value(dictionary_VR(tag), values[keyword], encodings, little=little)
            for tag, keyword in _tags(keywords).items()
            if keyword in values
        }

    return Header(
        sop_uid=check_uid(text("SOPInstanceUID"), "SOPInstanceUID"),
        sop_class=check_uid(text("SOPClassUID"), "SOPClassUID"),
        series_uid=check_uid(text("SeriesInstanceUID"), "SeriesInstanceUID"),
        study_uid=check_uid(text("StudyInstanceUID"), "StudyInstanceUID"),
        transfer_syntax=syntax,
        modality=text("Modality"),
        series_description=text("SeriesDescription"),
        series_number=_int32(number("SeriesNumber")),
        number=_int32(number("InstanceNumber")),
        frames=max(1, _int32(number("NumberOfFrames")) or 1),
        patient_name=text("PatientName"),
        patient_id=text("PatientID"),
        issuer=text("IssuerOfPatientID"),
        birth_date=parse_date(text("PatientBirthDate")),
        accession=text("AccessionNumber"),
        study_description=text("StudyDescription"),
        study_attributes=attributes(_STUDY),
        series_attributes=attributes(_SERIES),
        attributes=attributes(_INSTANCE),
    )


def _int32(value: int | None) -> int | None:
    return value if value is not None and -(1 << 31) <= value < 1 << 31 else None


def parse_date(value: str) -> date | None:
    """Read a DA, also in the ACR-NEMA form with dots (PS3.5 Table 6.2-1); None if it is none."""
    try:
        return datetime.strptime(value.replace(".", ""), "%Y%m%d").date()  # noqa: DTZ007 (a birth date has no zone)
    except ValueError:
        return None


def _encodings(value: bytes) -> list[str]:
    """Return Python's codecs for (0008,0005); an unknown term reads as Latin-1, never fails."""
    terms = [term.strip() for term in value.rstrip(b"\0 ").decode("ascii", "replace").split("\\")]
    known = [charset.python_encoding[term] for term in terms if term in charset.python_encoding]
    return known if known and any(terms) else ["iso8859"]
