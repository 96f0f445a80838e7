"""Every version to every destination, once, with the answer that was really given to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.errors import Unavailable
from models.lifecycle import StudyState
from services.database.store import Store
from services.settings import Settings
from services.simulators.inbox import EmrInbox, Fault
from services.workflow.delivery import deliver, plan_deliveries, settle, split_version
from services.workflow.identity import unmerge
from services.workflow.messages import receive_message
from services.workflow.reporting import sign_report
from tests.hl7.orders import adt, orm

UID = "1.2.3.4.5.6.7"


@pytest.fixture
def inbox() -> Iterator[EmrInbox]:
    inbox = EmrInbox()
    yield inbox
    inbox.close()


@pytest.fixture
def configured(settings: Settings, inbox: EmrInbox) -> Settings:
    return settings.model_copy(update={"destinations": {"emr": f"mllp://127.0.0.1:{inbox.port}"}})


@pytest.fixture
def study_id(store: Store, configured: Settings) -> str:
    """An ordered study with a signed report."""
    receive_message(store, orm(), peer="test", settings=configured)
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        uow.studies.change(study.id, state=StudyState.ACQUIRED.value, acquired_at=uow.now)
    sign(store, "final", "No abnormality.")
    assert plan_deliveries(store, configured, study.id, 1) == ["emr"]
    return study.id


def sign(store: Store, status: str, impression: str) -> None:
    sign_report(
        store, UID, status=status, findings="", impression=impression, author="Reader, Rita"
    )


def test_a_report_is_delivered_once_and_its_answer_kept(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    for _ in range(3):
        plan_deliveries(store, configured, study_id, 1)
        assert deliver(store, configured, study_id, 1, "emr").state == "accepted"
        assert settle(store, study_id, 1)
    assert len(inbox.messages) == 1
    with store() as uow:
        (delivery,) = uow.deliveries.of_study(study_id)
        assert (delivery.ack_code, delivery.attempts) == ("AA", 1)
        message = uow.messages.get(delivery.message_id)
        assert delivery.control_id.encode() in bytes(message.ack)
        assert uow.studies.get(study_id).state is StudyState.DELIVERED


@pytest.mark.parametrize("fault", ["AE", "close"])
def test_after_a_fault_the_same_bytes_are_sent_again(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str, fault: Fault
) -> None:
    inbox.fail_next(1, fault)
    with pytest.raises(Unavailable):
        deliver(store, configured, study_id, 1, "emr")
    assert not settle(store, study_id, 1)
    assert deliver(store, configured, study_id, 1, "emr").state == "accepted"
    assert len({message.control_id for message in inbox.messages}) == 1
    assert len({message.raw for message in inbox.messages}) == 1


def test_a_rejected_report_is_not_sent_again_but_lies_on_the_desk(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    inbox.fail_next(1, "AR")
    for _ in range(2):
        assert deliver(store, configured, study_id, 1, "emr").state == "rejected"
    assert len(inbox.messages) == 1
    assert not settle(store, study_id, 1)
    with store() as uow:
        assert [row.kind for row in uow.studies.desk(study_id)] == ["report-refused"]


def test_a_stale_version_is_never_sent_after_a_newer_one(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    sign(store, "corrected", "A small lesion.")
    plan_deliveries(store, configured, study_id, 2)
    assert deliver(store, configured, study_id, 2, "emr").state == "accepted"
    assert deliver(store, configured, study_id, 1, "emr").state == "superseded"
    assert len(inbox.messages) == 1
    assert "A small lesion." in inbox.messages[0].raw.decode()


def test_nobody_at_the_other_end_is_said_and_costs_nothing(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    inbox.close()
    with pytest.raises(Unavailable):
        deliver(store, configured, study_id, 1, "emr")
    with store() as uow:
        (delivery,) = uow.deliveries.of_study(study_id)
    assert (delivery.state, delivery.attempts) == ("planned", 1)


def test_a_report_without_an_order_waits_for_the_desk(store: Store, configured: Settings) -> None:
    with store() as uow:
        study = uow.studies.ensure(UID, state=StudyState.ACQUIRED)
    sign(store, "final", "No abnormality.")
    for _ in range(2):
        assert plan_deliveries(store, configured, study.id, 1) is None
    assert not settle(store, study.id, 1)
    with store() as uow:
        assert uow.studies.get(study.id).state is StudyState.FINAL
        held = [e for e in uow.timeline.of_study(study.id) if e.kind == "report.held"]
        assert len(held) == 1
        assert uow.outbox.unfinished() == 0
        # The order has come: whatever the run that found none does now, the report goes out.
        uow.outbox.reopen(study.id, "report_delivery")
        assert [stage.flow for stage in uow.outbox.pending()] == ["report_delivery"]


def run_readdressed(
    store: Store, settings: Settings, study_id: str, *, newest_first: bool = False
) -> None:
    """Run every stage of delivery, those that a change of patient has announced too."""
    with store() as uow:
        stages = [s for s in uow.outbox.of_study(study_id) if s.flow == "report_delivery"]
    for stage in reversed(stages) if newest_first else stages:
        version, edition = split_version(stage.version)
        for destination in plan_deliveries(store, settings, study_id, version, edition) or []:
            deliver(store, settings, study_id, version, destination)
        settle(store, study_id, version)


def merging(store: Store, settings: Settings) -> int:
    raw = adt(event="A40", control_id="T9", pid="777", mrg="0012345")
    assert receive_message(store, raw, peer="test", settings=settings).code == "AA"
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        assert study.patient_id is not None
        return uow.merges.of_patient(study.patient_id)[-1].id


def test_after_a_merge_a_delivered_report_is_corrected_once_and_after_its_undoing_again(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    deliver(store, configured, study_id, 1, "emr")
    change = merging(store, configured)
    for _ in range(2):
        run_readdressed(store, configured, study_id)
    with store() as uow:
        unmerge(uow, change, by="chief", why="two persons")
    for _ in range(2):
        run_readdressed(store, configured, study_id)
    assert [(m.patient_id, m.status) for m in inbox.messages] == [
        ("0012345", "F"),
        ("777", "C"),
        ("0012345", "C"),
    ]
    assert {m.answered for m in inbox.messages} == {"AA"}
    assert not inbox.duplicates
    assert len({m.text for m in inbox.messages}) == 1
    with store() as uow:
        assert uow.studies.get(study_id).state is StudyState.DELIVERED
        told = [e for e in uow.timeline.of_study(study_id) if e.kind.startswith("patient.")]
        assert [(e.kind, e.actor, e.evidence["why"]) for e in told] == [
            ("patient.merged", "EMR|HOSP", "ADT^A40"),
            ("patient.merge-undone", "chief", "two persons"),
        ]


def test_a_report_that_nobody_has_yet_is_no_correction(
    store: Store, configured: Settings, inbox: EmrInbox, study_id: str
) -> None:
    merging(store, configured)
    # The change's stage overtakes the one of the signature, which then has nothing to send.
    run_readdressed(store, configured, study_id, newest_first=True)
    assert [(m.patient_id, m.status) for m in inbox.messages] == [("777", "F")]
