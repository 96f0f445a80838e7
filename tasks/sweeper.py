"""Runs that ended without saying so are found, ended, and named for a new attempt.

Prefect re-runs nothing by itself: a killed flow is Crashed for ever, a killed worker leaves
Pending or Running for ever. The sweeper looks at Prefect only; what a found run means for a study,
and whether it was started again already, is decided by the caller over our own database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.states import Crashed

from services import relay

PENDING_LIMIT = timedelta(seconds=60)
SILENCE_LIMIT = timedelta(seconds=90)
"""Three heartbeats of thirty seconds."""
CRASHED_GRACE = timedelta(seconds=15)
CRASHED_WINDOW = timedelta(hours=1)
"""How long a crash is reported; by then the caller has seen it sixty times."""
LATE_LIMIT = timedelta(minutes=5)
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptRun:
    """A run that will not finish.

    Parameters
    ----------
    run_id : str
        Prefect's id of the run.
    reason : {"stuck", "silent", "crashed"}
        Taken by a worker and never begun; begun and fallen silent; reported crashed.
    idempotency_key : str or None
        The key it was created with; a new attempt needs another one.
    subject : str or None
        What it was about; None for a run that a schedule made, which comes round again.
    """

    run_id: str
    reason: Literal["stuck", "silent", "crashed"]
    idempotency_key: str | None
    subject: str | None


async def sweep(client: PrefectClient, now: datetime) -> list[SweptRun]:
    """End what is stuck or silent, cancel what is overdue, and list what needs a new attempt.

    Parameters
    ----------
    client : PrefectClient
        An open client.
    now : datetime
        The present, with time zone.

    Returns
    -------
    list of SweptRun
        A crashed run is listed by every sweep of the hour after its crash.
    """
    # Crashed ones first, so that what this sweep ends is not listed twice.
    found = [
        _swept(run, "crashed")
        for run in await _runs(client, StateType.CRASHED, ended_after=now - CRASHED_WINDOW)
        if _age(run, now) > CRASHED_GRACE
    ]
    for run in await _runs(client, StateType.PENDING):
        if _age(run, now) > PENDING_LIMIT:
            await _end(client, run, f"Pending for {_age(run, now).total_seconds():.0f} s.")
            found.append(_swept(run, "stuck"))
    for run in await _runs(client, StateType.RUNNING):
        if _age(run, now) > SILENCE_LIMIT and not await _was_heard(client, run, now):
            await _end(client, run, f"No heartbeat for {SILENCE_LIMIT.total_seconds():.0f} s.")
            found.append(_swept(run, "silent"))
    await relay.cancel_late(client, now=now, older_than=LATE_LIMIT)
    return found


async def _runs(
    client: PrefectClient, state: StateType, *, ended_after: datetime | None = None
) -> Sequence[FlowRun]:
    return await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])),
            end_time=(
                FlowRunFilterEndTime.model_validate({"after_": ended_after})
                if ended_after is not None
                else None
            ),
        ),
        limit=_PAGE,
    )


def _age(run: FlowRun, now: datetime) -> timedelta:
    return now - run.state.timestamp if run.state is not None else timedelta(0)


async def _was_heard(client: PrefectClient, run: FlowRun, now: datetime) -> bool:
    page = await client.read_events(
        filter=EventFilter(
            occurred=EventOccurredFilter.model_validate(
                {"since": now - SILENCE_LIMIT, "until": now}
            ),
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        ),
        limit=1,
    )
    return bool(page.events)


async def _end(client: PrefectClient, run: FlowRun, message: str) -> None:
    # By force: whoever could object is gone. If it is not, the stage is idempotent.
    await client.set_flow_run_state(run.id, Crashed(message=message), force=True)


def _swept(run: FlowRun, reason: Literal["stuck", "silent", "crashed"]) -> SweptRun:
    subject = run.parameters.get("subject")
    return SweptRun(
        run_id=str(run.id),
        reason=reason,
        idempotency_key=run.idempotency_key,
        subject=str(subject) if subject is not None else None,
    )
