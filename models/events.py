"""What a commit announces, and which stage each announcement starts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Topic(StrEnum):
    """Facts that have been committed."""

    ORDER_PLACED = "order.placed"
    STUDY_RECEIVED = "study.received"
    STUDY_ACQUIRED = "study.acquired"
    FINDING_CRITICAL = "finding.critical"
    REPORT_SIGNED = "report.signed"
    REPORT_READDRESSED = "report.readdressed"
    STUDY_RECALLED = "study.recalled"
    ORDER_STATUS = "order.status"


STAGES: Final[dict[Topic, tuple[str, ...]]] = {
    Topic.ORDER_PLACED: ("order_intake", "worklist_publication"),
    Topic.STUDY_RECEIVED: ("acquisition_receipt",),
    Topic.STUDY_ACQUIRED: ("triage",),
    Topic.FINDING_CRITICAL: ("critical_escalation",),
    Topic.REPORT_SIGNED: ("report_delivery",),
    Topic.REPORT_READDRESSED: ("report_delivery",),
    Topic.STUDY_RECALLED: ("recall",),
    Topic.ORDER_STATUS: ("status_delivery",),
}
"""Topic → flows started by the relay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One row of the outbox: a flow that must run for a study."""

    id: int
    flow: str
    subject: str
    """Opaque id of the study; the only thing that Prefect is told."""
    version: str
    queue: str
    attempt: int

    @property
    def key(self) -> str:
        """Idempotency key of the flow run: ``study:stage:version:attempt``."""
        return f"{self.subject}:{self.flow}:{self.version}:{self.attempt}"
