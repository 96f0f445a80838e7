"""A file as it leaves with its current patient, what it said in Original Attributes (0400,0561).

The stored bytes are spliced: every element that does not change, private ones and pixels among
them, is copied as it lies there, and nothing is decoded or compressed anew. Only a name that the
file's character set cannot write makes its texts be written anew, in UTF-8.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, date
from io import BytesIO
from typing import Any, BinaryIO, Final, cast

from pydicom import DataElement, Dataset, Sequence, charset, config, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import data_element_generator, read_partial
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from models.overlay import Overlay, Part
from services.archive.part10 import inflated, meta_of

_CHUNK: Final = 1 << 20
_LAST: Final = 0x04000561
_UTF8: Final = "ISO_IR 192"
_OF_ANOTHER: Final = (
    *("OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthName"),
    *("PatientBirthTime", "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers"),
    *("EthnicGroup", "PatientComments", "MilitaryRank", "Occupation", "PatientReligiousPreference"),
)
"""What describes a person and may not stay on an image that is another's."""
_READ: Final = (
    *("SpecificCharacterSet", "AccessionNumber", "PatientName", "PatientID", "IssuerOfPatientID"),
    *("IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "PatientBirthDate", "PatientSex"),
    *_OF_ANOTHER,
    *("StudyInstanceUID", "SeriesInstanceUID", "OriginalAttributesSequence"),
)


def coerce(dataset: Dataset, overlay: Overlay, *, source: str, system: str) -> list[str]:
    """Write the current patient into a data set and its former values into (0400,0561).

    Parameters
    ----------
    dataset : Dataset
        At least the attributes of the patient; changed in place.
    source : str
        Who sent the file: Source of Previous Values (0400,0564).
    system : str
        Modifying System (0400,0563).

    Returns
    -------
    list of str
        Keywords of what was changed; empty if the file says what is so, and nothing was touched.
    """
    wanted = _wanted(dataset, overlay)
    changed = {k: new for k, new in wanted.items() if _said(dataset.get(k)) != _said(new)}
    if not changed:
        return []
    if not _encodable(dataset, changed):
        # Each text by the character set that it was written in, before another one is named.
        dataset.decode()
        changed["SpecificCharacterSet"] = _UTF8
    former = Dataset()
    for keyword, new in changed.items():
        if keyword in dataset:
            former.add(deepcopy(dataset[keyword]))
        elif keyword != "SpecificCharacterSet":
            former.add(_element(keyword, None))
        if new is None:
            dataset.pop(keyword, None)
        else:
            dataset.add(_element(keyword, new))
    at = overlay.at.astimezone(UTC)
    item = Dataset()
    item.add(_element("SourceOfPreviousValues", source))
    item.add(_element("AttributeModificationDateTime", f"{at:%Y%m%d%H%M%S}+0000"))
    item.add(_element("ModifyingSystem", system))
    item.add(_element("ReasonForTheAttributeModification", overlay.reason.value))
    item.add(_element("ModifiedAttributesSequence", [former]))
    before = list(dataset.get("OriginalAttributesSequence") or [])
    dataset.add(_element("OriginalAttributesSequence", [*before, item]))
    return [*changed, "OriginalAttributesSequence"]


def overlaid(stream: BinaryIO, overlay: Overlay, *, source: str, system: str) -> Iterator[bytes]:
    """Yield a DICOM file (PS3.10 §7) as it leaves, in its own transfer syntax.

    A file that says what is so already is yielded byte for byte.
    """
    head = read_partial(stream, _is_behind, specific_tags=[Tag(keyword) for keyword in _READ])
    changed = coerce(head, overlay, source=source, system=system)
    stream.seek(0)
    if not changed:
        yield from _rest(stream)
    elif "SpecificCharacterSet" in changed:
        whole = dcmread(stream)
        coerce(whole, overlay, source=source, system=system)
        target = BytesIO()
        dcmwrite(target, whole)
        yield target.getvalue()
    else:
        yield from _spliced(stream, head, changed)


def _wanted(dataset: Dataset, overlay: Overlay) -> dict[str, Any]:
    record, parts = overlay.patient, overlay.parts
    wanted: dict[str, Any] = dict(overlay.uids)
    if Part.NAME in parts and str(record.name):
        said = str(dataset.get("PatientName") or "").partition("=")[0].rstrip("^ ")
        if said != _plain(str(record.name)):
            wanted["PatientName"] = _plain(str(record.name))
    if Part.IDENTIFIER in parts:
        wanted |= _identifier(dataset, overlay)
    for part, keyword, value in (
        (Part.BIRTH_DATE, "PatientBirthDate", _date(record.birth_date)),
        (Part.SEX, "PatientSex", record.sex if record.sex in ("F", "M", "O") else ""),
        (Part.ACCESSION, "AccessionNumber", overlay.accession),
    ):
        is_wrong = overlay.is_other_person and part is not Part.ACCESSION
        if part in parts and (value or is_wrong):
            wanted[keyword] = _plain(value)
    if overlay.is_other_person and "PatientID" in wanted:
        for keyword in _OF_ANOTHER:
            wanted.setdefault(keyword, None)
    return wanted


def _identifier(dataset: Dataset, overlay: Overlay) -> dict[str, Any]:
    number = str(dataset.get("PatientID") or "").strip()
    issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
    if any(i.value == number and issuer in ("", i.authority) for i in overlay.identifiers):
        return {}
    shown, *others = overlay.identifiers
    qualifiers = Dataset()
    if shown.universal_id and shown.universal_type:
        qualifiers.add(_element("UniversalEntityID", _plain(shown.universal_id)))
        qualifiers.add(_element("UniversalEntityIDType", _plain(shown.universal_type)))
    known = [_other(i.value, i.authority) for i in others]
    if not overlay.is_other_person:
        # Who knows the study by its former number still finds it.
        known = [*list(dataset.get("OtherPatientIDsSequence") or []), *known]
        known += [_other(number, issuer)] if number else []
    return {
        "PatientID": _plain(shown.value),
        "IssuerOfPatientID": _plain(shown.authority) or None,
        "IssuerOfPatientIDQualifiersSequence": [qualifiers] if qualifiers else None,
        "TypeOfPatientID": None,
        "OtherPatientIDsSequence": known or None,
    }


def _other(number: str, issuer: str) -> Dataset:
    item = Dataset()
    item.add(_element("PatientID", _plain(number)))
    if issuer:
        item.add(_element("IssuerOfPatientID", _plain(issuer)))
    item.add(_element("TypeOfPatientID", "TEXT"))
    return item


def _date(value: date | None) -> str:
    return "" if value is None else value.strftime("%Y%m%d")


def _plain(value: str) -> str:
    # A backslash would make two values of one (PS3.5 §6.2).
    return "".join(c for c in value.replace("\\", "/") if c.isprintable()).strip()


def _said(value: Any) -> Any:
    return list(value) if isinstance(value, list | Sequence) else str(value or "")


def _element(keyword: str, value: Any) -> DataElement:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise LookupError(keyword)
    vr = dictionary_VR(tag)
    if vr == "SQ":
        value = Sequence(value or [])
    # A value that the standard finds too long is still the patient's.
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def _encodable(dataset: Dataset, changed: dict[str, Any]) -> bool:
    texts = [v for v in changed.values() if isinstance(v, str)]
    items = changed.get("OtherPatientIDsSequence") or []
    texts += [str(item.get(k, "")) for item in items for k in ("PatientID", "IssuerOfPatientID")]
    if all(t.isascii() for t in texts):
        return True
    terms = dataset.get("SpecificCharacterSet") or ""
    if not isinstance(terms, str) or terms not in charset.python_encoding or not terms:
        return False
    try:
        for t in texts:
            t.encode(charset.python_encoding[terms])
    except UnicodeEncodeError:
        return False
    return True


def _is_behind(tag: int, _vr: str | None, _length: int) -> bool:
    return tag > _LAST


def _spliced(stream: BinaryIO, head: Dataset, changed: list[str]) -> Iterator[bytes]:
    syntax = head.file_meta.TransferSyntaxUID
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    meta_of(stream)
    start = stream.tell()
    stream.seek(0)
    yield stream.read(start)
    tags = {int(cast("int", tag_for_keyword(k))): k for k in changed}
    new = {
        tag: _encoded(head, keyword, implicit=implicit, little=little)
        for tag, keyword in sorted(tags.items())
    }
    if syntax != DeflatedExplicitVRLittleEndian:
        yield _front(stream, new, implicit=implicit, little=little)
        yield from _rest(stream)
        return
    # PS3.5 A.5
    body = inflated(stream)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflater.compress(_front(body, new, implicit=False, little=True) + body.read())
    packed += deflater.flush()
    yield packed + b"\0" * (len(packed) % 2)


def _front(stream: BinaryIO, new: dict[int, bytes], *, implicit: bool, little: bool) -> bytes:
    """Return all elements up to (0400,0561); the stream is left behind them."""
    waiting = dict(new)
    groups = {tag >> 16 for tag in new}
    pieces: list[bytes] = []
    at = stream.tell()
    for element in data_element_generator(stream, implicit, little, stop_when=_is_behind):
        tag, end = int(element.tag), stream.tell()
        for earlier in [t for t in waiting if t < tag]:
            pieces.append(waiting.pop(earlier))
        # A retired group length counts what is no longer so (PS3.5 §7.2).
        if tag not in new and not (tag & 0xFFFF == 0 and tag >> 16 in groups):
            stream.seek(at)
            pieces.append(stream.read(end - at))
        at = end
    stream.seek(at)
    return b"".join([*pieces, *waiting.values()])


def _encoded(head: Dataset, keyword: str, *, implicit: bool, little: bool) -> bytes:
    if keyword not in head:
        return b""
    one = Dataset()
    one.add(head[keyword])
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = implicit, little
    write_dataset(out, one, head.get("SpecificCharacterSet", "ISO_IR 6") or "ISO_IR 6")
    return out.getvalue()


def _rest(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk
