"""The relay process: what a commit announced becomes a flow run, one after the other."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta

import httpx
import psycopg
import structlog
from prefect import get_client
from prefect.client.orchestration import PrefectClient

from deployments.applying import apply
from deployments.catalogue import catalogue_for, load_flows
from models.events import Stage
from services import relay
from services.database.outbox import CHANNEL
from services.database.store import Store
from services.settings import Settings
from services.workflow.reconcile import Open, reissue
from services.workflow.status import announce_due

log = structlog.get_logger()
_LOOK_S = 1.0
"""Longest pause between two looks at the outbox; a notification ends it at once."""
_GATHERING = timedelta(seconds=5)
"""How long changes of orders' status are gathered before one run tells the placer of them all."""


async def main(settings: Settings) -> None:
    """Apply the catalogue, start again what a crash left behind, then relay until SIGTERM."""
    store = Store(settings, pool_size=2)
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with get_client() as client:
            await _patiently_apply(client, settings)
            await restart_interrupted(client, store)
            await relay_forever(client, store, settings)
    except asyncio.CancelledError:
        log.info("relay.stopped")
    finally:
        store.close()


async def restart_interrupted(client: PrefectClient, store: Store) -> int:
    """Start again every stage whose run was under way when the installation went down."""
    with store() as uow:
        stages = [Open(id=row.id, run_id=row.run_id) for row in uow.outbox.open()]
    states = await relay.run_states(client, [s.run_id for s in stages if s.run_id])
    # Waiting runs are taken by the new workers; one that was running has nobody any more. Stages
    # are idempotent, so that a worker which survived us does no harm.
    alive = {run: s.type for run, s in states.items() if s.type == "SCHEDULED"}
    count = reissue(store, stages, alive)
    log.info("relay.restarted", stages=count)
    return count


async def relay_forever(client: PrefectClient, store: Store, settings: Settings) -> None:
    """Create a flow run for every pending stage, the most urgent first."""
    url = settings.store_url.replace("postgresql+psycopg://", "postgresql://", 1)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listening:
        await listening.execute(f"LISTEN {CHANNEL}")
        while True:
            # One at a time: a critical study must not wait for a batch that came before it.
            with store() as uow:
                if settings.status_destination is not None:
                    announce_due(uow, _GATHERING)
                pending = uow.outbox.pending(1)
            for stage in pending:
                await _start(client, store, settings, stage)
            if not pending:
                async for _ in listening.notifies(timeout=_LOOK_S, stop_after=1):
                    break


async def _start(client: PrefectClient, store: Store, settings: Settings, stage: Stage) -> None:
    try:
        run_id = await relay.start_run(
            client,
            deployment=stage.flow,
            queue=stage.queue,
            subject=f"{stage.subject}:{stage.version}",
            idempotency_key=stage.key,
            tags=(stage.flow, stage.queue, "MR", settings.site),
            name=f"{stage.flow} {stage.subject[:4]}",
        )
    except relay.RelayUnavailable as error:
        log.warning("relay.waiting", reason=str(error))
        await asyncio.sleep(_LOOK_S)
        return
    with store() as uow:
        uow.outbox.dispatched(stage, run_id)


async def _patiently_apply(client: PrefectClient, settings: Settings) -> None:
    while True:
        try:
            changes = await apply(client, flows=load_flows(), catalogue=catalogue_for(settings))
        except httpx.HTTPError as error:
            log.info("relay.waiting_for_prefect", reason=type(error).__name__)
            await asyncio.sleep(_LOOK_S)
        else:
            log.info("relay.catalogue_applied", changes=len(changes))
            return
