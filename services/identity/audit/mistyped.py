"""Numbers that their check digit gives away, where nearly all others of the authority have it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from services.hl7.er7 import Delimiters
from services.hl7.identifying import has_wrong_digit
from services.hl7.profile import IdentifierRule
from services.identity.audit.findings import Example, Finding, Rule, finding
from services.identity.audit.formats import SCHEMES, ends_right
from services.identity.audit.ledger import Ledger, Line
from services.identity.audit.sightings import FEED

_ENOUGH: Final = 20
_NEARLY_ALL: Final = 0.9
"""By chance a tenth of all numbers end in their check digit."""


def mistyped(ledger: Ledger) -> list[Finding]:
    """Return, for each authority and type of the feed, the numbers that fail what nearly all hold.

    The rule refuses them, or shows them on the desk.
    """
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for at in ledger.of(FEED):
        line = ledger.lines[at]
        if not line.number.check_digit:  # in CX-2 it is the sender's own word, and checked as such
            groups[line.authority, line.number.type].append(line)
    return [one for (name, _), lines in groups.items() for one in _of_group(name, lines)]


def _of_group(authority: str, lines: Sequence[Line]) -> list[Finding]:
    if len(lines) < _ENOUGH:
        return []
    for scheme in SCHEMES:
        wrong = [line for line in lines if not ends_right(line.number.value, scheme)]
        if not wrong or len(wrong) > (1 - _NEARLY_ALL) * len(lines):
            continue
        toml = (
            f"[[identifiers]]\nauthorities = [{json.dumps(authority, ensure_ascii=False)}]\n"
            f'check_digit = "{scheme}"\n'
        )
        rule = IdentifierRule(authorities=(authority,), check_digit=scheme)
        met = sum(has_wrong_digit(line.number.value, rule, Delimiters()) for line in wrong)
        return finding(
            "mistyped",
            f"{authority or 'none'}: nearly all numbers end in their {scheme} check digit, these do"
            " not",
            (Example(numbers=(line.number.value,), where=(line.first,)) for line in wrong),
            rule=Rule(toml=toml, gone=met, of=len(wrong)),
        )
    return []
