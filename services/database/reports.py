"""Reports, version by version, and critical results."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.dialects.postgresql import insert

from models.lifecycle import ReportStatus
from models.report import Report
from services.database.tables import critical_result, report


class Reports:
    """Repository of `Report` and of critical results."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def get(self, report_id: str) -> Report:
        """Return the report version with this id."""
        return _report(
            self._connection.execute(select(report).where(report.c.id == report_id)).one()
        )

    def of_study(self, study_id: str) -> list[Report]:
        """Return the study's report versions, oldest first."""
        rows = self._connection.execute(
            select(report).where(report.c.study_id == study_id).order_by(report.c.version)
        )
        return [_report(row) for row in rows]

    def add(self, record: Report) -> None:
        """Record a signed version."""
        self._connection.execute(
            insert(report).values(
                id=record.id,
                study_id=record.study_id,
                version=record.version,
                status=record.status.value,
                findings=record.findings,
                impression=record.impression,
                author=record.author,
                signed_at=record.signed_at,
            )
        )

    def found_critical(self, study_id: str) -> bool:
        """Open a critical result; return False if it was open already."""
        added = self._connection.execute(
            insert(critical_result)
            .values(study_id=study_id, found_at=self._now)
            .on_conflict_do_nothing()
            .returning(critical_result.c.study_id)
        )
        return added.first() is not None

    def critical(self, study_id: str, *, lock: bool = False) -> Row[Any] | None:
        """Return the study's critical result, or None."""
        query = select(critical_result).where(critical_result.c.study_id == study_id)
        return self._connection.execute(query.with_for_update() if lock else query).one_or_none()

    def unacknowledged(self, notified_before: datetime) -> list[Row[Any]]:
        """Return critical results that nobody has acknowledged since `notified_before`."""
        return list(
            self._connection.execute(
                select(critical_result)
                .where(
                    critical_result.c.acknowledged_at.is_(None),
                    critical_result.c.notified_at < notified_before,
                )
                .order_by(critical_result.c.found_at)
            )
        )

    def change_critical(self, study_id: str, **values: Any) -> None:
        """Set columns of a critical result."""
        self._connection.execute(
            update(critical_result).where(critical_result.c.study_id == study_id).values(**values)
        )


def _report(row: Row[Any]) -> Report:
    return Report(
        id=row.id,
        study_id=row.study_id,
        version=row.version,
        status=ReportStatus(row.status),
        findings=row.findings,
        impression=row.impression,
        author=row.author,
        signed_at=row.signed_at,
    )
