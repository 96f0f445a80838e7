"""The placer is told of every change, in order, once, and what it answered is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models.errors import Unavailable
from models.lifecycle import TABLE, StudyEvent, StudyState
from models.order_status import STATUS, status_change
from models.patient import PersonName
from services.archive.tiers import Tiers
from services.database.store import Store
from services.hl7.conformance import check_structure
from services.settings import Settings
from services.workflow.acquisition import judge_completeness
from services.workflow.exam import begin_exam, change_exam
from services.workflow.ingestion import files_below, ingest
from services.workflow.messages import receive_message
from services.workflow.reporting import sign_report
from services.workflow.status import FLOW, SUBJECT, announce_due, tell_placer
from tests.dicom.department import JANE, series
from tests.dicom.test_exam import begun, ended
from tests.hl7.orders import omi, orm
from tests.workflow.placer import Placer, placer_on
from tests.workflow.sender import Sender
from tests.workflow.test_order_control import control, message_of_replacement
from tests.workflow.test_scheduling import siu

UID = "1.2.3.4.5.6.7"
WOMAN = replace(JANE, name=PersonName(family="DOE", given="JANE", middle="Q"))


@pytest.fixture
def placer() -> Iterator[Placer]:
    with placer_on() as placer:
        yield placer


@pytest.fixture
def configured(settings: Settings, placer: Placer) -> Settings:
    return settings.model_copy(update={"status_destination": placer.url, "quiet_s": 0.0})


@pytest.fixture
def telling(store: Store, configured: Settings) -> Iterator[Store]:
    """The store as the processes of such an installation open it."""
    telling = Store(configured)
    yield telling
    telling.close()


def receive(store: Store, settings: Settings, message: bytes) -> None:
    assert receive_message(store, message, peer="test", settings=settings).code == "AA"


def study_id(store: Store, uid: str = UID) -> str:
    with store() as uow:
        study = uow.studies.find(uid)
    assert study is not None
    return study.id


def sign(store: Store, status: str, impression: str) -> None:
    sign_report(store, UID, status=status, findings="", impression=impression, author="Reader")


def test_every_change_of_a_life_is_told_in_order(
    telling: Store, configured: Settings, placer: Placer, tmp_path: Path
) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="XO", start="20260302100000"))
    begin_exam(telling, "1.2.9", begun(UID, patient=WOMAN), source_ae="MR1AE")
    series(tmp_path / "scan", UID, 2)
    assert not ingest(
        telling, Tiers(configured), files_below(tmp_path / "scan"), on_file=lambda _: None
    ).refused
    change_exam(telling, "1.2.9", ended("COMPLETED"), source_ae="MR1AE")
    assert judge_completeness(telling, study_id(telling), settings=configured).complete
    sign(telling, "preliminary", "No abnormality so far.")
    sign(telling, "final", "No abnormality.")
    sign(telling, "corrected", "A small lesion.")
    assert placer.told == []
    assert tell_placer(telling, configured) == 7
    assert tell_placer(telling, configured) == 0
    assert placer.statuses("P100") == [
        ("SC", "S"),
        ("SC", "S"),
        ("IP", "I"),
        ("CM", "R"),
        ("A", "P"),
        ("CM", "F"),
        ("CM", "C"),
    ]
    assert placer.connections == 1


def test_the_message_names_order_accession_study_and_new_start(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="XO", start="20260302100000"))
    tell_placer(telling, configured)
    first, second = placer.told
    for message in (first, second):
        assert str(message.segment("MSH")[9]) == "ORM^O01^ORM_O01"
        assert str(message.segment("MSH")[12]) == "2.3.1"
        assert str(message.segment("PID")[3]) == "0012345^^^HOSP^MR"
        orc, obr = message.segment("ORC"), message.segment("OBR")
        assert [str(orc[n]) for n in (1, 2, 3, 5)] == ["SC", "P100^EMR", "F200^SPINECHO", "SC"]
        assert str(obr[4]) == "MRBRWO^MRI brain w/o contrast^L"
        assert [str(obr[n]) for n in (18, 19, 20)] == ["A2026000123", "RP1", "SPS1"]
        assert str(message.segment("ZDS")[1]).split("^")[0] == UID
    starts = [str(m.segment("ORC")[7]).split("^")[3][:8] for m in (first, second)]
    assert starts == ["20260301", "20260302"]
    assert str(first.segment("ORC")[7]).split("^")[5] == "S"


@pytest.mark.parametrize("kind", ["ORM^O01", "OMG^O19"])
def test_hl7apy_finds_nothing_wrong_with_it(
    telling: Store, configured: Settings, placer: Placer, kind: str
) -> None:
    chosen = configured.model_copy(update={"status_message": kind})
    receive(telling, chosen, orm())
    tell_placer(telling, chosen)
    with telling() as uow:
        (notice,) = uow.notices.of_study(study_id(telling))
        raw = bytes(uow.messages.get(notice.message_id).raw)
    assert check_structure(raw) == []
    assert str(placer.told[0].segment("MSH")[9]).startswith(kind)
    assert (b"\rTQ1|1||||||202603010900" in raw) == (kind == "OMG^O19")
    assert b"\rZDS|1.2.3.4.5.6.7^100^Application^DICOM\r" in raw


def test_a_change_that_changes_no_status_and_no_start_is_not_told(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="XO", priority="A"))
    assert tell_placer(telling, configured) == 1


def test_a_cancellation_is_told(telling: Store, configured: Settings, placer: Placer) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="CA"))
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), ("CA", "X")]


def test_a_hold_and_its_end_are_told(telling: Store, configured: Settings, placer: Placer) -> None:
    for number, code in enumerate(("NW", "HD", "RL")):
        receive(telling, configured, orm(control_id=f"M{number}", control=code))
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), ("HD", "S"), ("SC", "S")]


@pytest.mark.parametrize("code", ["RP", "RU"])
def test_a_replaced_order_is_told_as_replaced_and_the_new_one_as_scheduled(
    telling: Store, configured: Settings, placer: Placer, code: str
) -> None:
    send = Sender(telling, configured)
    assert send(omi()) == "AA"
    assert send(control(code, "RP") + message_of_replacement()) == "AA"
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), ("RP", "X")]
    assert placer.statuses("P200") == [("SC", "S")]


def test_every_move_of_the_slot_is_told(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    send = Sender(telling, configured)
    moves = [
        *(siu("S12", "20260301100000"), siu("S13", "20260302110000"), siu("S14", "20260302110000")),
        *(siu("S15"), siu("S12", "20260303090000"), siu("S26"), siu("S26")),
    ]
    assert [send(message) for message in (omi(), *moves)] == ["AA"] * 8
    tell_placer(telling, configured)
    told = [
        (str(m.segment("OBR")[25]), *(str(part)[:10] for part in (_start(m), m.segment("OBR")[36])))
        for m in placer.told
    ]
    assert told == [
        ("S", "2026030109", "2026030109"),
        ("S", "2026030110", "2026030110"),
        ("S", "2026030211", "2026030211"),  # told once: S14 left it where it was
        ("O", '""', '""'),  # no slot: the time that was told is deleted
        ("S", "2026030309", "2026030309"),
        ("O", '""', '""'),
    ]
    assert {str(m.segment("ORC")[5]) for m in placer.told} == {"SC"}
    for message in placer.told:
        assert check_structure(str(message).encode()) == []


def _start(message: object) -> str:
    return str(message.segment("ORC")[7]).split("^")[3]  # type: ignore[attr-defined]


def test_a_held_order_whose_slot_moves_is_told_as_held(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    send = Sender(telling, configured)
    changed = control("XO").replace(b"20260301090000", b"20260305080000")
    for message in (omi(), control("HD", "HD"), siu("S12", "20260304080000"), changed):
        assert send(message) == "AA"
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), *[("HD", "S")] * 3]
    assert [_start(m)[:8] for m in placer.told] == ["20260301"] * 2 + ["20260304", "20260305"]


@pytest.mark.parametrize(
    ("status", "told"), [("SC", []), ("IP", [("IP", "I")]), ("CM", [("CM", "")])]
)
def test_what_another_filler_says_of_the_exam_is_passed_on(
    telling: Store, configured: Settings, placer: Placer, status: str, told: list[tuple[str, str]]
) -> None:
    send = Sender(telling, configured)
    assert [send(message) for message in (omi(), control("SC", status))] == ["AA"] * 2
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), *told]


def test_what_a_filler_says_late_takes_nothing_back(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    send = Sender(telling, configured)
    assert send(omi()) == "AA"
    begin_exam(telling, "1.2.9", begun(UID, patient=WOMAN), source_ae="MR1AE")
    assert send(control("SC", "SC")) == "AA"
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), ("IP", "I")]


def test_an_exam_that_was_broken_off_is_told(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    begin_exam(telling, "1.2.9", begun(UID, patient=WOMAN), source_ae="MR1AE")
    change_exam(telling, "1.2.9", ended("DISCONTINUED"), source_ae="MR1AE")
    judge_completeness(telling, study_id(telling), settings=configured)
    tell_placer(telling, configured)
    assert placer.statuses("P100") == [("SC", "S"), ("IP", "I"), ("DC", "")]


def test_proof_is_on_the_timeline_and_in_the_log(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    tell_placer(telling, configured)
    with telling() as uow:
        (notice,) = uow.notices.of_study(study_id(telling))
        assert (notice.state, notice.ack_code, notice.attempts) == ("accepted", "AA", 1)
        assert notice.answered_at >= notice.at
        (entry,) = (
            e for e in uow.timeline.of_study(notice.study_id) if e.kind.startswith("status.")
        )
        assert (entry.kind, entry.evidence["ack"]) == ("status.told", "AA")
        assert notice.control_id.encode() in bytes(uow.messages.get(notice.message_id).ack)


@pytest.mark.parametrize("code", ["AE", "AR"])
def test_a_refusal_is_kept_put_on_the_desk_and_overtaken(
    telling: Store, configured: Settings, placer: Placer, code: str
) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="CA"))
    placer.answers.append(code)
    assert tell_placer(telling, configured) == 2
    assert tell_placer(telling, configured) == 0
    with telling() as uow:
        refused, told = uow.notices.of_study(study_id(telling))
        assert (refused.state, refused.ack_code) == ("refused", code)
        assert told.state == "accepted"
        assert [row.kind for row in uow.studies.desk(refused.study_id)] == ["status-refused"]
        entries = uow.timeline.of_study(refused.study_id)
        sealed = uow.connection.execute(
            text("SELECT ack FROM message_log WHERE id = :id"), {"id": refused.message_id}
        ).scalar_one()
        answered = uow.messages.get(refused.message_id).ack
    # What the placer wrote is in the message store, and nowhere else.
    assert refused.error is None
    assert b"DOE JANE is locked" in (answered or b"")
    assert b"DOE" not in bytes(sealed)
    assert "DOE" not in " ".join(e.summary + str(e.evidence) for e in entries)


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (
            "ERR||PID^1^3|204^Unknown key identifier^HL70357|E||||DOE JANE is unknown",
            "204 at PID^1^3",
        ),
        ("ERR|PID^1^3^204&Unknown key identifier&HL70357", "204 at PID^1^3"),
        ("ERR||DOE^JANE|DOE JANE is locked|E", None),
        ("ERR|||207^Application internal error^HL70357|E", "207"),
    ],
)
def test_of_a_refusal_code_and_place_are_shown(
    telling: Store, configured: Settings, placer: Placer, err: str, reason: str | None
) -> None:
    receive(telling, configured, orm())
    placer.answers.append("AE")
    placer.error = err
    assert tell_placer(telling, configured) == 1
    with telling() as uow:
        (notice,) = uow.notices.of_study(study_id(telling))
    assert (notice.state, notice.error) == ("refused", reason)


def test_a_placer_that_is_away_loses_nothing_and_holds_the_order_of_things(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    receive(telling, configured, orm(control_id="M2", control="CA"))
    # Once more on a new connection: it might have been closed since the last answer.
    placer.answers.extend(["AA", "close", "close"])
    with pytest.raises(Unavailable) as caught:
        tell_placer(telling, configured)
    assert "DOE" not in str(caught.value)
    with telling() as uow:
        first, second = uow.notices.of_study(study_id(telling))
    assert (first.state, second.state, second.attempts) == ("accepted", "due", 1)
    assert tell_placer(telling, configured) == 1
    assert placer.statuses("P100") == [("SC", "S"), ("CA", "X")]
    raws = {str(message) for message in placer.told}
    assert len(raws) == 2, "an attempt repeats the message to the byte"


def test_nobody_at_the_other_end_is_said_and_told_later(store: Store, settings: Settings) -> None:
    with placer_on() as gone:
        url, port = gone.url, gone.port
    away = settings.model_copy(update={"status_destination": url})
    telling = Store(away)
    try:
        receive(telling, away, orm())
        for _ in range(2):
            with pytest.raises(Unavailable):
                tell_placer(telling, away)
        with placer_on(port) as back:
            assert tell_placer(telling, away) == 1
            assert back.statuses("P100") == [("SC", "S")]
        with telling() as uow:
            (notice,) = uow.notices.of_study(study_id(telling))
        assert (notice.state, notice.attempts) == ("accepted", 3)
    finally:
        telling.close()


def test_killed_between_sending_and_commit_the_same_message_comes_again(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    killed = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from services.database.store import Store; from services.settings import Settings; "
            "from services.workflow.status import tell_placer; "
            "s = Settings(); tell_placer(Store(s), s)",
        ],
        env={
            **os.environ,
            "SPINECHO_HOME": str(configured.home),
            "SPINECHO_DATABASE_URL": configured.store_url,
            "SPINECHO_STATUS_DESTINATION": placer.url,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    # The placer has the message and the sender will never hear of it.
    placer.on_message = killed.kill
    assert killed.wait(60) == -9
    placer.on_message = lambda: None
    assert len(placer.told) == 1
    with telling() as uow:
        (notice,) = uow.notices.of_study(study_id(telling))
    assert notice.state == "due"
    assert tell_placer(telling, configured) == 1
    assert len(placer.told) == 2
    assert str(placer.told[0]) == str(placer.told[1])


def test_two_at_once_never_send_side_by_side(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    receive(telling, configured, orm())
    met: list[Unavailable] = []

    def second() -> None:
        try:
            tell_placer(telling, configured)
        except Unavailable as error:
            met.append(error)

    placer.on_message = second
    assert tell_placer(telling, configured) == 1
    assert len(met) == len(placer.told) == 1


def test_changes_are_gathered_before_a_run_is_announced(telling: Store, settings: Settings) -> None:
    receive(telling, settings, orm())
    with telling() as uow:
        announce_due(uow, timedelta(hours=1))
        assert FLOW not in {stage.flow for stage in uow.outbox.pending()}
        announce_due(uow)
        assert FLOW in {stage.flow for stage in uow.outbox.pending()}


def test_without_a_destination_not_one_statement_more(store: Store, settings: Settings) -> None:
    from sqlalchemy import event

    said: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: said.append(str(args[2])))
    with store() as uow:
        assert uow.notices.count_due() == 0
    assert said.pop().count("status_notice")  # what is watched would show it
    receive(store, settings, orm())
    assert not [statement for statement in said if "status_notice" in statement]
    with store() as uow:
        assert uow.notices.count_due() == 0
        announce_due(uow)
    assert tell_placer(store, settings) == 0


def test_a_study_without_an_order_has_no_placer(
    telling: Store, configured: Settings, tmp_path: Path
) -> None:
    series(tmp_path / "scan", UID, 1)
    ingest(telling, Tiers(configured), files_below(tmp_path / "scan"), on_file=lambda _: None)
    with telling() as uow:
        assert uow.notices.count_due() == 0


def test_one_run_is_announced_for_all_that_is_due(
    telling: Store, configured: Settings, placer: Placer
) -> None:
    def stages() -> list[str]:
        with telling() as uow:
            announce_due(uow)
            return [stage.version for stage in uow.outbox.pending() if stage.flow == FLOW]

    assert stages() == []
    receive(telling, configured, orm())
    (first,) = stages()
    receive(telling, configured, orm(control_id="M2", control="CA"))
    assert stages() == [first]
    tell_placer(telling, configured)
    with telling() as uow:
        assert uow.outbox.done(SUBJECT, FLOW, first)
    assert stages() == []
    receive(telling, configured, orm(control_id="M3", placer="P101", accession="A2", uid="1.2.3"))
    (second,) = stages()
    assert second != first


def test_every_state_has_a_status_and_only_a_new_one_is_told() -> None:
    assert set(STATUS) == set(StudyState)
    for (before, event), (after, _) in TABLE.items():
        if not isinstance(before, StudyState) or not isinstance(event, StudyEvent):
            continue
        assert isinstance(after, StudyState)
        told = status_change(before, event, after)
        own = {StudyEvent.REPORTED_CORRECTED: ("CM", "C"), StudyEvent.REPLACED: ("RP", "X")}
        if event in own:
            assert told is not None
            assert (told.order, told.result) == own[event]
        else:
            assert (told is None) == (STATUS[before] == STATUS[after])
