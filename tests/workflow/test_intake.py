"""An order that comes after its images joins them, or says why it may not."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select, text

from models.lifecycle import StepState, StudyState
from services.database.store import Store
from services.database.tables import imaging_order
from services.settings import Settings
from services.workflow.messages import receive_message
from services.workflow.reporting import sign_report
from tests.hl7.orders import orm

UID = "1.2.3.4.5.6.7"


def exam(store: Store, *, name: str = "DOE^JANE^Q", patient_id: str = "0012345") -> str:
    """Let an exam have happened before anybody ordered it."""
    with store() as uow:
        study = uow.studies.ensure(UID, state=StudyState.ACQUIRED)
        uow.studies.change(
            study.id, dicom_patient_name=name, dicom_patient_id=patient_id, acquired_at=uow.now
        )
        uow.studies.to_desk("no-order", study.id, "no order", study_id=study.id)
    return study.id


def test_the_order_and_its_images_become_one_study(store: Store, settings: Settings) -> None:
    study_id = exam(store)
    answered = receive_message(store, orm(), peer="test", settings=settings)
    assert answered.code == "AA"
    with store() as uow:
        study = uow.studies.get(study_id)
        order = uow.orders.find_by_study_uid(UID)
        assert order is not None
        assert (study.order_id, study.patient_id) == (order.id, order.patient_id)
        assert (study.accession, study.state) == (order.accession, StudyState.ACQUIRED)
        assert [s.status for s in order.steps] == [StepState.COMPLETED.value]
        assert uow.orders.worklist() == []
        assert uow.studies.desk(study_id) == []
        assert "order.joined" in {e.kind for e in uow.timeline.of_study(study_id)}


def test_images_of_somebody_else_stay_apart(store: Store, settings: Settings) -> None:
    study_id = exam(store, name="OTHER^PERSON", patient_id="777")
    answered = receive_message(store, orm(), peer="test", settings=settings)
    assert answered.code == "AE"
    with store() as uow:
        assert uow.studies.get(study_id).order_id is None
        assert uow.orders.find_by_study_uid(UID) is None
        assert [row.kind for row in uow.studies.desk(study_id)] == ["no-order"]


def test_a_report_that_was_held_goes_out_when_the_order_comes(
    store: Store, settings: Settings
) -> None:
    study_id = exam(store)
    sign_report(
        store, UID, status="final", findings="", impression="Normal.", author="Reader, Rita"
    )
    with store() as uow:
        for stage in uow.outbox.pending():
            uow.outbox.dispatched(stage, "run")
        uow.outbox.done(study_id, "report_delivery", "1")
    receive_message(store, orm(), peer="test", settings=settings)
    with store() as uow:
        flows = {s.flow: s.attempt for s in uow.outbox.pending()}
    assert flows["report_delivery"] == 2


def test_an_order_sent_again_while_it_is_being_placed_is_one_order(
    store: Store, settings: Settings
) -> None:
    """Nobody but us gives it a number: only its placer number tells that it is the same."""
    senders = 4
    bare = orm(accession="", uid="", placer="P7").replace(b"|RP1|SPS1|", b"|||")
    assert receive_message(store, orm(), peer="test", settings=settings).code == "AA"

    def send(number: int) -> str:
        raw = bare.replace(b"|M1|", b"|AGAIN%d|" % number)
        return receive_message(store, raw, peer="test", settings=settings).code

    with ThreadPoolExecutor(senders) as pool:
        # Nobody gets past its look-ups until all have made them, or wait for who came first.
        with store.engine.begin() as holding:
            holding.execute(text("LOCK TABLE imaging_order IN SHARE MODE"))
            sent = [pool.submit(send, number) for number in range(senders)]
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            deadline = time.monotonic() + 20
            with store.engine.connect() as looking:
                while looking.scalar(waiting) < senders:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        assert [answer.result() for answer in sent] == ["AA"] * senders
    with store() as uow:
        placed = select(func.count()).where(imaging_order.c.placer_number == "P7")
        assert uow.connection.scalar(placed) == 1
