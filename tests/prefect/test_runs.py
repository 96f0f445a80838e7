from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.states import Cancelling

from services import relay
from tasks.artifacts import show_timeline, timeline_key
from tasks.sweeper import SweptRun, sweep

if TYPE_CHECKING:
    from tests.prefect.server import Prefect


def fresh(prefix: str, count: int = 1) -> list[str]:
    """Opaque subjects that no other test uses."""
    return [f"{prefix}-{uuid4().hex[:8]}-{index}" for index in range(count)]


async def start(
    client: PrefectClient, subject: str, queue: str, *, key: str | None = None, **more: Any
) -> str:
    return await relay.start_run(
        client,
        deployment="triage",
        queue=queue,
        subject=subject,
        idempotency_key=key or f"{subject}:triage:1",
        tags=["triage", queue, "MR", "site-1"],
        name=f"triage {subject[-6:]}",
        **more,
    )


def start_all(prefect: Prefect, subjects: Sequence[str], queue: str) -> dict[str, str]:
    async def all_of_them(client: PrefectClient) -> dict[str, str]:
        return {subject: await start(client, subject, queue) for subject in subjects}

    return prefect.ask(all_of_them)


def state_of(prefect: Prefect, run_id: str) -> relay.RunState:
    return prefect.ask(lambda client: relay.run_states(client, [run_id]))[run_id]


def wait_for_state(prefect: Prefect, run_id: str, *types: str, seconds: float = 20) -> str:
    deadline = time.monotonic() + seconds
    while (state := state_of(prefect, run_id)).type not in types:
        if time.monotonic() > deadline:
            pytest.fail(f"still {state} after {seconds} s")
        time.sleep(0.2)
    return state.type


def test_one_key_makes_one_run(workers: Prefect) -> None:
    (subject,) = fresh("same")

    async def twice(client: PrefectClient) -> list[str]:
        return list(
            await asyncio.gather(*(start(client, subject, "urgent", key=subject) for _ in "ab"))
        )

    first, second = workers.ask(twice)
    assert first == second
    workers.wait_noted("ended", [subject])
    wait_for_state(workers, first, "COMPLETED")
    assert workers.probe.read_text().count(f"began {subject}") == 1


def test_a_subject_is_opaque(workers: Prefect) -> None:
    with pytest.raises(ValueError, match="opaque"):
        workers.ask(lambda client: start(client, "Doe^Jane 1970-01-01", "urgent"))


def test_an_unknown_deployment_is_named(workers: Prefect) -> None:
    async def misspelt(client: PrefectClient) -> str:
        return await relay.start_run(
            client,
            deployment="triaje",
            queue="urgent",
            subject="s",
            idempotency_key="k",
            tags=[],
            name="n",
        )

    with pytest.raises(relay.UnknownDeployment, match="triaje"):
        workers.ask(misspelt)


def test_critical_overtakes_the_backlog(workers: Prefect) -> None:
    backlog, critical = fresh("nap500", 20), fresh("critical", 6)
    start_all(workers, backlog, "routine")
    created: dict[str, float] = {}

    async def one_by_one(client: PrefectClient) -> None:
        for subject in critical:
            created[subject] = time.time()
            await start(client, subject, "critical")
            await asyncio.sleep(0.3)

    workers.ask(one_by_one)
    workers.wait_noted("began", critical)
    workers.wait_noted("ended", backlog, seconds=40)
    began = workers.noted("began", "critical")
    assert max(began.values()) < max(workers.noted("ended", "nap500").values())
    assert min(began.values()) < max(workers.noted("began", "nap500").values())
    latencies = [began[subject] - created[subject] for subject in critical]
    print(
        f"\ncritical beside 20 routine runs, created → body: median {median(latencies):.2f} s,"
        f" max {max(latencies):.2f} s"
    )


def test_an_idle_worker_starts_at_once(workers: Prefect) -> None:
    subjects = fresh("idle", 6)
    created: dict[str, float] = {}

    async def with_pauses(client: PrefectClient) -> None:
        for subject in subjects:
            created[subject] = time.time()
            await start(client, subject, "critical")
            await asyncio.sleep(0.7)

    workers.ask(with_pauses)
    workers.wait_noted("ended", subjects)
    began = workers.noted("began", "idle")
    latencies = [began[subject] - created[subject] for subject in subjects]
    print(f"\nidle, created → body: median {median(latencies):.2f} s, max {max(latencies):.2f} s")
    print(f"server ready after {workers.ready_s:.1f} s")


def test_a_stopped_worker_finishes_what_it_has_and_takes_no_more(workers: Prefect) -> None:
    worker = workers.start_worker("stopping", "default", limit=1)
    in_hand, waiting = fresh("nap1500"), fresh("left")
    runs = start_all(workers, in_hand, "default")
    workers.wait_noted("began", in_hand)
    worker.send_signal(signal.SIGTERM)
    runs |= start_all(workers, waiting, "default")
    assert worker.wait(10) == 0
    assert set(workers.noted("ended", in_hand[0])) == set(in_hand)
    assert state_of(workers, runs[in_hand[0]]).type == "COMPLETED"
    assert state_of(workers, runs[waiting[0]]).type == "SCHEDULED"


def test_a_run_can_be_cancelled_while_it_runs(workers: Prefect) -> None:
    (subject,) = fresh("nap60000")
    run_id = start_all(workers, [subject], "urgent")[subject]
    workers.wait_noted("began", [subject])
    workers.ask(
        lambda client: client.set_flow_run_state(UUID(run_id), Cancelling(), force=True),
    )
    wait_for_state(workers, run_id, "CANCELLED")
    assert not workers.noted("ended", subject)


def test_what_a_killed_worker_had_in_hand_is_swept(workers: Prefect) -> None:
    worker = workers.start_worker("doomed", "default", limit=1)
    (subject,) = fresh("nap30000-doomed")
    run_id = start_all(workers, [subject], "default")[subject]
    workers.wait_noted("began", [subject])
    worker.kill()
    worker.wait()
    assert state_of(workers, run_id).type == "RUNNING"

    def swept_at(now: datetime) -> list[SweptRun]:
        found = workers.ask(lambda client: sweep(client, now))
        return [run for run in found if run.run_id == run_id]

    assert swept_at(datetime.now(UTC)) == []
    expected = SweptRun(
        run_id=run_id, reason="silent", idempotency_key=f"{subject}:triage:1", subject=subject
    )
    assert swept_at(datetime.now(UTC) + timedelta(minutes=5)) == [expected]
    assert state_of(workers, run_id).type == "CRASHED"
    (again,) = swept_at(datetime.now(UTC) + timedelta(seconds=20))
    assert again.reason == "crashed"


def test_a_restarted_worker_marks_what_its_predecessor_took(workers: Prefect) -> None:
    worker = workers.start_worker("phoenix", "default", limit=1)
    (subject,) = fresh("nap30000-phoenix")
    run_id = start_all(workers, [subject], "default")[subject]
    workers.wait_noted("began", [subject])
    worker.kill()
    worker.wait()
    workers.start_worker("phoenix", "default", limit=1)
    assert wait_for_state(workers, run_id, "CRASHED") == "CRASHED"
    workers.workers["phoenix"].terminate()


def test_the_timeline_is_shown_once(workers: Prefect) -> None:
    study = f"ab12-{uuid4().hex[:6]}"
    run = start_all(workers, fresh("shown"), "urgent")
    flow_run_id = UUID(next(iter(run.values())))

    async def shown(client: PrefectClient) -> tuple[int, Any]:
        rows = [{"at": "12:00Z", "what": "order.placed"}]
        await show_timeline(client, study_id=study, rows=rows, flow_run_id=flow_run_id)
        rows.append({"at": "12:01Z", "what": "a | b"})
        key = await show_timeline(client, study_id=study, rows=rows, flow_run_id=flow_run_id)
        artifacts = [a for a in await client.read_artifacts() if a.key == key]
        return len(artifacts), artifacts[0].data

    assert workers.ask(shown) == (
        1,
        "| at | what |\n| --- | --- |\n| 12:00Z | order.placed |\n| 12:01Z | a \\| b |",
    )


def test_keys_of_different_studies_differ() -> None:
    keys = {timeline_key(study) for study in ("a-b", "a_b", "A-B", "a.b")}
    assert len(keys) == 4
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)


def test_the_relay_says_when_it_gives_up(workers: Prefect) -> None:
    port, workers.port = workers.port, 9  # nobody listens on discard
    try:
        with pytest.raises(relay.RelayUnavailable, match=r"0\.5 s"):
            workers.ask(lambda client: start(client, "s", "urgent", patience_seconds=0.5))
    finally:
        workers.port = port


def test_a_killed_server_comes_back_and_nothing_is_lost(workers: Prefect) -> None:
    before, during = fresh("nap4000-before"), fresh("during")
    runs = start_all(workers, before, "critical")
    workers.wait_noted("began", before)

    async def over_the_outage(client: PrefectClient) -> str:
        await start(client, fresh("warm")[0], "urgent")  # the client has its connection
        workers.kill()
        restart = asyncio.create_task(asyncio.to_thread(workers.start))
        began = time.monotonic()
        run_id = await start(client, during[0], "critical", patience_seconds=40)
        print(f"\nrelay succeeded {time.monotonic() - began:.1f} s after the kill")
        await restart
        return run_id

    run_id = workers.ask(over_the_outage)
    workers.wait_noted("ended", during)
    wait_for_state(workers, run_id, "COMPLETED")
    # The flow that ran through the outage reports its end to the new server.
    wait_for_state(workers, runs[before[0]], "COMPLETED", seconds=40)
    assert all(worker.poll() is None for worker in _steady(workers))
    again = fresh("after")
    start_all(workers, again, "routine")
    workers.wait_noted("ended", again)


def _steady(workers: Prefect) -> list[Any]:
    return [workers.workers[name] for name in ("critical-1", "general-1")]
