"""Interface profiles: how one sending system writes its messages, declared in one TOML file.

This module says what a profile may contain and where a file is wrong. `services.hl7.standardising`
applies one, `services.hl7.profiles` finds and reloads them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from models.errors import ProfileError
from services.hl7.charsets import CHARSETS

STANDARD: Final[dict[str, tuple[str, ...]]] = {
    "patient_name": ("PID-5",),
    "mother_name": ("PID-6",),
    "birth_date": ("PID-7.1",),
    "sex": ("PID-8.1",),
    "address": ("PID-11",),
    "language": ("PID-15",),
    "patient_class": ("PV1-2.1",),
    "location": ("PV1-3",),
    "referring": ("PV1-8",),
    "ambulatory_status": ("PV1-15",),
    "admission_id": ("PV1-19", "PID-18"),
    "visit_reason": ("PV2-3",),
    "control": ("ORC-1.1",),
    "placer_number": ("ORC-2", "OBR-2"),
    "filler_number": ("ORC-3", "OBR-3"),
    "status": ("ORC-5.1",),
    "entered_by": ("ORC-10",),
    "department": ("ORC-13.9",),
    "institution": ("ORC-17",),
    "confidentiality": ("ORC-28",),
    "accession": ("IPC-1", "OBR-18"),
    "requested_procedure_id": ("IPC-2", "OBR-19"),
    "sps_id": ("IPC-4", "OBR-20"),
    "study_uid": ("IPC-3", "ZDS-1"),
    "modality": ("IPC-5.1", "OBR-24.1"),
    "station_aet": ("IPC-9", "ORC-18"),
    "station_name": ("IPC-7",),
    "step_location": ("IPC-8",),
    "start": ("TQ1-7.1", "ORC-7.4", "OBR-27.4", "OBR-36.1"),
    "priority": ("TQ1-9.1", "ORC-7.6", "OBR-27.6", "OBR-5.1"),
    "procedure": ("OBR-4", "OBR-44"),
    "issued_on": ("OBR-6.1",),
    "patient_state": ("OBR-12",),
    "medical_alerts": ("OBR-13",),
    "requesting": ("OBR-16", "ORC-12"),
    "transport": ("OBR-30",),
    "reason": ("OBR-31.2", "OBR-31.1"),
    "performing": ("OBR-34",),
}
"""What is read → where IHE has it (RAD TF-2 App. B), the place that is read first coming first.

A value is written to the first place whose segment the message has, and the other places are
emptied, so that what a sender keeps there for itself is not taken for the value.
"""
PATIENT_SEGMENTS: Final = frozenset(
    {"MSH", "EVN", "PID", "PD1", "NK1", "PV1", "PV2", "MRG", "AL1", "GT1", "IN1"}
)
"""Segments that stand before the first order and hold for the whole message."""
_PLACE = re.compile(
    r"(?P<segment>[A-Z][A-Z0-9]{2})-(?P<field>[1-9]\d{0,2})"
    r"(?:\.(?P<component>[1-9]\d?))?(?:\.(?P<subcomponent>[1-9]\d?))?"
    r"(?:\[(?P<f>[1-9]\d{0,2})(?:\.(?P<c>[1-9]\d?))?=(?P<is>[^\]]+)\])?$"
)
_PLAIN = re.compile(r"[^|^~\\&\r\n]*$")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a message.

    Attributes
    ----------
    segment
        Such as ``OBR``.
    field, component, subcomponent
        From 1 as in the standard; a component of 0 is the whole first repetition of the field.
    where
        Of several such segments the one whose field and component have this text.
    """

    segment: str
    field: int
    component: int = 0
    subcomponent: int = 0
    where: tuple[int, int, str] | None = None

    @classmethod
    def read(cls, text: str) -> Place:
        """Read ``OBR-3``, ``PID-3.1``, ``OBR-34.1.2`` or ``OBX-5.1[3.1=ACCN]``.

        Raises
        ------
        ValueError
            If it is none of these.
        """
        match = _PLACE.match(text)
        if match is None:
            raise ValueError(f"{text!r} is no place: write OBR-3, OBR-3.1 or OBX-5.1[3.1=CODE]")
        number = {k: int(match[k] or 0) for k in ("field", "component", "subcomponent")}
        where = (int(match["f"]), int(match["c"] or 1), match["is"]) if match["f"] else None
        if match["segment"] == "MSH" and number["field"] < 3:
            raise ValueError("MSH-1 and MSH-2 are the delimiters themselves")
        return cls(match["segment"], where=where, **number)

    @property
    def of_patient(self) -> bool:
        """Whether it stands once in a message, not once an order."""
        return self.segment in PATIENT_SEGMENTS

    @property
    def first(self) -> Place:
        """The first component of the field."""
        return replace(self, component=1)

    def meets(self, other: Place) -> bool:
        """Tell whether one of them is a part of the other."""
        return (
            (self.segment, self.field) == (other.segment, other.field)
            and (not self.component or not other.component or self.component == other.component)
            and self.where in (None, other.where)
        )

    def location(self, number: int) -> str:
        """Return the place as an ERL (v2.5.1 §2.A.28) in the segment of this number."""
        place = f"{self.segment}^{number}^{self.field}"
        if self.subcomponent:
            return f"{place}^1^{self.component}^{self.subcomponent}"
        return f"{place}^1^{self.component}" if self.component > 1 else place

    def __str__(self) -> str:
        parts = [str(n) for n in (self.field, self.component, self.subcomponent) if n]
        where = f"[{self.where[0]}.{self.where[1]}={self.where[2]}]" if self.where else ""
        return f"{self.segment}-{'.'.join(parts)}{where}"


def places(key: str) -> tuple[Place, ...]:
    """Return the standard places of a name of `STANDARD`, or the one place that is written out."""
    return tuple(map(Place.read, STANDARD.get(key, (key,))))


def _place(text: str) -> str:
    Place.read(text)
    return text


def _key(text: str) -> str:
    if text not in STANDARD:
        if not _PLACE.match(text):
            raise ValueError(f"allowed are a place such as OBR-18.1 and {', '.join(STANDARD)}")
        Place.read(text)
    return text


def _plain(text: str) -> str:
    if not _PLAIN.match(text):
        raise ValueError("a value may hold no delimiter (| ^ ~ \\ &) and no line break")
    return text


def _segment(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9]{2}", name) or name in {"MSH", "PID", "ORC"}:
        raise ValueError("write a segment such as NTE; MSH, PID and ORC cannot be ignored")
    return name


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError("write the name of an IANA zone such as Europe/Berlin") from None
    return name


def _charset(name: str) -> str:
    if name.upper() not in CHARSETS or not name:
        raise ValueError(f"allowed are {', '.join(c for c in CHARSETS if c)}")
    return name.upper()


_KeyText = Annotated[str, AfterValidator(_key)]
_Places = Annotated[
    tuple[Annotated[str, AfterValidator(_place)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
_Plain = Annotated[str, AfterValidator(_plain)]
_Pattern = Annotated[str, StringConstraints(pattern=r"^[^*]*\*?$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
_Segment = Annotated[str, AfterValidator(_segment)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sender(_Strict):
    """Whose messages these are; a pattern is a text, or how it begins and then ``*``."""

    application: tuple[_Pattern, ...] = Field(min_length=1)
    facility: tuple[_Pattern, ...] = ("*",)
    versions: tuple[str, ...] = ()

    def matches(self, application: str, facility: str, version: str) -> bool:
        """Tell whether a message with this MSH-3.1, MSH-4.1 and MSH-12.1 is one of these."""
        return (
            any(_matches(p, application) for p in self.application)
            and any(_matches(p, facility) for p in self.facility)
            and (not self.versions or version in self.versions)
        )

    def overlaps(self, other: Sender) -> bool:
        """Tell whether some message would match both."""
        return (
            any(_meet(a, b) for a in self.application for b in other.application)
            and any(_meet(a, b) for a in self.facility for b in other.facility)
            and not (
                self.versions and other.versions and set(self.versions).isdisjoint(other.versions)
            )
        )


def _matches(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _meet(a: str, b: str) -> bool:
    if a.endswith("*") and b.endswith("*"):
        return a.startswith(b[:-1]) or b.startswith(a[:-1])
    return _matches(a, b) or _matches(b, a)


class Format(_Strict):
    """How a number is written; the steps are done in this order."""

    remove: _Plain = ""
    """Each of these characters is taken out."""
    remove_prefix: _Plain = ""
    drop_check_digit: bool = False
    """The last character is a check digit and goes."""
    strip_zeros: bool = False
    """Leading zeros go; one is left of nothing but zeros."""
    pad_to: int = Field(0, ge=0, le=64)
    """Zeros are put in front up to this length."""
    append_check_digit: Literal["", "M10", "M11"] = ""
    """The check digit of this scheme (HL70061) is put behind a number of nothing but digits."""
    upper: bool = False
    """Small letters become capitals."""
    prefix: _Plain = ""
    """This is put in front, unless it is there."""


class IdentifierRule(Format):
    """What is done to an identifier in PID-3 and MRG-1; the first rule that fits is taken."""

    types: tuple[str, ...] = ()
    """For these identifier types (CX-5) only; an empty text is an identifier without a type."""
    authorities: tuple[str, ...] = ()
    """For these assigning authorities only: CX-4.1, or CX-4.2 where that is empty; an empty text is
    a number without one."""
    length: int = Field(0, ge=0)
    """For numbers of this length only."""
    authority: _Plain = ""
    """The assigning authority where the message names none."""
    replace_authority: _Plain = ""
    """The namespace (CX-4.1) to put, whichever the message names; a universal id stays."""
    type: _Plain = ""
    """The identifier type to put."""
    check_digit: Literal["", "M10", "M11"] = ""
    """The number has to come with its check digit by this scheme (HL70061): in CX-2, or else as its
    last character."""
    wrong_check_digit: Literal["refuse", "desk"] = "refuse"
    """What becomes of a message whose PID-3 has a number with another one."""
    discard: bool = False
    """The identifier is left out: it is not the patient's, or not to be kept."""


class Profile(_Strict):
    """One sending system."""

    name: _Name
    title: str
    vendor: str = ""
    sources: tuple[str, ...] = ()
    active: bool = True
    sender: Sender
    charset: Annotated[str, AfterValidator(_charset)] | None = None
    time_zone: Annotated[str, AfterValidator(_zone)] | None = None
    ignore: tuple[_Segment, ...] = ()
    fields: dict[_KeyText, _Places] = {}
    """What the reader looks for → where the sender has it; of several places the first that has
    something, of none nothing: then the standard place is not the sender's to fill."""
    values: dict[_KeyText, dict[str, _Plain]] = {}
    format: dict[_KeyText, Format] = {}
    identifiers: tuple[IdentifierRule, ...] = ()
    constants: dict[_KeyText, _Plain] = {}
    required: tuple[_KeyText, ...] = ()

    @model_validator(mode="after")
    def _one_value_a_place(self) -> Profile:
        for table in ("fields", "constants"):
            written: list[tuple[Place, str]] = []
            for key in getattr(self, table):
                for place in places(key):
                    for other, taken in written:
                        if taken != key and place.meets(other):
                            raise ValueError(
                                f"[{table}] gives {place} twice: as {taken} and as {key}"
                            )
                    written.append((place, key))
        return self


Origin = Literal["shipped", "installed", "file"]


@dataclass(frozen=True, slots=True)
class Declared:
    """A profile as a file declares it."""

    profile: Profile
    digest: str
    """SHA-256 of the file; it stands on the timeline beside the name."""
    origin: Origin
    file: str
    text: str


def read_profile(data: bytes, *, file: str, origin: Origin) -> Declared:
    """Read and validate one profile.

    Raises
    ------
    ProfileError
        Naming the file, the line, the key and what is allowed.
    """
    try:
        text = data.decode("utf-8")
        profile = Profile.model_validate(tomllib.loads(text))
    except UnicodeDecodeError as error:
        raise ProfileError(f"{file}: byte {error.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{file}: {error}") from None
    except ValidationError as error:
        raise ProfileError("\n".join(_told(file, text, e) for e in error.errors())) from None
    return Declared(profile, sha256(data).hexdigest(), origin, file, text)


def _told(file: str, text: str, error: Any) -> str:
    keys = [part for part in error["loc"] if isinstance(part, str) and part != "[key]"]
    line = _line(text, keys)
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        reason = f"no such key; allowed are {', '.join(_allowed(keys[:-1]))}"
    if error["type"] == "string_pattern_mismatch":
        reason = f"must match {error['ctx']['pattern']}"
    at = f"{file}, line {line}" if line else file
    return f"{at}: {'.'.join(keys) or 'the file'}: {reason}"


def _allowed(table: list[str]) -> list[str]:
    kinds: dict[str, type[BaseModel]] = {"sender": Sender, "format": Format}
    kinds["identifiers"] = IdentifierRule
    kind = kinds.get(table[0], Profile) if table else Profile
    return list(kind.model_fields)


def _line(text: str, keys: list[str]) -> int:
    """Return the line on which the last key that can be found is written; 0 for none."""
    table: list[str] = []
    found = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]+", line):
            table = [part.strip(" \"'") for part in header[1].split(".")]
            here = table
        elif key := re.match(r"\s*[\"']?([^\"'=\s]+)[\"']?\s*=", line):
            here = [*table, key[1]]
        else:
            continue
        depth = next((n for n in range(len(keys), 0, -1) if here == keys[:n]), 0)
        if depth > found[0]:
            found = depth, number
    return found[1]
