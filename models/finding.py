"""What a triage model said about a study."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a triage run ended; abstaining is an outcome, not an error."""

    CRITICAL = "critical"
    NORMAL = "normal"
    ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement of a model about one study, never a diagnosis."""

    study_id: str
    version: int
    outcome: Outcome
    model: str
    """``name@version``."""
    score: float | None = None
    text: str = ""
    reason: str = ""
    measurements: tuple[tuple[str, float, str], ...] = ()
    """Name, value, UCUM unit."""
    sr_sop_uid: str | None = None
