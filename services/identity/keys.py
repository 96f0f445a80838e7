"""The keys by which candidates are found: one is enough, so each tolerates another error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.identity.matching import Traits
from services.identity.normalise import core, is_placeholder, number, phonetic, swapped

Key = tuple[str, str]
"""Kind and value."""

WORTH: Final = {"id": 4, "id-core": 3, "born": 3, "name": 2, "name-year": 1, "name-day": 1}
"""How much a shared key of each kind says, where more records share one than can be scored."""


def stored(traits: Traits) -> set[Key]:
    """Return the keys that a record is filed under."""
    return {key for key in _keys(traits) if key[1]}


def asked(traits: Traits) -> set[Key]:
    """Return the keys that a record is looked for by; more, for what may have been exchanged."""
    keys = stored(traits)
    born = traits.birth_date
    other = None if born is None else swapped(born)
    if other is not None:
        keys.add(("born", other.isoformat()))
    return keys


def _keys(traits: Traits) -> Iterator[Key]:
    for identifier in traits.identifiers:
        yield "id", number(identifier.value)
        yield "id-core", core(identifier.value)
    name, born = traits.name, traits.birth_date
    family, given = phonetic(name.family), phonetic(name.given)
    if family and given:
        # In one order, whichever was taken for the family name.
        yield "name", "/".join(sorted((family, given)))
    if born is None:
        return
    if not is_placeholder(born):
        yield "born", born.isoformat()
    for part in {family, given} - {""}:
        yield "name-year", f"{part}/{born.year}/{traits.sex}"
        if not is_placeholder(born):
            yield "name-day", f"{part}/{born:%m%d}"
