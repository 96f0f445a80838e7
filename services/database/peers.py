"""The application entities that we know by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert

from services.database.tables import ae_peer


class Peers:
    """Repository of registered application entities: who is served off loopback, and where."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def find(self, ae_title: str) -> Row[Any] | None:
        """Return the peer with this AE title, or None."""
        return self._connection.execute(
            select(ae_peer).where(ae_peer.c.ae_title == ae_title)
        ).one_or_none()

    def save(self, ae_title: str, host: str, port: int) -> None:
        """Register a peer, or change its address."""
        values = {"host": host, "port": port, "seen_at": self._now}
        self._connection.execute(
            insert(ae_peer)
            .values(ae_title=ae_title, **values)
            .on_conflict_do_update(index_elements=["ae_title"], set_=values)
        )
