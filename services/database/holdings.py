"""What the archive holds besides a study's own files, and what was promised about it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.lifecycle import StudyState
from models.tier import Tier
from services.database.tables import commitment, instance, quarantine, series, study


class Holdings:
    """Repository of quarantined files, and of questions about many instances at once."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def series_owner(self, series_uid: str) -> str | None:
        """Return the id of the study that this series belongs to, or None."""
        owner: str | None = self._connection.execute(
            select(series.c.study_id).where(series.c.series_uid == series_uid)
        ).scalar_one_or_none()
        return owner

    def repoint(self, sop_uid: str, tier: Tier, path: str) -> None:
        """Point one instance to a file that was received again."""
        self._connection.execute(
            update(instance).where(instance.c.sop_uid == sop_uid).values(tier=tier.value, path=path)
        )

    def from_others(self, study_id: str, own_ae: str) -> list[Row[Any]]:
        """Return (sop_uid, received_at) of the instances that we did not make ourselves."""
        return list(
            self._connection.execute(
                select(instance.c.sop_uid, instance.c.received_at).where(
                    instance.c.study_id == study_id, instance.c.source_ae != own_ae
                )
            )
        )

    def unjudged(self, own_ae: str, quiet_since: datetime) -> list[str]:
        """Return studies silent since `quiet_since` and not, or no longer, judged complete."""
        received = (
            select(
                instance.c.study_id,
                func.count().label("count"),
                func.max(instance.c.received_at).label("newest"),
            )
            .where(instance.c.source_ae != own_ae)
            .group_by(instance.c.study_id)
            .subquery()
        )
        rows = self._connection.execute(
            select(study.c.id)
            .outerjoin(received, received.c.study_id == study.c.id)
            .where(
                or_(received.c.newest.is_(None), received.c.newest < quiet_since),
                or_(
                    study.c.state == StudyState.ACQUIRING.value,
                    and_(received.c.count.is_not(None), received.c.count != study.c.judged),
                ),
            )
            .order_by(study.c.priority, study.c.created_at)
        )
        return [str(row.id) for row in rows]

    # --- quarantine

    def find_kept(self, sop_uid: str, digest: str) -> Row[Any] | None:
        """Return the quarantined file with this UID and content, or None."""
        return self._connection.execute(
            select(quarantine).where(quarantine.c.sop_uid == sop_uid, quarantine.c.digest == digest)
        ).one_or_none()

    def keep(self, sop_uid: str, digest: str, **values: Any) -> bool:
        """Record a quarantined file; return False if this UID and content is there already."""
        added = self._connection.execute(
            insert(quarantine)
            .values(sop_uid=sop_uid, digest=digest, received_at=self._now, **values)
            .on_conflict_do_nothing()
            .returning(quarantine.c.sop_uid)
        )
        return added.first() is not None

    # --- commitment

    def stored(self, sop_uids: Iterable[str]) -> dict[str, Row[Any]]:
        """Return the filed instances among `sop_uids`, by UID."""
        rows = self._connection.execute(
            select(instance).where(instance.c.sop_uid.in_(set(sop_uids)))
        )
        return {row.sop_uid: row for row in rows}

    def kept(self, sop_uids: Iterable[str]) -> dict[str, Row[Any]]:
        """Return the quarantined files among `sop_uids`, by UID; of several the newest."""
        rows = self._connection.execute(
            select(quarantine)
            .where(quarantine.c.sop_uid.in_(set(sop_uids)))
            .order_by(quarantine.c.received_at)
        )
        return {row.sop_uid: row for row in rows}

    def commitment(self, transaction_uid: str) -> Row[Any] | None:
        """Return the commitment request with this Transaction UID, or None."""
        return self._connection.execute(
            select(commitment).where(commitment.c.transaction_uid == transaction_uid)
        ).one_or_none()

    def judge_commitment(self, transaction_uid: str, failed: list[dict[str, Any]]) -> None:
        """Record which references could not be committed to, and why."""
        self._connection.execute(
            update(commitment)
            .where(commitment.c.transaction_uid == transaction_uid)
            .values(failed=failed)
        )
