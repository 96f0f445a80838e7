"""The table of the morning: it fits the window and fills as things happen."""

from __future__ import annotations

from datetime import date
from io import StringIO

import pytest
from rich.console import Console

from deployments.demonstration import summary
from deployments.progress import Board, shown
from services.database.store import Store
from services.simulators.plan import plan

PATIENTS = plan(7, date(2026, 3, 1))


def full_board() -> Board:
    board = Board(PATIENTS, "A morning")
    for patient in PATIENTS:
        for kind in ("ordered", "scanning", "acquired", "committed", "read", "delivered"):
            board.note(kind, patient.patient_id, "")
    board.see({p.study_uid: (0, "critical", "warm") for p in PATIENTS})
    board.say("letting 60 days pass: tier migration…")
    return board


def drawn(what: object, width: int) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_board_fits_and_cuts_no_column(width: int) -> None:
    lines = drawn(full_board(), width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "MR1AE" in line or "MR2AE" in line]
    assert len(rows) == len(PATIENTS)
    assert "…" not in "".join(rows)
    assert all("critical" in row and "warm" in row for row in rows if "cancelled" not in row)
    assert ("Enhanced MR" in "".join(rows)) == (width == 140)


def test_a_stage_under_way_is_told_from_one_that_waits() -> None:
    board = Board(PATIENTS, "A morning")
    waiting, scanned = (p for p in PATIENTS[:2])
    board.note("ordered", waiting.patient_id, "")
    for kind in ("ordered", "scanning", "acquired"):
        board.note(kind, scanned.patient_id, "")
    board.note("problem", scanned.patient_id, "the scanner was refused")
    lines = drawn(board, 100)
    (row,) = (line for line in lines if waiting.accession in line)
    assert row.count("·") == 6
    (row,) = (line for line in lines if scanned.accession in line)
    assert row.count("·") == 3, "one of the four open stages is under way"
    assert any("problem: the scanner was refused" in line for line in lines)
    assert any("images 1/12" in line for line in lines)


def test_where_nobody_watches_lines_are_printed_and_no_table(store: Store) -> None:
    console = Console(width=100, file=StringIO(), force_terminal=False)
    with shown(Board(PATIENTS, "A morning"), store, console) as say:
        say("   0.4 s  problem [/no markup]" + " and long" * 12)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().startswith("   0.4 s  problem [/no markup]")
    assert console.file.getvalue().count("\n") == 1


@pytest.mark.parametrize("width", [100, 140])
def test_the_summary_fits_and_cuts_no_column(width: int) -> None:
    row = {
        **dict.fromkeys(("created", "started", "acquired", "judged", "delivered")),
        "accession": "AZEKM16Q01",
        "state": "delivered",
        "priority": 3,
        "triage": "critical",
        "tier": "cold",
        "acks": ["emr AA"],
    }
    lines = drawn(summary([row], width), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert any("AZEKM16Q01" in line and "delivered" in line and "cold" in line for line in lines)
