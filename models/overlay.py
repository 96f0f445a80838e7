"""Whose images these are now, where their files say otherwise (PS3.3 C.12.1.1.9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from models.patient import Identifier, Patient


class Reason(Enum):
    """Reason for the Attribute Modification (0400,0565)."""

    COERCE = "COERCE"
    """Another number or record of the same person: a merge, a re-key."""
    CORRECT = "CORRECT"
    """The values were wrong: a move, a decision of the desk, corrected demographics."""


class Part(Enum):
    """What of a file may be out of date."""

    NAME = "name"
    IDENTIFIER = "identifier"
    BIRTH_DATE = "birth date"
    SEX = "sex"
    ACCESSION = "accession"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """The patient as whom a study leaves the house.

    Parameters
    ----------
    identifiers : tuple of Identifier
        Those that stand, the one to be shown first; a number that was replaced is not among them.
    accession : str
        Of the study; laid over a file only if `parts` say so.
    parts : frozenset of Part
        What the causes put in question; everything else leaves as the file says it.
    is_other_person : bool
        Whether the file describes somebody else, so that nothing it says of them may stay.
    at : datetime
        When the latest cause took effect, UTC.
    uids : dict
        Study and Series Instance UID, by keyword, of a file that the desk put elsewhere.
    """

    patient: Patient
    identifiers: tuple[Identifier, ...]
    accession: str
    parts: frozenset[Part]
    is_other_person: bool
    reason: Reason
    at: datetime
    uids: dict[str, str] = field(default_factory=dict)
