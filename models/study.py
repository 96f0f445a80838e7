"""Studies, series and instances: what the scanner made and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4, uuid5

from models.lifecycle import StudyState
from models.priority import Priority
from models.tier import Tier


def new_id() -> str:
    """Return a fresh opaque identifier: 32 hexadecimal digits that say nothing of a patient."""
    return uuid4().hex


def new_uid() -> str:
    """Return a fresh DICOM UID in the UUID root ``2.25`` (PS3.5 B.2)."""
    return f"2.25.{uuid4().int}"


_SPINECHO = UUID("5b0d9f0e-93c5-4c55-9a55-4d3b1f0f5e1c")


def uid_from(*parts: str) -> str:
    """Return the UID that always belongs to `parts`, so that repeated work makes one object."""
    return f"2.25.{uuid5(_SPINECHO, chr(31).join(parts)).int}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The one record that a study has from order to archive."""

    id: str
    study_uid: str
    order_id: str | None
    patient_id: str | None
    accession: str
    state: StudyState
    priority: Priority
    """Reading priority: the order's, raised by findings."""
    description: str = ""
    version: int = 0
    """How often the acquisition was judged complete; late images raise it."""
    tier: Tier = Tier.HOT
    started_at: datetime | None = None
    ended_at: datetime | None = None
    acquired_at: datetime | None = None
    triage: str | None = None
    legal_hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One SOP Instance as received."""

    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    transfer_syntax: str
    number: int | None
    path: str
    """Relative to the root of its tier."""
    size: int
    digest: str
    """SHA-256 over the bytes of the data set as they lie in the file after the file meta."""
    tier: Tier = Tier.HOT
    frames: int = 1
