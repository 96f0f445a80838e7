"""Each ADT event by real messages: patients, visits, merges, and what open orders learn of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.database.store import Store
from services.settings import Settings
from tests.hl7.orders import omi
from tests.workflow.sender import PID, Sender, message

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def send(store: Store, settings: Settings) -> Sender:
    store.clock = lambda: NOW
    return Sender(store, settings)


def adt(event: str, *segments: str) -> bytes:
    return message(f"ADT^{event}", "EVN||20260301080000", *(segments or (PID,)))


def pid(number: str, name: str = "DOE^JANE^Q", account: str = "") -> str:
    return f"PID|1||{number}^^^HOSP^MR||{name}||19800214|F||||||||||{account}"


def pv1(location: str = "ED^B12^1", number: str = "V123", kind: str = "E") -> str:
    return f"PV1|1|{kind}|{location}|||||9876^REF^ANNA|||||||||||{number}^^^HOSP"


def on_worklist(store: Store) -> list[tuple[str, str, str]]:
    with store() as uow:
        return [
            (r.patient_family, r.imaging_order_location, r.scheduled_step_status)
            for r in uow.orders.worklist()
        ]


def visits(store: Store, number: str = "0012345") -> list[tuple[str, str]]:
    with store() as uow:
        (patient_id,) = uow.patients.find_by_value(number)
        return [(v.number, v.state) for v in uow.visits.of_patient(patient_id)]


def kinds(store: Store) -> list[str]:
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        return [entry.kind for entry in uow.timeline.of_study(study.id)]


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (("A01",), "open"),
        (("A04",), "open"),
        (("A05",), "planned"),
        (("A05", "A38"), "cancelled"),
        (("A01", "A02"), "open"),
        (("A01", "A03"), "closed"),
        (("A01", "A03", "A13"), "open"),
        (("A01", "A11"), "cancelled"),
        (("A04", "A06", "A07", "A08", "A12"), "open"),
    ],
)
def test_an_event_brings_the_visit_to_its_state(
    send: Sender, store: Store, events: tuple[str, ...], state: str
) -> None:
    assert [send(adt(e, PID, pv1())) for e in events] == ["AA"] * len(events)
    assert visits(store) == [("V123", state)]


@pytest.mark.parametrize("event", ["A02", "A12", "A08"])
def test_a_transfer_reaches_the_worklist(send: Sender, store: Store, event: str) -> None:
    send(omi())
    assert send(adt(event, PID, pv1("ICU^7"))) == "AA"
    assert on_worklist(store) == [("DOE", "ICU^7", "SCHEDULED")]
    assert kinds(store) == ["order.placed", "visit.changed"]
    assert send(adt(event, PID, pv1("ICU^7"))) == "AA"
    assert kinds(store) == ["order.placed", "visit.changed"]  # nothing new, nothing told
    send(adt(event, PID, pv1("ELSEWHERE", number="V999")))
    assert on_worklist(store) == [("DOE", "ICU^7", "SCHEDULED")]  # another visit's


def test_demographics_reach_the_worklist(send: Sender, store: Store) -> None:
    send(omi())
    send(adt("A08", pid("0012345", "ROE^JANE")))
    assert on_worklist(store)[0][0] == "ROE"
    send(adt("A31", pid("0012345", "POE^JANE")))
    assert on_worklist(store)[0][0] == "POE"


def test_the_patient_arrives(send: Sender, store: Store) -> None:
    send(omi())
    assert send(adt("A10", PID, pv1())) == "AA"
    assert on_worklist(store)[0][2] == "ARRIVED"
    assert kinds(store)[-1] == "patient.arrived"


def test_a_cancelled_visit_sends_its_orders_to_the_desk(send: Sender, store: Store) -> None:
    send(omi())
    send(adt("A11", PID, pv1()))
    assert len(on_worklist(store)) == 1
    with store() as uow:
        assert [row.kind for row in uow.studies.desk()] == ["visit-cancelled"]


def test_a_person_who_exists_is_not_added_over(send: Sender, store: Store) -> None:
    send(adt("A28", pid("1", "FIRST^F")))
    assert send(adt("A28", pid("1", "SECOND^S"))) == "AA"
    with store() as uow:
        (patient_id,) = uow.patients.find_by_value("1")
        assert uow.patients.get(patient_id).name.family == "FIRST"


def test_allergies_reach_open_orders(send: Sender, store: Store) -> None:
    send(omi())
    assert send(adt("A60", PID, "IAM|1|DA|GADO^Gadolinium^L|SV", "IAM|2|DA|LTX^Latex^L")) == "AA"
    with store() as uow:
        assert [r.imaging_order_allergies for r in uow.orders.worklist()] == ["Gadolinium; Latex"]
    assert kinds(store)[-1] == "patient.allergies"


def merge(*pairs: tuple[str, str]) -> bytes:
    groups = [part for kept, old in pairs for part in (pid(kept), f"MRG|{old}^^^HOSP^MR")]
    return adt("A40", *groups)


def test_a_merge_with_several_groups_makes_its_survivors(send: Sender, store: Store) -> None:
    send(omi())
    send(adt("A04", pid("2")))
    assert send(merge(("777", "0012345"), ("888", "2"))) == "AA"
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert uow.patients.get(order.patient_id).mrn.value == "777"
    assert send(merge(("777", "0012345"), ("888", "2"))) == "AA"  # told again


def test_a_merge_into_itself_and_a_retired_number_are_refused(send: Sender, store: Store) -> None:
    send(omi())
    assert send(merge(("0012345", "0012345"))) == "AE 205"
    send(merge(("777", "0012345")))
    assert send(adt("A08", PID)) == "AE 204"
    assert send(omi(placer="P9").replace(b"IPC|A2026000123^RIS", b"IPC|A9^RIS")) == "AE 204"
    assert send(merge(("0012345", "777"))) == "AE 205"


def test_a_merge_of_a_number_never_seen_keeps_it(send: Sender, store: Store) -> None:
    assert send(merge(("777", "666"))) == "AA"
    with store() as uow:
        (retired,) = uow.patients.find_by_value("666")
        assert uow.patients.get(uow.patients.survivor(retired)).mrn.value == "777"
    assert send(adt("A08", pid("666"))) == "AE 204"


def test_a_merge_that_fails_in_its_second_group_changes_nothing(send: Sender, store: Store) -> None:
    send(adt("A04", pid("1")))
    assert send(merge(("777", "1"), ("888", "888"))) == "AE 205"
    assert send(adt("A08", pid("1"))) == "AA"


def test_a_changed_identifier_re_keys_the_patient(send: Sender, store: Store) -> None:
    send(omi())
    assert send(adt("A47", pid("777"), "MRG|0012345^^^HOSP^MR")) == "AA"
    with store() as uow:
        order = uow.orders.find_by_placer("P100", "EMR")
        assert order is not None
        assert uow.patients.get(order.patient_id).mrn.value == "777"
    send(adt("A04", pid("888")))
    assert send(adt("A47", pid("888"), "MRG|777^^^HOSP^MR")) == "AE 205"


def second_order(placer: str, accession: str, visit: str) -> bytes:
    raw = omi(placer=placer).replace(b"A2026000123", accession.encode())
    return raw.replace(b"1.2.3.4.5.6.7", b"1.2.3.4.5.6.8").replace(b"V123", visit.encode())


@pytest.mark.parametrize("event", ["A43", "A45"])
def test_only_the_listed_visit_moves(send: Sender, store: Store, event: str) -> None:
    send(omi())
    send(second_order("P200", "A2", "V200"))
    mrg = "MRG|0012345^^^HOSP^MR||||V200^^^HOSP"
    assert send(adt(event, pid("777"), mrg)) == "AA"
    with store() as uow:
        holders = {
            placer: uow.patients.get(order.patient_id).mrn.value
            for placer in ("P100", "P200")
            if (order := uow.orders.find_by_placer(placer, "EMR"))
        }
    assert holders == {"P100": "0012345", "P200": "777"}


def test_an_account_moves_with_its_visits(send: Sender, store: Store) -> None:
    send(adt("A01", pid("0012345", account="ACC1"), pv1()))
    send(omi())
    assert send(adt("A44", pid("777"), "MRG|0012345^^^HOSP^MR||ACC1")) == "AA"
    assert visits(store, "777") == [("V123", "open")]
    assert visits(store) == []


def test_a_move_without_a_list_is_refused(send: Sender) -> None:
    send(omi())
    assert send(adt("A43", pid("777"), "MRG|0012345^^^HOSP^MR")) == "AE 101"


def test_visits_and_accounts_merge(send: Sender, store: Store) -> None:
    send(omi())
    send(adt("A01", pid("0012345", account="ACC1"), pv1()))
    mrg = "MRG|0099^^^HOSP^MR||ACC1||V123"
    assert send(adt("A41", pid("0012345", account="ACC2"), mrg)) == "AA"
    assert send(adt("A42", pid("0012345"), mrg, pv1(number="V777"))) == "AA"
    assert visits(store) == [("V777", "open")]


def test_a_link_joins_no_records_and_is_taken_back(send: Sender, store: Store) -> None:
    assert send(adt("A24", pid("1"), pid("2"))) == "AA"
    with store() as uow:
        (one,), (two,) = (uow.patients.find_by_value(n) for n in ("1", "2"))
        assert uow.visits.links(one) == [two]
    assert send(adt("A37", pid("1"), pid("2"))) == "AA"
    with store() as uow:
        assert uow.visits.links(one) == []
    assert send(adt("A24", pid("1"), pid("1"))) == "AE 205"


@pytest.mark.parametrize("event", ["A14", "A17", "A50", "A99"])
def test_an_event_that_is_not_served_is_rejected(send: Sender, event: str) -> None:
    assert send(adt(event)) == "AR 201"


def without_visit(order: bytes) -> bytes:
    return b"\r".join(line for line in order.split(b"\r") if not line.startswith(b"PV1"))


def visit_of(store: Store) -> tuple[str, str, str, str]:
    with store() as uow:
        (row,) = uow.orders.worklist()
        order = uow.orders.find_by_placer("P100", "EMR")
    assert order is not None
    said = (row.imaging_order_admission_id, row.imaging_order_location)
    return (*said, row.imaging_order_patient_class, order.admission_issuer.name)


def test_an_order_that_names_no_visit_is_on_the_open_one(send: Sender, store: Store) -> None:
    send(adt("A01", PID, pv1("OLD^1", number="V1")))
    send(adt("A03", PID, pv1("OLD^1", number="V1")))
    send(adt("A05", PID, pv1("LATER^1", number="V3")))
    send(adt("A01", PID, pv1("ICU^7", number="V2", kind="I")))
    assert send(without_visit(omi())) == "AA"
    assert visit_of(store) == ("V2", "ICU^7", "I", "HOSP")
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        assert uow.timeline.of_study(study.id)[0].summary.endswith("on the patient's open visit")
    assert send(without_visit(omi())) == "AA"
    assert kinds(store) == ["order.placed", "order.repeated"]
    # It is the visit's from now on.
    send(adt("A02", PID, pv1("WARD^9", number="V2", kind="I")))
    assert visit_of(store)[:2] == ("V2", "WARD^9")


def test_an_order_that_names_its_visit_keeps_to_it(send: Sender, store: Store) -> None:
    send(adt("A01", PID, pv1("ICU^7", number="V2", kind="I")))
    send(omi())
    assert visit_of(store) == ("V123", "ED^B12^1", "E", "HOSP")


@pytest.mark.parametrize("others", [(), (("V1", "A01"), ("V2", "A04")), (("V1", "A05"),)])
def test_without_one_open_visit_none_is_guessed_at(
    send: Sender, store: Store, others: tuple[tuple[str, str], ...]
) -> None:
    for number, event in others:
        send(adt(event, PID, pv1("ICU^7", number=number)))
    assert send(without_visit(omi())) == "AA"
    assert visit_of(store) == ("", "", "", "")
