"""Where it is wanted, a placer is answered order by order: ORR^O02, ORG^O20, ORI^O24."""

from __future__ import annotations

import hl7
import pytest

from services.database.store import Store
from services.hl7.conformance import check_structure
from services.settings import Settings
from services.workflow.exam import begin_exam
from services.workflow.messages import receive_message
from tests.dicom.test_exam import begun
from tests.hl7.orders import adt, omi, orm
from tests.workflow.test_order_control import message_of_replacement
from tests.workflow.test_status import UID, WOMAN


@pytest.fixture
def asking(settings: Settings) -> Settings:
    return settings.model_copy(update={"order_reply": "order"})


def answers(store: Store, settings: Settings, message: bytes) -> list[hl7.Message]:
    answered = receive_message(store, message, peer="test", settings=settings)
    for raw in answered.answers:
        assert check_structure(raw) == []
    return [hl7.parse(raw.decode()) for raw in answered.answers]


def told(answer: hl7.Message) -> tuple[str, ...]:
    """MSH-9, MSA-1, and ORC-1, ORC-2, ORC-3 and ORC-5."""
    orc = answer.segment("ORC")
    fields = [str(orc[n]) if n < len(orc) else "" for n in (1, 2, 3, 5)]
    return (str(answer.segment("MSH")[9]), str(answer.segment("MSA")[1]), *fields)


def test_an_order_is_answered_with_its_numbers(store: Store, asking: Settings) -> None:
    (answer,) = answers(store, asking, orm())
    assert told(answer) == ("ORR^O02^ORR_O02", "AA", "OK", "P100^EMR", "F200^SPINECHO", "SC")
    assert str(answer.segment("MSA")[2]) == "M1"
    assert str(answer.segment("OBR")[18]) == "A2026000123"


def test_the_answer_to_omi_names_every_step(store: Store, asking: Settings) -> None:
    (answer,) = answers(store, asking, omi())
    assert told(answer)[:3] == ("ORI^O24^ORI_O24", "AA", "OK")
    (ipc,) = answer.segments("IPC")
    assert [str(ipc[n]) for n in range(1, 5)] == ["A2026000123", "RP1", UID, "SPS1"]


def test_the_answer_to_omg_is_org(store: Store, asking: Settings) -> None:
    message = orm().replace(b"ORM^O01^ORM_O01", b"OMG^O19^OMG_O19").replace(b"|2.3.1|", b"|2.5.1|")
    (answer,) = answers(store, asking, message)
    assert told(answer)[:3] == ("ORG^O20^ORG_O20", "AA", "OK")


def test_a_cancellation_is_answered_by_what_became_of_it(store: Store, asking: Settings) -> None:
    answers(store, asking, orm())
    (done,) = answers(store, asking, orm(control_id="M2", control="CA"))
    assert told(done)[1:3] + told(done)[5:] == ("AA", "CR", "CA")


def test_what_was_replaced_or_held_is_answered_as_such(store: Store, asking: Settings) -> None:
    answers(store, asking, orm())
    (held,) = answers(store, asking, orm(control_id="M2", control="HD"))
    assert told(held)[1:3] + told(held)[5:] == ("AA", "HR", "HD")
    answers(store, asking, orm(control_id="M3", control="RL"))
    message = orm(control_id="M4", control="RP") + message_of_replacement()
    (done,) = answers(store, asking, message)
    said = [(str(orc[1]), str(orc[5])) for orc in done.segments("ORC")]
    assert said == [("RQ", "RP"), ("RO", "SC")]


def test_what_comes_too_late_is_answered_unable_with_the_status(
    store: Store, asking: Settings
) -> None:
    answers(store, asking, orm())
    begin_exam(store, "1.2.9", begun(UID, patient=WOMAN), source_ae="MR1AE")
    (change,) = answers(store, asking, orm(control_id="M2", control="XO"))
    assert told(change)[1:3] + told(change)[5:] == ("AE", "UX", "IP")
    (cancel,) = answers(store, asking, orm(control_id="M3", control="CA"))
    assert told(cancel)[1:3] + told(cancel)[5:] == ("AE", "UC", "IP")
    assert cancel.segments("ERR")


def test_an_order_that_is_not_here_is_answered_with_the_numbers_it_was_given(
    store: Store, asking: Settings
) -> None:
    answers(store, asking, orm())
    message = orm(control_id="M2", control="CA", placer="P999").replace(b"F200^RIS", b"F9^RIS")
    (answer,) = answers(store, asking, message)
    assert told(answer)[1:5] == ("AE", "UC", "P999^EMR", "F9^RIS")
    (answer,) = answers(store, asking, omi(control_id="M4", placer="").replace(b"^EMR", b""))
    assert told(answer)[:3] == ("ORI^O24^ORI_O24", "AE", "UA")


def test_the_same_message_again_has_the_same_answer(store: Store, asking: Settings) -> None:
    (first,) = answers(store, asking, orm())
    (second,) = answers(store, asking, orm())
    assert str(first) == str(second)


def test_in_enhanced_mode_only_the_applications_answer_is_of_orders(
    store: Store, asking: Settings
) -> None:
    message = orm().replace(b"|P|2.3.1||||||", b"|P|2.3.1|||AL|AL||")
    commit, application = answers(store, asking, message)
    assert str(commit.segment("MSH")[9]).startswith("ACK")
    assert str(commit.segment("MSA")[1]) == "CA"
    assert told(application)[:3] == ("ORR^O02^ORR_O02", "AA", "OK")


def test_a_plain_acknowledgement_is_what_others_get(
    store: Store, settings: Settings, asking: Settings
) -> None:
    (plain,) = answers(store, settings, orm())
    assert str(plain.segment("MSH")[9]) == "ACK^O01^ACK"
    (patient,) = answers(store, asking, adt())
    assert str(patient.segment("MSH")[9]) == "ACK^A04^ACK"


def test_other_delimiters_are_written_as_ours(store: Store, asking: Settings) -> None:
    message = orm(control="CA", placer="P9").decode().replace("^", "$").replace("MSH|$", "MSH|$")
    (answer,) = answers(store, asking, message.encode())
    assert told(answer)[1:4] == ("AE", "UC", "P9^EMR")
