"""The audit itself: everything that is said goes in, what is to be known comes out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from services.identity.audit.collisions import Scores, collisions
from services.identity.audit.files import Unread
from services.identity.audit.findings import Example, Finding, Rule, finding
from services.identity.audit.formats import Authority, authorities, mask
from services.identity.audit.ledger import Ledger
from services.identity.audit.mismatches import mismatches
from services.identity.audit.mistyped import mistyped
from services.identity.audit.rules import identifier_rule, shortening
from services.identity.audit.sightings import FEED, IMAGES, Sighting

_NAMED: Final = 20
"""Files of one kind that are named; of the others it is said how many there are."""
_SH: Final = 16


@dataclass(slots=True)
class LeftOut:
    """Files and messages that were not read, and how many more there are."""

    named: list[Unread] = field(default_factory=list)
    count: int = 0

    def add(self, unread: Unread) -> None:
        """Count one, and keep it if it is one of the first."""
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(unread)

    def as_json(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "count": self.count,
            "first": [{"where": u.where, "reason": u.reason} for u in self.named],
        }


@dataclass(slots=True, kw_only=True)
class Report:
    """What an audit says.

    Attributes
    ----------
    sightings
        PID segments of the feed and objects of the images that were read.
    broken, skipped
        What begins as a message or object and is none, and what is neither.
    """

    sightings: Counter[str]
    authorities: list[Authority]
    findings: list[Finding]
    broken: LeftOut
    skipped: LeftOut

    @property
    def is_clean(self) -> bool:
        """Whether something was read, all of it could be, and nothing needs attention."""
        faults = any(f.fault for f in self.findings)
        return bool(self.sightings) and not self.broken.count and not faults

    def as_json(self, *, whole: bool = False) -> dict[str, Any]:
        """Return it for a program; numbers are masked unless `whole`."""
        return {
            "clean": self.is_clean,
            "messages": self.sightings[FEED],
            "objects": self.sightings[IMAGES],
            "authorities": [_authority(a, whole=whole) for a in self.authorities],
            "findings": [_finding(f, whole=whole) for f in self.findings],
            "broken": self.broken.as_json(),
            "skipped": self.skipped.as_json(),
        }


def audit(
    said: Iterable[Sighting | Unread], *, default_authority: str, automatic: float, desk: float
) -> Report:
    """Read everything once and judge it.

    Parameters
    ----------
    said : iterable of Sighting or Unread
        It is consumed one by one; what is kept is a line for each number.
    default_authority : str
        Setting ``default_authority``.
    automatic, desk : float
        Settings ``match_auto`` and ``match_desk``.
    """
    ledger, broken, skipped = Ledger(), LeftOut(), LeftOut()
    for one in said:
        if isinstance(one, Sighting):
            ledger.add(one)
        else:
            (broken if one.broken else skipped).add(one)
    scores = Scores(ledger, automatic, desk)
    found = [
        *collisions(ledger, scores),
        *mistyped(ledger),
        *_long_accessions(ledger),
        *_within_feed(ledger, scores),
        *mismatches(ledger, scores, default_authority),
        *_nameless(ledger, default_authority),
    ]
    return Report(
        sightings=ledger.sightings,
        authorities=authorities(ledger),
        findings=sorted(found, key=lambda f: not f.fault),
        broken=broken,
        skipped=skipped,
    )


def _long_accessions(ledger: Ledger) -> list[Finding]:
    """Return the accession numbers that DICOM cannot hold, with what would shorten the feed's."""
    long = [(v, link) for v, link in ledger.accessions.items() if len(v) > _SH]
    sent = [v for v, link in ledger.accessions.items() if any(True for _ in link.of(FEED))]
    rule = shortening([v for v in sent if len(v) > _SH], _SH)
    return finding(
        "long-accession",
        f"accession numbers of more than {_SH} characters, which DICOM does not hold (SH)",
        (
            Example(
                numbers=(value,),
                said=f"{len(value)} characters",
                where=tuple(list(link.uses.values())[:1]),
            )
            for value, link in long
        ),
        rule=rule,
    )


def _within_feed(ledger: Ledger, scores: Scores) -> list[Finding]:
    """Return authorities of the feed that are one, under two names: same numbers, same people."""
    same: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    first: dict[str, int] = {}
    for at in ledger.of(FEED):
        line = ledger.lines[at]
        before = first.setdefault(line.number.value, at)
        people = line.people and ledger.lines[before].people
        if before != at and people and not scores.against(before, at):
            same[ledger.lines[before].authority, line.authority].append((before, at))
    found = []
    for (one, other), pairs in same.items():
        common, rare = sorted((one, other), key=lambda a: -_size(ledger, a))
        if not common:
            common, rare = rare, common
        counted = {(ledger.lines[b].number.value,) * 2: 1 for b, _ in pairs}
        found += finding(
            "authority",
            f"one authority under two names in the feed: {common} and {rare or 'none'}",
            (
                Example(
                    numbers=(ledger.lines[a].number.value,),
                    said="the same number, the same person",
                    where=(ledger.lines[a].first, ledger.lines[b].first),
                )
                for a, b in pairs
            ),
            rule=identifier_rule(counted, authority=rare, types=(), to=common),
        )
    return found


def _size(ledger: Ledger, authority: str) -> int:
    return sum(ledger.lines[at].authority == authority for at in ledger.of(FEED))


def _nameless(ledger: Ledger, default_authority: str) -> list[Finding]:
    """Return the numbers of the feed that nobody is said to have given."""
    found = (
        Example(numbers=(line.number.value,), where=(line.first,))
        for line in map(ledger.lines.__getitem__, ledger.of(FEED))
        if not line.authority
    )
    toml = f'[[identifiers]]\nauthorities = [""]\nauthority = "{default_authority}"\n'
    cases = list(found)
    rule = Rule(toml=toml, gone=len(cases), of=len(cases))
    what = f"no assigning authority in the feed: taken for {default_authority}'s"
    return finding("no-authority", what, cases, fault=False, rule=rule if cases else None)


def _authority(found: Authority, *, whole: bool) -> dict[str, Any]:
    return {
        "side": found.side,
        "authority": found.issuer.namespace,
        "universal_id": found.issuer.universal_id,
        "universal_type": found.issuer.universal_type,
        "type": found.type,
        "identifiers": found.identifiers,
        "patients": found.patients,
        "leading_zeros": round(found.zeros, 4),
        "check_digit": found.scheme or None,
        "check_digits_sent": found.sent,
        "check_digits_wrong": found.failed,
        "formats": [
            {
                "pattern": f.pattern,
                "count": f.count,
                "share": round(f.share, 4),
                "example": f.example if whole else mask(f.example),
            }
            for f in found.formats
        ],
    }


def _finding(found: Finding, *, whole: bool) -> dict[str, Any]:
    rule = found.rule
    return {
        "kind": found.kind,
        "fault": found.fault,
        "what": found.what,
        "count": found.count,
        "examples": [e.as_json(whole=whole) for e in found.examples],
        "rule": None
        if rule is None
        else {"toml": rule.toml, "gone": rule.gone, "of": rule.of, "broken": rule.broken},
    }
