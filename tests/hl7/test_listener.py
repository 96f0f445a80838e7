from __future__ import annotations

import socket
import threading

import pytest
from hl7.client import MLLPClient

from models.errors import Unavailable
from models.lifecycle import StudyState
from models.priority import Priority
from services.database.messages import Wanted
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.er7 import parse
from services.hl7.server import serve
from services.settings import Settings
from tests.hl7.orders import adt, omi, orm


def talk(port: int, *messages: bytes) -> list[bytes]:
    """Send messages over one connection with the PyPI hl7 client; return the answers."""
    answers = []
    with MLLPClient("127.0.0.1", port) as client:
        for message in messages:
            answers.append(client.send_message(message).strip(b"\x0b\x1c\r"))
    return answers


def test_an_order_is_committed_before_it_is_acknowledged(port: int, store: Store) -> None:
    (answer,) = talk(port, orm())
    assert read_reply(answer).code == "AA"
    assert read_reply(answer).control_id == "M1"
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        assert (study.state, study.priority) == (StudyState.SCHEDULED, Priority.STAT)
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert order.safety.pregnancy_status == 3
        assert order.safety.medical_alerts == "Pacemaker"
        assert order.safety.allergies == "Gadolinium contrast"
        assert order.safety.weight_kg == 72
        assert order.steps[0].station_aet == "MR1AE"
        (message,) = uow.messages.inbound_of(study.id)
        assert (message.raw, message.ack, message.state) == (orm(), answer + b"\r", "processed")
        assert [s.flow for s in uow.outbox.pending()] == [
            "order_intake",
            "worklist_publication",
        ]


def test_both_ihe_options_make_the_same_order(port: int, store: Store) -> None:
    talk(port, orm())
    with store() as uow:
        first = uow.orders.find_by_placer("P100", "EMR")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE patient, imaging_order, study CASCADE")
    talk(port, omi())
    with store() as uow:
        second = uow.orders.find_by_placer("P100", "EMR")
    assert first is not None
    assert second is not None
    ignored = {"id", "patient_id", "steps"}
    for name in set(first.__slots__) - ignored:
        assert getattr(first, name) == getattr(second, name), name
    assert [(s.sps_id, s.start_at, s.station_aet, s.modality) for s in first.steps] == [
        (s.sps_id, s.start_at, s.station_aet, s.modality) for s in second.steps
    ]


def test_the_same_message_gets_the_same_answer_and_no_second_effect(
    port: int, store: Store
) -> None:
    first, second = talk(port, orm(), orm())
    assert first == second
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        assert [e.kind for e in uow.timeline.of_study(study.id)] == ["order.placed"]


def test_the_same_control_id_with_other_content_is_another_message(port: int) -> None:
    first, second = talk(port, adt(control_id="X"), adt(control_id="X", event="A08"))
    assert [read_reply(a).code for a in (first, second)] == ["AA", "AA"]
    assert parse(second).msh.get(9, 2) == "A08"


def test_a_cancelled_order_cannot_be_cancelled_into_the_past(port: int, store: Store) -> None:
    answers = talk(
        port,
        orm(),
        orm(control="CA", control_id="M2"),
        orm(control="CA", control_id="M3"),
        orm(control="XO", control_id="M4", start="20260302090000"),
    )
    assert [read_reply(a).code for a in answers] == ["AA", "AA", "AA", "AE"]
    with store() as uow:
        assert uow.orders.worklist() == []


def test_a_changed_order_keeps_its_identity_and_moves_its_step(port: int, store: Store) -> None:
    talk(port, orm(), orm(control="XO", control_id="M2", start="20260302100000", priority="R"))
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert (order.accession, order.study_uid) == ("A2026000123", "1.2.3.4.5.6.7")
        assert order.priority is Priority.ROUTINE
        assert order.steps[0].start_at.astimezone().strftime("%Y%m%d%H%M") == "202603021000"


def test_a_merge_moves_orders_and_refuses_itself(port: int, store: Store) -> None:
    talk(port, orm())
    answers = talk(
        port,
        adt(event="A40", control_id="T2", pid="777", mrg="0012345"),
        adt(event="A40", control_id="T3", pid="777", mrg="777"),
    )
    assert [read_reply(a).code for a in answers] == ["AA", "AE"]
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert uow.patients.get(order.patient_id).mrn.value == "777"


@pytest.mark.parametrize(
    ("raw", "code", "number", "location"),
    [
        (orm().replace(b"ORM^O01^ORM_O01", b"OUL^R22^OUL_R22"), "AR", "200", "MSH^1^9"),
        (adt(event="A99"), "AR", "201", "MSH^1^9^1^2"),
        (orm().replace(b"|2.3.1|", b"|9.9|"), "AR", "203", "MSH^1^12"),
        (omi().replace(b"0012345^^^HOSP&1.2.3.4&ISO^MR", b""), "AE", "101", "PID^1^3"),
        (omi().replace(b"IPC|A2026000123^", b"IPC|A2026000123000000^"), "AE", "104", "IPC^1^1"),
        (omi().replace(b"20260301090000||S", b"tomorrow||S"), "AE", "102", "TQ1^1^7"),
        (omi().replace(b"ORC|NW", b"ORC|CA"), "AE", "204", "ORC^1^2"),
        (omi().split(b"\r")[0] + b"\r", "AE", "100", "MSH^1"),
        (b"hello, is this the lab?", "AR", "100", "MSH^1"),
    ],
)
def test_bad_messages_get_a_clear_answer_and_are_kept(
    port: int, store: Store, raw: bytes, code: str, number: str, location: str
) -> None:
    (answer, good) = talk(port, raw, orm(control_id="GOOD"))
    assert read_reply(answer).code == code
    err = parse(answer).first("ERR")
    assert err is not None
    if err.get(2):
        assert err.raw(2).startswith(location)
        assert err.get(3) == number
    else:
        # v2.3.1 knows ERR-1 only
        assert f"{number}&" in err.raw(1)
    assert read_reply(good).code == "AA"
    with store() as uow:
        kept = uow.messages.get(1)
        assert (kept.raw, kept.state) == (raw, "refused")


def test_a_truncated_frame_is_kept_and_the_listener_lives(port: int, store: Store) -> None:
    with socket.create_connection(("127.0.0.1", port)) as broken:
        broken.sendall(b"\x0b" + orm()[:100])
    with socket.create_connection(("127.0.0.1", port)) as garbage:
        garbage.sendall(b"GET / HTTP/1.1\r\n\r\n")
    (answer,) = talk(port, orm())
    assert read_reply(answer).code == "AA"
    for _ in range(100):
        with store() as uow:
            rows = uow.messages.search(Wanted(states=["fragment"]))
        if len(rows) == 2:
            break
        threading.Event().wait(0.05)
    with store() as uow:
        kept = {uow.messages.get(row.id).raw for row in rows}
    assert kept == {orm()[:100], b"GET / HTTP/1.1\r\n\r\n"}


def test_an_acknowledgement_is_never_acknowledged(port: int) -> None:
    ack = b"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|2026||ACK^O01|Q1|P|2.5.1\rMSA|AA|1\r"
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\x0b" + ack + b"\x1c\r" + b"\x0b" + adt() + b"\x1c\r")
        peer.settimeout(10)
        received = b""
        while not received.endswith(b"\x1c\r"):
            received += peer.recv(4096)
    assert received.count(b"\x0b") == 1
    assert b"MSA|AA|T1" in received


def test_cleartext_off_loopback_is_refused(store: Store, settings: Settings) -> None:
    open_to_all = settings.model_copy(update={"host": "0.0.0.0", "hl7_port": 0})
    with pytest.raises(Unavailable, match="SPINECHO_ALLOW_CLEARTEXT"):
        serve(open_to_all, store)
