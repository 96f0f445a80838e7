"""FHIR search: what a query asks for, and one page of the rows that fulfil it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, func, or_, tuple_

from models.errors import InvalidValue, Unsupported
from services.database.store import UnitOfWork
from services.fhir.parameters import Condition, alternatives
from services.fhir.served import Searched

DEFAULT_COUNT: Final = 50
MOST: Final = 200
LONGEST: Final = 200
"""Alternatives of one parameter; more belong into several searches."""

RESULT_PARAMETERS: Final = (
    *("_count", "_sort", "_include", "_summary", "_elements", "_total", "_format", "_pretty"),
)
"""What shapes an answer and chooses nothing; served for every type."""

# fhirpy sends the last one to count; it means what _total says anyway.
_WITHOUT_EFFECT: Final = ("_format", "_pretty", "_totalMethod")
_AFTER: Final = "_after"
_SUMMARIES: Final = ("count", "data", "false")
_TOTALS: Final = ("accurate", "estimate", "none")


@dataclass(slots=True, kw_only=True)
class Query:
    """A search as it was understood.

    Attributes
    ----------
    used : list of (name, value)
        What was followed, for the self link.
    sort : str
        Name of an order, ``-`` before a descending one.
    after : (value, id), optional
        The last row of the page before.
    here : str
        The same, as the link to this page has it.
    """

    sort: str
    conditions: list[ColumnElement[bool]] = field(default_factory=list)
    used: list[tuple[str, str]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    after: tuple[Any, str] | None = None
    here: str = ""
    includes: list[str] = field(default_factory=list)
    elements: tuple[str, ...] = ()
    summary: str = "false"
    has_total: bool = True

    @property
    def is_counted_only(self) -> bool:
        """Whether only the number of matches is wanted."""
        return self.summary == "count" or self.count == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The ids of one page, how many match in all, and what the next page begins after."""

    ids: list[str]
    total: int | None
    after: str | None


def parse(
    kind: str, searched: Searched, items: Sequence[tuple[str, str]], *, lenient: bool
) -> Query:
    """Return the search that a query asks for.

    A repeated parameter narrows (and), a comma widens (or).

    Parameters
    ----------
    lenient : bool
        Ignore a parameter that is not served. Only a client that says so gets this: it would
        return other people's records to one that does not look at the self link.

    Raises
    ------
    Unsupported
        If a parameter, or in any case a modifier, is not served.
    InvalidValue
        If a value cannot be read.
    """
    known = _forms(searched)
    names = {name.partition(":")[0].partition(".")[0] for name in known}
    query = Query(sort=searched.default)
    for name, value in items:
        if not value.isprintable():
            raise InvalidValue(f"{name} has characters that no value has", location=name)
        if name == _AFTER:
            query.here = value
        elif name in _WITHOUT_EFFECT:
            continue
        elif name in RESULT_PARAMETERS:
            _shape(query, kind, searched, name, value, lenient=lenient)
        elif name in known:
            query.conditions.append(_condition(known[name], name, value))
            query.used.append((name, value))
        elif not lenient or name.partition(":")[0].partition(".")[0] in names:
            # Ignoring a modifier would turn a condition into another one.
            raise Unsupported(f"search parameter {name} is not served", location=name)
    if query.here:
        query.after = _read_after(searched, query, query.here)
    return query


def page(uow: UnitOfWork, searched: Searched, query: Query) -> Page:
    """Return one page of what `query` asks for."""
    source = searched.source.where(*query.conditions)
    total = None
    if query.has_total or query.is_counted_only:
        counted = source.with_only_columns(func.count().label("n")).order_by(None)
        total = int(uow.studies.select(counted)[0].n)
    if query.is_counted_only:
        return Page(ids=[], total=total, after=None)
    name = query.sort.removeprefix("-")
    order, descending = searched.orders[name], query.sort.startswith("-")
    columns = (order.by, searched.key)
    if query.after is not None:
        here = tuple_(*columns)
        source = source.where(here < query.after if descending else here > query.after)
    rows = uow.studies.select(
        source.with_only_columns(order.by.label("place"), searched.key.label("key"))
        .order_by(*(c.desc() if descending else c.asc() for c in columns))
        .limit(query.count + 1)
    )
    shown = rows[: query.count]
    more = len(rows) > query.count
    last = shown[-1] if more else None
    return Page(
        ids=[str(row.key) for row in shown],
        total=total,
        after=None if last is None else _write_after(query.sort, last.place, last.key),
    )


def _forms(searched: Searched) -> dict[str, Condition]:
    forms: dict[str, Condition] = {}
    for name, parameter in searched.parameters.items():
        forms |= parameter.forms(name)
    return forms


def _condition(condition: Condition, name: str, value: str) -> ColumnElement[bool]:
    wanted = alternatives(value)
    if len(wanted) > LONGEST:
        raise InvalidValue(f"{name} has more than {LONGEST} alternatives", location=name)
    try:
        return or_(*(condition(v) for v in wanted))
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}", location=name) from error


def _shape(
    query: Query, kind: str, searched: Searched, name: str, value: str, *, lenient: bool
) -> None:
    match name:
        case "_count":
            query.count = min(_whole(name, value), MOST)
            return
        case "_sort" if value.removeprefix("-") in searched.orders:
            query.sort = value
        case "_include" if value.removeprefix(f"{kind}:") in searched.includes and ":" in value:
            query.includes.append(value.removeprefix(f"{kind}:"))
        case "_summary" if value in _SUMMARIES:
            query.summary = value
        case "_elements":
            query.elements = tuple(part.strip() for part in value.split(",") if part.strip())
        case "_total" if value in _TOTALS:
            query.has_total = value != "none"
        case _ if lenient:
            return
        case _:
            raise InvalidValue(f"{name} has a value that is not served", location=name)
    query.used.append((name, value))


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidValue(f"{name} is not a whole number", location=name)
    return int(value)


def _write_after(sort: str, place: Any, key: str) -> str:
    text = place.isoformat() if hasattr(place, "isoformat") else str(place)
    return urlsafe_b64encode(json.dumps([sort, text, key]).encode()).decode().rstrip("=")


def _read_after(searched: Searched, query: Query, token: str) -> tuple[Any, str]:
    try:
        padded = token + "=" * (-len(token) % 4)
        sort, place, key = json.loads(urlsafe_b64decode(padded.encode("ascii")))
        value = searched.orders[str(sort).removeprefix("-")].read(place)
    except (ValueError, TypeError, KeyError):
        sort = None
    if sort != query.sort:
        raise InvalidValue(
            "the link to this page is not one of ours; begin the search anew", location=_AFTER
        )
    return value, str(key)
