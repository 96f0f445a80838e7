"""How an authority writes its numbers: patterns, leading zeros, check digits that always hold."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from models.patient import Issuer
from services.identity.audit.ledger import Ledger, Line
from services.identity.audit.sightings import FEED, IMAGES
from services.identity.normalise import check_digit

SCHEMES: Final[tuple[Literal["M10", "M11"], ...]] = ("M10", "M11")
_ENOUGH: Final = 8
"""Numbers from which on a check digit that holds for all is no chance: one in 10^8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way of writing."""

    pattern: str
    count: int
    share: float
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The numbers that one side says of one authority and type.

    Attributes
    ----------
    identifiers, patients
        Distinct ones; several numbers in one PID-3, or of one merge, are one patient's.
    zeros
        Share of the numbers that begin with a zero.
    scheme
        HL70061 scheme by which the last digit of every number is its check digit; empty for none.
    sent, failed
        How many numbers came with a check digit of their own (CX-2), and of how many it is wrong.
    """

    side: str
    issuer: Issuer
    type: str
    identifiers: int
    patients: int
    formats: tuple[Format, ...]
    zeros: float
    scheme: str
    sent: int
    failed: int


def authorities(ledger: Ledger) -> list[Authority]:
    """Return each authority, type and side that was met, the one with the most numbers first."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for side in (FEED, IMAGES):
        for at in ledger.of(side):
            line = ledger.lines[at]
            groups[side, line.authority, line.number.type].append(at)
    found = [_authority(ledger, *key, lines) for key, lines in groups.items()]
    return sorted(found, key=lambda a: (a.side, -a.identifiers, a.issuer.name))


def _authority(ledger: Ledger, side: str, name: str, kind: str, at: Sequence[int]) -> Authority:
    lines = [ledger.lines[position] for position in at]
    issuer = max((line.number.issuer for line in lines), key=lambda i: bool(i.universal_id))
    sent = [line for line in lines if line.number.check_digit]
    return Authority(
        side=side,
        issuer=issuer,
        type=kind,
        identifiers=len(lines),
        patients=len({ledger.root(position) for position in at}),
        formats=tuple(_formats([line.number.value for line in lines])),
        zeros=sum(line.number.value.startswith("0") for line in lines) / len(lines),
        scheme=scheme_of([line.number.value for line in lines]),
        sent=len(sent),
        failed=sum(is_wrong(line) for line in sent),
    )


def _formats(values: Sequence[str]) -> Iterable[Format]:
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for value in values:
        shape = pattern(value)
        counts[shape] += 1
        examples.setdefault(shape, value)
    for shape, count in counts.most_common():
        yield Format(pattern=shape, count=count, share=count / len(values), example=examples[shape])


def pattern(value: str) -> str:
    """Return how a number is written: ``A0012-7`` is ``A9{4}-9``.

    Every digit is ``9``, every capital ``A``, every other letter ``a``.
    """
    shapes = (
        "9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in value
    )
    runs = ((shape, len(list(run))) for shape, run in groupby(shapes))
    return "".join(shape if count == 1 else f"{shape}{{{count}}}" for shape, count in runs)


def mask(value: str) -> str:
    """Return a number of which nobody is recognised: zeros in front, separators, the last two."""
    letters = [n for n, c in enumerate(value) if c.isalnum()]
    shown = set(letters[-2:]) if len(letters) > 5 else set()
    zeros = len(value) - len(value.lstrip("0"))
    return "".join(
        c if n < zeros or n in shown or not c.isalnum() else "•" for n, c in enumerate(value)
    )


def scheme_of(values: Sequence[str]) -> str:
    """Return the scheme by which every one of these ends in its check digit; empty for none."""
    digits = [re.sub(r"[-_. /]", "", value) for value in values]
    if len(digits) < _ENOUGH or not all(d.isascii() and d[:-1].isdigit() for d in digits):
        return ""
    return next((s for s in SCHEMES if all(ends_right(d, s) for d in digits)), "")


def ends_right(digits: str, scheme: str) -> bool:
    """Tell whether the last of these digits is the check digit of the others."""
    body = digits[:-1]
    return body.isascii() and body.isdigit() and check_digit(body, scheme) == digits[-1].upper()


def is_wrong(line: Line) -> bool:
    """Tell whether CX-2 contradicts CX-1 by a scheme (CX-3) that is known here."""
    number = line.number
    digits = number.value.isascii() and number.value.isdigit()
    if number.scheme not in SCHEMES or not number.check_digit or not digits:
        return False
    return check_digit(number.value, number.scheme) != number.check_digit.upper()
