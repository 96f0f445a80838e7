"""What was sent where, and the proof that it was accepted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from services.database.tables import delivery, message_log, report, study

SETTLED = ("accepted", "rejected", "superseded")
"""States after which a delivery is never sent again by itself."""


class Deliveries:
    """Repository of deliveries, one per report version and destination."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def plan(self, report_id: str, destination: str, control_id: str) -> None:
        """Open a delivery unless it is open; its control id never changes afterwards."""
        self._connection.execute(
            insert(delivery)
            .values(
                report_id=report_id,
                destination=destination,
                control_id=control_id,
                state="planned",
            )
            .on_conflict_do_nothing()
        )

    def claim(self, report_id: str, destination: str) -> Row[Any] | None:
        """Lock a delivery for sending; None if it is settled or somebody else is sending it."""
        return self._connection.execute(
            select(delivery)
            .where(
                delivery.c.report_id == report_id,
                delivery.c.destination == destination,
                delivery.c.state.not_in(SETTLED),
            )
            .with_for_update(skip_locked=True)
        ).one_or_none()

    def get(self, report_id: str, destination: str, *, lock: bool = False) -> Row[Any]:
        """Return one delivery; with `lock`, nobody is sending it, nor does until this commit."""
        query = select(delivery).where(
            delivery.c.report_id == report_id, delivery.c.destination == destination
        )
        return self._connection.execute(query.with_for_update() if lock else query).one()

    def change(self, report_id: str, destination: str, **values: Any) -> None:
        """Set columns of a delivery."""
        self._connection.execute(
            update(delivery)
            .where(delivery.c.report_id == report_id, delivery.c.destination == destination)
            .values(**values)
        )

    def begun(self, study_ids: Iterable[str]) -> list[Row[Any]]:
        """Return the study_id, priority and newest version of every study with a delivery."""
        return list(
            self._connection.execute(
                select(
                    report.c.study_id, study.c.priority, func.max(report.c.version).label("version")
                )
                .select_from(delivery)
                .join(report, report.c.id == delivery.c.report_id)
                .join(study, study.c.id == report.c.study_id)
                .where(report.c.study_id.in_(list(study_ids)))
                .group_by(report.c.study_id, study.c.priority)
            )
        )

    def undelivered(self) -> list[Row[Any]]:
        """Return the deliveries that were tried and are not settled, with their message's type."""
        return list(
            self._connection.execute(
                select(
                    delivery,
                    message_log.c.type,
                    message_log.c.received_at.label("first_at"),
                )
                .join(message_log, message_log.c.id == delivery.c.message_id)
                .where(delivery.c.state.not_in(SETTLED), delivery.c.attempts > 0)
            )
        )

    def of_study(self, study_id: str) -> list[Row[Any]]:
        """Return the study's deliveries with their report version, oldest first."""
        return list(
            self._connection.execute(
                select(delivery, report.c.version, report.c.status.label("report_status"))
                .join_from(delivery, report)
                .where(report.c.study_id == study_id)
                .order_by(report.c.version, delivery.c.destination)
            )
        )
