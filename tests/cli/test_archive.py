"""The plan of the night: what moves, what is held, and why."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from models.tier import Tier
from services.database.store import Store
from services.database.tables import instance, series, study
from tests.cli.conftest import Terminal

ACQUIRED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def put(store: Store, name: str, *, tier: str = "hot", **columns: object) -> None:
    """Let a study of two images of 1 MB each lie in the archive."""
    values = {
        "id": name,
        "study_uid": f"2.25.{sum(name.encode())}",
        "accession": name,
        "state": "delivered",
        "priority": 3,
        "tier": tier,
        "created_at": ACQUIRED,
        "acquired_at": ACQUIRED,
    }
    uid = str(values["study_uid"])
    with store() as uow:
        uow.connection.execute(insert(study).values(values | columns))
        uow.connection.execute(
            insert(series).values(series_uid=f"{uid}.1", study_id=name, modality="MR")
        )
        for number in (1, 2):
            uow.connection.execute(
                insert(instance).values(
                    sop_uid=f"{uid}.1.{number}",
                    sop_class="1.2.840.10008.5.1.4.1.1.4",
                    series_uid=f"{uid}.1",
                    study_id=name,
                    transfer_syntax="1.2.840.10008.1.2.1",
                    tier=tier,
                    path=f"{uid}/{number}.dcm",
                    size=1_000_000,
                    digest="0",
                    received_at=ACQUIRED,
                )
            )


@pytest.fixture
def night(store: Store) -> Store:
    """One study of every kind, all acquired on New Year's Day."""
    put(store, "due")
    put(store, "held", legal_hold=True)
    put(store, "unread", state="acquired")
    put(store, "warm", tier="warm")
    put(store, "used", last_read_at=datetime(2026, 2, 25, tzinfo=UTC))
    put(store, "begun")
    with store() as uow:
        uow.studies.plan_migration("begun", Tier.HOT, Tier.WARM)
    return store


def test_the_plan_says_what_moves_and_why_the_rest_stays(installed: Terminal, night: Store) -> None:
    said = installed.json("archive", "plan", "--as-of", "2026-03-01")
    assert said["as_of"] == "2026-03-01T02:00:00+00:00"
    moves = {m["accession"]: m for m in said["moves"]}
    assert moves.keys() == {"due", "begun"}
    due = moves["due"]
    assert (due["from"], due["to"], due["instances"], due["bytes"]) == ("hot", "warm", 2, 2_000_000)
    assert due["reason"] == "unused for 58 days, hot keeps 30"
    assert moves["begun"]["reason"].endswith(", planned")
    held = {h["accession"]: h["held"] for h in said["held"]}
    assert held == {"held": "legal hold", "unread": "not reported: acquired"}
    with night() as uow:
        assert uow.studies.open_migration("due") is None


def test_years_later_the_warm_tier_is_due_too(installed: Terminal, night: Store) -> None:
    said = installed.json("archive", "plan", "--as-of", "2029-01-01T12:00:00")
    assert said["as_of"] == "2029-01-01T12:00:00+00:00"
    moves = {(m["accession"], m["from"], m["to"]) for m in said["moves"]}
    assert {("warm", "warm", "cold"), ("used", "hot", "warm")} <= moves


def test_people_are_shown_the_sum(installed: Terminal, night: Store) -> None:
    result = installed.run("archive", "plan", "--as-of", "2026-03-01")
    assert result.exit_code == 0
    assert "2 studies, 4.0 MB to move; 2 held back" in result.stdout
    assert "legal hold" in result.stdout


def test_tonight_is_the_default(installed: Terminal, store: Store) -> None:
    said = installed.json("archive", "plan")
    assert "T02:00:00" in said["as_of"]
    assert (said["moves"], said["held"]) == ([], [])


def test_a_date_that_is_none_is_refused(installed: Terminal) -> None:
    result = installed.run("archive", "plan", "--as-of", "tonight")
    assert result.exit_code == 2
    assert "--as-of" in result.stderr


def test_without_a_store_nothing_is_planned(terminal: Terminal) -> None:
    result = terminal.run("archive", "plan", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("unavailable: ")
