"""Each order control code, by real messages: what it does, and what it refuses."""

from __future__ import annotations

import pytest

from models.lifecycle import StepState, StudyState
from models.order import Order
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.er7 import parse
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.hl7.orders import omi, orm

UID = "1.2.3.4.5.6.7"


class Sender:
    """Sends messages one after another, each under a control id of its own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings, self.sent = store, settings, 0

    def __call__(self, raw: bytes) -> str:
        self.sent += 1
        for used in (b"|M1|P|", b"|M2|P|", b"|T1|P|"):
            raw = raw.replace(used, b"|C%d|P|" % self.sent)
        answered = receive_message(self.store, raw, peer="test", settings=self.settings)
        assert answered.acknowledgement is not None
        err = parse(answered.acknowledgement).first("ERR")
        if err is None:
            return answered.code
        number = err.get(3) or err.get(1, 4)
        return f"{read_reply(answered.acknowledgement).code} {number}"


@pytest.fixture
def send(store: Store, settings: Settings) -> Sender:
    return Sender(store, settings)


def control(code: str, status: str = "SC", **kwargs: str) -> bytes:
    """An OMI of the same order with another ORC-1 and ORC-5."""
    return (
        omi(**kwargs)
        .replace(b"ORC|NW|", b"ORC|%s|" % code.encode())
        .replace(b"F200^RIS||SC|", b"F200^RIS||%s|" % status.encode())
    )


def order_of(store: Store, placer: str = "P100") -> Order:
    with store() as uow:
        order = uow.orders.find_by_placer(placer, "EMR")
    assert order is not None
    return order


def states(store: Store, placer: str = "P100") -> list[str]:
    return [step.status for step in order_of(store, placer).steps]


def kinds(store: Store, uid: str = UID) -> list[str]:
    with store() as uow:
        study = uow.studies.find(uid)
        assert study is not None
        return [entry.kind for entry in uow.timeline.of_study(study.id)]


def on_worklist(store: Store) -> list[str]:
    with store() as uow:
        return [row.imaging_order_accession for row in uow.orders.worklist()]


def begin(store: Store, *, study: StudyState = StudyState.ACQUIRING) -> None:
    """The exam begins, as an MPPS tells."""
    order = order_of(store)
    with store() as uow:
        uow.orders.set_step_status(order.id, StepState.IN_PROGRESS)
        found = uow.studies.find(order.study_uid)
        assert found is not None
        uow.studies.change(found.id, state=study.value)


def test_a_change_in_place_keeps_the_identity(send: Sender, store: Store) -> None:
    send(omi())
    changed = control("XO").replace(b"A2026000123^RIS", b"OTHER^RIS").replace(b"WALK", b"CART")
    assert send(changed) == "AA"
    order = order_of(store)
    assert (order.accession, order.study_uid, order.transport) == ("A2026000123", UID, "CART")
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        last = uow.timeline.of_study(study.id)[-1]
    assert last.summary == "order changed; its accession stays as it was given"


@pytest.mark.parametrize("code", ["XO", "XX", "CA", "OC", "HD", "RP"])
def test_what_comes_after_the_exam_has_begun_is_refused(
    send: Sender, store: Store, code: str
) -> None:
    send(omi())
    begin(store)
    message = control(code, "" if code == "RP" else "SC" if code != "OC" else "CA")
    if code == "RP":
        message += message_of_replacement()
    before = order_of(store)
    assert send(message) == "AE 206"
    assert order_of(store) == before
    assert kinds(store) == ["order.placed"]


def message_of_replacement(placer: str = "P200") -> bytes:
    """The RO group that follows an RP."""
    return "\r".join(
        [
            f"ORC|RO|{placer}^EMR|F300^RIS||SC|||||||9876^REF^ANNA",
            "TQ1|1||||||20260302090000||R^Routine^HL70485",
            f"OBR|1|{placer}^EMR|F300^RIS|MRSPINE^MRI spine^L",
            "IPC|A2026000200^RIS|RP2^RIS||SPS2^RIS|MR|MRSPINE^MRI spine^L|||MR1AE",
            "",
        ]
    ).encode()


def test_cancel_before_the_exam_takes_it_off_the_worklist(send: Sender, store: Store) -> None:
    send(omi())
    assert on_worklist(store) == ["A2026000123"]
    assert send(control("CA", "CA")) == "AA"
    assert on_worklist(store) == []
    assert (states(store), order_of(store).status) == (["CANCELED"], "CA")
    assert send(control("XO")) == "AE 206"


def without_patient(message: bytes) -> bytes:
    """The header and ORC alone."""
    kept = (s for s in message.split(b"\r") if s[:3] in {b"MSH", b"ORC"})
    return b"\r".join(kept) + b"\r"


def test_a_cancellation_may_name_its_order_by_both_numbers_alone(
    send: Sender, store: Store
) -> None:
    send(omi())
    assert send(without_patient(control("CA", "CA"))) == "AA"
    assert on_worklist(store) == []
    assert kinds(store) == ["order.placed", "order.cancelled"]
    assert send(without_patient(control("CA", "CA"))) == "AA"  # said twice, done once
    assert kinds(store) == ["order.placed", "order.cancelled"]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"P100^EMR", b"P100"),
        (b"P100^EMR", b"P999^EMR"),
        (b"P100^EMR", b"P100^OTHER"),
        (b"F200^RIS", b"F999^RIS"),
        (b"F200^RIS", b""),
        (b"|EMR|HOSP|", b"|OTHER|HOSP|"),
        (b"ORC|CA|", b"ORC|DC|"),
        (b"ORC|CA|P100^EMR|F200^RIS||CA", b"ORC|HD|P100^EMR|F200^RIS||HD"),
    ],
)
def test_a_number_in_doubt_cancels_nothing_without_its_patient(
    send: Sender, store: Store, sent: bytes, meant: bytes
) -> None:
    send(omi())
    message = without_patient(control("CA", "CA"))
    assert sent in message
    assert send(message.replace(sent, meant, 1)) == "AE 101"
    assert on_worklist(store) == ["A2026000123"]
    assert kinds(store) == ["order.placed"]


def test_a_cancellation_without_patient_is_too_late_for_a_begun_exam(
    send: Sender, store: Store
) -> None:
    send(omi())
    begin(store)
    assert send(without_patient(control("CA", "CA"))) == "AE 206"


def test_orders_of_two_patients_are_not_cancelled_together(send: Sender, store: Store) -> None:
    send(omi())
    send(orm(placer="P300", accession="A3", uid="1.2.3.4", pid="777").replace(b"F200", b"F300"))
    both = without_patient(control("CA", "CA")) + b"ORC|CA|P300^EMR|F300^RIS||CA\r"
    assert send(both) == "AE 101"
    assert on_worklist(store) == ["A2026000123", "A3"]


def test_cancel_of_an_order_never_seen_is_refused(send: Sender, store: Store) -> None:
    assert send(control("CA", "CA")) == "AE 204"
    with store() as uow:
        assert uow.connection.exec_driver_sql("SELECT count(*) FROM patient").scalar() == 0


def test_discontinue_after_the_start_keeps_the_images(send: Sender, store: Store) -> None:
    send(omi())
    begin(store)
    assert send(control("DC", "DC")) == "AA"
    assert states(store) == ["DISCONTINUED"]
    with store() as uow:
        study = uow.studies.find(UID)
    assert study is not None
    assert study.state is StudyState.DISCONTINUED
    assert send(control("DC", "CA")) == "AA"  # said twice, done once
    assert kinds(store) == ["order.placed", "order.discontinued"]


def test_discontinue_of_what_is_read_already_is_refused(send: Sender, store: Store) -> None:
    send(omi())
    begin(store, study=StudyState.FINAL)
    assert send(control("DC", "DC")) == "AE 206"


def test_discontinue_before_the_start_is_a_cancellation(send: Sender, store: Store) -> None:
    send(omi())
    assert send(control("DC", "DC")) == "AA"
    assert states(store) == ["CANCELED"]


def test_a_replacement_links_old_and_new(send: Sender, store: Store) -> None:
    send(omi())
    assert send(control("RP", "RP") + message_of_replacement()) == "AA"
    old, new = order_of(store), order_of(store, "P200")
    assert old.replaced_by == new.id
    assert (old.status, states(store)) == ("RP", ["CANCELED"])
    assert new.study_uid != old.study_uid
    assert on_worklist(store) == ["A2026000200"]
    assert kinds(store)[-1] == "order.replaced"
    with store() as uow:
        study = uow.studies.find(new.study_uid)
        assert study is not None
        (placed,) = uow.timeline.of_study(study.id)
    assert placed.summary.endswith("it replaces A2026000123")


def test_a_replacement_that_fails_changes_nothing(send: Sender, store: Store) -> None:
    send(omi())
    send(orm(placer="P300", accession="A2026000200", uid="1.2.3.4"))
    before = order_of(store)
    # the accession number of the replacement is in use
    assert send(control("RP", "RP") + message_of_replacement()) == "AE 205"
    assert order_of(store) == before
    assert send(control("RP", "RP")) == "AE 101"  # a replacement is missing
    assert order_of(store) == before


def test_hold_and_release(send: Sender, store: Store) -> None:
    send(omi())
    assert send(control("HD", "HD")) == "AA"
    assert on_worklist(store) == []
    assert send(control("RL")) == "AA"
    assert on_worklist(store) == ["A2026000123"]
    assert kinds(store) == ["order.placed", "order.held", "order.released"]


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("SC", "SCHEDULED"),
        ("IP", "IN PROGRESS"),
        ("CM", "COMPLETED"),
        ("A", "COMPLETED"),
        ("CA", "CANCELED"),
        ("DC", "CANCELED"),
        ("HD", "ON HOLD"),
    ],
)
def test_a_status_moves_the_step(send: Sender, store: Store, status: str, after: str) -> None:
    send(omi())
    assert send(control("SC", status)) == "AA"
    assert states(store) == [after]
    assert on_worklist(store) == (["A2026000123"] if status == "SC" else [])


@pytest.mark.parametrize(("code", "status"), [("SC", ""), ("NW", "CM"), ("XO", "IP"), ("ZZ", "SC")])
def test_a_pair_without_a_rule_is_refused(
    send: Sender, store: Store, code: str, status: str
) -> None:
    send(omi())
    before = order_of(store)
    assert send(control(code, status)) == "AE 103"
    assert order_of(store) == before


@pytest.mark.parametrize("code", ["OK", "UA", "CR", "UC", "DR", "XR", "RQ", "HR", "SR", "RE", "PA"])
def test_what_a_filler_answers_is_recorded_only(send: Sender, store: Store, code: str) -> None:
    send(omi())
    before = order_of(store)
    assert send(control(code)) == "AA"
    assert order_of(store) == before
    assert kinds(store) == ["order.placed", "order.noted"]


def test_an_answer_about_an_order_never_seen_is_kept_and_ignored(
    send: Sender, store: Store
) -> None:
    assert send(control("OK")) == "AA"
    with store() as uow:
        assert uow.messages.get(1).state == "ignored"


def test_a_status_request_is_noted_and_an_unknown_one_refused(send: Sender, store: Store) -> None:
    assert send(control("SS", "")) == "AE 204"
    send(omi())
    assert send(control("SS", "")) == "AA"
    assert kinds(store)[-1] == "order.status-asked"


def test_the_placer_numbers_an_order_that_it_had_not_numbered(send: Sender, store: Store) -> None:
    send(omi())
    assert send(control("NA", "", placer="P777")) == "AA"
    assert order_of(store, "P777").accession == "A2026000123"
    assert on_worklist(store) == ["A2026000123"]


def test_a_child_order_is_linked_to_its_parent(send: Sender, store: Store) -> None:
    send(omi())
    child = orm(placer="P101", accession="A2", uid="1.2.3.9", control="CH").replace(
        b"^^S|||||9876", b"^^S|P100&EMR^F200&RIS||||9876", 1
    )
    assert send(child) == "AA"
    assert order_of(store, "P101").parent_id == order_of(store).id
    orphan = child.replace(b"P100&EMR", b"P999&EMR").replace(b"P101", b"P102")
    assert send(orphan) == "AE 204"


def test_an_order_of_another_patient_is_not_touched(send: Sender, store: Store) -> None:
    send(omi())
    assert send(control("CA", "CA").replace(b"0012345^^^HOSP", b"0077777^^^HOSP")) == "AE 102"
    assert on_worklist(store) == ["A2026000123"]
