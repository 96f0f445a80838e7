"""A patient's stay or appointment at a hospital, and a booked slot for an exam."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class VisitState(Enum):
    """Where a visit stands (HL7 v2.5.1 ch. 3: the ADT events)."""

    PLANNED = "planned"
    OPEN = "open"
    CLOSED = "closed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitRequest:
    """A visit as a sender describes it; None where nothing was said, empty to delete."""

    number: str = ""
    authority: str = ""
    account: str | None = None
    patient_class: str | None = None
    location: str | None = None
    referring: str | None = None
    reason: str | None = None
    admitted_at: datetime | None = None
    discharged_at: datetime | None = None


class AppointmentState(Enum):
    """HL70278, filler status of an appointment, as far as it is told apart here."""

    BOOKED = "booked"
    STARTED = "started"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    BLOCKED = "blocked"
    NOSHOW = "noshow"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppointmentRequest:
    """A slot as a sender describes it."""

    key: str
    """What names it in every message: filler appointment id with its issuer, else the placer's."""
    start_at: datetime | None = None
    order_placer: str = ""
    """Placer order number with its issuer, ``P100^EMR``."""
    order_filler: str = ""
    location: str | None = None
    station: str | None = None
    sender: str = ""
