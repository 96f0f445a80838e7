"""Tier migration: planned by age, copied, read back, switched, and only then deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, exists, func, select

from models.lifecycle import MigrationEvent, MigrationState, StudyState, move
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import instance, migration
from services.database.tables import study as table
from services.settings import Settings

MOVABLE = tuple(s.value for s in (StudyState.FINAL, StudyState.DELIVERED, StudyState.DISCONTINUED))

_UNFINISHED = migration.c.state != MigrationState.DONE.value
_STEPS = (MigrationEvent.COPY, MigrationEvent.VERIFY, MigrationEvent.SWITCH)
_ROUNDS = 3
"""How often what arrived during the copying is copied too, before the next night has its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One study that is due for a colder tier, or on its way there.

    Attributes
    ----------
    bytes
        What is not on the target yet.
    reason
        Why it moves, in words for people.
    held
        Why it does not move although it is due; empty where nothing holds it back.
    """

    study_id: str
    accession: str
    study_uid: str
    source: Tier
    target: Tier
    instances: int
    bytes: int
    reason: str
    held: str = ""


def plan_moves(store: Store, settings: Settings, as_of: datetime) -> list[Move]:
    """Return what would move at `as_of`; nothing is written. A legal hold keeps a study still."""
    return [due for due in plan(store, settings, as_of) if not due.held]


def plan(store: Store, settings: Settings, as_of: datetime) -> list[Move]:
    """Return what is due for a colder tier at `as_of`, also what is held back; nothing is written.

    A migration that was begun and not finished goes on, whatever the study's age has become.
    """
    return [
        *_due(store, Tier.HOT, Tier.WARM, settings.hot_days, as_of),
        *_due(store, Tier.WARM, Tier.COLD, settings.warm_days, as_of),
        *_under_way(store),
    ]


def _due(store: Store, source: Tier, target: Tier, days: int, as_of: datetime) -> list[Move]:
    last_use = func.greatest(table.c.acquired_at, table.c.last_read_at)
    rows = _selected(
        store,
        target,
        table.c.tier == source.value,
        last_use < as_of - timedelta(days=days),
        ~exists().where(migration.c.study_id == table.c.id, _UNFINISHED),
    )
    moves = []
    for row in rows:
        reason = f"unused for {(as_of - row.last_use).days} days, {source} keeps {days}"
        held = "" if row.state in MOVABLE else f"not reported: {row.state}"
        if row.legal_hold:
            held = "legal hold"
        moves.append(_move(row, source, target, reason, held))
    return moves


def _under_way(store: Store) -> list[Move]:
    with store() as uow:
        jobs = uow.studies.select(select(migration).where(_UNFINISHED))
    moves = []
    for target in (Tier.WARM, Tier.COLD):
        open_jobs = {job.study_id: job for job in jobs if job.target == target.value}
        for row in _selected(store, target, table.c.id.in_(open_jobs)):
            job = open_jobs[row.id]
            reason = f"begun on {job.planned_at:%Y-%m-%d}, {job.state}"
            held = "legal hold" if row.legal_hold else ""
            moves.append(_move(row, Tier(job.source), target, reason, held))
    return moves


def _selected(store: Store, target: Tier, *conditions: Any) -> list[Row[Any]]:
    last_use = func.greatest(table.c.acquired_at, table.c.last_read_at)
    missing = func.coalesce(func.sum(instance.c.size).filter(instance.c.tier != target.value), 0)
    query = (
        select(
            *(table.c[n] for n in ("id", "accession", "study_uid", "state", "legal_hold")),
            last_use.label("last_use"),
            func.count(instance.c.sop_uid).label("instances"),
            missing.label("bytes"),
        )
        .join_from(table, instance)
        .where(*conditions)
        .group_by(table.c.id)
        .order_by(last_use)
    )
    with store() as uow:
        return uow.studies.select(query)


def _move(row: Row[Any], source: Tier, target: Tier, reason: str, held: str) -> Move:
    return Move(
        study_id=row.id,
        accession=row.accession,
        study_uid=row.study_uid,
        source=source,
        target=target,
        instances=row.instances,
        bytes=int(row.bytes),
        reason=reason,
        held=held,
    )


def begin_moves(store: Store, settings: Settings, as_of: datetime) -> list[str]:
    """Open a migration for everything that is due; return every study with an open one."""
    planned = plan_moves(store, settings, as_of)
    with store() as uow:
        for step in planned:
            uow.studies.plan_migration(step.study_id, step.source, step.target)
        rows = uow.studies.select(select(migration.c.study_id).where(_UNFINISHED))
    return [str(row.study_id) for row in rows]


def migrate(store: Store, tiers: Tiers, study_id: str) -> str:
    """Take a study's open migration to its end from wherever it stands; return the tier.

    Every file is copied from the tier on which it lies and read back, also after a crash: a copy
    that is there and reads back well costs one reading. Only a file whose pointer says that it
    lies on the target is deleted elsewhere, so that an image which arrived meanwhile stays. A
    legal hold stops it before the pointer is switched and before anything is deleted.

    Raises
    ------
    DamagedCopy
        If a copy does not read back as its original; the source is untouched.
    """
    with store() as uow:
        job = uow.studies.open_migration(study_id)
        tier = uow.studies.get(study_id).tier
    if job is None:
        return tier.value
    target, state = Tier(job.target), MigrationState(job.state)
    if state is not MigrationState.SWITCHED and not _bring_down(store, tiers, study_id, job.id):
        return tier.value
    with store() as uow:
        if uow.studies.get(study_id).legal_hold:
            return target.value
        moved = [f for f in uow.studies.instances(study_id) if f.tier == target.value]
    warmer = list(Tier)[: list(Tier).index(target)]
    for file in moved:
        for above in warmer:
            tiers.delete(above, file.path)
    with store() as uow:
        after = move(MigrationState.SWITCHED, MigrationEvent.DELETE)
        uow.studies.change_migration(job.id, state=after.value, done_at=uow.now)
    return target.value


def _bring_down(store: Store, tiers: Tiers, study_id: str, job_id: int) -> bool:
    """Copy, read back and switch; return False if the study is held or images keep arriving."""
    for _ in range(_ROUNDS):
        with store() as uow:
            job = uow.studies.open_migration(study_id)
            held = uow.studies.get(study_id).legal_hold
            files = uow.studies.instances(study_id)
        if job is None or held:
            return False
        target, state = Tier(job.target), MigrationState(job.state)
        for file in files:
            if file.tier != target.value:
                tiers.copy(Tier(file.tier), target, file.path, file.digest)
        with store() as uow:
            # The lock keeps an arriving image out until the pointer is switched.
            study = uow.studies.get(study_id, lock=True)
            if study.legal_hold:
                return False
            arrived = {f.sop_uid for f in uow.studies.instances(study_id)}
            if arrived != {f.sop_uid for f in files}:
                continue
            for event in _STEPS[list(MigrationState).index(state) :]:
                state = move(state, event)
            uow.studies.set_tier(study_id, target, [(f.sop_uid, f.path) for f in files])
            uow.studies.change_migration(job_id, state=state.value)
            uow.timeline.add(
                study_id,
                "study.migrated",
                f"{len(files)} instances verified on {target.value}, moved from {study.tier.value}",
                bytes=sum(f.size for f in files),
            )
        return True
    return False
