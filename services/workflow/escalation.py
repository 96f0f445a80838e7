"""Critical results: announced at once, and again until a named person acknowledges."""

from __future__ import annotations

from datetime import timedelta

from services.database.store import Store
from services.settings import Settings


def announce_critical(store: Store, study_id: str) -> bool:
    """Announce a critical finding to the reading room; return False if it is known already."""
    with store() as uow:
        critical = uow.reports.critical(study_id, lock=True)
        if critical is None or critical.notified_at is not None:
            return False
        uow.reports.change_critical(study_id, notified_at=uow.now)
        uow.timeline.add(
            study_id,
            "critical.announced",
            "critical finding heads the reading list; acknowledgement awaited",
        )
    return True


def escalate_overdue(store: Store, settings: Settings) -> list[str]:
    """Announce anew every critical result that nobody acknowledged in time; return the studies."""
    with store() as uow:
        overdue = uow.reports.unacknowledged(uow.now - timedelta(seconds=settings.critical_ack_s))
        for critical in overdue:
            number = critical.escalations + 1
            uow.reports.change_critical(critical.study_id, escalations=number, notified_at=uow.now)
            uow.timeline.add(
                critical.study_id,
                "critical.escalated",
                f"not acknowledged in {settings.critical_ack_s / 60:.0f} min: escalation {number}",
            )
            uow.studies.to_desk(
                "critical-unacknowledged",
                f"{critical.study_id}:{number}",
                f"critical result not acknowledged, escalation {number}",
                study_id=critical.study_id,
            )
    return [critical.study_id for critical in overdue]
