"""The message log: every message that came or went, as bytes, with its answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Sequence, bindparam, insert, select, update

from services.database.direct import Call, Direct, Prepared
from services.database.tables import message_log

_NUMBER = Prepared(
    select(Sequence("message_log_id_seq", data_type=BigInteger).next_value().label("number"))
)
_KNOWN = Prepared(
    select(message_log).where(
        message_log.c.direction == "in",
        message_log.c.sender == bindparam("from_"),
        message_log.c.control_id == bindparam("named"),
        message_log.c.digest == bindparam("sha256"),
    )
)
_ADD = Prepared(insert(message_log), [column.name for column in message_log.c])


class Messages:
    """Repository of the message log."""

    def __init__(self, connection: Connection, now: datetime, direct: Direct) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct

    def number(self) -> int:
        """Return a number for a message that is to be added."""
        (row,) = self._direct.draw(_NUMBER())
        return int(row.number)

    def finding(self, sender: str, control_id: str, digest: str) -> list[Call]:
        """Return the questions that `number` and `find_inbound` ask."""
        return [_NUMBER(), _KNOWN(from_=sender, named=control_id, sha256=digest)]

    def find_inbound(self, sender: str, control_id: str, digest: str) -> Any | None:
        """Return the same message if it was received before, with the answer it got."""
        return self._direct.first(_KNOWN(from_=sender, named=control_id, sha256=digest))

    def add(
        self,
        number: int | None = None,
        *,
        direction: str,
        protocol: str,
        peer: str,
        raw: bytes,
        **values: Any,
    ) -> int:
        """Record a message; return its number in the log.

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            With the COMMIT, if the same inbound message was recorded at the same moment.
        """
        number = self.number() if number is None else number
        texts = {"sender": "", "control_id": "", "type": ""}
        self._direct.later(
            _ADD(
                id=number,
                direction=direction,
                protocol=protocol,
                peer=peer,
                raw=raw,
                at=self._now,
                **(texts | values),
            )
        )
        return number

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
