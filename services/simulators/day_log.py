"""What a morning in the department left behind, as the neighbours saw it."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.simulators.emr import Ack
from services.simulators.plan import PlannedPatient
from services.simulators.reader import Signed
from services.simulators.scanner import ScanResult


@dataclass(slots=True)
class DayLog:
    """What happened, as the neighbours saw it.

    Attributes
    ----------
    acks
        Message kind (``A04``, ``NW``, ``NW again``, ``CA``) and acknowledgement, by patient id.
    scans
        What each scan came to, by patient id.
    listed
        Accession numbers that a scanner has seen on its worklist.
    cancelled_vanished
        Whether the cancelled order left the worklist.
    signed
        Reports in the order in which they were signed.
    acknowledged
        Study UIDs of acknowledged critical results.
    delivered
        Accession numbers whose final report reached the EMR.
    problems
        Everything that should not have happened, in words.
    finished
        Whether all that was planned was done in time.
    seconds
        How long the day took.
    """

    plan: list[PlannedPatient]
    acks: dict[str, list[tuple[str, Ack]]] = field(default_factory=dict)
    scans: dict[str, ScanResult] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    cancelled_vanished: bool = False
    signed: list[Signed] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0
