"""Appointments by real messages: they join their order and move its step."""

from __future__ import annotations

import pytest

from services.database.store import Store
from services.settings import Settings
from tests.hl7.orders import omi
from tests.workflow.sender import PID, Sender, message


@pytest.fixture
def send(store: Store, settings: Settings) -> Sender:
    return Sender(store, settings)


def siu(
    event: str, start: str = "20260301100000", *, order: str = "P100^EMR", pid: str = PID
) -> bytes:
    sch = [""] * 28
    sch[0:3] = ["SCH", "AP1^EMR", "AF1^RIS"]
    sch[26] = order
    return message(
        f"SIU^{event}^SIU_S12",
        "|".join(sch),
        pid,
        "RGS|1",
        f"AIS|1|A|MRBRWO^MRI brain^L|{start}",
        "AIL|1|A|MRI-2",
    )


def steps(store: Store) -> list[tuple[str, str, str]]:
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        return [
            (s.start_at.astimezone().strftime("%Y%m%d%H%M"), s.status, s.location)
            for s in order.steps
        ]


def last(store: Store) -> str:
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        return uow.timeline.of_study(study.id)[-1].kind


def test_a_slot_through_its_life(send: Sender, store: Store) -> None:
    send(omi())
    assert send(siu("S12")) == "AA"
    assert steps(store) == [("202603011000", "SCHEDULED", "MRI-2")]
    assert send(siu("S13", "20260302110000")) == "AA"
    assert steps(store)[0][:2] == ("202603021100", "SCHEDULED")
    assert send(siu("S15")) == "AA"
    assert steps(store)[0][1] == "UNBOOKED"
    with store() as uow:
        assert uow.orders.worklist() == []  # the order is open and waits for another slot
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert order.status == "SC"
    assert send(siu("S12", "20260303090000")) == "AA"
    assert steps(store)[0][:2] == ("202603030900", "SCHEDULED")
    assert send(siu("S26")) == "AA"
    assert (steps(store)[0][1], last(store)) == ("UNBOOKED", "appointment.noshow")


@pytest.mark.parametrize("event", ["S14", "S16", "S17", "S18", "S19", "S20", "S21", "S22"])
def test_every_event_is_told(send: Sender, store: Store, event: str) -> None:
    send(omi())
    send(siu("S12"))
    assert send(siu(event)) == "AA"
    assert last(store).startswith("appointment.")


def test_a_slot_before_its_order_waits_for_it(send: Sender, store: Store) -> None:
    assert send(siu("S12", "20260305080000")) == "AA"
    assert send(omi()) == "AA"
    assert steps(store)[0][0] == "202603050800"
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        assert "appointment.joined" in [e.kind for e in uow.timeline.of_study(study.id)]


def test_a_slot_of_another_patient_joins_nothing(send: Sender, store: Store) -> None:
    other = PID.replace("0012345", "777")
    send(siu("S12", "20260305080000", pid=other))
    send(omi())
    assert steps(store)[0][0] == "202603010900"
    assert send(siu("S13", "20260306080000", pid=other)) == "AA"
    assert steps(store)[0][0] == "202603010900"


@pytest.mark.parametrize("event", ["S15", "S17", "S26"])
def test_a_slot_that_was_never_told_of_is_kept_as_given_up(
    send: Sender, store: Store, event: str
) -> None:
    assert send(siu(event)) == "AA"
    send(omi())
    assert steps(store)[0][:2] == ("202603010900", "SCHEDULED")


def test_a_begun_exam_is_not_moved(send: Sender, store: Store) -> None:
    send(omi())
    send(siu("S12"))
    send(omi().replace(b"ORC|NW", b"ORC|SC").replace(b"||SC|", b"||IP|"))
    before = steps(store)
    assert send(siu("S13", "20260309080000")) == "AE 206"
    assert steps(store) == before


def test_without_sch_there_is_no_appointment(send: Sender) -> None:
    assert send(message("SIU^S12^SIU_S12", PID, "AIS|1|A|X")) == "AE 101"


@pytest.mark.parametrize("event", ["S23", "S24"])
def test_blocked_slots_are_nothing_of_ours(send: Sender, event: str) -> None:
    assert send(siu(event)) == "AA"


def test_an_event_that_is_not_served_is_rejected(send: Sender) -> None:
    assert send(siu("S25")) == "AR 201"
