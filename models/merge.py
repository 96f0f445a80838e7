"""What was decided about patient records: merged, moved, re-keyed, and undone again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


class ChangeKind(Enum):
    """What may be done to patient records, by the HL7 events that ask for it."""

    MERGE = "merge"
    """One record retires into another: ADT^A40."""
    MOVE = "move"
    """Some of a record's orders and studies go to another: ADT^A43, A44, A45."""
    REKEY = "rekey"
    """A record gets another identifier in the place of one that retires: ADT^A47."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One row that a change gave to another record."""

    kind: str
    """Name of its table."""
    key: str
    home_id: str
    """The record it was filed under before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One change of patient records, with what is needed to take it back.

    Parameters
    ----------
    survivor_id, retired_id : str
        The record that has everything afterwards, and the one that had it before.
    before, after : dict
        The survivor's columns at a merge, the identifier at a re-key, in JSON values.
    moved : tuple of Moved
        Exactly the rows that changed hands.
    """

    id: int
    kind: ChangeKind
    survivor_id: str
    retired_id: str
    by: str
    why: str
    at: datetime
    message_id: int | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    moved: tuple[Moved, ...] = ()
    undone_at: datetime | None = None
    undone_by: str = ""
    undone_why: str = ""

    @property
    def study_ids(self) -> list[str]:
        """The studies among what was moved."""
        return [item.key for item in self.moved if item.kind == "study"]
