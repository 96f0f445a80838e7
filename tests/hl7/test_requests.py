"""Order messages as they are read: places, priorities, several steps, what is empty."""

from __future__ import annotations

import pytest

from models.errors import InvalidValue
from models.order import Order
from models.patient import PersonName
from models.priority import Priority
from models.request import OrderRequest
from services.database.store import Store
from services.hl7.acknowledgement import TooLong
from services.hl7.er7 import parse
from services.hl7.requests import read_orders, read_patient
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.hl7.full_orders import omi_full, orm_full
from tests.hl7.orders import omi, orm


def only(raw: bytes) -> OrderRequest:
    (request,) = read_orders(parse(raw))
    return request


def test_both_options_are_one_request() -> None:
    assert only(orm_full()) == only(omi_full())
    assert read_patient(parse(orm_full()), "X") == read_patient(parse(omi_full()), "X")


@pytest.mark.parametrize(
    ("code", "priority"),
    [
        ("S", Priority.STAT),
        ("A", Priority.HIGH),
        ("R", Priority.ROUTINE),
        ("P", Priority.HIGH),
        ("C", Priority.HIGH),
        ("T", Priority.MEDIUM),
        ("PRN", Priority.LOW),
    ],
)
def test_a_priority_in_either_place(code: str, priority: Priority) -> None:
    assert only(orm(priority=code)).priority is priority
    assert only(omi().replace(b"S^Stat^HL70485", code.encode())).priority is priority


def test_an_unknown_priority_is_routine_and_said() -> None:
    request = only(orm(priority="X"))
    assert request.priority is Priority.ROUTINE
    assert any("HL70485" in warning for warning in request.warnings)


@pytest.mark.parametrize("place", [7, 27, 36])
def test_the_time_is_read_where_it_stands(place: int) -> None:
    raw = orm().replace(b"1^once^^20260301090000^^S", b"")
    name = b"ORC" if place == 7 else b"OBR"
    segments = []
    for segment in raw.split(b"\r"):
        if segment.startswith(name):
            fields = segment.split(b"|") + [b""] * 40
            fields[place] = b"20260301090000" if place == 36 else b"^^^20260301090000"
            segment = b"|".join(fields)
        segments.append(segment)
    (step,) = only(b"\r".join(segments)).steps
    assert step.start_at is not None
    assert step.start_at.astimezone().strftime("%Y%m%d%H%M") == "202603010900"


SECOND_STEP = (
    b"IPC|A2026000123^RIS|RP1^RIS|1.2.3.4.5.6.7|SPS2^RIS|MR|MRBRC^MRI brain contrast^L|||MR2AE\r"
)


def test_several_ipc_are_several_steps() -> None:
    request = only(omi() + SECOND_STEP)
    assert [(s.sps_id, s.station_aet) for s in request.steps] == [
        ("SPS1", "MR1AE"),
        ("SPS2", "MR2AE"),
    ]


def test_two_ipc_with_two_study_uids_are_refused() -> None:
    with pytest.raises(InvalidValue) as refusal:
        read_orders(parse(omi() + SECOND_STEP.replace(b"1.2.3.4.5.6.7", b"1.2.3.4.5.6.8")))
    assert refusal.value.location == "IPC^2^3"


def second_pair(**replaced: str) -> bytes:
    """The ORC and OBR of the order again, with the given parts changed."""
    group = b"\r".join(s for s in orm().split(b"\r") if s[:3] in (b"ORC", b"OBR"))
    for old, new in replaced.items():
        assert old.encode() in group
        group = group.replace(old.encode(), new.encode())
    return group + b"\r"


def test_pairs_of_one_procedure_are_several_steps() -> None:
    head, zds = orm().split(b"ZDS")
    request = only(head + second_pair(SPS1="SPS2") + b"ZDS" + zds)
    assert [s.sps_id for s in request.steps] == ["SPS1", "SPS2"]
    assert request.study_uid == "1.2.3.4.5.6.7"


def test_a_second_obr_under_one_orc_is_read_too() -> None:
    head, zds = orm().split(b"ZDS")
    obr = second_pair(SPS1="SPS2").split(b"\r")[1] + b"\r"
    request = only(head + obr + b"ZDS" + zds)
    assert [s.sps_id for s in request.steps] == ["SPS1", "SPS2"]


def test_two_procedures_under_one_placer_number_are_two_orders(
    store: Store, settings: Settings
) -> None:
    raw = orm() + second_pair(RP1="RP2", A2026000123="A2026000124", SPS1="SPS9", MRBRWO="MRSPI")
    assert receive_message(store, raw, peer="t", settings=settings).code == "AA"
    with store() as uow:
        orders = uow.orders.placed_under("P100", "EMR")
        assert [(o.requested_procedure_id, o.accession) for o in orders] == [
            ("RP1", "A2026000123"),
            ("RP2", "A2026000124"),
        ]
        assert len({o.study_uid for o in orders}) == 2
        assert len(uow.orders.worklist()) == 2
    # A cancellation that names the procedure concerns that one; one that does not, all of them.
    cancel = orm(control="CA", control_id="M2")
    receive_message(store, cancel, peer="t", settings=settings)
    with store() as uow:
        assert [r.imaging_order_accession for r in uow.orders.worklist()] == ["A2026000124"]
    again = raw.replace(b"|M1|", b"|M3|").replace(b"WALK", b"CART")
    assert receive_message(store, again, peer="t", settings=settings).code == "AE"


@pytest.mark.parametrize(("raw", "place"), [(orm(accession="A" * 17), "OBR^1^18")])
def test_an_accession_number_is_never_cut(raw: bytes, place: str) -> None:
    with pytest.raises(TooLong) as refusal:
        read_orders(parse(raw))
    assert refusal.value.location == place


CLEARED = {
    # field of the segment → attribute of the order, and what it is once it is deleted
    ("PV1", 2): ("patient_class", ""),
    ("PV1", 3): ("location", ""),
    ("PV1", 8): ("referring", PersonName()),
    ("PV1", 19): ("admission_id", ""),
    ("PV2", 3): ("visit_reason", ""),
    ("ORC", 10): ("entered_by", PersonName()),
    ("ORC", 17): ("institution", ""),
    ("ORC", 28): ("confidentiality", ""),
    ("OBR", 6): ("issued_on", None),
    ("OBR", 12): ("patient_state", ""),
    ("OBR", 13): ("medical_alerts", ""),
    ("OBR", 16): ("requesting", PersonName()),
    ("OBR", 30): ("transport", ""),
    ("OBR", 31): ("reason", ""),
}


def value_of(order: Order | None, attribute: str) -> object:
    assert order is not None
    return getattr(order if hasattr(order, attribute) else order.safety, attribute)


@pytest.mark.parametrize("place", CLEARED, ids=lambda p: f"{p[0]}-{p[1]}")
def test_empty_keeps_and_two_quotes_delete(
    store: Store, settings: Settings, place: tuple[str, int]
) -> None:
    receive_message(store, omi_full(), peer="t", settings=settings)
    attribute, deleted = CLEARED[place]

    def change(value: bytes, control_id: bytes) -> object:
        raw = omi_full().replace(b"ORC|NW", b"ORC|XO").replace(b"|M1|", b"|%s|" % control_id)
        segments = []
        for segment in raw.split(b"\r"):
            if segment.startswith(place[0].encode()):
                fields = segment.split(b"|")
                fields[place[1]] = value
                segment = b"|".join(fields)
            segments.append(segment)
        # ORC-12 stands in for OBR-16 where that is empty
        raw = b"\r".join(segments).replace(b"||9876^REF^ANNA|^^^^^^^^NEURO", b"|||^^^^^^^^NEURO")
        assert receive_message(store, raw, peer="t", settings=settings).code == "AA"
        with store() as uow:
            order = uow.orders.find_by_placer("P100", "EMR")
        return value_of(order, attribute)

    with store() as uow:
        before = value_of(uow.orders.find_by_placer("P100", "EMR"), attribute)
    assert before not in ("", None, PersonName())
    assert change(b"", b"M8") == before
    assert change(b'""', b"M9") == deleted
