from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from deployments.applying import Change, apply
from deployments.catalogue import CATALOGUE, Every, catalogue_for, load_flows
from services.settings import Settings

if TYPE_CHECKING:
    from tests.prefect.server import Prefect


def placeholder_flows() -> dict[str, Any]:
    from placeholder_flows import FLOWS

    return FLOWS


def test_every_deployment_has_its_flow() -> None:
    flows = load_flows()
    assert list(flows) == [deployment.flow for deployment in CATALOGUE.deployments]
    assert all(flow.isasync for flow in flows.values())


def test_every_deployment_names_a_queue_of_the_catalogue() -> None:
    queues = {(pool.name, queue.name) for pool in CATALOGUE.pools for queue in pool.queues}
    assert {(deployment.pool, deployment.queue) for deployment in CATALOGUE.deployments} <= queues


def test_the_sweep_comes_as_often_as_the_settings_say() -> None:
    chosen = catalogue_for(Settings(reconcile_s=20)).deployments
    assert [d.flow for d in chosen] == [d.flow for d in CATALOGUE.deployments]
    (sweep,) = (d for d in chosen if d.flow == "reconcile")
    assert sweep.schedules == (Every(interval=timedelta(seconds=20)),)
    assert catalogue_for(Settings()) == CATALOGUE


def test_applied_again_it_changes_nothing(prefect: Prefect) -> None:
    flows = placeholder_flows()
    assert prefect.ask(lambda client: apply(client, flows=flows)) == []


def test_critical_is_handed_out_first(prefect: Prefect) -> None:
    async def priorities(client: PrefectClient) -> list[str]:
        queues = await client.read_work_queues(work_pool_name="clinical")
        return [queue.name for queue in sorted(queues, key=lambda queue: queue.priority or 0)]

    assert prefect.ask(priorities) == ["critical", "urgent", "routine", "default"]


def test_what_drifted_is_put_back(prefect: Prefect) -> None:
    flows = placeholder_flows()

    async def drift_and_apply(client: PrefectClient) -> list[Change]:
        for queue in await client.read_work_queues(work_pool_name="clinical"):
            if queue.name == "critical":
                await client.update_work_queue(queue.id, priority=50)
        recall = await client.read_deployment_by_name("recall/recall")
        await client.create_deployment(
            flow_id=recall.flow_id,
            name="recall",
            work_pool_name="clinical",
            work_queue_name="routine",
        )
        automation = (await client.read_automations_by_name(CATALOGUE.automations[0].name))[0]
        await client.delete_automation(automation.id)
        changes = await apply(client, flows=flows)
        assert (await client.read_deployment_by_name("recall/recall")).id == recall.id
        assert await apply(client, flows=flows) == []
        return changes

    assert prefect.ask(drift_and_apply) == [
        Change(kind="queue", name="clinical/critical", action="updated"),
        Change(kind="deployment", name="recall", action="updated"),
        Change(kind="automation", name=CATALOGUE.automations[0].name, action="created"),
    ]


def test_schedules_make_runs(prefect: Prefect) -> None:
    # Under SQLAlchemy 2.1 the server's scheduler fails, and says so only in its log.
    async def scheduled(client: PrefectClient) -> set[str]:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_="")), limit=200
        )
        flows = {flow.id: flow.name for flow in await client.read_flows()}
        return {flows[run.flow_id] for run in runs if run.auto_scheduled}

    deadline = time.monotonic() + 20
    expected = {"reconcile", "kpi_rollup", "tier_migration"}
    while (found := prefect.ask(scheduled)) != expected:
        if time.monotonic() > deadline:
            pytest.fail(f"scheduled so far: {found}")
        time.sleep(0.5)
