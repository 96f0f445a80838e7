"""What a message would do: said by the real intake, and nothing of it stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from services.database.store import Store
from services.database.tables import metadata
from services.hl7.mllp import frame
from services.settings import Settings
from services.workflow.messages import receive_message
from services.workflow.rehearsal import rehearse
from tests.cli.conftest import Terminal
from tests.hl7.orders import adt, orm
from tests.hl7.senders import epic

CORPUS = Path(__file__).parents[3] / "shared" / "corpora" / "hl7"


def counts(store: Store) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }


def changes(said: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(c["what"], c["change"], c["name"]) for c in said["changes"]}


def test_a_new_order_is_shown_with_all_it_would_make_and_leaves_nothing(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    before = counts(store)
    said = installed.json("hl7", "try", "-", stdin=orm())
    assert (said["against"], said["code"]) == ("the running installation", "AA")
    assert said["acknowledgement"][1] == "MSA|AA|M1"
    assert changes(said) >= {
        ("patient", "added", "DOE JANE"),
        ("order", "added", "A2026000123"),
        ("step", "added", "SPS1"),
        ("study", "added", "A2026000123"),
        ("worklist item", "added", "SPS1"),
    }
    (item,) = (c for c in said["changes"] if c["what"] == "worklist item")
    assert item["fields"]["ScheduledStationAETitle"] == [None, "MR1AE"]
    (order,) = (c for c in said["changes"] if c["what"] == "order")
    assert order["fields"]["placer_issuer"] == [None, "EMR"]
    assert "details" not in order["fields"]
    assert counts(store) == before
    # Nor does the real message find that it had been here.
    assert not receive_message(store, orm(), peer="test", settings=settings).repeated


def test_a_change_is_told_field_by_field(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    change = orm(control="XO", control_id="M2", start="20260301100000", priority="R")
    said = installed.json("hl7", "try", "-", stdin=change)
    (order,) = (c for c in said["changes"] if c["what"] == "order")
    assert order["fields"] == {"priority": ["STAT", "ROUTINE"]}
    (item,) = (c for c in said["changes"] if c["what"] == "worklist item")
    assert item["change"] == "changed"
    assert "ScheduledProcedureStepStartTime" in item["fields"]
    with store() as uow:
        (row,) = uow.orders.worklist()
    assert row.imaging_order_priority == 1


def test_a_cancellation_takes_the_item_off_the_worklist(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    said = installed.json("hl7", "try", "-", stdin=orm(control="CA", control_id="M2"))
    assert ("worklist item", "removed", "SPS1") in changes(said)
    with store() as uow:
        assert len(uow.orders.worklist()) == 1


def test_a_merge_shows_whose_order_it_becomes(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(pid="111"), peer="test", settings=settings)
    said = installed.json("hl7", "try", "-", stdin=adt(event="A40", pid="222", mrg="111"))
    assert ("order", "changed", "A2026000123") in changes(said)
    assert ("worklist item", "changed", "SPS1") in changes(said)


def test_a_message_that_was_received_has_no_second_effect(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    said = installed.json("hl7", "try", "-", stdin=orm())
    assert (said["code"], said["repeated"], said["changes"]) == ("AA", True, [])
    assert "received before" in installed.run("hl7", "try", "-", stdin=orm()).stdout


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (orm(control="XO"), "AE", "unknown-key at ORC^1^2"),
        (orm(control_id=""), "AE", "missing-field at MSH^1^10"),
        (b"this is no message", "AR", "malformed at MSH^1"),
        (b"", "AR", "malformed"),
        (b"\x0bMSH|^~\\&|cut off", "AR", "malformed"),
    ],
)
def test_a_message_that_would_be_refused_is_told_why(
    installed: Terminal, store: Store, tmp_path: Path, raw: bytes, code: str, words: str
) -> None:
    file = tmp_path / "message.hl7"
    file.write_bytes(raw)
    before = counts(store)
    said = installed.json("hl7", "try", file)
    assert said["code"] == code
    assert words in said["error"]
    assert (said["changes"], counts(store)) == ([], before)
    shown = installed.run("hl7", "try", file)
    assert shown.exit_code == 0
    assert "nothing would change" in shown.stdout


def test_what_is_being_changed_is_not_waited_for_long(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    with store() as uow:
        uow.studies.find("1.2.3.4.5.6.7", lock=True)
        result = installed.run("hl7", "try", "-", stdin=orm(control="CA", control_id="M2"))
    assert result.exit_code == 1
    assert result.stderr.startswith("unavailable: ")
    assert "try again" in result.stderr


def test_a_message_in_its_frame_is_taken_out_of_it(installed: Terminal, store: Store) -> None:
    assert installed.json("hl7", "try", "-", stdin=frame(orm()))["code"] == "AA"


def test_several_messages_are_not_taken_for_one(installed: Terminal, store: Store) -> None:
    result = installed.run("hl7", "try", "-", stdin=orm() + b"\r\n" + orm(control_id="M2"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "2 messages" in result.stderr


def test_a_file_that_is_not_there_is_named(installed: Terminal) -> None:
    result = installed.run("hl7", "try", "nowhere.hl7")
    assert result.exit_code == 2
    assert "nowhere.hl7" in result.stderr


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the public corpora are not beside this checkout")
def test_every_corpus_message_is_answered_as_it_was_said(store: Store, settings: Settings) -> None:
    files = sorted(CORPUS.rglob("*.hl7"))
    assert files
    for file in files:
        raw = file.read_bytes()
        said = rehearse(store, raw, settings=settings).answered
        done = receive_message(store, raw, peer="test", settings=settings)
        assert (file.name, said.code, said.repeated) == (file.name, done.code, done.repeated)


def test_where_nothing_runs_an_empty_store_is_asked_and_that_is_said(terminal: Terminal) -> None:
    said = terminal.json("hl7", "try", "-", stdin=orm())
    assert (said["against"], said["code"]) == ("an empty store", "AA")
    assert ("worklist item", "added", "SPS1") in changes(said)


# Interface profiles


def test_a_candidate_shows_what_it_would_change(installed: Terminal, store: Store) -> None:
    before = counts(store)
    said = installed.json("hl7", "try", "-", "--profile", "epic", stdin=epic())
    assert (said["profile"], said["code"]) == ("epic", "AA")
    assert {"place": "OBR-24.1", "before": "MRI", "after": "MR", "rule": "value"} in said[
        "rewritten"
    ]
    (item,) = (c for c in said["changes"] if c["what"] == "worklist item")
    assert item["fields"]["AccessionNumber"] == [None, "A2026000123"]
    assert counts(store) == before
    without = installed.json("hl7", "try", "-", stdin=epic())
    assert (without["profile"], without["rewritten"]) == (None, [])


def test_a_message_is_tried_by_the_profile_that_is_in_force(
    installed: Terminal, store: Store, tmp_path: Path
) -> None:
    directory = tmp_path / "home" / "profiles"
    directory.mkdir(parents=True)
    shown = installed.run("hl7", "profiles", "--show", "epic").stdout
    (directory / "epic.toml").write_text(shown.replace("active = false", "active = true"))
    said = installed.json("hl7", "try", "-", stdin=epic(accession=""))
    assert (said["profile"], said["code"]) == ("epic", "AE")
    assert said["error"].startswith("missing-field at OBR^1^3")
    assert "read by profile epic" in installed.run("hl7", "try", "-", stdin=epic()).stdout
    (listed,) = (p for p in installed.json("hl7", "profiles")["profiles"] if p["name"] == "epic")
    assert (listed["origin"], listed["active"]) == ("installed", True)


def test_a_profile_is_checked_wherever_it_lies(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ntitle = "t"\n[sender]\napplication = ["A"]\n')
    assert terminal.json("hl7", "check", file)["name"] == "mine"
    assert "mine.toml" in terminal.run("hl7", "check", file).stdout
    file.write_text(file.read_text() + "aplication = 1\n")
    result = terminal.run("hl7", "check", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("profile: ")
    assert "line 5: sender.aplication: no such key" in result.stderr
    assert terminal.run("hl7", "check", tmp_path / "none.toml").exit_code == 1


def test_a_wrong_profile_is_told_beside_the_right_ones(terminal: Terminal, tmp_path: Path) -> None:
    directory = tmp_path / "home" / "profiles"
    directory.mkdir(parents=True)
    (directory / "a.toml").write_text("name = 1\n")
    (directory / "b.toml").write_text('name = "c"\ntitle = ""\n[sender]\napplication = ["A"]\n')
    result = terminal.run("hl7", "profiles")
    assert result.exit_code == 1
    assert "meditech" in result.stdout
    assert "a.toml, line 1: name" in result.stderr
    assert "'c'" in result.stderr
    assert terminal.run("hl7", "profiles", "--show", "ihe").exit_code == 0
    assert len(json.loads(terminal.run("hl7", "profiles", "--json").stdout)["wrong"]) == 2


def test_a_profile_that_is_not_there_is_named(installed: Terminal, store: Store) -> None:
    result = installed.run("hl7", "try", "-", "--profile", "nobody", stdin=orm())
    assert result.exit_code == 1
    assert "nobody" in result.stderr
    assert "meditech" in result.stderr


def test_the_doctor_tells_of_a_wrong_profile(terminal: Terminal, tmp_path: Path) -> None:
    directory = tmp_path / "home" / "profiles"
    directory.mkdir(parents=True)
    (directory / "a.toml").write_text("name = 1\n")
    checks = json.loads(terminal.run("doctor", "--json").stdout)
    (check,) = (c for c in checks if c["part"] == "HL7 profiles")
    assert not check["ok"]
    assert "line 1: name" in check["state"]


# Recorded traffic with a candidate


def test_a_candidate_is_played_over_what_was_recorded(
    installed: Terminal, store: Store, settings: Settings, tmp_path: Path
) -> None:
    def receive(raw: bytes) -> None:
        receive_message(store, raw, peer="test", settings=settings)

    receive(orm(control_id="before", placer="P1", accession="A1", uid="1.2.1"))
    with store() as uow:
        between = uow.now
    receive(epic())  # read otherwise: accession, priority, class, modality
    receive(epic(control_id="E2", accession="", placer="11"))  # refused by the candidate
    receive(orm(placer="P2", accession="A2", uid="1.2.2"))  # somebody else's
    receive(orm(control_id=""))  # refused by both
    before = counts(store)
    since = between.strftime("%Y-%m-%dT%H:%M:%S")
    said = installed.json("hl7", "replay", "--since", since, "--profile", "epic")
    assert counts(store) == before
    first, second = (m for m in said["messages"] if m["profile"] == ["", "epic"])
    assert first["code"] == ["AA", "AA"]
    read = {
        f"{d['what']}.{d['field']}": (d["in_force"], d["candidate"]) for d in first["differences"]
    }
    assert read["order.accession"] == ("D987654", "A2026000123")
    assert read["step.sps_id"] == ("own", "A2026000123")
    assert "order.priority" not in read, "STAT is understood by both"
    assert read["step.modality"] == ("MRI", "MR")
    assert read["order.patient_class"] == ("EMERGENCY", "E")
    assert not any(name.endswith("study_uid") for name in read), "it is given here by both"
    assert second["code"] == ["AA", "AE"]
    assert "OBR^1^3" in second["error"][1]
    summary = said["summary"]
    assert summary["unchanged"] == summary["messages"] - 2
    assert (summary["accepted"], summary["refused"]) == (0, 1)
    assert summary["fields"]["step.modality"] == 1
    (gone,) = second["differences"]
    assert (gone["what"], gone["in_force"], gone["candidate"]) == ("worklist item", "added", None)

    one = installed.run(
        *("hl7", "replay", "--since", since, "--profile", "epic", "--sender", "EMR", "--limit", "1")
    )
    assert one.exit_code == 0, one.output
    assert "1 messages: 1 unchanged, 0 now accepted, 0 now refused" in one.stdout


def test_a_replay_asks_for_the_installation(terminal: Terminal) -> None:
    result = terminal.run("hl7", "replay", "--since", "2026-01-01", "--profile", "epic")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("unavailable: ")
