"""What runs where and when: the one record of pools, queues, deployments and automations.

`apply` makes the server agree with this module, by name, and says what it had to change. What
somebody clicked together in the UI under another name is left alone; what drifted under one of
our names is put back.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias, cast

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    ConcurrencyOptions,
    StateType,
    WorkQueue,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments.warm import WarmWorker
from services.settings import Settings

Action: TypeAlias = Literal["created", "updated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A work queue; the lower its priority number, the sooner its runs are handed out."""

    name: str
    priority: int
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A work pool and all queues that it is meant to have."""

    name: str
    description: str
    queues: tuple[Queue, ...]
    type: str = WarmWorker.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """A schedule by interval."""

    interval: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A schedule by crontab line, read in UTC: an hour that daylight saving skips is never due."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where a flow runs unless its run says otherwise.

    Parameters
    ----------
    flow : str
        Key in the mapping of flows; also the deployment's name.
    pool, queue : str
        The default queue; the relay names another one for urgent and critical subjects.
    concurrency_limit : int, optional
        Runs at a time over all workers.
    skip_when_busy : bool
        At the limit, drop a new run instead of queueing it: right for a sweep that comes round
        again, wrong for anything that carries a study.
    schedules : tuple of Every or Cron
        When it runs by itself.
    """

    flow: str
    pool: str
    queue: str
    description: str
    concurrency_limit: int | None = None
    skip_when_busy: bool = False
    schedules: tuple[Every | Cron, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Zombie:
    """Mark a run Crashed that was Running and then fell silent.

    For the people at the window. The sweeper finds the same runs and re-issues them; nothing
    clinical waits for this.
    """

    name: str
    description: str
    silence: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Everything the server is told."""

    pools: tuple[Pool, ...]
    deployments: tuple[Deployment, ...]
    automations: tuple[Zombie, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that `apply` had to do."""

    kind: Literal["pool", "queue", "deployment", "automation"]
    name: str
    action: Action


# Prefect gives every pool a queue of this name with the highest priority. In the clinical pool
# nobody serves it, and nothing may overtake the critical queue.
_UNSERVED = Queue(name="default", priority=100, description="Not served; use a named queue.")

CATALOGUE = Catalogue(
    pools=(
        Pool(
            name="clinical",
            description="Work on which a reader, a scanner or a physician waits.",
            queues=(
                _UNSERVED,
                Queue(name="critical", priority=1, description="Life-threatening: own worker."),
                Queue(name="urgent", priority=5, description="Urgent orders and housekeeping."),
                Queue(name="routine", priority=10, description="Everything else."),
            ),
        ),
        Pool(
            name="heavy",
            description="Moves bytes: tier migration, recall, key figures.",
            queues=(Queue(name="default", priority=1),),
        ),
    ),
    deployments=(
        Deployment(
            flow="order_intake",
            pool="clinical",
            queue="routine",
            description="A placed, changed or cancelled order becomes scheduled steps.",
        ),
        Deployment(
            flow="worklist_publication",
            pool="clinical",
            queue="routine",
            description="A scheduled step becomes visible on its scanner's worklist.",
        ),
        Deployment(
            flow="acquisition_receipt",
            pool="clinical",
            queue="routine",
            description="An arriving study is judged complete and announced.",
        ),
        Deployment(
            flow="triage",
            pool="clinical",
            queue="routine",
            description="An acquired study is looked at by the model.",
        ),
        Deployment(
            flow="report_delivery",
            pool="clinical",
            queue="routine",
            description="A signed report reaches each of its destinations.",
        ),
        Deployment(
            flow="critical_escalation",
            pool="clinical",
            queue="critical",
            description="A critical finding is carried until a named person acknowledges it.",
        ),
        Deployment(
            flow="reconcile",
            pool="clinical",
            queue="urgent",
            # No limit: a run that died while it held the only slot would end all sweeping.
            description="Stuck work is found and started again.",
            schedules=(Every(interval=timedelta(minutes=1)),),
        ),
        Deployment(
            flow="kpi_rollup",
            pool="heavy",
            queue="default",
            description="The hour's key figures are written.",
            concurrency_limit=1,
            skip_when_busy=True,
            schedules=(Cron(line="5 * * * *"),),
        ),
        Deployment(
            flow="tier_migration",
            pool="heavy",
            queue="default",
            description="Studies move between hot, warm and cold by age and policy.",
            concurrency_limit=1,
            skip_when_busy=True,
            schedules=(Cron(line="0 2 * * *"),),
        ),
        Deployment(
            flow="recall",
            pool="heavy",
            queue="default",
            description="A cold study comes back because somebody needs it.",
        ),
    ),
    automations=(
        Zombie(
            name="spinecho: silent run",
            description="A run that was alive and sent no heartbeat for 90 s is marked Crashed.",
            silence=timedelta(seconds=90),
        ),
    ),
)


def catalogue_for(settings: Settings) -> Catalogue:
    """Return the catalogue with the sweep at the interval that an installation has chosen."""
    interval = timedelta(seconds=settings.reconcile_s)
    return replace(
        CATALOGUE,
        deployments=tuple(
            replace(each, schedules=(Every(interval=interval),))
            if each.flow == "reconcile"
            else each
            for each in CATALOGUE.deployments
        ),
    )


def load_flows() -> dict[str, Flow[..., Any]]:
    """Import the flow that each deployment names: ``flows.triage`` holds ``triage``.

    Raises
    ------
    ImportError
        A module is missing, or holds no flow of its own name.
    """
    flows: dict[str, Flow[..., Any]] = {}
    for name in (deployment.flow for deployment in CATALOGUE.deployments):
        found = getattr(importlib.import_module(f"flows.{name}"), name, None)
        if not isinstance(found, Flow):
            raise ImportError(f"flows.{name} must hold a Prefect flow called {name!r}")  # noqa: TRY004
        flows[name] = cast("Flow[..., Any]", found)
    return flows


async def apply(
    client: PrefectClient,
    *,
    flows: Mapping[str, Flow[..., Any]],
    catalogue: Catalogue = CATALOGUE,
) -> list[Change]:
    """Make the server agree with the catalogue.

    Parameters
    ----------
    client : PrefectClient
        An open client.
    flows : mapping of str to Flow
        As of `load_flows`.
    catalogue : Catalogue
        What to apply.

    Returns
    -------
    list of Change
        Empty when the server agreed already.
    """
    changes: list[Change] = []
    for pool in catalogue.pools:
        changes += await _apply_pool(client, pool)
    for deployment in catalogue.deployments:
        changes += await _apply_deployment(client, deployment, flows[deployment.flow])
    for automation in catalogue.automations:
        changes += await _apply_automation(client, automation)
    return changes


async def _apply_pool(client: PrefectClient, pool: Pool) -> list[Change]:
    changes: list[Change] = []
    template = WarmWorker.get_default_base_job_template()
    try:
        found = await client.read_work_pool(pool.name)
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(
                name=pool.name,
                type=pool.type,
                description=pool.description,
                base_job_template=template,
            )
        )
        changes.append(Change(kind="pool", name=pool.name, action="created"))
    else:
        # A paused pool stays paused: that is an operator's decision of the day, not the record.
        if found.description != pool.description or found.base_job_template != template:
            await client.update_work_pool(
                pool.name,
                WorkPoolUpdate(description=pool.description, base_job_template=template),
            )
            changes.append(Change(kind="pool", name=pool.name, action="updated"))
    existing = {queue.name: queue for queue in await _queues(client, pool)}
    for queue in pool.queues:
        changes += await _apply_queue(client, pool, queue, existing.get(queue.name))
    return changes


async def _queues(client: PrefectClient, pool: Pool) -> Sequence[WorkQueue]:
    return await client.read_work_queues(work_pool_name=pool.name)


async def _apply_queue(
    client: PrefectClient, pool: Pool, queue: Queue, found: WorkQueue | None
) -> list[Change]:
    name = f"{pool.name}/{queue.name}"
    if found is None:
        await client.create_work_queue(
            name=queue.name,
            description=queue.description,
            priority=queue.priority,
            work_pool_name=pool.name,
        )
        return [Change(kind="queue", name=name, action="created")]
    if (found.priority, found.description or "") != (queue.priority, queue.description):
        await client.update_work_queue(
            found.id, priority=queue.priority, description=queue.description
        )
        return [Change(kind="queue", name=name, action="updated")]
    return []


def _schedule(schedule: Every | Cron) -> IntervalSchedule | CronSchedule:
    if isinstance(schedule, Cron):
        return CronSchedule(cron=schedule.line, timezone="UTC")
    return IntervalSchedule(interval=schedule.interval, timezone="UTC")


def _schedule_identity(schedule: object) -> tuple[str, object] | None:
    # The server fills in the anchor of an interval, which is none of our record.
    if isinstance(schedule, CronSchedule):
        return ("cron", schedule.cron)
    if isinstance(schedule, IntervalSchedule):
        return ("interval", schedule.interval)
    return None


def _deployment_agrees(
    found: DeploymentResponse, wanted: Deployment, schema: dict[str, Any]
) -> bool:
    limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    options = found.concurrency_options
    skips = (
        options is not None and options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW
    )
    # Whether a schedule is active is an operator's decision, as a paused pool is.
    schedules = {_schedule_identity(entry.schedule) for entry in found.schedules}
    return (
        found.work_pool_name == wanted.pool
        and found.work_queue_name == wanted.queue
        and found.description == wanted.description
        and limit == wanted.concurrency_limit
        and skips == (wanted.skip_when_busy and wanted.concurrency_limit is not None)
        and schedules == {_schedule_identity(_schedule(entry)) for entry in wanted.schedules}
        and len(found.schedules) == len(wanted.schedules)
        and sorted(found.tags) == sorted(wanted.tags)
        and found.parameter_openapi_schema == schema
    )


async def _apply_deployment(
    client: PrefectClient, wanted: Deployment, flow: Flow[..., Any]
) -> list[Change]:
    schema = parameter_schema(flow.fn).model_dump_for_openapi()
    action: Action = "created"
    try:
        found = await client.read_deployment_by_name(f"{flow.name}/{wanted.flow}")
    except ObjectNotFound:
        pass
    else:
        if _deployment_agrees(found, wanted, schema):
            return []
        action = "updated"
    strategy = (
        ConcurrencyLimitStrategy.CANCEL_NEW
        if wanted.skip_when_busy
        else ConcurrencyLimitStrategy.ENQUEUE
    )
    # The server upserts by flow and name; the deployment keeps its id, and waiting runs stay.
    await client.create_deployment(
        flow_id=await client.create_flow_from_name(flow.name),
        name=wanted.flow,
        description=wanted.description,
        work_pool_name=wanted.pool,
        work_queue_name=wanted.queue,
        tags=list(wanted.tags),
        schedules=[
            DeploymentScheduleCreate(schedule=_schedule(entry)) for entry in wanted.schedules
        ],
        concurrency_limit=wanted.concurrency_limit,
        concurrency_options=(
            ConcurrencyOptions(collision_strategy=strategy) if wanted.concurrency_limit else None
        ),
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
    )
    return [Change(kind="deployment", name=wanted.flow, action=action)]


def _zombie(wanted: Zombie) -> AutomationCore:
    ends = ("Completed", "Failed", "Cancelled", "Crashed", "Cancelling", "Paused", "Suspended")
    return AutomationCore(
        name=wanted.name,
        description=wanted.description,
        trigger=EventTrigger(
            # With the heartbeat alone, a run that died before its first one is never missed.
            after={"prefect.flow-run.Running", "prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | {f"prefect.flow-run.{end}" for end in ends},
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=wanted.silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="No heartbeat; presumed dead.",
                force=False,
            )
        ],
    )


async def _apply_automation(client: PrefectClient, wanted: Zombie) -> list[Change]:
    automation = _zombie(wanted)
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(automation)
        return [Change(kind="automation", name=wanted.name, action="created")]
    first, *doubles = found
    for double in doubles:
        await client.delete_automation(double.id)
    if _automation_agrees(first, automation) and not doubles:
        return []
    await client.update_automation(first.id, automation)
    return [Change(kind="automation", name=wanted.name, action="updated")]


def _automation_agrees(found: Automation, wanted: AutomationCore) -> bool:
    def record(automation: AutomationCore) -> dict[str, Any]:
        fields = automation.model_dump(mode="json", include={"description", "actions"})
        trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
        # Sets come back in any order.
        return fields | {
            key: sorted(value) if isinstance(value, list) else value
            for key, value in trigger.items()
        }

    return record(found) == record(wanted)
