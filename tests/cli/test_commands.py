"""The remaining commands: the simulated morning, one study, the doctor, files brought by hand."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from services.database.store import Store
from services.database.tables import message_log, outbox
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.cli.conftest import Terminal
from tests.hl7.orders import orm
from tests.inference.phantom import classic, head
from tests.inference.phantom import store as write


def test_a_seed_is_a_morning(terminal: Terminal) -> None:
    said = terminal.json("simulate", "--seed", "5", "--day", "2026-03-01")
    assert said == terminal.json("simulate", "--seed", "5", "--day", "2026-03-01")
    assert (len(said), sum(p["critical"] for p in said)) == (13, 3)
    shown = terminal.run("simulate", "--seed", "5", "--day", "2026-03-01").stdout
    assert all(p["accession"] in shown for p in said)


@pytest.mark.parametrize("arguments", [(), ("--seed", "x"), ("--seed", "1", "--day", "soon")])
def test_what_is_no_seed_or_day_is_refused(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    assert terminal.run("simulate", *arguments).exit_code == 2


def test_a_morning_that_nobody_would_receive_is_not_lived(terminal: Terminal) -> None:
    result = terminal.run("simulate", "--seed", "5", "--run")
    assert result.exit_code == 1
    assert "SPINECHO_DESTINATIONS__EMR" in result.stderr


def test_a_morning_needs_an_installation_and_a_free_inbox(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("SPINECHO_DESTINATIONS__EMR", f"mllp://127.0.0.1:{port}")
        result = terminal.run("simulate", "--seed", "5", "--run")
        assert (result.exit_code, str(port) in result.stderr) == (1, True)
    result = terminal.run("simulate", "--seed", "5", "--run", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("unavailable: ")


def test_a_study_is_found_by_either_number(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    (story,) = installed.json("study", "show", "A2026000123")
    assert installed.json("study", "show", story["study_uid"]) == [story]
    assert [e["kind"] for e in story["timeline"]] == ["order.placed"]
    assert "order.placed" in installed.run("study", "show", "A2026000123").stdout


def test_a_study_that_is_not_there_is_said_to_be_none(installed: Terminal, store: Store) -> None:
    result = installed.run("study", "show", "A1", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("unknown-key: ")


def test_what_is_ingested_and_what_is_not_is_one_json_text(
    installed: Terminal, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_DISK_FLOOR_MB", "0")
    write(classic(head(1, slices=3)), tmp_path / "disk")
    (tmp_path / "disk" / "notes.txt").write_text("no image")
    result = installed.run("ingest", tmp_path / "disk", "--json")
    said = json.loads(result.stdout)
    assert "notes.txt" in json.dumps(said)
    with store() as uow:
        assert uow.studies.find("2.25.100") is not None


def test_the_doctor_counts_what_waits_and_what_is_stuck(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    receive_message(store, orm(), peer="test", settings=settings)

    def stages() -> dict[str, object]:
        result = installed.run("doctor", "--json")
        assert result.exit_code == 1  # nothing listens here
        (found,) = (c for c in json.loads(result.stdout) if c["part"] == "stages")
        return dict(found)

    assert stages() == {
        "part": "stages",
        "ok": True,
        "state": "2 waiting, 0 under way, 0 late",
        "advice": "",
    }
    with store() as uow:
        uow.connection.execute(outbox.update().values(created_at=uow.now - timedelta(minutes=9)))
    late = stages()
    assert (late["ok"], late["state"]) == (False, "2 waiting, 0 under way, 2 late")
    assert "stuck for 9 min" in str(late["advice"])


def test_the_doctor_counts_messages_that_anybody_can_read(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    def seals() -> tuple[object, object, object]:
        checks = json.loads(installed.run("doctor", "--json").stdout)
        (found,) = (c for c in checks if c["part"] == "message store")
        return found["ok"], found["state"], found["advice"]

    receive_message(store, orm(), peer="test", settings=settings)
    assert seals() == (True, "sealed", "")
    with store() as uow:
        uow.connection.execute(message_log.update().values(raw=orm(), ack=None, key_id=None))
    ok, state, advice = seals()
    assert (ok, state) == (False, "1 message(s) from before sealing are readable")
    assert "keys rotate --reseal" in str(advice)
    installed.json("keys", "rotate", "--reseal")
    assert seals() == (True, "sealed", "")


def test_the_doctor_says_what_to_do_where_nothing_runs(terminal: Terminal) -> None:
    result = terminal.run("doctor")
    assert result.exit_code == 1
    assert "run 'spinecho up'" in result.stdout
    assert "Prefect is silent" in result.stdout


def test_a_setting_that_is_wrong_is_named(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINECHO_HL7_PORT", "many")
    result = terminal.run("doctor")
    assert result.exit_code == 1
    assert result.stderr.startswith("settings: hl7_port: ")
