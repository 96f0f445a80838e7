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
from typing import Final, Protocol, TypeVar
from zoneinfo import ZoneInfo

from models.errors import InvalidValue, MissingField, PeerError
from models.order_control import RULES, OrderAction
from services.hl7.draft import Draft, Note, Scope, Values, get_at, set_at
from services.hl7.er7 import NULL, Message, parse
from services.hl7.identifying import Doubt, formatted, has_wrong_digit, identified, rule_for
from services.hl7.profile import Declared, Format, Place, places
from services.hl7.requests import NOT_IMAGING

_LOCAL_TIME: Final = re.compile(r"(\d{8})(\d\d)?(\d\d)?(\d\d)?(?:\.\d+)?$")
_IDENTIFIERS: Final = (Place("PID", 3), Place("MRG", 1))
_CONTROL: Final = Place("ORC", 1, 1)
_NEW: Final = frozenset(
    control
    for (control, _), rule in RULES.items()
    if rule.action in {OrderAction.PLACE, OrderAction.REPLACEMENT, OrderAction.CHILD}
)
"""Order controls (HL70119) with which an order begins."""
_START: Final = places("start")
_SECTION: Final = Place("OBR", 24, 1)

_T = TypeVar("_T")
_Edit = Callable[[str], str]


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
    doubts
        Numbers in PID-3 without their check digit.
    """

    message: Message
    profile: str = ""
    digest: str = ""
    notes: tuple[Note, ...] = ()
    missing: tuple[str, str] | None = None
    moved: Mapping[Place, tuple[Place, ...]] = field(default_factory=dict)
    sent: Message | None = None
    doubts: tuple[Doubt, ...] = ()

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
                    if get_at(list(segment.fields), place, self.sent.delimiters)
                )
                return next(valued, places_sent[0]).location(number)
        return location

    @property
    def evidence(self) -> dict[str, str]:
        """What the timeline keeps: which profile, in which version."""
        return {"profile": self.profile, "profile_digest": self.digest[:16]} if self.profile else {}

    @property
    def named(self) -> str | None:
        """The profile and its version, as the message log keeps it."""
        return f"{self.profile} ({self.digest[:16]})" if self.profile else None

    def require(self) -> None:
        """Refuse a new order without what its profile requires, and a number that cannot be right.

        Raises
        ------
        InvalidValue
            If a patient number has not its check digit, and its rule says to refuse it.
        MissingField
            At the place where the sender has it.
        """
        for doubt in self.doubts:
            if doubt.refuse:
                raise InvalidValue(
                    f"a number in PID-3 has not its {doubt.scheme} check digit, as profile "
                    f"{self.profile} asks: correct it, or give the patient's own number",
                    location=doubt.location,
                )
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
        draft = Draft(message, self._ignored, notes)
        if self._moves:
            self._move(draft)
        for place, edit, rule in self._edits:
            for row in draft.rows(place.segment):
                draft.put(row, place, edit(get_at(row, place, draft.marks)), rule)
        doubts: tuple[Doubt, ...] = ()
        if profile.identifiers:
            doubts = tuple(self._doubts(draft))
            self._identify(draft)
        missing = None
        new = [one for one in draft.orders if get_at(one.rows[0], _CONTROL, draft.marks) in _NEW]
        if new:
            for targets, text in self._constants:
                for scope in (draft.head,) if targets[0].of_patient else new:
                    if not any(draft.read(scope, place) for place in targets):
                        draft.write(scope, targets, ({}, text), "constant")
            # What no modality serves is not refused for what only an imaging order has.
            sections = {get_at(row, _SECTION, draft.marks) for row in draft.rows("OBR")}
            if self._required and not (sections and sections <= NOT_IMAGING):
                missing = next(self._missing(draft, new), None)
        if self._zone:
            for place in _START:
                for row in draft.rows(place.segment):
                    zoned = self._zoned(get_at(row, place, draft.marks))
                    draft.put(row, place, zoned, "time zone")
        return Standard(
            draft.message(),
            profile.name,
            self.declared.digest,
            tuple(notes),
            missing,
            self._moved,
            message,
            doubts,
        )

    def _move(self, draft: Draft) -> None:
        # Everything is read before anything is written: two places may change with each other.
        read = [
            (move, scope, move.read(draft, scope))
            for move in self._moves
            for scope in ((draft.head,) if move.of_patient else draft.orders)
        ]
        for move, scope, values in read:
            draft.write(scope, move.targets, values, "field")

    def _doubts(self, draft: Draft) -> Iterator[Doubt]:
        """Yield the numbers of PID-3 that cannot be right; MRG-1 may name what was mistyped."""
        place, marks = _IDENTIFIERS[0], draft.marks
        for count, row in enumerate(draft.rows(place.segment), 1):
            for one in filter(None, get_at(row, place, marks).split(marks.repetition)):
                rule = rule_for(one, self.declared.profile.identifiers, marks)
                if rule is None or rule.discard or not rule.check_digit:
                    continue
                if has_wrong_digit(one, rule, marks):
                    refuse = rule.wrong_check_digit == "refuse"
                    yield Doubt(place.location(count), rule.check_digit, refuse)

    def _identify(self, draft: Draft) -> None:
        marks, rules = draft.marks, self.declared.profile.identifiers
        for place in _IDENTIFIERS:
            for row in draft.rows(place.segment):
                before = get_at(row, place, marks)
                if not before:
                    continue
                kept = (
                    identified(one, rules, marks) for one in before.split(marks.repetition) if one
                )
                after = marks.repetition.join(one for one in kept if one)
                if after != before:
                    set_at(row, place, after, marks)
                    draft.notes.append(Note(str(place), before, after, "identifier"))

    def _missing(self, draft: Draft, new: list[Scope]) -> Iterator[tuple[str, str]]:
        for key, targets, source in self._required:
            for scope in (draft.head,) if targets[0].of_patient else new:
                if any(draft.read(scope, place) not in {"", NULL} for place in targets):
                    continue
                there = (place for place in targets if place.segment in scope.named)
                told = source or next(there, targets[-1])
                yield told.location(draft.number(scope, told.segment)), key

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
    own: frozenset[str]
    """The segments that are written to: one that is read too has a value of its own."""

    @classmethod
    def of(cls, key: str, sources: tuple[str, ...]) -> _Move:
        targets = places(key)
        read = tuple(map(Place.read, sources))
        if targets[0].component:
            # A part has room for a part only; of a whole field its first one is meant.
            read = tuple(place if place.component else place.first for place in read)
        own = frozenset(place.segment for place in targets)
        return cls(key, targets, read, targets[0].of_patient, own)

    def read(self, draft: Draft, scope: Scope) -> Values:
        """Return the value of each segment that has its own, and that of the order."""
        own: dict[int, str] = {}
        shared = ""
        for place in reversed(self.sources):
            if place.segment in self.own and place.where is None:
                for row in scope.named.get(place.segment, ()):
                    if value := get_at(row, place, draft.marks):
                        own[id(row)] = value
            shared = draft.read(scope, place) or shared
        return own, shared


def _edits(
    table: dict[str, _T], made: Callable[[_T], _Edit], rule: str
) -> Iterator[tuple[Place, _Edit, str]]:
    for key, how in table.items():
        for place in places(key):
            # A name without a component means the first one: a code or a number, not its text.
            yield place if place.component else place.first, made(how), rule


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
