"""The outbox: what a commit announces, and how far each stage it starts has come."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert

from models.events import STAGES, Stage, Topic
from models.priority import Priority
from services.database.direct import Direct, Prepared
from services.database.tables import outbox

CHANNEL = "spinecho_outbox"
"""PostgreSQL NOTIFY channel that wakes the relay when a commit has announced something."""

_ANNOUNCE = Prepared(
    insert(outbox).on_conflict_do_nothing(),
    ("topic", "flow", "subject", "version", "queue", "created_at"),
)
# Not inside the transaction: PostgreSQL lets only one transaction with a NOTIFY commit at a time.
# The relay looks by itself every second, so that nothing depends on this, and it need not wait for
# the disk as the COMMIT before it does.
WAKE = Prepared(
    select(func.set_config("synchronous_commit", "off", literal(True)), func.pg_notify(CHANNEL, ""))
)()


class Outbox:
    """Repository of announcements."""

    def __init__(self, connection: Connection, now: datetime, direct: Direct) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct

    def announce(self, topic: Topic, subject: str, version: str, priority: Priority) -> None:
        """Announce `topic` about a study, once per `version`.

        Triage never waits in the routine queue: it is what finds out whether a study is urgent.
        """
        for flow in STAGES[topic]:
            queue = priority.queue
            if flow == "triage" and queue == "routine":
                queue = "urgent"
            if flow == "critical_escalation":
                queue = "critical"
            self._direct.later(
                _ANNOUNCE(
                    topic=topic.value,
                    flow=flow,
                    subject=subject,
                    version=version,
                    queue=queue,
                    created_at=self._now,
                )
            )
        self._direct.after_commit(WAKE)

    def pending(self, limit: int = 100) -> list[Stage]:
        """Return stages that no flow run was created for, the most urgent queue first."""
        urgency = func.array_position(
            text("ARRAY['critical','urgent','routine']::text[]"), outbox.c.queue
        )
        rows = self._connection.execute(
            select(outbox)
            .where(outbox.c.dispatched_at.is_(None), outbox.c.done_at.is_(None))
            .order_by(urgency, outbox.c.id)
            .limit(limit)
        )
        return [_stage(row) for row in rows]

    def dispatched(self, stage: Stage, run_id: str) -> None:
        """Record that a flow run exists for this attempt."""
        self._set(stage.id, dispatched_at=self._now, run_id=run_id)

    def started(self, subject: str, flow: str, version: str) -> None:
        """Record that the flow's first line ran."""
        self._connection.execute(
            update(outbox)
            .where(outbox.c.subject == subject, outbox.c.flow == flow, outbox.c.version == version)
            .values(started_at=self._now)
        )

    def done(self, subject: str, flow: str, version: str, error: str | None = None) -> bool:
        """Record that the stage is finished; `error` says that it is given up.

        Returns
        -------
        bool
            False if it was finished before, or never begun.
        """
        closed = self._connection.execute(
            update(outbox)
            .where(
                outbox.c.subject == subject,
                outbox.c.flow == flow,
                outbox.c.version == version,
                outbox.c.done_at.is_(None),
            )
            .values(done_at=self._now, error=error)
            .returning(outbox.c.id)
        )
        return closed.first() is not None

    def is_under_way(self, subject: str, flow: str) -> bool:
        """Return whether the newest stage of this flow about `subject` is not done."""
        newest = self._connection.execute(
            select(outbox.c.done_at)
            .where(outbox.c.subject == subject, outbox.c.flow == flow)
            .order_by(outbox.c.id.desc())
            .limit(1)
        ).first()
        return newest is not None and newest.done_at is None

    def open(self, before: datetime | None = None) -> list[Row[Any]]:
        """Return stages that were dispatched (before `before`) and are not done."""
        query = select(outbox).where(
            outbox.c.dispatched_at.is_not(None), outbox.c.done_at.is_(None)
        )
        if before is not None:
            query = query.where(outbox.c.dispatched_at < before)
        return list(self._connection.execute(query.order_by(outbox.c.id)))

    def reissue(self, stage_id: int) -> None:
        """Let the relay create a new run: created is not done."""
        self._set(stage_id, dispatched_at=None, run_id=None, attempt=outbox.c.attempt + 1)
        self._direct.after_commit(WAKE)

    def reopen(self, subject: str, flow: str) -> None:
        """Let a stage run again that was done while something was missing."""
        self._connection.execute(
            update(outbox)
            .where(
                outbox.c.subject == subject, outbox.c.flow == flow, outbox.c.done_at.is_not(None)
            )
            .values(dispatched_at=None, started_at=None, done_at=None, attempt=outbox.c.attempt + 1)
        )
        self._direct.after_commit(WAKE)

    def of_study(self, subject: str) -> list[Row[Any]]:
        """Return every stage of a study, oldest first."""
        return list(
            self._connection.execute(
                select(outbox).where(outbox.c.subject == subject).order_by(outbox.c.id)
            )
        )

    def unfinished(self) -> int:
        """Return how many stages are not done."""
        return self._connection.execute(
            select(func.count()).select_from(outbox).where(outbox.c.done_at.is_(None))
        ).scalar_one()

    def backlog(self, late: timedelta) -> Row[Any]:
        """Return how many stages are waiting for a run, under way, and stuck longer than `late`.

        The row's columns are waiting, under_way, late, and oldest: since when the latest is stuck.
        """
        since = func.coalesce(outbox.c.dispatched_at, outbox.c.created_at)
        is_late = since < self._now - late
        return self._connection.execute(
            select(
                func.count().filter(outbox.c.dispatched_at.is_(None)).label("waiting"),
                func.count().filter(outbox.c.dispatched_at.is_not(None)).label("under_way"),
                func.count().filter(is_late).label("late"),
                func.min(since).filter(is_late).label("oldest"),
            ).where(outbox.c.done_at.is_(None))
        ).one()

    def _set(self, stage_id: int, **values: Any) -> None:
        self._connection.execute(update(outbox).where(outbox.c.id == stage_id).values(**values))


def _stage(row: Row[Any]) -> Stage:
    return Stage(
        id=row.id,
        flow=row.flow,
        subject=row.subject,
        version=row.version,
        queue=row.queue,
        attempt=row.attempt,
    )
