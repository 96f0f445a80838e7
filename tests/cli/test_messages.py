"""``spinecho messages`` and ``spinecho keys`` on a store of the test's own."""

from __future__ import annotations

from services.database.store import Store
from services.hl7.er7 import parse
from services.hl7.profiles import Profiles
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.cli.conftest import Terminal
from tests.hl7.orders import adt, orm

CHANGE = orm(control="XO", control_id="M2")


def fill(store: Store, settings: Settings) -> None:
    """Receive a change that came before its order, and the order."""
    for raw in (CHANGE, orm()):
        receive_message(store, raw, peer="10.0.0.7:5000", settings=settings)


def test_messages_are_listed_by_what_they_are_about(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    fill(store, settings)
    receive_message(store, adt(pid="777"), peer="test", settings=settings)

    def listed(*options: str) -> list[int]:
        return [line["id"] for line in installed.json("messages", "list", *options)]

    assert listed() == [3, 2, 1]
    assert listed("--mrn", "777") == [3]
    assert listed("--accession", "A2026000123") == [2, 1]
    assert listed("--state", "refused", "--state", "failed") == [1]
    assert listed("--sender", "EMR", "--limit", "1") == [3]
    assert listed("--until", "2020-01-01") == []
    assert "no such message" in installed.run("messages", "list", "--mrn", "1").output
    assert installed.run("messages", "list", "--direction", "up").exit_code == 1


def test_a_message_is_shown_with_its_answer_and_written_as_it_is(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    fill(store, settings)
    said = installed.json("messages", "show", "2")
    assert said["message"][1].startswith("PID|1||0012345^^^HOSP")
    assert said["answer"][1] == "MSA|AA|M1"
    assert (said["study"]["accession"], said["sealed"]) == ("A2026000123", True)
    assert [event["kind"] for event in said["timeline"]] == ["order.placed"]
    assert installed.run("messages", "show", "2", "--raw").stdout_bytes == orm()
    assert "unknown-key" in installed.run("messages", "show", "99").stderr


def test_what_read_a_message_is_shown_of_refused_ones_and_adt_too(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    folder = settings.profile_root
    folder.mkdir(parents=True, exist_ok=True)
    profile = 'name = "north"\ntitle = "North"\nvendor = "X"\nactive = true\n'
    sender = '[sender]\napplication = ["EMR"]\n'
    (folder / "north.toml").write_text(f"{profile}{sender}")
    profiles = Profiles(folder, good=settings.last_good_profiles)
    refused, registered = CHANGE, adt()
    of_other = adt(control_id="T9").replace(b"|EMR|", b"|OTHER|")
    for raw in (refused, registered, of_other):
        receive_message(store, raw, peer="test", settings=settings, profiles=profiles)
    shown = [installed.json("messages", "show", str(n)) for n in (1, 2, 3)]
    assert [s["state"] for s in shown] == ["refused", "processed", "processed"]
    digest = profiles.standardised(parse(refused), refused).digest[:16]
    assert [s["profile"] for s in shown] == [f"north ({digest})"] * 2 + [None]
    assert f"read by profile north ({digest})" in installed.run("messages", "show", "1").output
    assert "read by" not in installed.run("messages", "show", "3").output


def test_a_replay_says_what_it_would_do_and_does_it_when_told(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    fill(store, settings)
    assert [line["id"] for line in installed.json("messages", "dead-letters")] == [1]
    (would,) = installed.json("messages", "replay", "--state", "refused")
    assert (would["id"], "became" in would) == (1, False)
    assert len(installed.json("messages", "list")) == 2
    (did,) = installed.json("messages", "replay", "--state", "refused", "--yes")
    assert (did["became"], did["outcome"]) == (3, "processed")
    assert installed.json("messages", "replay", "--state", "refused", "--yes") == []
    assert installed.json("messages", "dead-letters") == []
    assert installed.json("messages", "show", "1")["tried_again_as"] == 3
    assert installed.run("messages", "replay", "99").exit_code == 1
    assert installed.run("messages", "replay").exit_code == 1


def test_a_rotation_seals_what_is_stored_with_the_new_key(
    installed: Terminal, store: Store, settings: Settings
) -> None:
    fill(store, settings)
    done = installed.json("keys", "rotate", "--reseal")
    assert done["resealed"] == 2
    with store() as uow:
        assert {uow.messages.get(n).key_id for n in (1, 2)} == {done["key"]}
