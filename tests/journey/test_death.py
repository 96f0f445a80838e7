"""Any process dies at any moment of the morning, and so does the whole machine's worth of them.

What was acknowledged is there afterwards, and nothing was sent twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from deployments.demonstration import wait_until_done
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import imaging_order, instance, message_log
from services.simulators.department import DayLog, Department
from services.simulators.inbox import EmrInbox
from services.simulators.scanner import STORED
from services.simulators.status_inbox import StatusInbox
from tests.journey.engine import Engine, installed

VICTIMS = (
    "hl7",
    "worker-critical",
    "dicom",
    "relay",
    "postgres",
    "web",
    "prefect",
    "worker-routine",
    "worker-heavy",
    "model",
    "supervisor",
    "up",
    "everything",
)
EVENTS_BETWEEN = 5
"""The day has about seventy events; one part dies at every fifth."""


def kill_one_after_another(
    engine: Engine, happened: threading.Semaphore, over: threading.Event
) -> list[str]:
    """Kill the next part after every few events of the day; return what was killed."""
    killed = []
    for victim in VICTIMS:
        for _ in range(EVENTS_BETWEEN):
            while not happened.acquire(timeout=0.5):
                if over.is_set():
                    return killed
        engine.kill(victim)
        killed.append(victim)
        if victim in {"supervisor", "up", "everything"}:
            engine.start()
        else:
            engine.wait_for_restart()
    return killed


@pytest.fixture
def inbox() -> Iterator[EmrInbox]:
    with EmrInbox() as inbox:
        yield inbox


@pytest.fixture
def statuses() -> Iterator[StatusInbox]:
    with StatusInbox() as statuses:
        yield statuses


@pytest.fixture
def engine(inbox: EmrInbox, statuses: StatusInbox) -> Iterator[Engine]:
    """An installation of its own: the others share one, which starts after this has ended."""
    with installed(inbox.port, statuses.port) as engine:
        yield engine


@pytest.mark.timeout(600)
def test_kill_9_loses_nothing_acknowledged_and_sends_nothing_twice(
    engine: Engine, inbox: EmrInbox, statuses: StatusInbox
) -> None:
    happened, over = threading.Semaphore(0), threading.Event()
    settings = engine.settings
    with ThreadPoolExecutor(1) as pool:
        department = Department(
            seed=11,
            hl7_port=settings.hl7_port,
            dicom_port=settings.dicom_port,
            http_url=settings.http_url,
            inbox=inbox,
            on_event=lambda *_: happened.release(),
            reading_s=0.1,
        )
        killing = pool.submit(kill_one_after_another, engine, happened, over)
        killing.add_done_callback(lambda done: done.exception() and department.stop())
        log = department.run(timeout_s=420)
        over.set()
        assert killing.result() == list(VICTIMS), log.problems
    store = Store(settings, pool_size=1)
    try:
        wait_until_done(store, 120)
        assert log.finished, log.problems
        _check_orders(store, log)
        _check_images(store, Tiers(settings), log)
        _check_reports(store, inbox, log)
        _check_statuses(store, statuses, log)
    finally:
        store.close()


def _check_orders(store: Store, log: DayLog) -> None:
    acknowledged = Counter(
        ack.control_id for acks in log.acks.values() for _, ack in acks if ack.accepted
    )
    with store() as uow:
        rows = uow.studies.select(select(imaging_order.c.accession, imaging_order.c.status))
        kept = set(
            uow.connection.scalars(
                select(message_log.c.control_id).where(message_log.c.direction == "in")
            )
        )
    orders = {row.accession: row.status for row in rows}
    assert orders.keys() == {p.accession for p in log.plan if not p.unordered}
    assert [a for a, status in orders.items() if status == "CA"] == [
        p.accession for p in log.plan if p.cancelled
    ]
    assert acknowledged.keys() <= kept


def _check_images(store: Store, tiers: Tiers, log: DayLog) -> None:
    sent = {
        uid
        for scan in log.scans.values()
        for uid, status in zip(scan.instance_uids, scan.statuses, strict=True)
        if status in STORED
    }
    with store() as uow:
        rows = {
            row.sop_uid: row
            for row in uow.studies.select(select(instance).where(instance.c.sop_uid.in_(sent)))
        }
    assert rows.keys() == sent
    assert all(tiers.verify(Tier(row.tier), row.path, row.digest) for row in rows.values())


def _check_reports(store: Store, inbox: EmrInbox, log: DayLog) -> None:
    signed = {s.study.accession for s in log.signed if s.study.accession}
    accepted = Counter(m.accession for m in inbox.accepted if m.status == "F")
    assert accepted == dict.fromkeys(signed, 1)
    # Where the sender died between an answer and its own commit, the peer sees the same message
    # again, under the same control id and byte for byte: its own rule for a repetition.
    by_control_id: dict[str, set[bytes]] = {}
    for message in inbox.messages:
        by_control_id.setdefault(message.control_id, set()).add(message.raw)
    assert all(len(versions) == 1 for versions in by_control_id.values())


def _check_statuses(store: Store, statuses: StatusInbox, log: DayLog) -> None:
    """The placer saw each change that was committed, in its order, as one message."""
    for patient in log.plan:
        if patient.unordered:
            continue
        with store() as uow:
            (study,) = uow.studies.find_by_accession(patient.accession)
            changes = uow.notices.of_study(study.id)
        assert statuses.seen(patient.accession) == [
            (change.order_status, change.result_status) for change in changes
        ]
        assert changes[0].order_status == "SC"
        last = changes[-1].order_status, changes[-1].result_status
        assert last == (("CA", "X") if patient.cancelled else ("CM", "F"))
        assert [c.order_status for c in changes].count("IP") >= (not patient.cancelled)
    assert len({(m.control_id, m.raw) for m in statuses.messages}) == len(
        {m.control_id for m in statuses.messages}
    )
