"""Whether two records are one person: rules first, then a score whose every part is told.

The score is Fellegi and Sunter's: each field adds log2(m/u), how much likelier its agreement or
disagreement is between two records of one person (m) than between two strangers (u). The sum
starts at the odds of any two records being the same person, so that at zero both are as likely.
No score alone decides: what rules forbid is shown to people, however high it is.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum
from functools import lru_cache
from math import log2
from typing import Any, Final

from rapidfuzz.distance import DamerauLevenshtein, JaroWinkler

from models.patient import Identifier, Patient
from services.identity.normalise import (
    Name,
    is_placeholder,
    number,
    phonetic,
    read_name,
    spelling,
    swapped,
)


class Level(Enum):
    """How far two values of one field agree."""

    AGREE = "agree"
    CLOSE = "close"
    DISAGREE = "disagree"
    MISSING = "missing"


class Verdict(Enum):
    """What is to be done with a pair."""

    AUTOMATIC = "automatic"
    DESK = "desk"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one field says, without what it contains."""

    field: str
    level: Level
    weight: float
    how: str
    """In a few words: ``day and month exchanged``, ``sounds alike``."""
    values: tuple[str, str] = dataclasses.field(repr=False)
    """Both values, folded; for the shapes alone."""

    @property
    def shapes(self) -> tuple[str, str]:
        """Both values with every letter as ``A`` and every digit as ``9``."""
        return _shape(self.values[0]), _shape(self.values[1])

    def as_json(self) -> dict[str, Any]:
        """Return it as the desk and the API show it."""
        return {
            "field": self.field,
            "level": self.level.value,
            "weight": round(self.weight, 2),
            "how": self.how,
            "shapes": list(self.shapes),
        }


@dataclass(frozen=True, slots=True)
class Traits:
    """A record as it is compared."""

    name: Name
    birth_date: date | None
    sex: str
    identifiers: tuple[Identifier, ...] = ()

    @classmethod
    def of(cls, patient: Patient) -> Traits:
        """Return what of `patient` is compared."""
        return cls(read_name(patient.name), patient.birth_date, patient.sex, patient.identifiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How alike two records are, and why."""

    total: float
    verdict: Verdict
    rule: str
    """Which rule decided, in words."""
    evidence: tuple[Evidence, ...]

    def level(self, field: str) -> Level:
        """Return how far one field agrees."""
        return next((e.level for e in self.evidence if e.field == field), Level.MISSING)

    def as_json(self) -> dict[str, Any]:
        """Return it as the desk and the API show it."""
        return {
            "score": round(self.total, 2),
            "verdict": self.verdict.value,
            "rule": self.rule,
            "evidence": [e.as_json() for e in self.evidence],
        }


@dataclass(slots=True, kw_only=True)
class Frequencies:
    """How common names are among the records: agreement in a rare one says more."""

    records: int = 1
    family: dict[str, int] = dataclasses.field(default_factory=dict)
    given: dict[str, int] = dataclasses.field(default_factory=dict)

    def u(self, kind: str, name: str) -> float:
        """Return the probability that a stranger bears `name`."""
        counts = self.family if kind == "family" else self.given
        # A name that was never seen may be one of a few; no name counts as unique.
        return min(0.5, (counts.get(name, 0) + 3) / (self.records + 1000))

    @property
    def prior(self) -> float:
        """Log-odds that a record drawn at random is the one that is looked for."""
        return -log2(max(self.records, _CATCHMENT))


_SEXES: Final = frozenset({"M", "F"})
# Who comes is one of all who live around, however few are registered yet.
_CATCHMENT: Final = 100_000
_CLOSE_NAME: Final = 0.90
_SHAPES: Final = str.maketrans(
    string.ascii_letters + string.digits, "A" * len(string.ascii_letters) + "9" * 10
)
_SPELLING: Final = "with and without its accent"


def compare(
    asked: Traits,
    known: Traits,
    frequencies: Frequencies,
    *,
    automatic: float,
    desk: float,
) -> Score:
    """Score a pair and say what is to be done with it.

    Parameters
    ----------
    asked, known : Traits
        The record that is looked for, and one that is there.
    frequencies : Frequencies
    automatic, desk : float
        From which score on a pair may be one without asking, and is shown to people.
    """
    evidence = [
        *_names(asked.name, known.name, frequencies, asked.sex or known.sex),
        _birth_date(asked.birth_date, known.birth_date),
        _sex(asked.sex, known.sex),
    ]
    number_evidence = _numbers(asked.identifiers, known.identifiers)
    if number_evidence is not None:
        evidence.append(number_evidence)
    total = frequencies.prior + sum(e.weight for e in evidence)
    verdict, rule = _decide(asked, known, evidence, total, automatic, desk)
    return Score(total=total, verdict=verdict, rule=rule, evidence=tuple(evidence))


def unambiguous(ranked: Sequence[Score], desk: float) -> list[Score]:
    """Return `ranked`, best first, with an automatic first one sent to the desk if it has a rival.

    Siblings born on one day share all but the given name; where that is not known to agree, an
    identifier that was mistyped may be the other's.
    """
    settled = [
        replace(score, verdict=Verdict.DESK, rule="another record is as alike")
        if position and score.verdict is Verdict.AUTOMATIC
        else score
        for position, score in enumerate(ranked)
    ]
    if len(ranked) > 1 and ranked[0].verdict is Verdict.AUTOMATIC:
        best, rivals = ranked[0], [s for s in ranked[1:] if s.total >= desk]
        is_close = any(s.total > best.total - 6 for s in rivals)
        if is_close or (rivals and best.level("given") is not Level.AGREE):
            settled[0] = replace(best, verdict=Verdict.DESK, rule="another record is as alike")
    return settled


def _decide(
    asked: Traits,
    known: Traits,
    evidence: Sequence[Evidence],
    total: float,
    automatic: float,
    desk: float,
) -> tuple[Verdict, str]:
    level = {e.field: e.level for e in evidence}
    same_number = level.get("identifier") is Level.AGREE
    conflict = _conflict(asked, known, level)
    how = {e.field: e.how for e in evidence}
    same_given = level["given"] is Level.AGREE or how["given"] == _SPELLING
    if same_number and conflict:
        return Verdict.DESK, f"the same identifier, but {conflict}"
    if same_number and Level.AGREE not in (level["given"], level["family"], level["birth_date"]):
        return Verdict.DESK, "the same identifier, and nothing else that agrees"
    if same_number and level["given"] is Level.CLOSE and not same_given:
        # Twins have consecutive numbers, and sometimes names that differ like a typing error.
        return Verdict.DESK, "the same identifier, but the given name is only alike"
    if same_number and (asked.name.tag or known.name.tag):
        return Verdict.DESK, "the same identifier, but of one of several newborns"
    if same_number:
        return Verdict.AUTOMATIC, "the same identifier of the same authority, and nothing against"
    if total < desk:
        return Verdict.STRANGER, "too little agrees"
    if asked.name.unknown or known.name.unknown:
        return Verdict.DESK, "a placeholder instead of a name"
    if asked.name.newborn or known.name.newborn:
        return Verdict.DESK, "a newborn without a name of its own"
    if total < automatic:
        return Verdict.DESK, "alike, but not enough to be certain"
    if conflict:
        return Verdict.DESK, f"alike, but {conflict}"
    exact = all(level[f] is Level.AGREE for f in ("family", "given", "birth_date", "sex"))
    if not exact:
        return Verdict.DESK, "alike, but not the same in name, birth date and sex"
    return Verdict.AUTOMATIC, "a rare name, birth date and sex are the same"


def _conflict(asked: Traits, known: Traits, level: dict[str, Level]) -> str:
    """Return what speaks against one person even where the identifier is the same."""
    if level["sex"] is Level.DISAGREE:
        return "another sex"
    if level["birth_date"] is Level.DISAGREE:
        return "another birth date"
    if level["given"] is Level.DISAGREE:
        return "another given name"
    if level["family"] is Level.DISAGREE and (
        level["given"] is not Level.AGREE or level["birth_date"] is not Level.AGREE
    ):
        return "another family name"
    if asked.name.unknown or known.name.unknown:
        return "a placeholder instead of a name"
    return ""


def _names(
    a: Name, b: Name, frequencies: Frequencies, sex: str
) -> tuple[Evidence, Evidence, Evidence]:
    family, given = _word("family", a.family, b.family, frequencies), _given(a, b, frequencies)
    crossed = (
        family.level is not Level.AGREE
        and bool(a.family and a.given and b.family and b.given)
        and _alike(a.family, b.given) is not Level.DISAGREE
        and _alike(a.given, b.family) is not Level.DISAGREE
    )
    if crossed:
        family = _crossed("family", a.family, b.given, frequencies)
        given = _crossed("given", a.given, b.family, frequencies)
    elif family.level is Level.DISAGREE and sex == "F":
        # Half of all women of some countries change it once.
        family = _evidence("family", Level.DISAGREE, -2.5, "may have changed", a.family, b.family)
    return family, given, _middle(a.middle, b.middle)


def _word(kind: str, a: str, b: str, frequencies: Frequencies) -> Evidence:
    if not a or not b:
        return _evidence(kind, Level.MISSING, 0.0, "not known", a, b)
    level = _alike(a, b)
    rare = log2(1 / max(frequencies.u(kind, a), frequencies.u(kind, b)))
    if level is Level.AGREE:
        return _evidence(kind, level, rare - 0.15, "the same", a, b)
    if level is Level.CLOSE and spelling(a) == spelling(b):
        how = _SPELLING if _umlauts(a) == _umlauts(b) else "sounds the same"
        return _evidence(kind, level, rare - 1.5, how, a, b)
    if level is Level.CLOSE:
        how = "sounds alike" if phonetic(a) == phonetic(b) else "nearly the same"
        return _evidence(kind, level, min(max(rare - 5.5, 0.5), 6.0), how, a, b)
    if _is_part(a, b):
        return _evidence(kind, Level.CLOSE, min(rare - 5.0, 5.0), "one of two names", a, b)
    weight = -4.5 if kind == "family" else -5.5
    return _evidence(kind, level, weight, "differs", a, b)


def _given(a: Name, b: Name, frequencies: Frequencies) -> Evidence:
    if a.newborn and b.newborn and a.tag and b.tag and a.tag != b.tag:
        return _evidence("given", Level.DISAGREE, -5.5, "another newborn", a.tag, b.tag)
    if a.given and b.given and a.given != b.given:
        whole = (f"{a.given} {a.middle}".strip(), f"{b.given} {b.middle}".strip())
        # Xiao Ming, Xiaoming and Xiao-Ming are one name, of which no word is a middle name.
        if _alike(*whole) is Level.AGREE:
            return _word("given", *whole, frequencies)
        short, long = sorted((a.given, b.given), key=len)
        if len(short) == 1 and long.startswith(short):
            return _evidence("given", Level.CLOSE, 1.5, "initial", a.given, b.given)
        if a.middle and _alike(a.middle, b.given) is Level.AGREE:
            return _evidence("given", Level.CLOSE, 2.0, "the middle name", a.middle, b.given)
        if b.middle and _alike(b.middle, a.given) is Level.AGREE:
            return _evidence("given", Level.CLOSE, 2.0, "the middle name", a.given, b.middle)
    return _word("given", a.given, b.given, frequencies)


def _crossed(kind: str, a: str, b: str, frequencies: Frequencies) -> Evidence:
    # Family and given name exchanged: as rare as the names are, less that it happens seldom.
    rare = log2(1 / max(frequencies.u("family", a), frequencies.u("given", a)))
    return _evidence(kind, Level.CLOSE, max(rare - 2.5, 1.0), "family and given exchanged", a, b)


def _middle(a: str, b: str) -> Evidence:
    if not a or not b:
        return _evidence("middle", Level.MISSING, 0.0, "not known", a, b)
    if a == b:
        return _evidence("middle", Level.AGREE, 3.0, "the same", a, b)
    if a[0] == b[0]:
        return _evidence("middle", Level.CLOSE, 1.0, "same initial", a, b)
    return _evidence("middle", Level.DISAGREE, -1.5, "differs", a, b)


@lru_cache(maxsize=65536)
def _alike(a: str, b: str) -> Level:
    if a.replace(" ", "") == b.replace(" ", ""):
        return Level.AGREE
    left, right = spelling(a), spelling(b)
    if left == right:
        return Level.CLOSE
    if JaroWinkler.similarity(left, right) >= _CLOSE_NAME:
        return Level.CLOSE
    if DamerauLevenshtein.distance(left, right) <= (1 if len(left) < 6 else 2):
        return Level.CLOSE
    if phonetic(a) == phonetic(b) and len(phonetic(a)) >= 3:
        return Level.CLOSE
    return Level.DISAGREE


def _umlauts(word: str) -> str:
    for written, letter in (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a")):
        word = word.replace(written, letter)
    return word


def _is_part(a: str, b: str) -> bool:
    first, second = set(a.split()), set(b.split())
    return bool(first & second) and (len(first) > 1 or len(second) > 1)


def _birth_date(a: date | None, b: date | None) -> Evidence:
    def told(level: Level, weight: float, how: str) -> Evidence:
        return _evidence("birth_date", level, weight, how, str(a or ""), str(b or ""))

    if a is None or b is None:
        return told(Level.MISSING, 0.0, "not known")
    if a == b:
        if is_placeholder(a):
            return told(Level.CLOSE, 6.0, "the same, but perhaps only the year is known")
        return told(Level.AGREE, 14.4, "the same")
    if is_placeholder(a) or is_placeholder(b):
        if a.year == b.year:
            return told(Level.CLOSE, 4.0, "the same year, one without day and month")
        return told(Level.DISAGREE, -4.0, "differs, one without day and month")
    if swapped(a) == b:
        return told(Level.CLOSE, 8.5, "day and month exchanged")
    same = (a.year == b.year) + (a.month == b.month) + (a.day == b.day)
    if same == 2:
        digits = DamerauLevenshtein.distance(a.isoformat(), b.isoformat())
        if digits == 1:
            return told(Level.CLOSE, 4.5, "one digit differs")
        return told(Level.CLOSE, 2.0, "one part differs")
    if abs((a - b).days) <= 1:
        return told(Level.CLOSE, 2.0, "a day apart")
    return told(Level.DISAGREE, -7.0, "differs")


def _sex(a: str, b: str) -> Evidence:
    if a not in _SEXES or b not in _SEXES:
        return _evidence("sex", Level.MISSING, 0.0, "not known", a, b)
    if a == b:
        return _evidence("sex", Level.AGREE, 0.97, "the same", a, b)
    return _evidence("sex", Level.DISAGREE, -5.6, "differs", a, b)


def _numbers(a: Sequence[Identifier], b: Sequence[Identifier]) -> Evidence | None:
    """Return what identifiers of a common authority say, or None where there is none."""
    best: Evidence | None = None
    for one in a:
        for other in b:
            if one.authority != other.authority or one.type != other.type:
                continue
            found = _number(one.value, other.value)
            if best is None or found.weight > best.weight:
                best = found
    return best


def _number(a: str, b: str) -> Evidence:
    left, right = number(a), number(b)
    if left == right:
        how = "the same" if a == b else "the same but for zeros, case and separators"
        return _evidence("identifier", Level.AGREE, 16.0, how, a, b)
    if len(left) > 4 and DamerauLevenshtein.distance(left, right) == 1:
        return _evidence("identifier", Level.CLOSE, 3.0, "one character differs", a, b)
    # Duplicates in one registry differ in exactly this: it says little.
    return _evidence("identifier", Level.DISAGREE, -0.5, "differs", a, b)


def _evidence(kind: str, level: Level, weight: float, how: str, a: str, b: str) -> Evidence:
    return Evidence(field=kind, level=level, weight=weight, how=how, values=(a, b))


def _shape(value: str) -> str:
    if value.isascii():
        return value.translate(_SHAPES)
    return "".join("9" if c.isdigit() else "A" if c.isalpha() else c for c in value)
