"""Everything that was said, gathered by number: a line for each, however often it was said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from models.patient import Identifier, Issuer, Patient
from services.identity.audit.sightings import FEED, IMAGES, Number, Person, Sighting
from services.identity.index import COMMON
from services.identity.matching import Frequencies, Traits

_MOST: Final = 6
"""People, studies or accessions that are kept of one number: more say nothing new."""


@dataclass(slots=True)
class Line:
    """A number of one authority, and who it is said to be.

    Attributes
    ----------
    messages, objects
        How often the feed and the images say it.
    people
        Position in `Ledger.people` → where that was said first.
    """

    number: Number
    first: str
    messages: int = 0
    objects: int = 0
    people: dict[int, str] = field(default_factory=dict)

    @property
    def authority(self) -> str:
        """The namespace, else the universal id; empty for none."""
        return self.number.issuer.name


@dataclass(slots=True)
class Link:
    """An accession number or a Study Instance UID, and whose it is.

    Attributes
    ----------
    uses
        Side, the patient's lines, and the study or accession beside it → where that was said.
    """

    uses: dict[tuple[str, tuple[int, ...], str], str] = field(default_factory=dict)

    def of(self, side: str) -> Iterator[tuple[tuple[int, ...], str, str]]:
        """Yield the lines, what stands beside it, and where, as one side says it."""
        for (said_by, lines, beside), where in self.uses.items():
            if said_by == side:
                yield lines, beside, where


class Ledger:
    """Takes sightings in whatever order they come."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.people: list[Person] = []
        self.accessions: dict[str, Link] = {}
        self.studies: dict[str, Link] = {}
        self.sightings: Counter[str] = Counter()
        self._line_of: dict[tuple[str, str, str], int] = {}
        self._person_of: dict[Person, int] = {}
        self._above: list[int] = []

    def add(self, sighting: Sighting) -> None:
        """Take one sighting into account."""
        self.sightings[sighting.side] += 1
        lines = tuple(dict.fromkeys(self._line(n, sighting) for n in sighting.numbers))
        for other in lines[1:]:
            self._above[self.root(other)] = self.root(lines[0])
        accession, study = sighting.accessions, sighting.study_uids
        for value in accession:
            self._link(self.accessions, value, sighting, lines, study[0] if study else "")
        for uid in study:
            self._link(self.studies, uid, sighting, lines, accession[0] if accession else "")

    def root(self, line: int) -> int:
        """Return which line stands for all numbers that were said to be one person's."""
        while self._above[line] != line:
            self._above[line] = line = self._above[self._above[line]]
        return line

    def find(self, authority: str, value: str, side: str = FEED) -> int | None:
        """Return the line of this number, if this side says it."""
        position = self._line_of.get((side, authority, value))
        return position

    def of(self, side: str) -> Iterator[int]:
        """Yield the lines of one side."""
        return (at for (said_by, _, _), at in self._line_of.items() if said_by == side)

    def traits(self, person: int, line: int | None = None) -> Traits:
        """Return a person as they are compared, with a number or without."""
        said = self.people[person]
        number = None if line is None else self.lines[line].number
        own = () if number is None else (Identifier(value=number.value, authority="the same"),)
        return Traits.of(
            Patient(
                id="", identifiers=own, name=said.name, birth_date=said.birth_date, sex=said.sex
            )
        )

    @cached_property
    def frequencies(self) -> Frequencies:
        """How common names are among those that were said; asked once everything was added."""
        families: Counter[str] = Counter()
        givens: Counter[str] = Counter()
        for person in range(len(self.people)):
            name = self.traits(person).name
            families[name.family] += 1
            givens[name.given] += 1
        return Frequencies(
            records=len(self.people),
            family={name: n for name, n in families.items() if name and n > COMMON},
            given={name: n for name, n in givens.items() if name and n > COMMON},
        )

    def _line(self, number: Number, sighting: Sighting) -> int:
        key = (sighting.side, number.issuer.name, number.value)
        position = self._line_of.get(key)
        if position is None:
            position = self._line_of[key] = len(self.lines)
            self._above.append(position)
            self.lines.append(Line(number, sighting.where))
        line = self.lines[position]
        line.messages += sighting.side == FEED
        line.objects += sighting.side == IMAGES
        if number.issuer.universal_id and not line.number.issuer.universal_id:
            line.number = number
        if sighting.person is not None and len(line.people) < _MOST:
            line.people.setdefault(self._person(sighting.person), sighting.where)
        return position

    def _person(self, person: Person) -> int:
        position = self._person_of.get(person)
        if position is None:
            position = self._person_of[person] = len(self.people)
            self.people.append(person)
        return position

    @staticmethod
    def _link(
        links: dict[str, Link], value: str, sighting: Sighting, lines: tuple[int, ...], beside: str
    ) -> None:
        uses = links.setdefault(value, Link()).uses
        if len(uses) < _MOST:
            uses.setdefault((sighting.side, lines, beside), sighting.where)


def named(issuer: Issuer) -> str:
    """Return an authority as a person reads it."""
    universal = "&".join(filter(None, (issuer.universal_id, issuer.universal_type)))
    return " ".join(filter(None, (issuer.namespace, universal and f"({universal})"))) or "none"
