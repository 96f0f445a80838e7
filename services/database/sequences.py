"""The sequence number protocol's memory: which number of each sender was taken last."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from services.database.tables import hl7_sequence


class Sequences:
    """Repository of the last accepted MSH-13 of each sender."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def expected(self, sender: str) -> int | None:
        """Return the number that is due, locked until the end; None takes whatever comes.

        A sender never heard of begins with 1.
        """
        self._connection.execute(
            insert(hl7_sequence).values(sender=sender, last=0).on_conflict_do_nothing()
        )
        last = self._connection.execute(
            select(hl7_sequence.c.last).where(hl7_sequence.c.sender == sender).with_for_update()
        ).scalar_one()
        return None if last is None else int(last) + 1

    def take(self, sender: str, number: int | None) -> None:
        """Remember `number` as the last one; None forgets it."""
        self._connection.execute(
            hl7_sequence.update().where(hl7_sequence.c.sender == sender).values(last=number)
        )
