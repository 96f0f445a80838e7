"""FHIR resources as they came, and the versions of those that are shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert

from services.database.tables import fhir_resource

_OWN = fhir_resource.c


class Resources:
    """Repository of FHIR resources."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def find(self, kind: str, identity: str, *, lock: bool = False) -> Row[Any] | None:
        """Return the row of a resource, or None."""
        query = select(fhir_resource).where(_OWN.kind == kind, _OWN.id == identity)
        return self._connection.execute(query.with_for_update() if lock else query).one_or_none()

    def save(
        self,
        kind: str,
        identity: str,
        *,
        content: str,
        release: str,
        digest: bytes,
        identifiers: Iterable[str],
    ) -> None:
        """Keep a resource as it came, in place of what came before."""
        values = {
            "content": content,
            "release": release,
            "digest": digest,
            "identifiers": list(identifiers),
        }
        new = insert(fhir_resource).values(kind=kind, id=identity, updated_at=self._now, **values)
        self._connection.execute(
            new.on_conflict_do_update(index_elements=["kind", "id"], set_=values)
        )

    def version(self, kind: str, identity: str, shown: bytes) -> tuple[int, datetime]:
        """Return the version of what is shown, and since when it is shown like this.

        Parameters
        ----------
        shown : bytes
            Digest of what is shown; another one than before is the next version, whoever changed
            whatever it is made of.
        """
        known = self.find(kind, identity)
        if known is not None and known.shown == shown:
            return known.version, known.updated_at
        new = insert(fhir_resource).values(
            kind=kind, id=identity, version=1, shown=shown, updated_at=self._now
        )
        row = self._connection.execute(
            new.on_conflict_do_update(
                index_elements=["kind", "id"],
                set_={"version": _OWN.version + 1, "shown": shown, "updated_at": self._now},
            ).returning(_OWN.version, _OWN.updated_at)
        ).one()
        return row.version, row.updated_at

    def identified(self, kind: str, identifier: str) -> list[str]:
        """Return the ids of the resources that came with an identifier, ``system|value``."""
        rows = self._connection.execute(
            select(_OWN.id)
            .where(_OWN.kind == kind, _OWN.identifiers.contains([identifier]))
            .order_by(_OWN.id)
        )
        return [str(row.id) for row in rows]

    def same(self, kind: str, digest: bytes) -> str | None:
        """Return the id of a resource that came with the same content, or None."""
        return self._connection.execute(
            select(_OWN.id)
            .where(_OWN.kind == kind, _OWN.digest == digest)
            .order_by(_OWN.id)
            .limit(1)
        ).scalar_one_or_none()

    def claim(self, what: str) -> None:
        """Wait until nobody else is about to create the same thing."""
        number = int.from_bytes(sha256(what.encode()).digest()[:8], "big", signed=True)
        self._connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (number,))
