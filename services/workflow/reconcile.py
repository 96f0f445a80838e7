"""Housekeeping: work that got stuck is found and started again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from services.database.store import Store
from services.database.tables import instance, mpps, outbox
from services.database.tables import study as study_table
from services.settings import Settings

ALIVE = frozenset({"SCHEDULED", "PENDING", "RUNNING"})
"""Prefect state types of a run that may still do its work."""
MAX_DELAY = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A stage that was handed to Prefect and is not done."""

    id: int
    run_id: str | None


def find_open(store: Store, settings: Settings) -> list[Open]:
    """Return stages that were dispatched longer ago than one sweep and are not done.

    A stage that failed again and again is given more time each round, up to a quarter of an hour.
    """
    with store() as uow:
        rows = uow.outbox.open(uow.now - timedelta(seconds=settings.reconcile_s / 2))
        return [
            Open(id=row.id, run_id=row.run_id)
            for row in rows
            if uow.now - row.dispatched_at >= _patience(row, settings)
        ]


def _patience(row: Any, settings: Settings) -> timedelta:
    if row.attempt == 1:
        return timedelta(0)
    doublings: int = min(row.attempt - 2, 8)
    return min(MAX_DELAY, timedelta(seconds=settings.reconcile_s * 2**doublings))


def reissue(store: Store, stages: Iterable[Open], states: Mapping[str, str]) -> int:
    """Start again every stage whose run ended, crashed or vanished; return how many.

    Parameters
    ----------
    store : Store
    stages : iterable of Open
    states : mapping
        Run id → Prefect state type; a run that is missing is unknown to Prefect.
    """
    count = 0
    with store() as uow:
        for stage in stages:
            if stage.run_id and states.get(stage.run_id) in ALIVE:
                continue
            uow.outbox.reissue(stage.id)
            row = uow.connection.execute(select(outbox).where(outbox.c.id == stage.id)).one()
            if uow.connection.execute(
                select(study_table.c.id).where(study_table.c.id == row.subject)
            ).first():
                uow.timeline.add(
                    row.subject,
                    "stage.restarted",
                    f"{row.flow} did not finish and was started again, attempt {row.attempt}",
                    run=stage.run_id,
                )
            count += 1
    return count


def forgotten_exams(store: Store, settings: Settings) -> int:
    """Put exams on the desk that began hours ago and have neither images nor an end."""
    with store() as uow:
        rows = uow.studies.select(
            select(mpps.c.sop_uid, mpps.c.study_id)
            .outerjoin(instance, instance.c.study_id == mpps.c.study_id)
            .where(
                mpps.c.state == "IN PROGRESS",
                mpps.c.created_at < uow.now - timedelta(hours=6),
                instance.c.sop_uid.is_(None),
            )
        )
        for row in rows:
            uow.studies.to_desk(
                "exam-forgotten",
                row.sop_uid,
                "an exam was begun and neither ended nor sent images",
                study_id=row.study_id,
            )
    return len(rows)
