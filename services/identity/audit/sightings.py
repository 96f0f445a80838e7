"""What one message or one object says of its patient: numbers, a person, accessions, studies."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, BinaryIO, Final, NamedTuple

from pydicom import Dataset, dcmread
from pydicom.uid import MediaStorageDirectoryStorage

from models.errors import InvalidValue, Malformed
from models.patient import Issuer, PersonName
from services.hl7.er7 import NULL, Message, Segment
from services.hl7.fields import read_date
from services.hl7.profile import places

FEED: Final = "feed"
IMAGES: Final = "images"
_SAME_PERSON: Final = frozenset({"A18", "A30", "A34", "A36", "A39", "A40", "A46", "A47"})
"""ADT events whose MRG-1 is another number of the person in PID (v2.5.1 §3.3)."""
_ACCESSION, _STUDY = places("accession"), places("study_uid")
_TAGS: Final = (
    *("SpecificCharacterSet", "PatientID", "IssuerOfPatientID", "OtherPatientIDsSequence"),
    *("IssuerOfPatientIDQualifiersSequence", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyInstanceUID"),
)


class Person(NamedTuple):
    """Who somebody is said to be."""

    name: PersonName
    birth_date: date | None
    sex: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A patient number as it was said.

    Attributes
    ----------
    value
        CX-1 or Patient ID (0010,0020), trimmed.
    issuer
        CX-4, or Issuer of Patient ID (0010,0021) with its qualifiers (0010,0024).
    type
        CX-5; ``MR`` where nobody says it.
    check_digit, scheme
        CX-2 and CX-3 (HL70061).
    """

    value: str
    issuer: Issuer
    type: str = "MR"
    check_digit: str = ""
    scheme: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What was said once.

    Attributes
    ----------
    side
        `FEED` or `IMAGES`.
    where
        Which message or file, for a person to find it.
    numbers
        All of them are the person's.
    person
        None where nothing is said but numbers.
    accessions, study_uids
        Of the orders of this patient in the message, or of the object.
    """

    side: str
    where: str
    numbers: tuple[Number, ...]
    person: Person | None = None
    accessions: tuple[str, ...] = ()
    study_uids: tuple[str, ...] = ()


def in_message(message: Message, where: str) -> Iterator[Sighting]:
    """Yield what a message says: one sighting for each PID, with the orders that follow it."""
    of_pid: list[list[Segment]] = []
    for segment in message.segments:
        if segment.name == "PID":
            of_pid.append([])
        if of_pid:
            of_pid[-1].append(segment)
    for pid, *behind in of_pid:
        numbers = list(_numbers(pid, 3))
        if message.msh.get(9, 2) in _SAME_PERSON:
            numbers += [n for s in behind if s.name == "MRG" for n in _numbers(s, 1)]
        yield Sighting(
            side=FEED,
            where=where,
            numbers=tuple(numbers),
            person=_described(pid),
            accessions=tuple(_found(behind, _ACCESSION)),
            study_uids=tuple(_found(behind, _STUDY)),
        )


def _numbers(segment: Segment, field: int) -> Iterator[Number]:
    for repetition in segment.repetitions(field):
        value = segment.part(repetition, 1)
        if not value or value == NULL:
            continue
        yield Number(
            value=value,
            issuer=Issuer(*(segment.part(repetition, 4, n) for n in (1, 2, 3))),
            type=segment.part(repetition, 5) or "MR",
            check_digit=segment.part(repetition, 2),
            scheme=segment.part(repetition, 3),
        )


def _described(pid: Segment) -> Person | None:
    name = PersonName(family=pid.get(5), given=pid.get(5, 2), middle=pid.get(5, 3))
    born = None
    with suppress(InvalidValue):  # what is no date says nothing of the person
        born = read_date(pid.get(7), "PID^1^7") if pid.get(7) else None
    return _person(name, born, pid.get(8))


def _found(segments: Iterable[Segment], wanted: Iterable[Any]) -> dict[str, None]:
    by_name = {place.segment: place for place in wanted}
    values = (
        segment.get(place.field, place.component or 1)
        for segment in segments
        if (place := by_name.get(segment.name)) is not None
    )
    return {value: None for value in values if value and value != NULL}


def in_object(file: BinaryIO, where: str) -> Sighting | None:
    """Return what a DICOM file says (PS3.3 C.7.1.1, C.7.2.1); None for a DICOMDIR.

    No pixel is read.

    Raises
    ------
    Malformed
        If it ends before its Study Instance UID, or has none.
    Exception
        Whatever pydicom raises of a file that is broken; there is no list of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd value is what an audit is for
        ds = dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        if ds.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None
        if not _text(ds, "StudyInstanceUID"):
            raise Malformed("it is cut short, or has no Study Instance UID")
        return of_dataset(ds, where)


def of_dataset(ds: Dataset, where: str) -> Sighting:
    """Return what a dataset says of its patient and study."""
    numbers = [_number(ds), *(_number(item) for item in ds.get("OtherPatientIDsSequence") or ())]
    name = PersonName.parse(_text(ds, "PatientName"))
    return Sighting(
        side=IMAGES,
        where=where,
        numbers=tuple(n for n in numbers if n is not None),
        person=_person(name, day(_text(ds, "PatientBirthDate")), _text(ds, "PatientSex")),
        accessions=tuple(filter(None, [_text(ds, "AccessionNumber")])),
        study_uids=tuple(filter(None, [_text(ds, "StudyInstanceUID")])),
    )


def _number(ds: Dataset) -> Number | None:
    value = _text(ds, "PatientID")
    if not value:
        return None
    qualifiers = next(iter(ds.get("IssuerOfPatientIDQualifiersSequence") or ()), Dataset())
    universal = (_text(qualifiers, "UniversalEntityID"), _text(qualifiers, "UniversalEntityIDType"))
    return Number(value=value, issuer=Issuer(_text(ds, "IssuerOfPatientID"), *universal))


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip("\0 ")


def day(text: str) -> date | None:
    """Return a DICOM DA as a date; what is none says nothing."""
    try:
        return datetime.strptime(text.replace(".", "")[:8], "%Y%m%d").date()  # noqa: DTZ007 (a day)
    except ValueError:
        return None


def _person(name: PersonName, born: date | None, sex: str) -> Person | None:
    known = name.family or name.given or born
    return Person(name, born, sex if sex in {"M", "F", "O"} else "") if known else None
