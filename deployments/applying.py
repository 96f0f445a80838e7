"""Makes a Prefect server agree with the catalogue, by name, and says what it had to change.

What somebody clicked together in the UI under another name is left alone; what drifted under one
of our names is put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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

from deployments.catalogue import CATALOGUE, Catalogue, Cron, Deployment, Every, Pool, Queue, Zombie
from deployments.warm import WarmWorker

Action: TypeAlias = Literal["created", "updated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that `apply` had to do."""

    kind: Literal["pool", "queue", "deployment", "automation"]
    name: str
    action: Action


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
