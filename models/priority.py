"""How urgent a study is, in the words of every neighbour."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Priority(IntEnum):
    """Reading order, most urgent first.

    `CRITICAL` is only ever reached through a finding; the others are the defined terms of
    Requested Procedure Priority (0040,1003), PS3.3 C.4.11.
    """

    CRITICAL = 0
    STAT = 1
    HIGH = 2
    MEDIUM = 3
    ROUTINE = 4
    LOW = 5

    def raised_to(self, other: Priority) -> Priority:
        """Return the more urgent of the two: a priority is raised, never lowered."""
        return min(self, other)

    @property
    def queue(self) -> str:
        """The Prefect queue of pool ``clinical`` that carries work of this urgency."""
        if self <= Priority.STAT:
            return "critical"
        return "urgent" if self <= Priority.MEDIUM else "routine"

    @property
    def dicom(self) -> str:
        """The defined term for (0040,1003); a critical finding reads as STAT to others."""
        return "STAT" if self is Priority.CRITICAL else self.name


# HL70485 → (0040,1003) as dcm4chee maps it; asap is HIGH, there is no DICOM term ASAP.
HL7_PRIORITY: Final[dict[str, Priority]] = {
    "S": Priority.STAT,
    "STAT": Priority.STAT,
    "A": Priority.HIGH,
    "ASAP": Priority.HIGH,
    "R": Priority.ROUTINE,
    "ROUTINE": Priority.ROUTINE,
    "P": Priority.HIGH,
    "C": Priority.HIGH,
    "T": Priority.MEDIUM,
    "PRN": Priority.LOW,
}
