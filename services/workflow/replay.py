"""Recorded traffic played again with another profile: what would have been answered and ordered.

Both profiles are played through the real intake, each into an empty store of its own, message after
message in the order in which they came. The installation's store is only read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from services.database.messages import Wanted
from services.database.store import Store
from services.hl7.standardising import Rewriting
from services.settings import Settings
from services.workflow.rehearsal import Rehearsed, rehearse

_COMPARED: Final = ("patient", "patient identifier", "order", "step", "worklist item")
_GIVEN: Final = frozenset({"accession", "study_uid", "requested_procedure_id", "sps_id"})
"""Numbers that are made up here where the sender has none: they differ from play to play."""
_REFUSED: Final = frozenset({"refused", "failed"})
"""States of a message; what it is answered depends on the mode too."""
_OURS: Final = "(given here)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One message as it came."""

    id: int
    at: datetime
    sender: str
    type: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A value that the candidate reads otherwise; None where there is nothing."""

    what: str
    field: str
    in_force: Any
    candidate: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One message under both profiles."""

    message: Recorded
    code: tuple[str, str]
    """MSA-1 in force and with the candidate."""
    accepted: tuple[bool, bool]
    error: tuple[str | None, str | None]
    profile: tuple[str, str]
    differences: tuple[Difference, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the candidate makes no difference to this message."""
        return (
            self.code[0] == self.code[1]
            and self.error[0] == self.error[1]
            and not (self.differences)
        )


@dataclass(slots=True)
class Summary:
    """What the candidate would have changed in all."""

    messages: int = 0
    unchanged: int = 0
    accepted: int = 0
    """Refused now, accepted with the candidate."""
    refused: int = 0
    """Accepted now, refused with the candidate."""
    fields: dict[str, int] = field(default_factory=dict)
    """What differs → in how many messages."""

    def count(self, played: Played) -> None:
        """Take one message into account."""
        self.messages += 1
        self.unchanged += played.unchanged
        before, after = played.accepted
        self.accepted += after and not before
        self.refused += before and not after
        for name in {f"{d.what}.{d.field}" for d in played.differences}:
            self.fields[name] = self.fields.get(name, 0) + 1


def recorded(
    store: Store,
    *,
    since: datetime,
    until: datetime | None = None,
    sender: str | None = None,
    limit: int | None = None,
) -> list[Recorded]:
    """Return the HL7 messages that came in, oldest first.

    Parameters
    ----------
    since, until : datetime
        From the one and before the other.
    sender : str
        MSH-3, or MSH-3 and MSH-4 with a ``|`` between them.
    limit : int
        The newest of them only.
    """
    wanted = Wanted(direction="in", sender=sender, since=since, until=until, protocol="hl7")
    with store() as uow:
        found = uow.messages.opened(wanted, limit=limit)
    return [
        Recorded(id=m.id, at=m.received_at, sender=m.sender, type=m.type, raw=m.raw)
        for m in reversed(found)
        if m.state != "fragment"
    ]


def replay(
    messages: Iterable[Recorded],
    stores: tuple[Store, Store],
    profiles: tuple[Rewriting, Rewriting],
    *,
    settings: Settings,
) -> Iterator[Played]:
    """Play messages under the profiles in force and under a candidate.

    Parameters
    ----------
    messages : iterable of Recorded
        In the order in which they came.
    stores : (Store, Store)
        Empty ones, which are written to.
    profiles : (Rewriting, Rewriting)
        Those in force, and the candidate with the others.
    """
    for message in messages:
        now, then = (
            rehearse(store, message.raw, settings=settings, profiles=by, keep=True)
            for store, by in zip(stores, profiles, strict=True)
        )
        yield Played(
            message=message,
            code=(now.answered.code, then.answered.code),
            accepted=(now.state not in _REFUSED, then.state not in _REFUSED),
            error=(now.error, then.error),
            profile=tuple(r.standard.profile if r.standard else "" for r in (now, then)),  # type: ignore[arg-type]
            differences=tuple(_differences(now, then, message.raw)),
        )


def _differences(now: Rehearsed, then: Rehearsed, raw: bytes) -> Iterator[Difference]:
    text = raw.decode("latin-1")
    # Where only one of them accepts, every value of the order would differ: that there is one says
    # enough.
    alone = (now.state in _REFUSED) != (then.state in _REFUSED)
    before, after = (_said(rehearsed, text) for rehearsed in (now, then))
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            what, _, name = key
            if alone and what != "worklist item":
                continue
            yield Difference(
                what=what, field=name, in_force=before.get(key), candidate=after.get(key)
            )


def _said(rehearsed: Rehearsed, text: str) -> dict[tuple[str, int, str], Any]:
    """Return (what, which one of them, field) → value after the message."""
    said: dict[tuple[str, int, str], Any] = {}
    seen: Counter[str] = Counter()
    for change in rehearsed.changes:
        if change.what not in _COMPARED:
            continue
        number = seen[change.what]
        seen[change.what] += 1
        if change.what == "worklist item":
            # Its values are those of patient, order and step; that it is there is its own news.
            said[change.what, number, "presence"] = change.change
            continue
        for name, (_, value) in change.fields.items():
            ours = name in _GIVEN and str(value) not in text
            said[change.what, number, name] = _OURS if ours else value
    return said
