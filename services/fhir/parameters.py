"""Values of search parameters: what they say and what they ask of a row (R4 search.html §3.1.1.4).

A condition that nothing can fulfil is `false()`, for a search may ask for what is never there; a
value that cannot be read at all is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, false, true

from models.errors import InvalidValue

Condition = Callable[[str], ColumnElement[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A search parameter.

    Parameters
    ----------
    type : str
        SearchParamType.
    condition : callable
        Makes the condition that one value asks for.
    modifiers : mapping of str to callable
        Modifier → what it makes of a value.
    chains : mapping of str to callable
        Parameter of the resource that a reference leads to → what it makes of a value.
    target : str
        The type that a reference leads to.
    own : bool
        Not one of the specification.
    """

    type: str
    condition: Condition
    modifiers: Mapping[str, Condition] = field(default_factory=dict)
    chains: Mapping[str, Condition] = field(default_factory=dict)
    target: str = ""
    own: bool = False

    def forms(self, name: str) -> dict[str, Condition]:
        """Return every way to write it: with modifiers, chains, and chains with their type."""
        written = {name: self.condition}
        written |= {f"{name}:{modifier}": c for modifier, c in self.modifiers.items()}
        if self.target:
            written[f"{name}:{self.target}"] = self.condition
        for chain, condition in self.chains.items():
            written[f"{name}.{chain}"] = condition
            written[f"{name}:{self.target}.{chain}"] = condition
        return written


@dataclass(frozen=True, slots=True)
class Token:
    """A token: ``value``, ``|value``, ``system|value`` or ``system|``.

    Attributes
    ----------
    system : str or None
        None for any; empty for a value that has no system.
    """

    system: str | None
    value: str

    @classmethod
    def read(cls, text: str) -> Token:
        """Return the token that a value writes."""
        parts = _split(text, "|")
        if len(parts) == 1:
            return cls(None, parts[0])
        return cls("|".join(parts[:-1]), parts[-1])

    def in_system(self, *systems: str) -> bool:
        """Whether it may mean a value of one of these systems."""
        return self.system is None or self.system in systems


def alternatives(value: str) -> list[str]:
    r"""Return the values between commas; ``\,`` is a comma."""
    return _split(value, ",", unescape=False)


def is_date(moment: ColumnElement[Any], *, whole_days: bool = False) -> Condition:
    """Return what compares a column with ``ge2026-11-24``, as precise as it is written.

    Without a zone it is UTC: the store knows no other, and a client that means its own says so.
    """

    def condition(text: str) -> ColumnElement[bool]:
        prefix, low, high = read_date(text)
        if not whole_days:
            return _PREFIXES[prefix](moment, low, high)
        if high - low < timedelta(days=1):
            raise InvalidValue("a date of birth has no time of day")
        return _PREFIXES[prefix](moment, low.date(), high.date())

    return condition


def read_date(text: str) -> tuple[str, datetime, datetime]:
    """Return prefix, beginning and end (not included) of a date as a search writes it.

    Raises
    ------
    InvalidValue
        If it is no FHIR date, or its prefix is not served.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise InvalidValue("not a date of FHIR with one of the prefixes " + ", ".join(_PREFIXES))
    written = found.groupdict()
    zone = (written["zone"] or "Z").replace(" ", "+").replace("Z", "+00:00")
    try:
        low = datetime.fromisoformat(
            f"{written['year']}-{written['month'] or '01'}-{written['day'] or '01'}"
            f"T{written['time'] or '00:00'}:{written['second'] or '00'}{zone}"
        )
        fraction = written["fraction"] or ""
        low += timedelta(microseconds=int(fraction[:6].ljust(6, "0")))
        high = _end(low, written, min(len(fraction), 6))
        return written["prefix"] or "eq", low.astimezone(UTC), high.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidValue("not a date of the calendar") from error


def constant(system: str, *values: str) -> Condition:
    """Return the condition on an element that every resource has with the same code."""

    def condition(text: str) -> ColumnElement[bool]:
        token = Token.read(text)
        known = token.value in values or (not token.value and token.system)
        return true() if known and token.in_system(system) else false()

    return condition


def reference(value: str, kind: str) -> str | None:
    """Return the id that a reference to `kind` has, or None if it leads to another type."""
    path, slash, identity = value.rpartition("/")
    if slash and path.rpartition("/")[2] != kind:
        return None
    return identity


def _end(low: datetime, written: Mapping[str, str | None], digits: int) -> datetime:
    if digits:
        return low + timedelta(microseconds=10 ** (6 - digits))
    for name, span in (
        ("second", timedelta(seconds=1)),
        ("time", timedelta(minutes=1)),
        ("day", timedelta(days=1)),
    ):
        if written[name]:
            return low + span
    if written["month"] and low.month < 12:
        return low.replace(month=low.month + 1)
    return low.replace(year=low.year + 1, month=1)


def _split(text: str, separator: str, *, unescape: bool = True) -> list[str]:
    parts = [""]
    escaped = False
    for letter in text:
        if escaped:
            parts[-1] += letter if unescape else f"\\{letter}"
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == separator:
            parts.append("")
        else:
            parts[-1] += letter
    if escaped:
        parts[-1] += "\\"
    return parts


_DATE: Final = re.compile(
    r"(?P<prefix>eq|ne|gt|lt|ge|le|sa|eb)?(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<time>\d\d:\d\d)(:(?P<second>\d\d)(\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>Z|[+ -]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)

_PREFIXES: Final[Mapping[str, Callable[[Any, Any, Any], ColumnElement[bool]]]] = {
    "eq": lambda moment, low, high: and_(moment >= low, moment < high),
    "ne": lambda moment, low, high: (moment < low) | (moment >= high),
    "gt": lambda moment, _, high: moment >= high,
    "lt": lambda moment, low, _: moment < low,
    "ge": lambda moment, low, _: moment >= low,
    "le": lambda moment, _, high: moment < high,
    "sa": lambda moment, _, high: moment >= high,
    "eb": lambda moment, low, _: moment < low,
}
