"""Which rule of an interface profile turns one way of writing into another, found by trying.

A rule is written as TOML, read back as a profile is, and applied to every case by the code that
applies it to messages: what is counted is what the listener would do.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from typing import Any, Final

from models.errors import ProfileError
from services.hl7.er7 import Delimiters
from services.hl7.identifying import formatted, identified
from services.hl7.profile import Format, IdentifierRule, Profile, read_profile
from services.identity.audit.findings import Rule
from services.identity.audit.formats import SCHEMES, ends_right

Pairs = Mapping[tuple[str, str], int]
"""A number as the feed has it and as it should be → how many such cases."""
Steps = dict[str, Any]
"""Keys of `services.hl7.profile.Format`."""

_LETTERS: Final = re.compile(r"([A-Za-z][A-Za-z0-9]{0,7}[-_./ ]|[A-Za-z]{1,8})(?=\d)")
_PREFIXES: Final = {"prefix", "remove_prefix"}
_SEPARATORS: Final = "-_./ "
_TRIED: Final = 200
_BEST: Final = 6
_MARKS: Final = Delimiters()
_PROFILE: Final = 'name = "audit"\ntitle = "audit"\n[sender]\napplication = ["*"]\n'


def accession_rule(pairs: Pairs) -> Rule | None:
    """Return the rule that makes the most accession numbers agree; None where none helps."""
    steps = _best(pairs)
    if not steps:
        return None
    toml = "[format.accession]\n" + _written(steps)
    how = _read(toml).format["accession"]
    return _judged(toml, pairs, lambda value: formatted(value, how))


def shortening(values: Iterable[str], limit: int) -> Rule | None:
    """Return the rule that makes the most of these fit into `limit` characters."""
    counted = Counter(values)
    tried: list[Steps] = [{"strip_zeros": True}, {"remove": _SEPARATORS}]
    prefixes = Counter(m[1] for v in counted if (m := _LETTERS.match(v)))
    tried += [{"remove_prefix": prefix} for prefix, _ in prefixes.most_common(1)]
    tried += [{**a, **b} for a, b in combinations(tried, 2)]
    for steps in tried:
        how = Format(**steps)
        pairs = {(value, formatted(value, how)): n for value, n in counted.items()}
        if len({after for _, after in pairs}) < len(pairs):
            continue  # two numbers would become one
        gone = sum(n for (_, after), n in pairs.items() if len(after) <= limit)
        if gone:
            toml = "[format.accession]\n" + _written(steps)
            return Rule(toml=toml, gone=gone, of=sum(counted.values()))
    return None


def identifier_rule(pairs: Pairs, *, authority: str, types: Iterable[str], to: str) -> Rule | None:
    """Return the rule that makes the most patient numbers agree.

    Parameters
    ----------
    pairs : mapping
    authority : str
        Of the feed; empty for none.
    types : iterable of str
        CX-5 that the rule is limited to; none for all.
    to : str
        The authority that the images have.
    """
    steps = _best(pairs)
    if to and to != authority:
        steps |= {"replace_authority" if authority else "authority": to}
    if not steps:
        return None
    fits: Steps = {"authorities": [authority]}
    if types:
        fits["types"] = sorted(types)
    toml = "[[identifiers]]\n" + _written(fits | steps)
    try:
        rules = _read(toml).identifiers
    except ProfileError:
        return None  # an authority with a delimiter in it cannot be written
    kind = next(iter(sorted(types)), "")
    return _judged(
        toml,
        pairs,
        lambda value: _applied(value, authority, kind, rules),
        renamed=bool(to and to != authority),
    )


def _applied(value: str, authority: str, kind: str, rules: tuple[IdentifierRule, ...]) -> str:
    whole = _MARKS.component.join((value, "", "", authority, kind))
    return identified(whole, rules, _MARKS).split(_MARKS.component)[0]


def _judged(toml: str, pairs: Pairs, apply: Any, *, renamed: bool = False) -> Rule | None:
    wrong = gone = broken = 0
    for (sent, wanted), count in pairs.items():
        agreed = sent == wanted and not renamed
        agrees = apply(sent) == wanted
        wrong += 0 if agreed else count
        gone += count if agrees and not agreed else 0
        broken += count if agreed and not agrees else 0
    return Rule(toml=toml, gone=gone, of=wrong, broken=broken) if gone > broken else None


def _best(pairs: Pairs) -> Steps:
    different = [pair for pair in pairs if pair[0] != pair[1]]
    found: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for sent, wanted in different[:_TRIED]:
        steps = solve(sent, wanted)
        if steps is not None:
            found[tuple(sorted(steps.items()))] += pairs[sent, wanted]
    tried = [dict(steps) for steps, _ in found.most_common(_BEST)]
    tried += [{**a, **b} for a, b in combinations(tried, 2)]
    return max(tried, key=lambda steps: (_won(steps, pairs), -len(steps)), default={})


def _won(steps: Steps, pairs: Pairs) -> int:
    how, won = Format(**steps), 0
    for (sent, wanted), count in pairs.items():
        won += count * ((formatted(sent, how) == wanted) - (sent == wanted))
    return won


def solve(sent: str, wanted: str) -> Steps | None:
    """Return the fewest steps of a `Format` that make `sent` into `wanted`; None for none."""
    choices = sorted(_choices(sent, wanted), key=lambda s: (len(s), len(_PREFIXES & s.keys())))
    return next((s for s in choices if formatted(sent, Format(**s)) == wanted), None)


def _choices(sent: str, wanted: str) -> Iterator[Steps]:
    marks = "".join(sorted({c for c in sent if c in _SEPARATORS} - set(wanted)))
    front = _prefixes(wanted, sent)
    numeral = [wanted, *(wanted.removeprefix(prefix) for prefix in front)]
    options: dict[str, list[Any]] = {
        "remove": ["", marks],
        "remove_prefix": ["", *_prefixes(sent, wanted)],
        "drop_check_digit": [False, any(ends_right(sent, scheme) for scheme in SCHEMES)],
        "strip_zeros": [False, True],
        "pad_to": [0, *(len(part) for part in numeral if part.startswith("0"))],
        "append_check_digit": [
            "",
            *(scheme for scheme in SCHEMES if ends_right(wanted, scheme)),
        ],
        "upper": [False, sent != sent.upper()],
        "prefix": ["", *front],
    }
    for values in product(*(dict.fromkeys(each) for each in options.values())):
        yield {key: value for key, value in zip(options, values, strict=True) if value}


def _prefixes(long: str, short: str) -> list[str]:
    """Return what `long` may have in front: letters, or else whatever `short` lacks."""
    found = [match[1]] if (match := _LETTERS.match(long)) else []
    rest = long.removesuffix(short)
    if short and not found and rest not in {"", long} and rest.strip("0"):
        found.append(rest)
    return [prefix for prefix in found if not short.startswith(prefix)]


def _written(steps: Steps) -> str:
    # Texts, booleans, numbers and lists of texts are written alike in JSON and TOML.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in steps.items()
    )


def _read(toml: str) -> Profile:
    return read_profile((_PROFILE + toml).encode(), file="audit", origin="file").profile
