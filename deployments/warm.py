"""The warm worker: flows already imported, run in this process, one event loop.

Starting a Python interpreter for each run costs seconds that a critical head does not have. This
worker resolves a run's flow by name from a mapping and awaits it beside the others.

Three things differ from Prefect's own worker, each for a measured reason:

* The polling loop never gives up. Prefect's ``critical_service_loop`` ends the worker after twelve
  failed polls, which at four polls a second is less than half a minute of a restarting server.
* A run is submitted with one state proposal instead of seven calls (deployment, flow, pool
  template, labels, two states, process id), none of which mean anything without infrastructure.
* It listens for the server's announcement of a run instead of asking four times a second, which
  kept a quarter of a core busy with nothing. Without the announcement it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

import anyio
import anyio.abc
import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import AsyncClientContext, SettingsContext, get_settings_context
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings
from prefect.states import Cancelled, Crashed, Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

WORKER_TYPE = "spinecho-warm"

# After a failed poll; short, because a study may be waiting on the other side of the outage.
OUTAGE_PAUSE_SECONDS = 1.0
# While the server announces new runs; for what it does not announce, such as a retry falling due.
LISTENING_POLL_SECONDS = 3.0
OUTAGE_REPORT_SECONDS = 60.0
CANCEL_CHECK_SECONDS = 5.0


class WarmJobConfiguration(BaseJobConfiguration):
    """Nothing to configure: the process is already there."""


class WarmVariables(BaseVariables):
    """Nothing to vary: the process is already there."""


class WarmResult(BaseWorkerResult):
    """Always zero: the flow engine itself records how the run ended."""


class WarmWorker(BaseWorker[WarmJobConfiguration, WarmVariables, WarmResult]):
    """Poll some queues of a pool and run their flows in this process.

    Parameters
    ----------
    flows : mapping of str to Flow
        The flows that can run here, by Prefect's flow name.
    pool : str
        Work pool; it must exist (the catalogue creates it).
    queues : sequence of str
        Queues to serve, and no others.
    name : str
        Shown in Prefect's UI; two workers of one name count as one.
    limit : int
        Runs at a time.
    poll_seconds : float
        Pause between two polls with a free slot while the server's events cannot be heard.
    """

    type = WORKER_TYPE
    job_configuration = WarmJobConfiguration
    job_configuration_variables = WarmVariables
    _description = "Runs Spinecho's flows in a process that is already warm."

    def __init__(
        self,
        *,
        flows: Mapping[str, Flow[..., Any]],
        pool: str,
        queues: Sequence[str],
        name: str,
        limit: int,
        poll_seconds: float = 0.25,
    ) -> None:
        super().__init__(
            work_pool_name=pool,
            work_queues=list(queues),
            name=name,
            limit=limit,
            # A worker that starts before the catalogue was applied must not invent the pool.
            create_pool_if_not_found=False,
        )
        self._flows = flows
        self._poll_seconds = poll_seconds
        self._flow_names: dict[UUID, str] = {}
        self._scopes: dict[UUID, anyio.CancelScope] = {}
        self._claim = f"Taken by {name}."
        self._wake = asyncio.Event()
        self._listening = False
        self._settled = asyncio.Event()
        # Built once: a Settings object takes milliseconds to validate.
        self._patient_settings = get_current_settings()
        self._impatient_settings = self._patient_settings.copy_with_update(
            updates={PREFECT_CLIENT_MAX_RETRIES: 0}
        )

    async def run(
        self,
        flow_run: FlowRun,
        configuration: WarmJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> WarmResult:
        """Run a flow here and now; the engine reports its states to the server.

        Parameters
        ----------
        flow_run : FlowRun
            A run that the server has let into Pending.
        configuration : WarmJobConfiguration
            Unused; Prefect's interface asks for it.
        task_status : TaskStatus, optional
            Told as soon as the run is under way.

        Raises
        ------
        LookupError
            No flow of that name is known here.
        """
        flow = await self._flow_of(flow_run)
        if task_status is not None:
            task_status.started(os.getpid())
        # The engine has recorded a failed, aborted or paused flow by the time it raises.
        with contextlib.suppress(Abort, Pause):
            await cast(
                "Any", run_flow(flow, flow_run=flow_run, return_type="state", error_logger=None)
            )
        return WarmResult(identifier=str(os.getpid()), status_code=0)

    async def serve(self, stop: asyncio.Event, *, grace_seconds: float) -> None:
        """Poll and run until told to stop, then let the runs in hand finish.

        Parameters
        ----------
        stop : asyncio.Event
            Set it to take no new run.
        grace_seconds : float
            How long runs in hand may take to finish; what is left then is cancelled, and the
            engine marks it Crashed, which is what the sweeper re-issues.
        """
        # One client for the worker's life, found by every engine through this context: no
        # connection, version check and CSRF token for each run.
        async with AsyncClientContext(), self:
            async with anyio.create_task_group() as loops:
                loops.start_soon(self._sync_forever)
                loops.start_soon(self._heed_cancellation)
                loops.start_soon(self._listen_forever)
                loops.start_soon(self._poll_forever)
                await stop.wait()
                loops.cancel_scope.cancel()
            deadline = anyio.current_time() + grace_seconds
            while self._scopes and anyio.current_time() < deadline:
                await anyio.sleep(0.05)
            for scope in list(self._scopes.values()):
                scope.cancel()

    async def _flow_of(self, flow_run: FlowRun) -> Flow[..., Any]:
        name = self._flow_names.get(flow_run.flow_id)
        if name is None:
            name = (await self.client.read_flow(flow_run.flow_id)).name
            self._flow_names[flow_run.flow_id] = name
        try:
            return self._flows[name]
        except KeyError:
            message = f"worker {self.name} knows no flow {name!r}; is it of an older release?"
            raise LookupError(message) from None

    def _settings(self, *, patient: bool) -> SettingsContext:
        # The client's own back-off grows to half a minute. A flow's report of its state is worth
        # that; a loop that comes round four times a second is its own retry.
        current = get_settings_context()
        settings = self._patient_settings if patient else self._impatient_settings
        return SettingsContext(profile=current.profile, settings=settings)

    async def _bury_predecessor(self) -> None:
        """Mark as Crashed what a worker of this name took and did not finish.

        It was killed, or it would have; without this nobody knows before three heartbeats are
        missing. Two workers must not share a name.
        """
        left = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
                )
            ),
            work_queue_filter=WorkQueueFilter(
                name=WorkQueueFilterName(any_=sorted(self._work_queues))
            ),
        )
        for flow_run in left:
            states = await self.client.read_flow_run_states(flow_run.id)
            claims = [state.message for state in states if state.type == StateType.PENDING]
            if claims and claims[-1] == self._claim:
                self._logger.warning("run %s was left by a killed worker", flow_run.id)
                await self.client.set_flow_run_state(
                    flow_run.id, Crashed(message="Its worker was killed."), force=True
                )

    async def _poll_forever(self) -> None:
        outage = _Outage(self._logger, "polling for work")
        while not self._has_successfully_synced:
            await anyio.sleep(0.1)
        buried = False
        while not buried:
            with outage.survive(), self._settings(patient=False):
                await self._bury_predecessor()
                buried = True
            if not buried:
                await anyio.sleep(OUTAGE_PAUSE_SECONDS)
        self._settled.set()
        while True:
            # Cleared first: a hint that arrives during the poll asks for another one. A freed slot
            # is a hint too.
            self._wake.clear()
            with outage.survive(), self._settings(patient=False):
                if self.limiter.available_tokens > 0:
                    await self.get_and_submit_flow_runs()
            if outage.lasts:
                await anyio.sleep(OUTAGE_PAUSE_SECONDS)
                continue
            interval = LISTENING_POLL_SECONDS if self._listening else self._poll_seconds
            with anyio.move_on_after(interval):
                await self._wake.wait()

    async def _listen_forever(self) -> None:
        """Poll at once when the server announces a run; the event is a hint, the poll decides.

        A poll costs the server 25 ms of processor time, and at four a second three workers kept
        a quarter of a core busy with nothing. With the hint they are sooner and cost nothing.
        """
        # Two first requests at once would fetch two CSRF tokens, of which the server keeps one.
        await self._settled.wait()
        outage = _Outage(self._logger, "listening for new runs")
        while True:
            with outage.survive(), self._settings(patient=False):
                await self._listen(outage)
            self._listening = False
            await anyio.sleep(OUTAGE_PAUSE_SECONDS)

    async def _listen(self, outage: _Outage) -> None:
        queues = await self.client.read_work_queues(work_pool_name=self._work_pool_name)
        served = [f"prefect.work-queue.{q.id}" for q in queues if q.name in self._work_queues]
        if len(served) < len(self._work_queues):
            return  # the catalogue has not made them yet
        announced = EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.Scheduled"]),
            related=EventRelatedFilter(id=served),
        )
        async with get_events_subscriber(filter=announced, reconnection_attempts=0) as events:
            outage.over()
            self._listening = True
            self._wake.set()  # whatever came before the subscription stood
            async for _ in events:
                self._wake.set()

    async def _sync_forever(self) -> None:
        outage = _Outage(self._logger, "announcing itself")
        while True:
            with outage.survive(), self._settings(patient=False):
                await self._sync_and_initialize()
            # Until the catalogue has made the pool there is nothing to poll.
            waiting = outage.lasts or not self._has_successfully_synced
            await anyio.sleep(OUTAGE_PAUSE_SECONDS if waiting else self.heartbeat_interval_seconds)

    async def _heed_cancellation(self) -> None:
        """Stop runs that somebody cancels in the UI; Prefect leaves that to the infrastructure."""
        outage = _Outage(self._logger, "asking for cancellations")
        while True:
            await anyio.sleep(CANCEL_CHECK_SECONDS)
            if not self._scopes:
                continue
            with outage.survive(), self._settings(patient=False):
                cancelling = await self.client.read_flow_runs(
                    flow_run_filter=FlowRunFilter(
                        id=FlowRunFilterId(any_=list(self._scopes)),
                        state=FlowRunFilterState(
                            type=FlowRunFilterStateType(any_=[StateType.CANCELLING])
                        ),
                    )
                )
                for flow_run in cancelling:
                    if scope := self._scopes.get(flow_run.id):
                        scope.cancel()

    async def _submit_run(self, flow_run: FlowRun) -> None:
        # Started by the polling loop, it inherits that loop's impatience; a run is worth waiting.
        with self._settings(patient=True):
            await self._submit(flow_run)

    async def _submit(self, flow_run: FlowRun) -> None:
        cancelled = False
        try:
            taken: State[Any] = Pending(message=self._claim)
            state = await propose_state(self.client, taken, flow_run_id=flow_run.id)
            if not state.is_pending():
                return  # cancelled meanwhile, or held back by a concurrency limit
            flow_run.state = state
            with anyio.CancelScope() as scope:
                self._scopes[flow_run.id] = scope
                await self.run(flow_run, WarmJobConfiguration())
            cancelled = scope.cancelled_caught
        except Abort:
            pass  # somebody else has it
        except Exception as error:  # noqa: BLE001 - one run must not end the worker
            # The engine reports what a flow raises. Here it is the engine or the server that
            # failed; a run left Running is the sweeper's.
            self._logger.warning("run %s was lost: %s", flow_run.id, type(error).__name__)
            if isinstance(error, LookupError):
                await self._propose_failed_state(flow_run, error)
        finally:
            self._scopes.pop(flow_run.id, None)
            self._submitting_flow_run_ids.discard(flow_run.id)
            self._release_limit_slot(flow_run.id)
            self._wake.set()
        if cancelled:
            await self._record_cancellation(self.client, flow_run.id)

    async def _record_cancellation(self, client: PrefectClient, flow_run_id: UUID) -> None:
        # The engine sees a cancelled task and reports a crash. If the server asked for it, that
        # is what happened; if the worker is stopping, a crash is right and gets re-issued.
        with contextlib.suppress(httpx.HTTPError):
            states = await client.read_flow_run_states(flow_run_id)
            if any(state.type == StateType.CANCELLING for state in states):
                await client.set_flow_run_state(
                    flow_run_id, Cancelled(message="Stopped on request."), force=True
                )


class _Outage:
    """Keep a loop alive through failures, and report each outage without filling the log."""

    def __init__(self, logger: Any, doing: str) -> None:
        self._logger = logger
        self._doing = doing
        self._since: float | None = None
        self._reported = 0.0

    @property
    def lasts(self) -> bool:
        return self._since is not None

    @contextlib.contextmanager
    def survive(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever the server answers, go on
            now = time.monotonic()
            if self._since is None or now - self._reported >= OUTAGE_REPORT_SECONDS:
                self._logger.warning("%s failed, going on: %r", self._doing, error)
                self._reported = now
            self._since = self._since or now
        else:
            self.over()

    def over(self) -> None:
        if self._since is not None:
            lasted = time.monotonic() - self._since
            self._logger.warning("%s works again after %.1f s", self._doing, lasted)
            self._since = None
