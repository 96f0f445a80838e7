from __future__ import annotations

import socket
import threading
from dataclasses import replace
from datetime import date

import hl7
import pytest
from hl7.client import MLLPClient

from deployments.installation import free_port
from services.simulators.emr import Emr, EmrInbox
from services.simulators.inbox import acknowledge
from services.simulators.mllp import Hl7ProtocolError, MllpLink, segments, take, text_of, wrap
from services.simulators.plan import plan
from services.simulators.status_inbox import StatusInbox
from tests.simulators.stand_in import oru

PATIENT = next(p for p in plan(7, date(2026, 3, 1)) if "Müller" in p.name)
ORDER = PATIENT.order()


@pytest.fixture
def peer():
    """An MLLP peer on a raw socket that answers what the test tells it to."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(5)
    state = {"received": [], "connections": 0, "answer": lambda raw: acknowledge(raw, "AA")}
    state["port"] = server.getsockname()[1]
    done = threading.Event()

    def serve():
        while not done.is_set():
            try:
                sock, _ = server.accept()
            except OSError:
                return
            state["connections"] += 1
            rest = bytearray()
            with sock:
                sock.settimeout(5)
                while (raw := take(sock, rest)) is not None:
                    state["received"].append(raw)
                    answer = state["answer"](raw)
                    if answer is None:
                        break
                    sock.sendall(wrap(answer))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield state
    done.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_the_order_is_the_worked_example_of_the_ihe_option():
    """Field by field by the library `hl7`, which shares nothing with the simulator."""
    message = hl7.parse(ORDER.new().decode())
    assert str(message.segment("MSH")[9]) == "ORM^O01"
    assert str(message.segment("MSH")[12]) == "2.3.1"
    assert str(message.segment("MSH")[18]) == "UNICODE UTF-8"
    assert str(message["PID.F3.R1.C1"]) == PATIENT.patient_id
    assert str(message["PID.F3.R1.C4.S1"]) == "SIMHOSP"
    assert str(message["PID.F3.R1.C4.S2"]) == "2.999.7.1"
    assert str(message.segment("PID")[5]) == "Müller-Testfall^Jörg"
    assert str(message.segment("ORC")[1]) == "NW"
    assert str(message["ORC.F2.R1.C1"]) == str(message["OBR.F2.R1.C1"]) == PATIENT.placer
    assert str(message["ORC.F7.R1.C4"]) == f"{PATIENT.scheduled:%Y%m%d%H%M%S}"
    assert str(message["ORC.F7.R1.C6"]) == PATIENT.priority
    assert str(message.segment("ORC")[18]) == PATIENT.station
    assert str(message.segment("OBR")[18]) == PATIENT.accession
    assert str(message.segment("OBR")[19]) == PATIENT.procedure_id
    assert str(message.segment("OBR")[20]) == PATIENT.step_id
    assert str(message.segment("OBR")[24]) == "MR"
    assert str(message.segment("ZDS")[1]) == f"{PATIENT.study_uid}^100^Application^DICOM"


def test_registration_and_cancellation():
    registration = hl7.parse(ORDER.registration().decode())
    cancellation = hl7.parse(ORDER.cancellation().decode())
    assert str(registration.segment("MSH")[9]) == "ADT^A04"
    assert str(registration.segment("EVN")[1]) == "A04"
    assert str(cancellation.segment("ORC")[1]) == "CA"
    ids = {
        str(hl7.parse(m.decode()).segment("MSH")[10])
        for m in (ORDER.registration(), ORDER.new(), ORDER.cancellation())
    }
    assert len(ids) == 3
    assert all(len(control_id) <= 20 for control_id in ids)


def test_delimiters_in_text_are_escaped():
    order = replace(ORDER, reason="falls & gait | left^right ~ \\")
    obr = next(s for s in segments(text_of(order.new())) if s[0] == "OBR")
    assert obr[31] == "^falls \\T\\ gait \\F\\ left\\S\\right \\R\\ \\E\\"


def test_many_messages_travel_on_one_connection(peer):
    with Emr("127.0.0.1", peer["port"]) as emr:
        acks = [emr.register(ORDER), emr.place(ORDER), emr.cancel(ORDER)]
    assert all(ack.accepted for ack in acks)
    assert peer["connections"] == 1
    assert len(peer["received"]) == 3


def test_a_broken_connection_is_tried_again_with_the_same_bytes(peer):
    answers = iter([None, None])
    peer["answer"] = lambda raw: next(answers, acknowledge(raw, "AA"))
    with Emr("127.0.0.1", peer["port"]) as emr:
        assert emr.place(ORDER).code == "AA"
    assert len(peer["received"]) == 3
    assert set(peer["received"]) == {ORDER.new()}


def test_refusals_are_told_and_not_repeated(peer):
    peer["answer"] = lambda raw: acknowledge(raw, "AE", "OBR-18 is empty")
    with Emr("127.0.0.1", peer["port"]) as emr:
        ack = emr.place(ORDER)
    assert (ack.code, ack.accepted, ack.text) == ("AE", False, "OBR-18 is empty")
    assert len(peer["received"]) == 1


@pytest.mark.parametrize(
    "answer",
    [b"MSH|^~\\&|A|B|C|D|||ACK|1|P|2.3.1\rMSA|AA|SOMETHING ELSE\r", b"MSH|^~\\&|A|B|C|D|||ACK\r"],
    ids=["another control id", "no MSA"],
)
def test_an_answer_to_something_else_is_no_answer(peer, answer):
    peer["answer"] = lambda _: answer
    with Emr("127.0.0.1", peer["port"]) as emr, pytest.raises(Hl7ProtocolError):
        emr.place(ORDER)


def test_an_engine_that_stays_away_is_given_up():
    port = free_port()
    with Emr("127.0.0.1", port, patience_s=0.5) as emr, pytest.raises(ConnectionRefusedError):
        emr.place(ORDER)


def report(status="final", control_id="R1", **changes):
    parts = {s[0]: s for s in segments(text_of(ORDER.new()))}
    body = {"status": status, "findings": "Größe normal.", "impression": "Normal."}
    raw = oru(parts, PATIENT.study_uid, body, control_id)
    for old, new in changes.items():
        raw = raw.replace(old.encode(), new.encode())
    return raw


def test_the_inbox_takes_a_report_from_an_independent_client():
    """The client of the library `hl7` is the sender."""
    with EmrInbox() as inbox:
        with MLLPClient("127.0.0.1", inbox.port) as client:
            answer = hl7.parse(client.send_message(report()).strip(b"\x0b\x1c\r").decode())
        assert str(answer.segment("MSA")[1]) == "AA"
        assert str(answer.segment("MSA")[2]) == "R1"
        (message,) = inbox.messages
    assert message.patient_id == PATIENT.patient_id
    assert (message.placer, message.filler) == (PATIENT.placer, PATIENT.filler)
    assert (message.accession, message.status) == (PATIENT.accession, "F")
    assert message.study_uid == PATIENT.study_uid
    assert "Größe normal." in message.text
    assert message.problems == ()


def test_the_inbox_shows_repetitions_and_answers_them_alike():
    with EmrInbox() as inbox, MllpLink("127.0.0.1", inbox.port) as link:
        first, again = link.exchange(report()), link.exchange(report())
        assert link.opened == 1
        assert first == again
        assert [m.control_id for m in inbox.messages] == ["R1", "R1"]
        assert inbox.duplicates == ["R1"]
        assert len(inbox.accepted) == 1


def test_the_inbox_refuses_what_an_emr_cannot_file():
    with EmrInbox() as inbox, MllpLink("127.0.0.1", inbox.port) as link:
        no_accession = link.exchange(report(**{PATIENT.accession: ""}))
        no_report = link.exchange(report(**{"ORU^R01^ORU_R01": "ORM^O01"}))
        assert b"MSA|AE|R1|OBR-18 is empty" in no_accession
        assert b"MSA|AR|R1" in no_report
        assert inbox.accepted == []


def test_the_inbox_misbehaves_on_demand():
    with EmrInbox() as inbox, MllpLink("127.0.0.1", inbox.port, timeout_s=0.5) as link:
        for how in ("AE", "AR", "close", "ignore"):
            inbox.fail_next(1, how)
        assert b"MSA|AE" in link.exchange(report())
        assert b"MSA|AR" in link.exchange(report())
        with pytest.raises(ConnectionResetError):
            link.exchange(report())
        with pytest.raises(TimeoutError):
            link.exchange(report())
        assert b"MSA|AA" in link.exchange(report())
        assert [m.answered for m in inbox.messages] == ["AE", "AR", "close", "ignore", "AA"]
        assert inbox.wait_for(lambda messages: len(messages) == 5, 1)
        assert not inbox.wait_for(lambda messages: len(messages) == 6, 0.1)


def status_of(**changes: str) -> bytes:
    """What an order filler tells of an order (IHE RAD-3, v2.3.1)."""
    fields = {"ORC-1": "SC", "ORC-5": "IP", "OBR-18": "A1", "kind": "ORM^O01"} | changes
    return (
        f"MSH|^~\\&|RIS|RAD|EMR||20260301090000||{fields['kind']}|C1|P|2.3.1\r"
        "PID|1||T1^^^HOSP^MR\r"
        f"ORC|{fields['ORC-1']}|P1^EMR|F1^RIS||{fields['ORC-5']}||||20260301090000\r"
        f"OBR|1|P1^EMR|F1^RIS|MRBRWO^MRI^L||||||||||||||{fields['OBR-18']}|||||||I\r"
        "ZDS|1.2.3^100^Application^DICOM\r"
    ).encode()


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, "AA"),
        ({"ORC-1": "NW"}, "AE"),
        ({"ORC-5": "XY"}, "AE"),
        ({"OBR-18": ""}, "AE"),
        ({"kind": "ORU^R01"}, "AR"),
    ],
)
def test_the_emr_sees_what_becomes_of_its_order(changes: dict[str, str], answer: str) -> None:
    with StatusInbox() as inbox, MLLPClient("127.0.0.1", inbox.port) as client:
        reply = hl7.parse(client.send_message(status_of(**changes)).strip(b"\x0b\x1c\r").decode())
        assert str(reply.segment("MSA")[1]) == answer
        assert inbox.seen("A1") == ([("IP", "I")] if answer == "AA" else [])
