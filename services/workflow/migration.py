"""Tier migration: planned by age, copied, read back, switched, and only then deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from models.lifecycle import MigrationEvent, MigrationState, StudyState, move
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import instance, migration
from services.database.tables import study as table
from services.settings import Settings

MOVABLE = tuple(s.value for s in (StudyState.FINAL, StudyState.DELIVERED, StudyState.DISCONTINUED))

_STEPS = (MigrationEvent.COPY, MigrationEvent.VERIFY, MigrationEvent.SWITCH)
_ROUNDS = 3
"""How often what arrived during the copying is copied too, before the next night has its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One study that is due for a colder tier."""

    study_id: str
    accession: str
    source: Tier
    target: Tier
    instances: int
    bytes: int


def plan_moves(store: Store, settings: Settings, as_of: datetime) -> list[Move]:
    """Return what would move at `as_of`; nothing is written. A legal hold keeps a study still."""
    steps = ((Tier.HOT, Tier.WARM, settings.hot_days), (Tier.WARM, Tier.COLD, settings.warm_days))
    moves = []
    with store() as uow:
        for source, target, days in steps:
            last_use = func.greatest(table.c.acquired_at, table.c.last_read_at)
            query = (
                select(
                    table.c.id,
                    table.c.accession,
                    func.count(instance.c.sop_uid).label("instances"),
                    func.sum(instance.c.size).label("bytes"),
                )
                .join_from(table, instance)
                .where(
                    table.c.tier == source.value,
                    table.c.state.in_(MOVABLE),
                    ~table.c.legal_hold,
                    last_use < as_of - timedelta(days=days),
                )
                .group_by(table.c.id)
                .order_by(last_use)
            )
            moves += [
                Move(
                    study_id=row.id,
                    accession=row.accession,
                    source=source,
                    target=target,
                    instances=row.instances,
                    bytes=int(row.bytes),
                )
                for row in uow.studies.select(query)
            ]
    return moves


def begin_moves(store: Store, settings: Settings, as_of: datetime) -> list[str]:
    """Open a migration for everything that is due; return every study with an open one."""
    planned = plan_moves(store, settings, as_of)
    with store() as uow:
        for step in planned:
            uow.studies.plan_migration(step.study_id, step.source, step.target)
        rows = uow.studies.select(
            select(migration.c.study_id).where(migration.c.state != MigrationState.DONE.value)
        )
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
