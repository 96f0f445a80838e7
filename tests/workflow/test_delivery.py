"""Every version to every destination, once, with the answer that was really given to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.errors import Unavailable
from models.lifecycle import StudyState
from services.database.store import Store
from services.settings import Settings
from services.simulators.inbox import EmrInbox, Fault
from services.workflow.delivery import deliver, plan_deliveries, settle
from services.workflow.messages import receive_message
from services.workflow.reporting import sign_report
from tests.hl7.orders import orm

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
