"""Tasks that belong to no single study."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from prefect import get_client, task
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from services import relay
from services.database.tables import kpi, report
from services.database.tables import study as table
from services.workflow.lanes import judge_lanes
from services.workflow.patients import fill_index
from services.workflow.reconcile import find_open, reissue
from services.workflow.retention import tend_messages
from tasks.parts import parts
from tasks.stages import PATIENT
from tasks.sweeper import sweep


@task(name="restart stuck stages", **PATIENT)
async def restart_stuck() -> int:
    """Start again what was handed to Prefect and ended there without being done."""
    p = parts()
    async with get_client() as client:
        # A run whose worker was killed stays Running in Prefect until somebody ends it.
        await sweep(client, now=datetime.now(UTC))
        stages = await asyncio.to_thread(find_open, p.store, p.settings)
        if not stages:
            return 0
        states = await relay.run_states(client, [s.run_id for s in stages if s.run_id])
    types = {run_id: state.type for run_id, state in states.items()}
    return await asyncio.to_thread(reissue, p.store, stages, types)


@task(name="judge lanes", **PATIENT)
async def watch_lanes() -> int:
    """Tell of each lane that has broken or is well again since the last sweep."""
    p = parts()
    return len(await asyncio.to_thread(judge_lanes, p.store, p.settings))


@task(name="keep the message store in bounds", **PATIENT)
async def tend_message_store() -> None:
    """Make the coming months' parts of the message log and drop those whose time is over."""
    p = parts()
    await asyncio.to_thread(tend_messages, p.store, p.settings)


@task(name="fill the patient index", **PATIENT)
async def fill_patient_index() -> int:
    """File the records that were saved before there was a patient index."""
    p = parts()
    return await asyncio.to_thread(fill_index, p.store)


@task(name="write key figures", **PATIENT)
async def write_kpis() -> None:
    """Write today's median minutes from acquisition to signature, per STANDARDS §10."""

    def write() -> None:
        with parts().store() as uow:
            minutes = func.extract("epoch", report.c.signed_at - table.c.acquired_at) / 60
            row = uow.connection.execute(
                select(
                    func.percentile_cont(0.5).within_group(minutes).label("median"),
                    func.count().label("count"),
                )
                .join_from(report, table)
                .where(func.date(report.c.signed_at) == uow.now.date(), report.c.status == "final")
            ).one()
            values = {"value": row.median or 0.0, "count": row.count}
            uow.connection.execute(
                insert(kpi)
                .values(day=uow.now.date(), name="report_tat_median_min", **values)
                .on_conflict_do_update(index_elements=["day", "name"], set_=values)
            )

    await asyncio.to_thread(write)
