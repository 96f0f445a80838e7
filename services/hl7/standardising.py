"""A message as one sender writes it → the same message with every value at its IHE place.

A profile is compiled once to a list of operations; applying it reads and writes no file, and leaves
the message it was given as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo

from models.errors import MissingField, PeerError
from services.hl7.er7 import NULL, Delimiters, Message, Segment, parse
from services.hl7.profile import Declared, Format, IdentifierRule, Place, places
from services.hl7.requests import is_imaging

_LOCAL_TIME: Final = re.compile(r"(\d{8})(\d\d)?(\d\d)?(\d\d)?(?:\.\d+)?$")
_IDENTIFIERS: Final = (Place("PID", 3), Place("MRG", 1))
_CONTROL: Final = Place("ORC", 1, 1)
_START: Final = tuple((place, str(place)) for place in places("start"))

_T = TypeVar("_T")
_Edit = Callable[[str], str]

_Row = list[str]
"""A segment that may be written to; its name stands at 0."""


class Note(NamedTuple):
    """One value that was changed, as it stands on the wire."""

    place: str
    before: str
    after: str
    rule: str


@dataclass(frozen=True, slots=True)
class Standard:
    """A message after its sender's profile.

    Attributes
    ----------
    profile, digest
        Which profile it was; both empty for none.
    missing
        The first required place that a new order leaves empty, as an ERL, and its name.
    moved
        Standard place → where this sender may have it.
    sent
        The message as it came.
    """

    message: Message
    profile: str = ""
    digest: str = ""
    notes: tuple[Note, ...] = ()
    missing: tuple[str, str] | None = None
    moved: Mapping[Place, tuple[Place, ...]] = field(default_factory=dict)
    sent: Message | None = None

    @contextmanager
    def as_sent(self) -> Iterator[None]:
        """Tell of an error at the place where the sender has the value, not where IHE has it."""
        try:
            yield
        except PeerError as error:
            error.location = self._sent_at(error.location)
            raise

    def _sent_at(self, location: str | None) -> str | None:
        parts = (location or "").split("^")
        if self.sent is None or len(parts) < 3 or not parts[1].isdigit():
            return location
        # A segment that stands once an order counts as the order's own does.
        number = int(parts[1])
        for standard, places_sent in self.moved.items():
            if standard.location(number) == location:
                valued = (
                    place
                    for place in places_sent
                    for segment in self.sent.all(place.segment)
                    if _get(list(segment.fields), place, self.sent.delimiters)
                )
                return next(valued, places_sent[0]).location(number)
        return location

    @property
    def evidence(self) -> dict[str, str]:
        """What the timeline keeps: which profile, in which version."""
        return {"profile": self.profile, "profile_digest": self.digest[:16]} if self.profile else {}

    def require(self) -> None:
        """Refuse a new order without what its profile requires.

        Raises
        ------
        MissingField
            At the place where the sender has it.
        """
        if self.missing is not None:
            location, name = self.missing
            raise MissingField(
                f"profile {self.profile} requires {name} in a new order", location=location
            )


class Rewriting(Protocol):
    """What knows the profile of a sender."""

    def standardised(self, message: Message, raw: bytes) -> Standard:
        """Return the message after its sender's profile, or as it is."""


class Standardiser:
    """One profile, ready to be applied."""

    def __init__(self, declared: Declared) -> None:
        profile = declared.profile
        self.declared = declared
        self._zone = profile.time_zone and ZoneInfo(profile.time_zone)
        self._ignored = frozenset(profile.ignore)
        self._moves = [_Move.of(key, sources) for key, sources in profile.fields.items()]
        self._edits = [
            *_edits(profile.values, _mapped, "value"),
            *_edits(profile.format, _formatted, "format"),
        ]
        self._constants = [(places(key), text) for key, text in profile.constants.items()]
        sent = {move.key: move.sources[0] for move in self._moves if move.sources}
        self._required = [(key, places(key), sent.get(key)) for key in profile.required]
        self._moved = {
            target: move.sources for move in self._moves if move.sources for target in move.targets
        }

    def standardised(self, message: Message, raw: bytes) -> Standard:
        """Return the message with every value at its IHE place; `message` stays as it is.

        Parameters
        ----------
        message : Message
        raw : bytes
            What it was parsed from, for a profile that says which character set the bytes are in.
        """
        profile = self.declared.profile
        notes: list[Note] = []
        if profile.charset and not raw.isascii():
            before = message.msh.get(18)
            message = parse(_declaring(raw, profile.charset))
            if before.upper() != profile.charset:
                notes.append(Note("MSH-18", before, profile.charset, "charset"))
        draft = _Draft(message, self._ignored, notes)
        if self._moves:
            self._move(draft)
        for place, label, edit, rule in self._edits:
            for row in draft.rows(place.segment):
                draft.edit(row, place, label, edit, rule)
        if profile.identifiers:
            self._identify(draft)
        missing = None
        new = [order for order in draft.orders if _get(order[0], _CONTROL, draft.marks) == "NW"]
        if new:
            for targets, text in self._constants:
                for rows in (draft.head,) if targets[0].of_patient else new:
                    if not any(draft.read(rows, place) for place in targets):
                        draft.write(rows, targets, ({}, text), "constant")
            # What no modality serves is not refused for what only an imaging order has.
            if self._required and is_imaging(draft.message()):
                missing = next(self._missing(draft, new), None)
        if self._zone:
            for place, label in _START:
                for row in draft.rows(place.segment):
                    draft.edit(row, place, label, self._zoned, "time zone")
        return Standard(
            draft.message(),
            profile.name,
            self.declared.digest,
            tuple(notes),
            missing,
            self._moved,
            message,
        )

    def _move(self, draft: _Draft) -> None:
        # Everything is read before anything is written: two places may change with each other.
        read = [
            (move, rows, move.read(draft, rows))
            for move in self._moves
            for rows in ((draft.head,) if move.of_patient else draft.orders)
        ]
        for move, rows, values in read:
            draft.write(rows, move.targets, values, "field")

    def _identify(self, draft: _Draft) -> None:
        marks, rules = draft.marks, self.declared.profile.identifiers
        for place in _IDENTIFIERS:
            for row in draft.rows(place.segment):
                before = _get(row, place, marks)
                if not before:
                    continue
                kept = (
                    _identified(one, rules, marks) for one in before.split(marks.repetition) if one
                )
                after = marks.repetition.join(one for one in kept if one)
                if after != before:
                    _set(row, place, after, marks)
                    draft.notes.append(Note(str(place), before, after, "identifier"))

    def _missing(self, draft: _Draft, new: list[list[_Row]]) -> Iterator[tuple[str, str]]:
        for key, targets, source in self._required:
            for rows in (draft.head,) if targets[0].of_patient else new:
                if any(draft.read(rows, place) not in {"", NULL} for place in targets):
                    continue
                told = source or next(
                    (p for p in targets if any(r[0] == p.segment for r in rows)), targets[-1]
                )
                yield told.location(draft.number(rows, told.segment)), key

    def _zoned(self, text: str) -> str:
        """Add the offset to a local time.

        A time that the clocks skip in spring counts with the offset before the change, and one
        that they show twice in autumn is the first of the two (PEP 495, fold 0).
        """
        match = _LOCAL_TIME.match(text)
        if match is None or not self._zone:
            return text
        hour, minute, second = (int(part or 0) for part in match.groups()[1:])
        try:
            day = datetime.strptime(match[1], "%Y%m%d")  # noqa: DTZ007 (the zone is put to it here)
            local = day.replace(hour=hour, minute=minute, second=second, tzinfo=self._zone)
        except ValueError:
            return text  # the reader says where
        return f"{text}{local:%z}"


@dataclass(frozen=True, slots=True)
class _Move:
    """A value that this sender has elsewhere."""

    key: str
    targets: tuple[Place, ...]
    sources: tuple[Place, ...]
    of_patient: bool

    @classmethod
    def of(cls, key: str, sources: tuple[str, ...]) -> _Move:
        targets = places(key)
        read = tuple(map(Place.read, sources))
        if targets[0].component:
            # A part has room for a part only; of a whole field its first one is meant.
            read = tuple(place if place.component else place.first for place in read)
        return cls(key, targets, read, targets[0].of_patient)

    def read(self, draft: _Draft, rows: list[_Row]) -> _Values:
        """Return the value of each segment that has its own, and that of the order."""
        own: dict[int, str] = {}
        shared = ""
        for place in reversed(self.sources):
            if any(place.segment == target.segment for target in self.targets) and not place.where:
                for row in rows:
                    if row[0] == place.segment and (value := _get(row, place, draft.marks)):
                        own[id(row)] = value
            shared = draft.read(rows, place) or shared
        return own, shared


_Values = tuple[dict[int, str], str]


class _Draft:
    """A message while it is being rewritten."""

    def __init__(self, message: Message, ignored: frozenset[str], notes: list[Note]) -> None:
        self._origin = message
        self.marks = message.delimiters
        self.notes = notes
        self.head: list[_Row] = []
        self.orders: list[list[_Row]] = []
        for segment in message.segments:
            if segment.name in ignored:
                notes.append(Note(segment.name, "", "", "ignored"))
                continue
            if segment.name == "ORC":
                self.orders.append([])
            (self.orders[-1] if self.orders else self.head).append(list(segment.fields))

    def rows(self, segment: str) -> Iterator[_Row]:
        """Iterate over the segments of this name."""
        for rows in (self.head, *self.orders):
            for row in rows:
                if row[0] == segment:
                    yield row

    def read(self, rows: list[_Row], place: Place) -> str:
        """Return what stands at a place in these segments, or else beside them."""
        for group in (rows, self.head if rows is not self.head else next(iter(self.orders), ())):
            for row in group:
                if row[0] == place.segment and (
                    place.where is None
                    or _get(row, Place(place.segment, *place.where[:2]), self.marks)
                    == place.where[2]
                ):
                    return _get(row, place, self.marks)
        return ""

    def write(
        self, rows: list[_Row], targets: tuple[Place, ...], values: _Values, rule: str
    ) -> None:
        """Put a value where it is read first, and empty the places that are read after that."""
        own, shared = values
        names = {row[0] for row in rows}
        target = next((place for place in targets if place.segment in names), None)
        if target is None:
            if not shared:
                return
            target = targets[-1]
            rows.append([target.segment])
        for place in targets:
            for row in rows:
                if row[0] == place.segment:
                    value = own.get(id(row), shared) if place == target else ""
                    self.edit(row, place, str(place), lambda _, value=value: value, rule)  # type: ignore[misc]

    def edit(self, row: _Row, place: Place, label: str, edit: _Edit, rule: str) -> None:
        """Change what stands at one place of one segment."""
        before = _get(row, place, self.marks)
        after = edit(before)
        if after != before:
            _set(row, place, after, self.marks)
            self.notes.append(Note(label, before, after, rule))

    def number(self, rows: list[_Row], segment: str) -> int:
        """Return which one of its name the first such segment among these is, from 1."""
        for number, row in enumerate(self.rows(segment), 1):
            if any(row is own for own in rows):
                return number
        return 1

    def message(self) -> Message:
        """Return what came of it."""
        rows = (row for group in (self.head, *self.orders) for row in group)
        return Message(
            tuple([Segment(row[0], tuple(row), self.marks) for row in rows]),
            self.marks,
            self._origin.charset,
            self._origin.warnings,
        )


def _get(row: _Row, place: Place, marks: Delimiters) -> str:
    text = row[place.field] if place.field < len(row) else ""
    if not text or not place.component:
        return text
    parts = text.partition(marks.repetition)[0].split(marks.component)
    part = parts[place.component - 1] if place.component <= len(parts) else ""
    if not place.subcomponent:
        return part
    parts = part.split(marks.subcomponent)
    return parts[place.subcomponent - 1] if place.subcomponent <= len(parts) else ""


def _set(row: _Row, place: Place, value: str, marks: Delimiters) -> None:
    row.extend([""] * (place.field + 1 - len(row)))
    if not place.component:
        row[place.field] = value
        return
    first, more, others = row[place.field].partition(marks.repetition)
    if place.subcomponent:
        part = _get(row, Place(place.segment, place.field, place.component), marks)
        value = _put(part, place.subcomponent, value, marks.subcomponent)
    row[place.field] = _put(first, place.component, value, marks.component) + more + others


def _put(text: str, number: int, value: str, mark: str) -> str:
    parts = text.split(mark)
    parts.extend([""] * (number - len(parts)))
    parts[number - 1] = value
    return mark.join(parts).rstrip(mark)


def _edits(
    table: dict[str, _T], made: Callable[[_T], _Edit], rule: str
) -> Iterator[tuple[Place, str, _Edit, str]]:
    for key, how in table.items():
        for place in places(key):
            # A name without a component means the first one: a code or a number, not its text.
            place = place if place.component else place.first
            yield place, str(place), made(how), rule


def _mapped(table: dict[str, str]) -> _Edit:
    known = {text.upper(): value for text, value in table.items()}
    other = known.get("*")

    def edit(text: str) -> str:
        if not text or text == NULL:
            return text
        value = known.get(text.strip().upper(), other)
        return text if value is None else value

    return edit


def _formatted(how: Format) -> _Edit:
    return lambda text: formatted(text, how)


def formatted(text: str, how: Format) -> str:
    """Return a number as `how` wants it written; nothing and the HL7 null stay as they are."""
    if not text or text == NULL:
        return text
    for character in how.remove:
        text = text.replace(character, "")
    text = text.removeprefix(how.remove_prefix)
    if how.drop_check_digit and len(text) > 1:
        text = text[:-1]
    if how.strip_zeros:
        text = text.lstrip("0") or text[-1:]
    return text.rjust(how.pad_to, "0") if text else text


def _identified(one: str, rules: tuple[IdentifierRule, ...], marks: Delimiters) -> str:
    """Return one repetition of a CX field after the first rule that fits it; empty to leave it."""
    parts = one.split(marks.component)
    parts.extend([""] * (5 - len(parts)))
    number, authority, kind = parts[0], parts[3].partition(marks.subcomponent)[0], parts[4]
    for rule in rules:
        if (
            (not rule.types or kind in rule.types)
            and (not rule.authorities or authority in rule.authorities)
            and (not rule.length or len(number) == rule.length)
        ):
            if rule.discard:
                return ""
            parts[0] = formatted(number, rule)
            if not authority and rule.authority:
                parts[3] = rule.authority
            if rule.type:
                parts[4] = rule.type
            return marks.component.join(parts).rstrip(marks.component)
    return one


def _declaring(raw: bytes, charset: str) -> bytes:
    """Return the message with this MSH-18, whatever its sender wrote there."""
    start = raw.lstrip(b"\r\n \t\xef\xbb\xbf")
    header, mark, rest = (
        re.split(rb"([\r\n])", start, maxsplit=1)
        if re.search(rb"[\r\n]", start)
        else (start, b"", b"")
    )
    fields = header.split(start[3:4])
    fields.extend([b""] * (18 - len(fields)))
    fields[17] = charset.encode("ascii")
    return start[3:4].join(fields) + mark + rest
