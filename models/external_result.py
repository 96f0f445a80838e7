"""What another system reported of an exam."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

STATUS_WORDS: Final = {
    "A": "some results",
    "C": "corrected",
    "F": "final",
    "I": "specimen or images received",
    "O": "ordered",
    "P": "preliminary",
    "R": "stored, not yet verified",
    "S": "scheduled",
    "X": "cancelled",
    "W": "wrong patient",
    "D": "deleted",
}
"""HL70123 (OBR-25) and HL70085 (OBX-11), in words."""

CRITICAL: Final = frozenset({"AA", "HH", "LL"})
"""HL70078 (OBX-8): far outside, panic limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalResult:
    """One reported procedure; its text stays in the message that brought it."""

    study_uid: str = ""
    accession: str = ""
    placer_number: str = ""
    placer_authority: str = ""
    filler_number: str = ""
    sender: str = ""
    status: str = ""
    """OBR-25, else OBX-11."""
    procedure: str = ""
    author: str = ""
    critical: bool = False
    observed_at: datetime | None = None
