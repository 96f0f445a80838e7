"""Results of other systems."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from models.external_result import ExternalResult
from services.database.tables import external_result


class ExternalResults:
    """Repository of `ExternalResult`."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def add(
        self, record: ExternalResult, *, study_id: str | None, message_id: int, position: int
    ) -> None:
        """Record a result, with the study it belongs to where that is certain."""
        self._connection.execute(
            insert(external_result).values(
                study_id=study_id,
                study_uid=record.study_uid,
                accession=record.accession,
                placer_number=record.placer_number,
                filler_number=record.filler_number,
                sender=record.sender,
                status=record.status,
                procedure=record.procedure,
                author=record.author,
                critical=record.critical,
                observed_at=record.observed_at,
                message_id=message_id,
                position=position,
                received_at=self._now,
            )
        )

    def of_study(self, study_id: str) -> list[Row[Any]]:
        """Return the study's results from elsewhere, oldest first."""
        return list(
            self._connection.execute(
                select(external_result)
                .where(external_result.c.study_id == study_id)
                .order_by(external_result.c.id)
            )
        )
