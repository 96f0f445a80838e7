"""Numbers that mean two people, people with two numbers: within a feed, or within images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from services.identity.audit.findings import Example, Finding, finding
from services.identity.audit.formats import is_wrong
from services.identity.audit.ledger import Ledger, Link
from services.identity.audit.sightings import FEED, IMAGES
from services.identity.matching import Level, Score, Verdict, compare
from services.identity.normalise import is_placeholder, phonetic

_LO: Final = 64
"""Characters that Patient ID may have (PS3.5 §6.2)."""
_BLOCK: Final = 60
"""People who share birth date and sound of a name; of more, none is compared."""


class Scores:
    """Pairs of people, scored as the patient index scores them.

    Parameters
    ----------
    ledger : Ledger
        To which everything was added.
    automatic, desk : float
        Settings ``match_auto`` and ``match_desk``.
    """

    def __init__(self, ledger: Ledger, automatic: float, desk: float) -> None:
        self._ledger = ledger
        self._automatic, self._desk = automatic, desk

    def score(self, one: int, other: int, line: int | None = None) -> Score:
        """Score two people, under one number where `line` says which."""
        traits = self._ledger.traits(one, line), self._ledger.traits(other, line)
        return compare(
            *traits, self._ledger.frequencies, automatic=self._automatic, desk=self._desk
        )

    def against(self, one: int, other: int) -> str:
        """Return what speaks against two people under one number being one; empty for nothing."""
        ledger = self._ledger
        pair = (self._ledger.lines[one].people, self._ledger.lines[other].people)
        if not all(pair):
            return ""
        scores = [self.score(a, b, one) for a in pair[0] for b in pair[1]]
        if any(s.verdict is Verdict.AUTOMATIC for s in scores) or _waits_for_a_name(ledger, *pair):
            return ""
        return scores[0].rule.removeprefix("the same identifier, ").removeprefix("but ")


def collisions(ledger: Ledger, scores: Scores) -> list[Finding]:
    """Return every collision, the most dangerous first."""
    found = finding(
        "overlay", "one number, people who differ", _overlays(ledger, scores), fault=True
    )
    found += finding(
        "study-patients", "one Study Instance UID, two patients", _patients(ledger, ledger.studies)
    )
    found += finding(
        "accession-patients",
        "one accession number, two patients",
        _patients(ledger, ledger.accessions),
    )
    found += finding(
        "accession-studies",
        "one accession number, two Study Instance UIDs",
        _studies(ledger.accessions),
    )
    duplicates = list(_duplicates(ledger, scores))
    found += finding(
        "duplicate",
        "one person under several numbers of one authority",
        (example for example, certain in duplicates if certain),
    )
    found += finding(
        "perhaps-duplicate",
        "perhaps one person under several numbers of one authority",
        (example for example, certain in duplicates if not certain),
        fault=False,
    )
    found += finding(
        "shared-number",
        "one number in several authorities: two people, so images need an issuer",
        _shared(ledger, scores),
        fault=False,
    )
    return found + _malformed(ledger)


def _malformed(ledger: Ledger) -> list[Finding]:
    lines = ledger.lines
    return [
        *finding(
            "long-number",
            f"patient numbers of more than {_LO} characters, which DICOM does not hold (LO)",
            (
                Example(
                    numbers=(line.number.value,),
                    said=f"{len(line.number.value)} characters",
                    where=(line.first,),
                )
                for line in lines
                if len(line.number.value) > _LO
            ),
        ),
        *finding(
            "check-digit",
            "check digits (CX-2) that are not those of their number by its scheme (CX-3)",
            (
                Example(numbers=(line.number.value,), said=line.number.scheme, where=(line.first,))
                for line in lines
                if is_wrong(line)
            ),
        ),
    ]


def _overlays(ledger: Ledger, scores: Scores) -> Iterator[Example]:
    for at, line in enumerate(ledger.lines):
        first, *others = line.people or (None,)
        if first is None:
            continue
        for other in others:
            score = scores.score(first, other, at)
            if score.verdict is Verdict.AUTOMATIC or _waits_for_a_name(ledger, (first,), (other,)):
                continue
            yield Example(
                numbers=(line.number.value,),
                said=score.rule,
                where=(line.people[first], line.people[other]),
            )
            break


def _waits_for_a_name(ledger: Ledger, *people: tuple[int, ...] | dict[int, str]) -> bool:
    """Tell whether somebody is said to be a newborn or unknown: the name comes later."""
    names = [ledger.traits(person).name for each in people for person in each]
    return any(name.unknown or name.newborn for name in names)


def _patients(ledger: Ledger, links: dict[str, Link]) -> Iterator[Example]:
    for value, link in links.items():
        for side in (FEED, IMAGES):
            seen: dict[int, str] = {}
            for lines, _, where in link.of(side):
                if lines:
                    seen.setdefault(ledger.root(lines[0]), where)
            if len(seen) > 1:
                yield Example(numbers=(value,), said=side, where=tuple(list(seen.values())[:2]))


def _studies(links: dict[str, Link]) -> Iterator[Example]:
    for value, link in links.items():
        seen: dict[str, str] = {}
        for side in (FEED, IMAGES):
            for _, uid, where in link.of(side):
                if uid:
                    seen.setdefault(uid, where)
        if len(seen) > 1:
            yield Example(numbers=(value,), where=tuple(list(seen.values())[:2]))


def _duplicates(ledger: Ledger, scores: Scores) -> Iterator[tuple[Example, bool]]:
    """Yield pairs of numbers of one authority that are one person's, and whether that is certain.

    Numbers that a merge or one PID-3 has joined are known to be one person's, and are none.
    """
    told: set[tuple[int, int]] = set()
    for block in _blocks(ledger):
        for one, other in combinations(block, 2):
            a, b = ledger.lines[one], ledger.lines[other]
            if (a.authority, a.number.type) != (b.authority, b.number.type):
                continue
            if ledger.root(one) == ledger.root(other) or (one, other) in told:
                continue
            score = scores.score(next(iter(a.people)), next(iter(b.people)))
            certain = _exact(score) or score.verdict is Verdict.AUTOMATIC
            if not certain and not _perhaps(ledger, score, a.people, b.people):
                continue
            told.add((one, other))
            numbers = (a.number.value, b.number.value)
            agreed = ", ".join(f"{e.field} {e.how}" for e in score.evidence if e.weight > 0)
            yield Example(numbers=numbers, said=agreed, where=(a.first, b.first)), certain


def _blocks(ledger: Ledger) -> Iterator[list[int]]:
    blocks: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for side in (FEED, IMAGES):
        for at in ledger.of(side):
            for person in list(ledger.lines[at].people)[:1]:
                traits = ledger.traits(person)
                born = traits.birth_date
                if born is None or is_placeholder(born):
                    continue
                for part in {phonetic(traits.name.family), phonetic(traits.name.given)} - {""}:
                    blocks[side, born.isoformat(), part].append(at)
    return (block for block in blocks.values() if 1 < len(block) <= _BLOCK)


def _exact(score: Score) -> bool:
    fields = ("family", "given", "birth_date", "sex")
    return all(score.level(field) is Level.AGREE for field in fields)


def _perhaps(ledger: Ledger, score: Score, *people: dict[int, str]) -> bool:
    if score.verdict is Verdict.STRANGER or _waits_for_a_name(ledger, *people):
        return False
    fields = ("family", "given", "birth_date", "sex", "middle")
    return not any(score.level(field) is Level.DISAGREE for field in fields)


def _shared(ledger: Ledger, scores: Scores) -> Iterator[Example]:
    for side in (FEED, IMAGES):
        first: dict[str, int] = {}
        for at in ledger.of(side):
            line = ledger.lines[at]
            before = first.setdefault(line.number.value, at)
            if before != at and scores.against(before, at):
                earlier = ledger.lines[before]
                yield Example(
                    numbers=(line.number.value,),
                    said=f"{earlier.authority or 'none'} and {line.authority or 'none'}",
                    where=(earlier.first, line.first),
                )
