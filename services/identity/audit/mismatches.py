"""Where the feed and the images mean one patient or one order and write it differently."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from models.patient import Issuer
from services.identity.audit.collisions import Scores
from services.identity.audit.findings import Example, Finding, Rule, finding
from services.identity.audit.ledger import Ledger, named
from services.identity.audit.rules import accession_rule, identifier_rule, solve
from services.identity.audit.sightings import FEED, IMAGES
from services.identity.normalise import core
from services.identity.normalise import number as plain

_WORDS: Final = {
    "remove": "separators",
    "remove_prefix": "prefix",
    "prefix": "prefix",
    "drop_check_digit": "check digit",
    "append_check_digit": "check digit",
    "strip_zeros": "leading zeros",
    "pad_to": "leading zeros",
    "upper": "case",
}
"""Step of a rule → what it makes up for."""
OTHER_NUMBER: Final = "another number"
OTHER_NAME: Final = "the authority is called otherwise"
UNIVERSAL: Final = "one has the namespace, the other the universal id"
NO_ISSUER: Final = "no issuer in the images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A line of the feed and one of the images that mean the same patient."""

    sent: int
    shown: int
    proof: str
    """Why they are one patient's."""


def mismatches(ledger: Ledger, scores: Scores, default_authority: str) -> list[Finding]:
    """Return what differs between the feed and the images, each with the rule that settles most.

    Parameters
    ----------
    ledger : Ledger
    scores : Scores
    default_authority : str
        Setting ``default_authority``: whose a number is in a message that names none.
    """
    pairs, strangers = _pairs(ledger, scores)
    found = finding(
        "other-patient", "the images of an order are another person's", _told(ledger, strangers)
    )
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        sent, shown = ledger.lines[pair.sent], ledger.lines[pair.shown]
        groups[sent.authority, shown.authority].append(pair)
    for (sent_by, _), group in groups.items():
        found += _of_group(ledger, group, sent_by or default_authority)
    return found + _accessions(ledger)


def _of_group(ledger: Ledger, group: list[Pair], read_as: str) -> list[Finding]:
    """Return what differs between one authority of the feed and one of the images."""
    first = group[0]
    feed, images = (ledger.lines[at].number.issuer for at in (first.sent, first.shown))
    cases: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for pair in group:
        cases[_differences(ledger, pair, read_as)].append(pair)
    rule = _rule(ledger, group, read_as)
    found = []
    for differences, alike in cases.items():
        if differences:
            harmless = differences == (NO_ISSUER,)
            what = f"{named(feed)} in the feed, {named(images)} in the images: "
            found += finding(
                "number",
                what + ", ".join(differences),
                _told(ledger, alike),
                fault=not harmless,
                rule=None if harmless else rule,
            )
    return found


def _differences(ledger: Ledger, pair: Pair, read_as: str) -> tuple[str, ...]:
    sent, shown = ledger.lines[pair.sent].number, ledger.lines[pair.shown].number
    told = [_renamed(sent.issuer, shown.issuer, read_as)]
    told += written(sent.value, shown.value)
    return tuple(filter(None, told))


def _renamed(sent: Issuer, shown: Issuer, read_as: str) -> str:
    if not shown.name:
        return NO_ISSUER
    if shown.name == read_as:
        return ""
    if not sent.name:
        return "no authority in the feed"
    if shown.name == sent.universal_id or sent.name == shown.universal_id:
        return UNIVERSAL
    return OTHER_NAME


def written(sent: str, wanted: str) -> list[str]:
    """Return in words how two ways of writing one number differ; nothing where they do not."""
    if sent == wanted:
        return []
    steps = solve(sent, wanted)
    if steps is None and plain(sent) == plain(wanted):
        return ["separators, case or zeros"]
    if steps is None:
        return [OTHER_NUMBER]
    return list(dict.fromkeys(_WORDS[step] for step in steps))


def _rule(ledger: Ledger, group: list[Pair], read_as: str) -> Rule | None:
    lines = ledger.lines
    counted = Counter(
        (lines[pair.sent].number.value, lines[pair.shown].number.value) for pair in group
    )
    sent, shown = lines[group[0].sent], lines[group[0].shown]
    types = {
        lines[at].number.type for at in ledger.of(FEED) if lines[at].authority == sent.authority
    }
    own = {lines[pair.sent].number.type for pair in group}
    # A sender that gives no type means a medical record number.
    limited = own | ({""} if "MR" in own else set()) if types - own else set()
    return identifier_rule(
        counted,
        authority=sent.authority,
        types=limited,
        to="" if shown.authority == read_as else shown.authority,
    )


def _told(ledger: Ledger, pairs: Iterable[Pair]) -> Iterator[Example]:
    for pair in pairs:
        sent, shown = ledger.lines[pair.sent], ledger.lines[pair.shown]
        yield Example(
            numbers=(sent.number.value, shown.number.value),
            said=pair.proof,
            where=(sent.first, shown.first),
        )


def _pairs(ledger: Ledger, scores: Scores) -> tuple[list[Pair], list[Pair]]:
    """Return pairs that mean one patient, and those that an order joins and the people do not."""
    by_order = _by_order(ledger)
    by_number: dict[str, list[int]] = defaultdict(list)
    for at in ledger.of(FEED):
        value = ledger.lines[at].number.value
        for key in {plain(value), core(value)} - {""}:
            by_number[key].append(at)
    pairs: list[Pair] = []
    strangers: list[Pair] = []
    for shown in ledger.of(IMAGES):
        joined = by_order.get(shown)
        if joined is not None:
            pair = Pair(sent=_nearest(ledger, shown, joined[0]), shown=shown, proof=joined[1])
            against = scores.against(pair.sent, shown)
            (strangers if against else pairs).append(pair)
            continue
        value = ledger.lines[shown].number.value
        alike = {a for key in {plain(value), core(value)} for a in by_number.get(key, ())}
        known = [a for a in sorted(alike) if _is_one(ledger, scores, a, shown)]
        if known:
            sent = _nearest(ledger, shown, known)
            pairs.append(Pair(sent=sent, shown=shown, proof="a like number, the same person"))
    return pairs, strangers


def _is_one(ledger: Ledger, scores: Scores, sent: int, shown: int) -> bool:
    people = ledger.lines[sent].people, ledger.lines[shown].people
    same = ledger.lines[sent].number.value == ledger.lines[shown].number.value
    return not scores.against(sent, shown) if all(people) else same


def _by_order(ledger: Ledger) -> dict[int, tuple[list[int], str]]:
    """Return line of the images → lines of the feed that an order says are the same patient's."""
    found: dict[int, tuple[list[int], str]] = {}
    for links, proof in (
        (ledger.studies, "the same Study Instance UID"),
        (ledger.accessions, "the same accession number"),
    ):
        for link in links.values():
            sent = [line for lines, _, _ in link.of(FEED) for line in lines]
            for lines, _, _ in link.of(IMAGES) if sent else ():
                for shown in lines[:1]:
                    found.setdefault(shown, (sent, proof))
    return found


def _nearest(ledger: Ledger, shown: int, sent: Iterable[int]) -> int:
    wanted = ledger.lines[shown]
    value = wanted.number.value

    def rank(at: int) -> tuple[bool, bool, bool, bool]:
        line = ledger.lines[at]
        other = line.number.value
        return (
            other == value,
            plain(other) == plain(value),
            bool(core(value)) and core(other) == core(value),
            line.authority == wanted.authority,
        )

    return max(sent, key=rank)


def _accessions(ledger: Ledger) -> list[Finding]:
    """Return the accession numbers of one study that differ between the order and the images."""
    pairs: Counter[tuple[str, str]] = Counter()
    cases: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for link in ledger.studies.values():
        sent = next(((a, w) for _, a, w in link.of(FEED) if a), None)
        shown = next(((a, w) for _, a, w in link.of(IMAGES)), None)
        if sent is None or shown is None:
            continue
        pairs[sent[0], shown[0]] += 1
        differences = written(sent[0], shown[0]) if shown[0] else ["none in the images"]
        if differences:
            numbers = (sent[0], shown[0])
            cases[tuple(differences)].append(
                Example(
                    numbers=numbers, said="the same Study Instance UID", where=(sent[1], shown[1])
                )
            )
    rule = accession_rule({pair: count for pair, count in pairs.items() if pair[1]})
    return [
        one
        for differences, alike in cases.items()
        for one in finding(
            "accession",
            f"accession numbers of the feed and of the images: {', '.join(differences)}",
            alike,
            rule=rule,
        )
    ]
