"""Tier migration: planned by age, copied, read back, switched, and only then deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from models.lifecycle import MigrationEvent, MigrationState, StudyState, move
from models.tier import Tier
from services.archive.tiers import DamagedCopy, Tiers
from services.database.store import Store
from services.database.tables import instance, migration
from services.database.tables import study as table
from services.settings import Settings

MOVABLE = tuple(s.value for s in (StudyState.FINAL, StudyState.DELIVERED, StudyState.DISCONTINUED))


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

    Raises
    ------
    DamagedCopy
        If a copy does not read back as its original; the source is untouched.
    """
    with store() as uow:
        job = uow.studies.open_migration(study_id)
        files = uow.studies.instances(study_id)
        tier = uow.studies.get(study_id).tier
    if job is None:
        return tier.value
    source, target, state = Tier(job.source), Tier(job.target), MigrationState(job.state)

    def reached(event: MigrationEvent) -> MigrationState:
        after = move(state, event)
        with store() as uow:
            uow.studies.change_migration(job.id, state=after.value)
        return after

    if state is MigrationState.PLANNED:
        tiers.copy_all(source, target, [(f.path, f.digest) for f in files])
        state = reached(MigrationEvent.COPY)
    if state is MigrationState.COPIED:
        damaged = [f for f in files if not tiers.verify(target, f.path, f.digest)]
        if damaged:
            raise DamagedCopy(f"{len(damaged)} of {len(files)} copies do not read back")
        state = reached(MigrationEvent.VERIFY)
    if state is MigrationState.VERIFIED:
        with store() as uow:
            # What arrived meanwhile lies on the hot tier and was not copied: start over.
            study = uow.studies.get(study_id, lock=True)
            now_there = {f.sop_uid for f in uow.studies.instances(study.id)}
            if now_there != {f.sop_uid for f in files}:
                uow.studies.change_migration(job.id, state=MigrationState.PLANNED.value)
                return source.value
            uow.studies.set_tier(study_id, target, [(f.sop_uid, f.path) for f in files])
            state = move(state, MigrationEvent.SWITCH)
            uow.studies.change_migration(job.id, state=state.value)
            uow.timeline.add(
                study_id,
                "study.migrated",
                f"{len(files)} instances verified on {target.value}, moved from {source.value}",
                bytes=sum(f.size for f in files),
            )
    for file in files:
        tiers.delete(source, file.path)
    with store() as uow:
        after = move(state, MigrationEvent.DELETE)
        uow.studies.change_migration(job.id, state=after.value, done_at=uow.now)
    return target.value
