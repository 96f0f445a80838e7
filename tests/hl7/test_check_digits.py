"""Patient numbers without their check digit: refused, or taken and shown on the desk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hl7.client import MLLPClient

from models.errors import InvalidValue
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.er7 import parse
from services.hl7.profile import read_profile
from services.hl7.standardising import Standard, Standardiser
from services.identity.normalise import check_digit
from services.settings import Settings
from services.workflow.desk import propose
from services.workflow.messages import receive_message
from tests.hl7.orders import adt, orm

RIGHT = "0012345" + check_digit("0012345", "M10")
WRONG = "00123465"[:-1] + str((int(check_digit("0012346", "M10")) + 1) % 10)


def profile(more: str = "", scheme: str = "M10") -> Standardiser:
    text = (
        'name = "try"\ntitle = "a test"\n[sender]\napplication = ["*"]\n'
        f'[[identifiers]]\nauthorities = ["HOSP"]\ncheck_digit = "{scheme}"\n{more}'
    )
    return Standardiser(read_profile(text.encode(), file="try.toml", origin="file"))


def said(raw: bytes, standardiser: Standardiser) -> Standard:
    return standardiser.standardised(parse(raw), raw)


def numbered(pid3: str) -> bytes:
    return orm().replace(b"0012345^^^HOSP&1.2.3.4&ISO^MR", pid3.encode())


@pytest.mark.parametrize(
    "pid3",
    [
        f"{RIGHT}^^^HOSP^MR",
        f"0012345^{RIGHT[-1]}^M10^HOSP^MR",
        "anything^^^CLINIC^MR",
        "anything",
    ],
)
def test_a_right_number_and_that_of_another_authority_pass(pid3: str) -> None:
    said(numbered(pid3), profile()).require()


@pytest.mark.parametrize(
    "pid3",
    [
        f"{WRONG}^^^HOSP^MR",
        f"{RIGHT}^{(int(RIGHT[-1]) + 1) % 10}^M10^HOSP^MR",
        "AB12345^^^HOSP^MR",
        "5^^^HOSP^MR",
        f"{RIGHT}^^^HOSP^MR~{WRONG}^^^HOSP^PI",
    ],
)
def test_a_number_without_its_check_digit_is_refused_at_its_place(pid3: str) -> None:
    standard = said(numbered(pid3), profile())
    with pytest.raises(InvalidValue) as raised:
        standard.require()
    assert raised.value.location == "PID^1^3"
    assert WRONG not in str(raised.value)


def test_it_is_looked_at_as_sent_and_then_dropped() -> None:
    dressed = f"H1-{RIGHT}^^^HOSP^MR"
    standard = said(numbered(dressed), profile('remove_prefix = "H1-"\ndrop_check_digit = true\n'))
    standard.require()
    assert standard.message.first("PID").get(3) == "0012345"  # type: ignore[union-attr]


def test_a_merge_may_name_what_was_mistyped() -> None:
    said(
        adt(event="A40", mrg=WRONG).replace(b"0012345^^^HOSP", f"{RIGHT}^^^HOSP".encode()),
        profile(),
    ).require()


def test_m11_has_an_x() -> None:
    digits = next(n for n in map(str, range(1000, 1100)) if check_digit(n, "M11") == "X")
    said(numbered(f"{digits}x^^^HOSP^MR"), profile(scheme="M11")).require()


def test_the_sender_of_a_wrong_number_gets_102_and_nothing_is_stored(
    store: Store, settings: Settings
) -> None:
    raw = numbered(f"{WRONG}^^^HOSP^MR")
    answered = receive_message(store, raw, peer="test", settings=settings, profiles=profile())
    assert answered.code == "AE"
    assert b"PID^1^3^102&" in (answered.acknowledgement or b"")
    with store() as uow:
        assert (uow.orders.worklist(), uow.studies.on_desk()) == ([], 0)


def test_a_wrong_number_is_taken_and_shown_on_the_desk(store: Store, settings: Settings) -> None:
    by = profile('wrong_check_digit = "desk"\n')
    for control in ("M1", "M2"):
        raw = numbered(f"{WRONG}^^^HOSP^MR").replace(b"|M1|", f"|{control}|".encode())
        answered = receive_message(store, raw, peer="test", settings=settings, profiles=by)
        assert answered.code == "AA"
    with store() as uow:
        (item,) = uow.orders.worklist()
        (row,) = uow.studies.desk()
        study = uow.studies.find(item.imaging_order_study_uid)
        assert study is not None
        assert (row.kind, row.study_id) == ("check-digit", study.id)
        assert WRONG not in row.subject + row.reason
        told = [e.kind for e in uow.timeline.of_study(study.id)]
        assert "desk.check-digit" in told
        proposal = propose(uow, row.id, settings)
        assert [found.patient.id for found in proposal.candidates] == [item.patient_id]


def test_the_listener_reads_the_rule_from_a_profile_in_force(
    serving: Callable[[], int], store: Store, settings: Settings
) -> None:
    settings.profile_root.mkdir(parents=True, exist_ok=True)
    text = profile().declared.text.replace('"*"', '"EMR"')
    (settings.profile_root / "try.toml").write_text(text)
    with MLLPClient("127.0.0.1", serving()) as client:
        codes = [
            read_reply(
                client.send_message(numbered(f"{n}^^^HOSP^MR").replace(b"|M1|", c)).strip(
                    b"\x0b\x1c\r"
                )
            ).code
            for n, c in ((WRONG, b"|M1|"), (RIGHT, b"|M2|"))
        ]
    assert codes == ["AE", "AA"]
    with store() as uow:
        assert len(uow.orders.worklist()) == 1


def test_a_visit_under_a_wrong_number_is_shown_without_a_study(
    store: Store, settings: Settings
) -> None:
    raw = adt(event="A04").replace(b"0012345^^^HOSP", f"{WRONG}^^^HOSP".encode())
    by = profile('wrong_check_digit = "desk"\n')
    assert receive_message(store, raw, peer="test", settings=settings, profiles=by).code == "AA"
    with store() as uow:
        (row,) = uow.studies.desk()
        assert (row.kind, row.study_id) == ("check-digit", None)
