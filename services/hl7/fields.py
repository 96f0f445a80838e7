"""Values out of HL7 fields: times, names, codes and numbers, as our own records have them.

None means that nothing was said; an empty string that it is to be deleted (v2.5.1 §2.5.3.5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Final

from models.errors import InvalidValue
from models.patient import Code, Identifier, Issuer, PersonName
from models.priority import HL7_PRIORITY, Priority
from services.hl7.acknowledgement import TooLong
from services.hl7.er7 import NULL, Segment
from services.hl7.mapping import ORDER, PATIENT, SECTIONS, Kind, Place, Row

_UID = re.compile(r"(?=.{1,64}$)(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+$")
_TIME = re.compile(
    r"(?P<y>\d{4})(?P<mo>\d\d)?(?P<d>\d\d)?(?P<h>\d\d)?(?P<mi>\d\d)?(?P<s>\d\d)?"
    r"(?:\.\d+)?(?P<z>[+-]\d{4})?$"
)


def is_uid(text: str) -> bool:
    """Tell whether `text` is a DICOM UID (PS3.5 §9.1)."""
    return _UID.match(text) is not None


def read_time(text: str, location: str) -> datetime:
    """Read an HL7 TS/DTM (v2.5.1 §2.A.22) as UTC; without an offset it is local time.

    Raises
    ------
    InvalidValue
        If it is no date, naming `location`.
    """
    wrong = InvalidValue(
        f"expected YYYYMMDDHHMMSS, got {len(text)} other characters", location=location
    )
    match = _TIME.match(text)
    if match is None:
        raise wrong
    try:
        parts = {k: int(v) for k, v in match.groupdict().items() if v and k != "z"}
        moment = datetime(  # noqa: DTZ001 (the zone is settled two lines below)
            parts["y"],
            parts.get("mo", 1),
            parts.get("d", 1),
            parts.get("h", 0),
            parts.get("mi", 0),
            parts.get("s", 0),
        )
        if zone := match["z"]:
            sign = -1 if zone[0] == "-" else 1
            offset = sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
            return moment.replace(tzinfo=timezone(offset)).astimezone(UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong from None


def said(
    rows: Iterable[Row],
    segments: Mapping[str, Segment],
    numbers: Mapping[str, int],
    warnings: list[str],
) -> dict[str, Any]:
    """Read what the rows of a mapping find in `segments`; what nobody says is left out.

    Parameters
    ----------
    rows : iterable of Row
    segments : mapping of str to Segment
        By name.
    numbers : mapping of str to int
        Which occurrence in the message a segment is, for the location of an error.
    warnings : list of str
        Takes what was said and cannot be used.

    Raises
    ------
    InvalidValue, TooLong
        Naming the place as an ERL.
    """
    found = {}
    for row in rows:
        for place in row.places:
            segment = segments.get(place.segment)
            # Most fields of most messages are empty; that is settled without reading them.
            if segment is None or not segment.raw(place.number):
                continue
            field = _Field(segment, place, numbers, warnings)
            value = field.null(row.kind) if field.raw == NULL else _READERS[row.kind](field)
            if isinstance(value, str) and len(value) > _LO and row.name in _LINES:
                field.warn(f"has {len(value)} characters, DICOM shows {_LO} of them")
            if value is not None:
                found[row.name] = value
                break
    return found


class _Field:
    """One field that says something, and where the reading of it begins."""

    __slots__ = ("_numbers", "_place", "_warnings", "component", "number", "raw", "segment")

    def __init__(
        self, segment: Segment, place: Place, numbers: Mapping[str, int], warnings: list[str]
    ) -> None:
        self.segment = segment
        self.number = place.number
        self.component = place.component
        self.raw = segment.raw(place.number)
        self._place = place
        self._numbers = numbers
        self._warnings = warnings

    @property
    def where(self) -> str:
        """The field as an ERL."""
        place = self._place
        return f"{place.segment}^{self._numbers.get(place.segment, 1)}^{place.number}"

    def text(self) -> str:
        """Return the component where reading begins."""
        return self.segment.get(self.number, self.component)

    def warn(self, of_what: str) -> None:
        """Say on the timeline what is not used."""
        self._warnings.append(f"{self.where} {of_what}")

    def short(self, text: str) -> str:
        """Return `text` if it fits DICOM SH or AE; else nothing, with a warning."""
        if len(text) > _SH:
            self.warn(f"has {len(text)} characters, DICOM allows {_SH}; not used")
            return ""
        return text

    def null(self, kind: Kind) -> Any:
        """Return what stands for a value that is to be deleted."""
        if kind in {Kind.EI_ISSUER, Kind.CX_ISSUER}:
            return Issuer()
        return Priority.ROUTINE if kind is Kind.PRIORITY else ""


_SH, _LO = 16, 64
_LINES = frozenset(
    row.name for row in (*PATIENT, *ORDER) if row.name not in {"visit_reason", "comments"}
)


def _text(field: _Field) -> str | None:
    return field.segment.optional(field.number, field.component)


def _coded_text(field: _Field) -> str | None:
    segment, number = field.segment, field.number
    return segment.optional(number, 2) or segment.optional(number)


def _modality(field: _Field) -> str | None:
    text = field.text()
    return SECTIONS.get(text.upper(), text) or None


def _short(field: _Field) -> str | None:
    return field.short(field.text()) or None


def _strict(field: _Field) -> str | None:
    text = field.text()
    if len(text) > _SH:
        # Two orders could collide under a cut accession number; every other number of ours may
        # stand in for one that does not fit, with a warning on the timeline.
        raise TooLong(f"{len(text)} characters; DICOM SH allows {_SH}", location=field.where)
    return text or None


def _date(field: _Field) -> date | None:
    text = field.text()
    return read_date(text, field.where) if text else None


def _time(field: _Field) -> datetime | None:
    text = field.text()
    if not text:
        return None
    where = field.where if field.component == 1 else f"{field.where}^1^{field.component}"
    return read_time(text, where)


def _titles(field: _Field) -> str | None:
    segment = field.segment
    titles = (segment.part(repetition, 1) for repetition in segment.repetitions(field.number))
    fitting = [field.short(title) for title in titles]
    return "\\".join(title for title in fitting if title) or None


def _priority(field: _Field) -> Priority | None:
    text = field.text()
    if not text:
        return None
    known = HL7_PRIORITY.get(text.upper())
    if known is None:
        field.warn("has a priority that HL70485 does not know; taken as routine")
        return Priority.ROUTINE
    return known


def _ei_issuer(field: _Field) -> Issuer | None:
    segment, number, component = field.segment, field.number, field.component
    return _issuer(*(segment.get(number, component + n) for n in range(3)))


def _cx_issuer(field: _Field) -> Issuer | None:
    return _issuer(*(field.segment.get(field.number, field.component, n) for n in (1, 2, 3)))


def _issuer(namespace: str, universal_id: str, universal_type: str) -> Issuer | None:
    if not (namespace or universal_id):
        return None
    return Issuer(namespace, universal_id, universal_type)


def read_location(segment: Segment, number: int) -> str:
    """Read every component of a location or an address, parted by ``^``."""
    first = segment.raw(number).split(segment.delimiters.repetition, 1)[0]
    count = first.count(segment.delimiters.component) + 1
    parts = (segment.part(first, n) for n in range(1, count + 1))
    return "^".join("" if part == NULL else part for part in parts).rstrip("^")


def read_date(text: str, where: str) -> date:
    """Read the date of a TS/DTM; a part that is not said is its first.

    Raises
    ------
    InvalidValue
        If it is no date.
    """
    read_time(text, where)  # refuses what is no date
    padded = (text[:8] + "0101")[:8] if len(text) < 8 else text[:8]
    return date(int(padded[:4]), int(padded[4:6]), int(padded[6:8]))


def read_code(segment: Segment, number: int, component: int = 1) -> Code | None:
    """Read a CE/CWE, or its second triplet where `component` is 4."""
    value, meaning, scheme = (segment.get(number, component + n) for n in range(3))
    if not value and not (meaning and component == 1):
        return None
    return Code(value=value, meaning=meaning, scheme=scheme or "L")


def _person(family: str, given: str, middle: str, suffix: str, prefix: str) -> PersonName | None:
    if not any((family, given, middle)):
        return None
    return PersonName(family=family, given=given, middle=middle, prefix=prefix, suffix=suffix)


def _xpn(field: _Field) -> PersonName | None:
    return _person(*(field.segment.get(field.number, n) for n in (1, 2, 3, 4, 5)))


def _xcn(field: _Field) -> PersonName | None:
    return _person(*(field.segment.get(field.number, n) for n in (2, 3, 4, 5, 6)))


def _cnn(field: _Field) -> PersonName | None:
    # NDL-1 is a CNN (v2.5.1 §2.A.49): the parts of one component, the first one a number.
    name = _person(*(field.segment.get(field.number, 1, n) for n in range(2, 7)))
    return name or _xcn(field)


_READERS: Final[dict[Kind, Callable[[_Field], Any]]] = {
    Kind.TEXT: _text,
    Kind.CODED_TEXT: _coded_text,
    Kind.LOCATION: lambda field: read_location(field.segment, field.number) or None,
    Kind.CODE: lambda field: read_code(field.segment, field.number, field.component),
    Kind.XPN: _xpn,
    Kind.XCN: _xcn,
    Kind.CNN: _cnn,
    Kind.EI_ISSUER: _ei_issuer,
    Kind.CX_ISSUER: _cx_issuer,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.SHORT: _short,
    Kind.STRICT: _strict,
    Kind.TITLES: _titles,
    Kind.PRIORITY: _priority,
    Kind.MODALITY: _modality,
}


def read_identifiers(segment: Segment, number: int, default_authority: str) -> Iterable[Identifier]:
    """Read a repeated CX field: value, assigning authority, type."""
    seen = set()
    for repetition in segment.repetitions(number):
        value = segment.part(repetition, 1)
        universal_id, universal_type = (segment.part(repetition, 4, n) for n in (2, 3))
        authority = segment.part(repetition, 4) or universal_id or default_authority
        if value and value != NULL and (value, authority) not in seen:
            seen.add((value, authority))
            yield Identifier(
                value=value,
                authority=authority,
                type=segment.part(repetition, 5) or "MR",
                universal_id=universal_id,
                universal_type=universal_type,
            )
