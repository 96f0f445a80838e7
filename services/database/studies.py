"""Studies, series, instances, performed steps and commitments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.finding import Finding
from models.lifecycle import StudyEvent, StudyState, move
from models.order_status import OrderStatus, status_change
from models.priority import Priority
from models.study import Instance, Study, new_id
from models.tier import Tier
from services.database.direct import Call, Direct, Prepared
from services.database.tables import (
    commitment,
    desk,
    finding,
    instance,
    migration,
    mpps,
    series,
)
from services.database.tables import study as table

READABLE = tuple(
    s.value
    for s in (
        StudyState.ACQUIRING,
        StudyState.ACQUIRED,
        StudyState.DISCONTINUED,
        StudyState.PRELIMINARY,
    )
)
"""States in which a study has images and no final report."""

_GET = select(table).where(table.c.id == bindparam("study"))
_FIND = select(table).where(table.c.study_uid == bindparam("uid"))
_GET_ONE, _LOCK_ONE = Prepared(_GET), Prepared(_GET.with_for_update())
_FIND_ONE, _LOCK_FOUND = Prepared(_FIND), Prepared(_FIND.with_for_update())
_NEW = (
    *("id", "study_uid", "order_id", "patient_id", "accession", "state", "priority"),
    *("description", "created_at"),
)
_ADD = Prepared(insert(table), _NEW)
_ENSURE = Prepared(insert(table).on_conflict_do_nothing(index_elements=["study_uid"]), _NEW)


class Studies:
    """Repository of `Study` and of everything that was acquired for it."""

    def __init__(
        self,
        connection: Connection,
        now: datetime,
        direct: Direct,
        *,
        on_status: Callable[[str, OrderStatus], None] = lambda _study, _status: None,
    ) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct
        self._on_status = on_status

    # --- the study itself

    def get(self, study_id: str, *, lock: bool = False) -> Study:
        """Return the study; with `lock`, nobody else changes it until this commit."""
        (row,) = self._direct.fetch((_LOCK_ONE if lock else _GET_ONE)(study=study_id))
        return _study(row)

    def find(self, study_uid: str, *, lock: bool = False) -> Study | None:
        """Return the study with this Study Instance UID, or None."""
        row = self._direct.first(self.finding(study_uid, lock=lock))
        return None if row is None else _study(row)

    def finding(self, study_uid: str, *, lock: bool = False) -> Call:
        """Return the question that `find` asks."""
        return (_LOCK_FOUND if lock else _FIND_ONE)(uid=study_uid)

    def find_by_accession(self, accession: str) -> list[Study]:
        """Return every study that carries this accession number."""
        rows = self._connection.execute(
            select(table).where(table.c.accession == accession).order_by(table.c.created_at)
        )
        return [_study(row) for row in rows]

    def priors(self, study_id: str, patient_id: str) -> list[Study]:
        """Return the patient's other studies that have images, newest first."""
        rows = self._connection.execute(
            select(table)
            .where(
                table.c.patient_id == patient_id,
                table.c.id != study_id,
                table.c.started_at.is_not(None),
            )
            .order_by(table.c.started_at.desc())
        )
        return [_study(row) for row in rows]

    def ensure(
        self,
        study_uid: str,
        *,
        state: StudyState,
        order_id: str | None = None,
        patient_id: str | None = None,
        accession: str = "",
        priority: Priority = Priority.ROUTINE,
        description: str = "",
    ) -> Study:
        """Return the study with this UID, created in `state` if it was unknown; locked."""
        self._direct.later(
            _ENSURE(
                id=new_id(),
                study_uid=study_uid,
                order_id=order_id,
                patient_id=patient_id,
                accession=accession,
                state=state.value,
                priority=int(priority),
                description=description,
                created_at=self._now,
            )
        )
        found = self.find(study_uid, lock=True)
        if found is None:
            raise LookupError("the study vanished inside its own transaction")
        return found

    def add(self, study: Study) -> None:
        """Add a study whose UID was not there; the COMMIT fails if somebody else was faster."""
        self._direct.later(
            _ADD(
                id=study.id,
                study_uid=study.study_uid,
                order_id=study.order_id,
                patient_id=study.patient_id,
                accession=study.accession,
                state=study.state.value,
                priority=int(study.priority),
                description=study.description,
                created_at=self._now,
            )
        )

    def move(self, study: Study, event: StudyEvent, **changes: Any) -> StudyState:
        """Apply `event` by the lifecycle table, with further column `changes`.

        A move that changes the status of the study's order is a thing to tell its placer.

        Raises
        ------
        IllegalMove
            If the table has no row for the study's state and `event`; nothing is changed.
        """
        after = move(study.state, event)
        self.change(study.id, state=after.value, **changes)
        status = status_change(study.state, event, after)
        if status is not None:
            self._on_status(study.id, status)
        return after

    def change(self, study_id: str, **changes: Any) -> None:
        """Set columns of the study row."""
        self._connection.execute(update(table).where(table.c.id == study_id).values(**changes))

    def row(self, study_id: str) -> Row[Any]:
        """Return the raw row, for pages that show columns the model does not carry."""
        return self._connection.execute(select(table).where(table.c.id == study_id)).one()

    def select(self, query: Select[Any]) -> list[Row[Any]]:
        """Run a reading query that belongs to one page alone."""
        return list(self._connection.execute(query))

    # --- instances

    def find_instance(self, sop_uid: str) -> Row[Any] | None:
        """Return the stored instance with this SOP Instance UID, or None."""
        return self._connection.execute(
            select(instance).where(instance.c.sop_uid == sop_uid)
        ).one_or_none()

    def add_instance(
        self,
        study_id: str,
        record: Instance,
        *,
        source_ae: str = "",
        modality: str = "",
        series_description: str = "",
        series_number: int | None = None,
        attributes: dict[str, Any] | None = None,
        series_attributes: dict[str, Any] | None = None,
        known_series: bool = False,
        apart: bool = False,
    ) -> bool:
        """File an instance and its series; return False if the UID was already there.

        With `apart`, its file says other study and series UIDs.
        """
        if not known_series:
            self._connection.execute(
                insert(series)
                .values(
                    series_uid=record.series_uid,
                    study_id=study_id,
                    modality=modality,
                    description=series_description,
                    number=series_number,
                    attributes=series_attributes or {},
                )
                .on_conflict_do_nothing()
            )
        added = self._connection.execute(
            insert(instance)
            .values(
                sop_uid=record.sop_uid,
                series_uid=record.series_uid,
                study_id=study_id,
                sop_class=record.sop_class,
                transfer_syntax=record.transfer_syntax,
                number=record.number,
                frames=record.frames,
                tier=record.tier.value,
                path=record.path,
                size=record.size,
                digest=record.digest,
                source_ae=source_ae,
                received_at=self._now,
                apart_at=self._now if apart else None,
                attributes=attributes or {},
            )
            .on_conflict_do_nothing()
            .returning(instance.c.sop_uid)
        )
        return added.first() is not None

    def instances(self, study_id: str) -> list[Row[Any]]:
        """Return the study's instances with their series' modality, in series and number order."""
        return list(
            self._connection.execute(
                select(
                    instance,
                    series.c.modality,
                    series.c.description.label("series_description"),
                    series.c.number.label("series_number"),
                )
                .join_from(instance, series)
                .where(instance.c.study_id == study_id)
                .order_by(series.c.number, series.c.series_uid, instance.c.number)
            )
        )

    def set_tier(self, study_id: str, tier: Tier, paths: Sequence[tuple[str, str]]) -> None:
        """Point the study and its instances, given as (SOP UID, path), to `tier`."""
        for sop_uid, path in paths:
            self._connection.execute(
                update(instance)
                .where(instance.c.sop_uid == sop_uid)
                .values(tier=tier.value, path=path)
            )
        self.change(study_id, tier=tier.value)

    # --- performed steps and commitment

    def find_mpps(self, sop_uid: str, *, lock: bool = False) -> Row[Any] | None:
        """Return the performed step with this SOP Instance UID, or None."""
        query = select(mpps).where(mpps.c.sop_uid == sop_uid)
        return self._connection.execute(query.with_for_update() if lock else query).one_or_none()

    def mpps_of(self, study_id: str) -> list[Row[Any]]:
        """Return the study's performed steps, oldest first."""
        return list(
            self._connection.execute(
                select(mpps).where(mpps.c.study_id == study_id).order_by(mpps.c.created_at)
            )
        )

    def add_mpps(self, sop_uid: str, study_id: str, **values: Any) -> None:
        """Create a performed step."""
        self._connection.execute(
            insert(mpps).values(sop_uid=sop_uid, study_id=study_id, created_at=self._now, **values)
        )

    def change_mpps(self, sop_uid: str, **values: Any) -> None:
        """Set columns of a performed step."""
        self._connection.execute(update(mpps).where(mpps.c.sop_uid == sop_uid).values(**values))

    def add_commitment(self, transaction_uid: str, **values: Any) -> bool:
        """Record a commitment request; return False if the Transaction UID was used before."""
        added = self._connection.execute(
            insert(commitment)
            .values(transaction_uid=transaction_uid, requested_at=self._now, **values)
            .on_conflict_do_nothing()
            .returning(commitment.c.transaction_uid)
        )
        return added.first() is not None

    def answer_commitment(self, transaction_uid: str) -> None:
        """Record that the requestor took the result."""
        self._connection.execute(
            update(commitment)
            .where(commitment.c.transaction_uid == transaction_uid)
            .values(answered_at=self._now)
        )

    def open_commitments(self, before: datetime) -> list[Row[Any]]:
        """Return commitments requested before `before` whose result nobody has taken."""
        return list(
            self._connection.execute(
                select(commitment).where(
                    commitment.c.answered_at.is_(None), commitment.c.requested_at < before
                )
            )
        )

    # --- findings, desk, migrations

    def add_finding(self, record: Finding) -> bool:
        """Record a finding; return False if this model had judged this version before."""
        added = self._connection.execute(
            insert(finding)
            .values(
                study_id=record.study_id,
                version=record.version,
                model=record.model,
                outcome=record.outcome.value,
                score=record.score,
                text=record.text,
                reason=record.reason,
                measurements=[
                    {"name": name, "value": value, "unit": unit}
                    for name, value, unit in record.measurements
                ],
                sr_sop_uid=record.sr_sop_uid,
                at=self._now,
            )
            .on_conflict_do_nothing()
            .returning(finding.c.study_id)
        )
        return added.first() is not None

    def findings(self, study_id: str) -> list[Row[Any]]:
        """Return the study's findings, newest version last."""
        return list(
            self._connection.execute(
                select(finding)
                .where(finding.c.study_id == study_id)
                .order_by(finding.c.version, finding.c.model)
            )
        )

    def to_desk(
        self,
        kind: str,
        subject: str,
        reason: str,
        *,
        study_id: str | None = None,
        evidence: dict[str, Any] | None = None,
        path: str | None = None,
    ) -> bool:
        """Put something that could not be placed safely on the desk; return False if it is there.

        The same kind of trouble with the same subject is one row, however often it is met.
        """
        added = self._connection.execute(
            insert(desk)
            .values(
                kind=kind,
                subject=subject,
                reason=reason,
                study_id=study_id,
                evidence=evidence or {},
                path=path,
                at=self._now,
            )
            .on_conflict_do_nothing()
            .returning(desk.c.id)
        )
        return added.first() is not None

    def desk(
        self, study_id: str | None = None, *, limit: int | None = None, offset: int = 0
    ) -> list[Row[Any]]:
        """Return what waits on the desk, oldest first."""
        waiting = desk.c.resolved_at.is_(None)
        query = select(desk).where(waiting).order_by(desk.c.at, desk.c.id)
        query = query.limit(limit).offset(offset)
        if study_id is not None:
            query = query.where(desk.c.study_id == study_id)
        return list(self._connection.execute(query))

    def desk_row(self, kind: str, subject: str) -> Row[Any] | None:
        """Return the row of this trouble, open or not, or None; locked, so that none decides it."""
        query = select(desk).where(desk.c.kind == kind, desk.c.subject == subject)
        return self._connection.execute(query.with_for_update()).one_or_none()

    def on_desk(self) -> int:
        """Return how much waits on the desk."""
        waiting = select(func.count()).select_from(desk).where(desk.c.resolved_at.is_(None))
        return int(self._connection.execute(waiting).scalar_one())

    def resolve_desk(self, study_id: str, kind: str, by: str) -> None:
        """Take the study's rows of one kind off the desk."""
        self._connection.execute(
            update(desk)
            .where(desk.c.study_id == study_id, desk.c.kind == kind, desk.c.resolved_at.is_(None))
            .values(resolved_at=self._now, resolved_by=by)
        )

    def open_migration(self, study_id: str, *, lock: bool = False) -> Row[Any] | None:
        """Return the study's unfinished migration, or None."""
        query = select(migration).where(
            migration.c.study_id == study_id, migration.c.state != "done"
        )
        return self._connection.execute(query.with_for_update() if lock else query).one_or_none()

    def plan_migration(self, study_id: str, source: Tier, target: Tier) -> None:
        """Open a migration unless one is open."""
        self._connection.execute(
            insert(migration)
            .values(
                study_id=study_id,
                source=source.value,
                target=target.value,
                state="planned",
                planned_at=self._now,
            )
            .on_conflict_do_nothing()
        )

    def change_migration(self, migration_id: int, **values: Any) -> None:
        """Set columns of a migration."""
        self._connection.execute(
            update(migration).where(migration.c.id == migration_id).values(**values)
        )


def _study(row: Any) -> Study:
    return Study(
        id=row.id,
        study_uid=row.study_uid,
        order_id=row.order_id,
        patient_id=row.patient_id,
        accession=row.accession,
        state=StudyState(row.state),
        priority=Priority(row.priority),
        description=row.description,
        version=row.version,
        tier=Tier(row.tier),
        started_at=row.started_at,
        ended_at=row.ended_at,
        acquired_at=row.acquired_at,
        triage=row.triage,
        legal_hold=row.legal_hold,
    )
