"""The one place in `services` that speaks to Prefect: it starts flow runs and reads their states.

The dispatcher drains the outbox through `start_run`. A created run is not a finished one: Prefect
is the executor, our database the truth, and `reconcile` compares the two. Only opaque ids go in.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, Settings
from prefect.states import Cancelled
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)

Result = TypeVar("Result")

PATIENCE_SECONDS = 10.0
_PAGE = 200
# A flow-run name ends with the subject's first characters: enough to find it, nothing to know it.
_OPAQUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")


class RelayUnavailable(Exception):
    """Prefect did not answer in time; the outbox row stays and is tried again."""


class UnknownDeployment(LookupError):
    """Prefect knows no deployment of that name; apply the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """How far a run is, as Prefect sees it.

    Parameters
    ----------
    type : str
        Prefect's state type, such as ``COMPLETED`` or ``RUNNING``.
    name : str
        The state's name, such as ``Late`` or ``Critical``.
    since : datetime
        When the run entered it, UTC.
    """

    type: str
    name: str
    since: datetime

    @property
    def is_final(self) -> bool:
        """Whether the run will not move again by itself."""
        return self.type in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


_deployment_ids: WeakKeyDictionary[PrefectClient, dict[str, UUID]] = WeakKeyDictionary()


async def start_run(
    client: PrefectClient,
    *,
    deployment: str,
    queue: str,
    subject: str,
    idempotency_key: str,
    tags: Sequence[str],
    name: str,
    patience_seconds: float = PATIENCE_SECONDS,
) -> str:
    """Create a flow run, or find the one that this key has created before.

    Parameters
    ----------
    client : PrefectClient
        An open client.
    deployment : str
        The deployment's name, as in the catalogue.
    queue : str
        Work queue within the deployment's pool.
    subject : str
        Opaque id of what the run is about; the flow's only parameter.
    idempotency_key : str
        ``study:stage:version``, with an attempt suffix when re-issued.
    tags : sequence of str
        Stage, priority, modality, site.
    name : str
        Shown in the UI, such as ``triage 7f3a``.
    patience_seconds : float
        How long to try while the server is away or busy.

    Returns
    -------
    str
        Id of the flow run.

    Raises
    ------
    RelayUnavailable
        The server did not answer in time. Whether the run exists is unknown; the same key again
        is safe.
    UnknownDeployment
        There is no such deployment.
    ValueError
        The subject is not an opaque id.
    """
    if not _OPAQUE.match(subject):
        raise ValueError("a subject is an opaque id of letters, digits, dash, dot, colon")

    async def attempt() -> str:
        deployment_id = await _deployment_id(client, deployment)
        try:
            run = await client.create_flow_run_from_deployment(
                deployment_id,
                parameters={"subject": subject},
                idempotency_key=idempotency_key,
                work_queue_name=queue,
                tags=list(tags),
                name=name,
            )
        except ObjectNotFound:
            # Deleted and made anew since we looked.
            _deployment_ids.pop(client, None)
            raise
        return str(run.id)

    return await _patiently(attempt, patience_seconds)


async def run_states(
    client: PrefectClient,
    ids: Collection[str],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, RunState]:
    """Read the states of flow runs; a run that Prefect has forgotten is left out.

    Raises
    ------
    RelayUnavailable
        The server did not answer in time.
    """
    wanted = [UUID(run_id) for run_id in ids]
    states: dict[str, RunState] = {}
    for start in range(0, len(wanted), _PAGE):
        page = FlowRunFilter(id=FlowRunFilterId(any_=wanted[start : start + _PAGE]))

        async def read(page: FlowRunFilter = page) -> dict[str, RunState]:
            runs = await client.read_flow_runs(flow_run_filter=page, limit=_PAGE)
            return {
                str(run.id): RunState(
                    type=run.state.type.value,
                    name=run.state.name or run.state.type.value,
                    since=run.state.timestamp,
                )
                for run in runs
                if run.state is not None
            }

        states |= await _patiently(read, patience_seconds)
    return states


async def cancel_late(
    client: PrefectClient, *, now: datetime, older_than: timedelta, scheduled_only: bool = True
) -> list[str]:
    """Cancel runs that are long overdue.

    A minute's sweep that nobody ran for ten minutes is worth nothing; the next one does its work.
    A study's run is merely waiting its turn, and giving it up would lose its place.

    Parameters
    ----------
    client : PrefectClient
        An open client.
    now : datetime
        The present, with time zone.
    older_than : timedelta
        How long past its expected start a run may be.
    scheduled_only : bool
        Spare the runs that carry a subject, and cancel only what a schedule made.

    Returns
    -------
    list of str
        Ids of the cancelled runs.
    """
    late = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                {"before_": now - older_than}
            ),
        ),
        limit=_PAGE,
    )
    cancelled: list[str] = []
    for run in late:
        if scheduled_only and not run.auto_scheduled:
            continue
        await client.set_flow_run_state(run.id, Cancelled(message="Overdue; given up."), force=True)
        cancelled.append(str(run.id))
    return cancelled


async def _deployment_id(client: PrefectClient, name: str) -> UUID:
    known = _deployment_ids.setdefault(client, {})
    if name not in known:
        found = await client.read_deployments(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name]))
        )
        if not found:
            raise UnknownDeployment(name)
        known[name] = found[0].id
    return known[name]


_impatient: tuple[Settings, Settings] | None = None


def _without_the_clients_retries() -> SettingsContext:
    # The client's own back-off goes 2, 4, 8 s; a busy server is free again after a tenth of one.
    # Built once: Prefect's `temporary_settings` validates all settings anew, 40 ms for each run.
    global _impatient
    current = get_settings_context()
    if _impatient is None or _impatient[0] is not current.settings:
        without = current.settings.copy_with_update(updates={PREFECT_CLIENT_MAX_RETRIES: 0})
        _impatient = (current.settings, without)
    return SettingsContext(profile=current.profile, settings=_impatient[1])


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        # The client dropped its expired token and fetches another one with the next request.
        if error.response.status_code == 403 and "CSRF" in error.response.text:
            return True
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    # A server that has just come up may answer a stale pooled connection with either of these.
    return isinstance(error, httpx.TransportError)


async def _patiently(attempt: Callable[[], Awaitable[Result]], patience_seconds: float) -> Result:
    with _without_the_clients_retries():
        try:
            async for trial in AsyncRetrying(
                retry=retry_if_exception(_is_passing),
                wait=wait_exponential_jitter(multiplier=0.1, max=1.0, jitter=0.1),
                stop=stop_after_delay(patience_seconds),
                reraise=True,
            ):
                with trial:
                    return await attempt()
        except Exception as error:
            if not _is_passing(error):
                raise
            raise RelayUnavailable(
                f"Prefect did not answer within {patience_seconds:g} s ({type(error).__name__})"
            ) from error
    raise AssertionError("a retry either returns or raises")
