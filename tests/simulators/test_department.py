from __future__ import annotations

import gc
import threading

import pytest

from deployments.installation import free_port, free_ports
from services.simulators.department import Department, plan
from services.simulators.emr import EmrInbox
from services.simulators.plan import STATIONS
from tests.simulators.stand_in import StandIn

SEED = 11

# pynetdicom 3.0.4 forgets to close the socket of a refused connection (transport.py, `connect`)
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def forgotten_sockets_end_here():
    yield
    gc.collect()


@pytest.fixture
def hospital():
    """An inbox, a stand-in engine, and what a department needs to reach them."""
    ports = free_ports(*STATIONS)
    with EmrInbox() as inbox:
        engine = StandIn(inbox.port, ports)
        engine.critical = {p.accession for p in plan(SEED) if p.critical}

        def department(**kwargs):
            return Department(
                seed=SEED,
                hl7_port=engine.hl7_port,
                dicom_port=engine.dicom_port,
                http_url=f"http://127.0.0.1:{engine.http_port}",
                inbox=inbox,
                listener_ports=ports,
                matrix=48,
                slices=8,
                reading_s=0.05,
                **kwargs,
            )

        yield department, engine, inbox
        engine.close()


def check(log, engine, inbox):
    patients = log.plan
    expected = {p.accession for p in patients if p.reported}
    assert log.problems == []
    assert log.finished
    assert log.cancelled_vanished
    assert log.delivered == expected
    assert inbox.duplicates == []
    assert {m.accession for m in inbox.messages} == expected
    # one order each, though one was sent twice
    duplicated = next(p for p in patients if p.duplicated)
    assert engine.received.count(f"{duplicated.placer}-N") >= 2
    assert len(engine.orders) == 12
    cancelled = next(p for p in patients if p.cancelled)
    assert cancelled.accession not in {i.AccessionNumber for i in engine.instances.values()}
    # one step each, all completed, one of them for the patient without an order
    assert len(engine.steps) == 12
    assert {s.PerformedProcedureStepStatus for s in engine.steps.values()} == {"COMPLETED"}
    studies = {}
    for image in engine.instances.values():
        studies.setdefault(image.StudyInstanceUID, []).append(image)
    for p in patients:
        if p.scanned:
            images = studies.pop(p.study_uid)
            assert len(images) == (1 if p.enhanced else 8)
            assert {str(i.PatientName) for i in images} == {p.name}
            assert {i.PatientID for i in images} == {p.patient_id}
            assert {i.AccessionNumber or "" for i in images} == {p.accession}
    assert studies == {}
    critical = {p.study_uid for p in patients if p.critical}
    assert set(engine.acknowledged) == critical == log.acknowledged
    for signed in log.signed:
        assert signed.study.study_uid == signed.waiting[0]
        assert ("hydrocephalus" in engine.reports[signed.study.study_uid][0]["impression"]) == (
            signed.study.study_uid in critical
        )


def test_a_morning(hospital):
    department, engine, inbox = hospital
    events = []
    log = department(on_event=lambda *event: events.append(event)).run(60)
    check(log, engine, inbox)
    assert engine.stores.total() == len(engine.instances)
    kinds = [kind for kind, _, _ in events]
    assert kinds.count("registered") == kinds.count("ordered") == 12
    assert kinds.count("committed") == 12
    assert kinds.count("delivered") == kinds.count("read") == 11
    assert [kinds.count(k) for k in ("repeated", "cancelled", "vanished")] == [1, 1, 1]


def test_a_morning_with_an_engine_that_dies_twice(hospital):
    department, engine, inbox = hospital
    deaths = []

    def on_event(kind, _patient, _detail):
        # once among the orders and images, once among the reports
        if (kind, len(deaths)) in (("acquired", 0), ("read", 1)):
            deaths.append(engine.die_for(0.5))

    log = department(on_event=on_event).run(60)
    for thread in deaths:
        thread.join(10)
    assert engine.kills == 2
    check(log, engine, inbox)


def test_a_day_without_an_engine_ends_and_says_so():
    port = free_port()
    with EmrInbox() as inbox:
        department = Department(
            seed=SEED,
            hl7_port=port,
            dicom_port=port,
            http_url=f"http://127.0.0.1:{port}",
            inbox=inbox,
            patience_s=0.5,
        )
        log = department.run(10)
    assert not log.finished
    assert any("ConnectionRefused" in p or "refused" in p for p in log.problems)
    assert log.seconds < 8


def test_a_department_can_be_sent_home():
    port = free_port()
    with EmrInbox() as inbox:
        department = Department(
            seed=SEED,
            hl7_port=port,
            dicom_port=port,
            http_url=f"http://127.0.0.1:{port}",
            inbox=inbox,
        )
        threading.Timer(0.5, department.stop).start()
        log = department.run(60)
    assert not log.finished
    assert log.seconds < 10
