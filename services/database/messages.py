"""The message log: every message that came or went, as bytes, with its answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.dialects.postgresql import insert

from services.database.tables import message_log


class Messages:
    """Repository of the message log."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def find_inbound(self, sender: str, control_id: str, digest: str) -> Row[Any] | None:
        """Return the same message if it was received before, with the answer it got."""
        return self._connection.execute(
            select(message_log).where(
                message_log.c.direction == "in",
                message_log.c.sender == sender,
                message_log.c.control_id == control_id,
                message_log.c.digest == digest,
            )
        ).one_or_none()

    def add(self, *, direction: str, protocol: str, peer: str, raw: bytes, **values: Any) -> int:
        """Record a message; return its number in the log, or 0 if it is there already."""
        added = self._connection.execute(
            insert(message_log)
            .values(
                direction=direction, protocol=protocol, peer=peer, raw=raw, at=self._now, **values
            )
            .on_conflict_do_nothing()
            .returning(message_log.c.id)
        ).scalar_one_or_none()
        return int(added or 0)

    def answer(self, message_id: int, **values: Any) -> None:
        """Record what was answered to a message, or what became of it."""
        self._connection.execute(
            update(message_log).where(message_log.c.id == message_id).values(**values)
        )

    def get(self, message_id: int) -> Row[Any]:
        """Return one message with its bytes."""
        return self._connection.execute(
            select(message_log).where(message_log.c.id == message_id)
        ).one()

    def of_study(self, study_id: str) -> list[Row[Any]]:
        """Return the study's messages, without their bytes, oldest first."""
        columns = [c for c in message_log.c if c.name not in ("raw", "ack")]
        return list(
            self._connection.execute(
                select(*columns)
                .where(message_log.c.study_id == study_id)
                .order_by(message_log.c.id)
            )
        )

    def inbound_of(self, study_id: str) -> list[Row[Any]]:
        """Return the study's inbound HL7 messages with their bytes, oldest first."""
        return list(
            self._connection.execute(
                select(message_log)
                .where(
                    message_log.c.study_id == study_id,
                    message_log.c.direction == "in",
                    message_log.c.protocol == "hl7",
                )
                .order_by(message_log.c.id)
            )
        )
