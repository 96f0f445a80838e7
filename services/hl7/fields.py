"""Values out of HL7 fields: times, names, codes and numbers, as our own records have them.

None means that nothing was said; an empty string that it is to be deleted (v2.5.1 §2.5.3.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

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
            where = f"{place.segment}^{numbers.get(place.segment, 1)}^{place.number}"
            value = _read(row.kind, segment, place, where, warnings)
            if isinstance(value, str) and len(value) > _LO and row.name in _LINES:
                warnings.append(f"{where} has {len(value)} characters, DICOM shows {_LO} of them")
            if value is not None:
                found[row.name] = value
                break
    return found


def _read(kind: Kind, segment: Segment, place: Place, where: str, warnings: list[str]) -> Any:
    number, component = place.number, place.component
    if segment.raw(number) == NULL:
        return Issuer() if kind in _ISSUERS else Priority.ROUTINE if kind is Kind.PRIORITY else ""
    if kind is Kind.TEXT:
        return segment.optional(number, component)
    if kind is Kind.MODALITY:
        text = segment.get(number, component)
        return SECTIONS.get(text.upper(), text) or None
    if kind is Kind.CODED_TEXT:
        return segment.optional(number, 2) or segment.optional(number)
    if kind is Kind.LOCATION:
        return read_location(segment, number) or None
    if kind is Kind.CODE:
        return read_code(segment, number, component)
    if kind in _NAMES:
        return _NAMES[kind](segment, number)
    if kind is Kind.EI_ISSUER:
        return _issuer(*(segment.get(number, component + n) for n in range(3)))
    if kind is Kind.CX_ISSUER:
        return _issuer(*(segment.get(number, component, n) for n in (1, 2, 3)))
    if kind is Kind.DATE:
        text = segment.get(number, component)
        return read_date(text, where) if text else None
    if kind is Kind.TIME:
        text = segment.get(number, component)
        place_of_part = where if component == 1 else f"{where}^1^{component}"
        return read_time(text, place_of_part) if text else None
    if kind is Kind.PRIORITY:
        return _priority(segment.get(number, component), where, warnings)
    if kind is Kind.TITLES:
        return _titles(segment, number, where, warnings)
    text = segment.get(number, component)
    if len(text) > _SH and kind is Kind.STRICT:
        # Two orders could collide under a cut accession number; every other number of ours may
        # stand in for one that does not fit, with a warning on the timeline.
        raise TooLong(f"{len(text)} characters; DICOM SH allows {_SH}", location=where)
    return short(text, where, warnings) or None


_ISSUERS = frozenset({Kind.EI_ISSUER, Kind.CX_ISSUER})
_SH, _LO = 16, 64
_LINES = frozenset(
    row.name for row in (*PATIENT, *ORDER) if row.name not in {"visit_reason", "comments"}
)


def short(text: str, where: str, warnings: list[str]) -> str:
    """Return `text` if it fits DICOM SH or AE; else nothing, with a warning."""
    if len(text) > _SH:
        warnings.append(f"{where} has {len(text)} characters, DICOM allows {_SH}; not used")
        return ""
    return text


def _titles(segment: Segment, number: int, where: str, warnings: list[str]) -> str | None:
    titles = (segment.part(repetition, 1) for repetition in segment.repetitions(number))
    fitting = [short(title, where, warnings) for title in titles]
    return "\\".join(title for title in fitting if title) or None


def _priority(text: str, where: str, warnings: list[str]) -> Priority | None:
    if not text:
        return None
    known = HL7_PRIORITY.get(text.upper())
    if known is None:
        warnings.append(f"{where} has a priority that HL70485 does not know; taken as routine")
        return Priority.ROUTINE
    return known


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


def _xpn(segment: Segment, number: int) -> PersonName | None:
    return _person(*(segment.get(number, n) for n in (1, 2, 3, 4, 5)))


def _xcn(segment: Segment, number: int) -> PersonName | None:
    return _person(*(segment.get(number, n) for n in (2, 3, 4, 5, 6)))


def _cnn(segment: Segment, number: int) -> PersonName | None:
    # NDL-1 is a CNN (v2.5.1 §2.A.49): the parts of one component, the first one a number.
    name = _person(*(segment.get(number, 1, n) for n in range(2, 7)))
    return name or _xcn(segment, number)


_NAMES = {Kind.XPN: _xpn, Kind.XCN: _xcn, Kind.CNN: _cnn}


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
