"""ADT^A40 and what comes under an identifier that it retired (STANDARDS §2.3)."""

from __future__ import annotations

from services.database.store import Store
from services.settings import Settings
from services.workflow.identity import unmerge
from services.workflow.messages import receive_message
from tests.hl7.orders import adt, orm


def send(store: Store, settings: Settings, raw: bytes) -> tuple[str, bytes]:
    answered = receive_message(store, raw, peer="test", settings=settings)
    assert answered.acknowledgement is not None
    return answered.code, answered.acknowledgement


def test_the_trauma_patients_order_follows_and_returns(store: Store, settings: Settings) -> None:
    trauma = orm().replace(b"0012345^^^HOSP", b"TEMP77^^^HOSP").replace(b"DOE^JANE", b"DOE^UNKNOWN")
    assert send(store, settings, trauma)[0] == "AA"
    code, _ = send(store, settings, adt(event="A40", control_id="T2", pid="777", mrg="TEMP77"))
    assert code == "AA"
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        kept = order.patient_id
        assert uow.patients.get(kept).mrn.value == "777"
        (row,) = uow.orders.worklist()
        assert row.patient_given == "JANE"
        (change,) = uow.merges.of_patient(kept)
        assert (change.by, change.why) == ("EMR|HOSP", "ADT^A40")
        assert change.message_id is not None
    with store() as uow:
        unmerge(uow, change.id, by="chief", why="another person")
    with store() as uow:
        (row,) = uow.orders.worklist()
        assert row.patient_given == "UNKNOWN"


def test_a_message_on_a_retired_identifier_is_refused_with_204(
    store: Store, settings: Settings
) -> None:
    send(store, settings, orm())
    send(store, settings, adt(event="A40", control_id="T2", pid="777", mrg="0012345"))
    for raw in (
        orm(control_id="M9", placer="P101", uid="1.2.9", accession="A9"),
        adt(event="A08", control_id="T9"),
    ):
        code, answer = send(store, settings, raw)
        assert code == "AE"
        assert b"204" in answer.split(b"ERR|")[1]
    with store() as uow:
        assert uow.orders.find_by_placer("P101", "EMR") is None


def test_the_same_merge_again_is_accepted_and_the_reversed_one_refused(
    store: Store, settings: Settings
) -> None:
    send(store, settings, adt(pid="0012345", control_id="T0"))
    send(store, settings, adt(event="A40", control_id="T1", pid="777", mrg="0012345"))
    again = adt(event="A40", control_id="T2", pid="777", mrg="0012345")
    assert send(store, settings, again)[0] == "AA"
    code, answer = send(
        store, settings, adt(event="A40", control_id="T3", pid="0012345", mrg="777")
    )
    assert code == "AE"
    assert b"205" in answer.split(b"ERR|")[1]


def test_the_survivor_is_made_where_the_merge_comes_first(store: Store, settings: Settings) -> None:
    send(store, settings, orm())
    send(store, settings, adt(event="A40", control_id="T2", pid="NEW1", mrg="0012345"))
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert uow.patients.get(order.patient_id).mrn.value == "NEW1"
