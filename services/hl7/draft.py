"""A parsed message that may be written to, place by place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from services.hl7.er7 import Delimiters, Message, Segment
from services.hl7.profile import Place

Row = list[str]
"""A segment that may be written to; its name stands at 0."""
Values = tuple[dict[int, str], str]
"""The value of each segment that has its own, by its identity, and that of all the others."""


class Note(NamedTuple):
    """One value that was changed, as it stands on the wire."""

    place: str
    before: str
    after: str
    rule: str


class Scope:
    """The segments of one order, or those that stand before the first one."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.named: dict[str, list[Row]] = {}

    def add(self, row: Row) -> None:
        """Put a segment at the end."""
        self.rows.append(row)
        self.named.setdefault(row[0], []).append(row)


class Draft:
    """A message while it is being rewritten."""

    def __init__(self, message: Message, ignored: frozenset[str], notes: list[Note]) -> None:
        self._origin = message
        self.marks = message.delimiters
        self.notes = notes
        self.head = scope = Scope()
        self.orders: list[Scope] = []
        for segment in message.segments:
            if segment.name in ignored:
                notes.append(Note(segment.name, "", "", "ignored"))
                continue
            if segment.name == "ORC":
                scope = Scope()
                self.orders.append(scope)
            scope.add(list(segment.fields))

    def rows(self, segment: str) -> Iterator[Row]:
        """Iterate over the segments of this name."""
        for scope in (self.head, *self.orders):
            yield from scope.named.get(segment, ())

    def read(self, scope: Scope, place: Place) -> str:
        """Return what stands at a place in these segments, or else beside them."""
        rows = scope.named.get(place.segment)
        if rows is None:
            beside = self.orders[:1] if scope is self.head else [self.head]
            rows = beside[0].named.get(place.segment) if beside else None
        for row in rows or ():
            if place.where is None or _is(row, place.where, self.marks):
                return get_at(row, place, self.marks)
        return ""

    def write(self, scope: Scope, targets: tuple[Place, ...], values: Values, rule: str) -> None:
        """Put a value where it is read first, and empty the places that are read after that."""
        own, shared = values
        target = next((place for place in targets if place.segment in scope.named), None)
        if target is None:
            if not shared:
                return
            target = targets[-1]
            scope.add([target.segment])
        for place in targets:
            for row in scope.named.get(place.segment, ()):
                self.put(row, place, own.get(id(row), shared) if place is target else "", rule)

    def put(self, row: Row, place: Place, value: str, rule: str) -> None:
        """Put a value at one place of one segment."""
        before = get_at(row, place, self.marks)
        if value != before:
            set_at(row, place, value, self.marks)
            self.notes.append(Note(str(place), before, value, rule))

    def number(self, scope: Scope, segment: str) -> int:
        """Return which one of its name the first such segment of these is, from 1."""
        first = next(iter(scope.named.get(segment, ())), None)
        return next((n for n, row in enumerate(self.rows(segment), 1) if row is first), 1)

    def message(self) -> Message:
        """Return what came of it."""
        scopes = (self.head, *self.orders)
        return Message(
            tuple([Segment(row[0], tuple(row), self.marks) for one in scopes for row in one.rows]),
            self.marks,
            self._origin.charset,
            self._origin.warnings,
        )


def get_at(row: Row, place: Place, marks: Delimiters) -> str:
    """Return what stands at a place of a segment, as on the wire; empty for nothing."""
    text = row[place.field] if place.field < len(row) else ""
    if not text or not place.component:
        return text
    parts = text.partition(marks.repetition)[0].split(marks.component)
    part = parts[place.component - 1] if place.component <= len(parts) else ""
    if not place.subcomponent:
        return part
    parts = part.split(marks.subcomponent)
    return parts[place.subcomponent - 1] if place.subcomponent <= len(parts) else ""


def _is(row: Row, where: tuple[int, int, str], marks: Delimiters) -> bool:
    field, component, text = where
    return get_at(row, Place(row[0], field, component), marks) == text


def set_at(row: Row, place: Place, value: str, marks: Delimiters) -> None:
    """Put a value at a place of a segment; what stands beside it stays."""
    row.extend([""] * (place.field + 1 - len(row)))
    if not place.component:
        row[place.field] = value
        return
    first, more, others = row[place.field].partition(marks.repetition)
    if place.subcomponent:
        part = get_at(row, Place(place.segment, place.field, place.component), marks)
        value = _put(part, place.subcomponent, value, marks.subcomponent)
    row[place.field] = _put(first, place.component, value, marks.component) + more + others


def _put(text: str, number: int, value: str, mark: str) -> str:
    parts = text.split(mark)
    parts.extend([""] * (number - len(parts)))
    parts[number - 1] = value
    return mark.join(parts).rstrip(mark)
