"""What the placers of orders are told of their status, change by change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, text, update

from models.order_status import OrderStatus
from services.database.direct import Direct, Prepared
from services.database.outbox import WAKE
from services.database.tables import status_notice as table

_TELL = Prepared(
    text(
        """
        INSERT INTO status_notice
            (study_id, sequence, order_status, result_status, words, start_at, at, state)
        SELECT study.id, coalesce(last.sequence, 0) + 1, said.order_status, said.result_status,
               CAST(:words AS text), planned.start_at, CAST(:at AS timestamptz), 'due'
        FROM study
        CROSS JOIN (
            SELECT CAST(:order_status AS text) AS order_status,
                   CAST(:result_status AS text) AS result_status
        ) AS said
        CROSS JOIN LATERAL (
            SELECT min(start_at) AS start_at FROM scheduled_step
            WHERE order_id = study.order_id AND status <> 'UNBOOKED'
        ) AS planned
        LEFT JOIN LATERAL (
            SELECT * FROM status_notice WHERE study_id = study.id ORDER BY sequence DESC LIMIT 1
        ) AS last ON true
        WHERE study.id = :study_id AND study.order_id IS NOT NULL
          AND (last.order_status, last.result_status, last.start_at)
              IS DISTINCT FROM (said.order_status, said.result_status, planned.start_at)
        """
    )
)
_SENDING = text("SELECT pg_try_advisory_xact_lock(hashtext('spinecho status'))")


class Notices:
    """Repository of notices; with `enabled` false nothing is ever written."""

    def __init__(
        self, connection: Connection, now: datetime, direct: Direct, *, enabled: bool
    ) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct
        self._enabled = enabled

    def tell(self, study_id: str, status: OrderStatus) -> None:
        """Write down that the placer is to be told where its order stands.

        Nothing is written for a study without an order, nor when the same status and start were
        told last. One statement, which also wakes the relay. The caller holds the study's lock,
        so that the sequence has neither gaps nor forks.
        """
        if not self._enabled:
            return
        self._direct.later(
            _TELL(
                study_id=study_id,
                order_status=status.order,
                result_status=status.result,
                words=status.words,
                at=self._now,
            )
        )
        self._direct.after_commit(WAKE)

    def claim_sending(self) -> bool:
        """Return whether this transaction alone may send; false if another one is sending."""
        return bool(self._connection.scalar(_SENDING))

    def oldest_due(self) -> Row[Any] | None:
        """Return the oldest notice that was not told yet, or None."""
        return self._connection.execute(
            select(table.c.id, table.c.at)
            .where(table.c.state == "due")
            .order_by(table.c.id)
            .limit(1)
        ).first()

    def due(self, limit: int) -> list[Row[Any]]:
        """Lock and return the oldest notices that were not told yet."""
        return list(
            self._connection.execute(
                select(table)
                .where(table.c.state == "due")
                .order_by(table.c.id)
                .limit(limit)
                .with_for_update()
            )
        )

    def count_due(self) -> int:
        """Return how many notices were not told yet."""
        return self._connection.execute(
            select(func.count()).select_from(table).where(table.c.state == "due")
        ).scalar_one()

    def get(self, notice_id: int) -> Row[Any]:
        """Lock and return one notice."""
        return self._connection.execute(
            select(table).where(table.c.id == notice_id).with_for_update()
        ).one()

    def change(self, notice_id: int, **values: Any) -> None:
        """Set columns of a notice."""
        self._connection.execute(update(table).where(table.c.id == notice_id).values(**values))

    def of_study(self, study_id: str) -> Sequence[Row[Any]]:
        """Return the study's notices, oldest first."""
        return self._connection.execute(
            select(table).where(table.c.study_id == study_id).order_by(table.c.sequence)
        ).all()
