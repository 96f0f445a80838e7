"""The morning as it happens: one row a patient, filling stage by stage, in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from models.priority import Priority
from services.database.store import Store
from services.database.tables import study
from services.simulators.plan import PlannedPatient

STAGES: Final = {
    "ordered": "order",
    "scanning": "scan",
    "acquired": "images",
    "committed": "kept",
    "judged": "AI",
    "read": "report",
    "delivered": "EMR",
}
"""What happens, in its order → heading of its column."""
_OUTCOMES: Final = {"critical": "bold red", "abstained": "yellow", "normal": "green"}
_TIERS: Final = {"hot": "red", "warm": "yellow", "cold": "cyan"}
_ROOMY: Final = 98
_WIDE: Final = 124
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_LINES: Final = 4


@dataclass(slots=True)
class _Row:
    patient: PlannedPatient
    at: dict[str, float] = field(default_factory=dict)
    priority: str = ""
    triage: str = ""
    tier: str = ""


class Board:
    """What is known of every patient; draws itself.

    Parameters
    ----------
    patients : sequence of PlannedPatient
    title : str
    """

    def __init__(self, patients: Sequence[PlannedPatient], title: str) -> None:
        self._rows = {p.patient_id: _Row(p) for p in patients}
        self._title = title
        self._began = time.monotonic()
        self._lines: list[str] = []
        self._problems: list[str] = []
        self._lock = Lock()

    @property
    def seconds(self) -> float:
        """Since the board was made."""
        return time.monotonic() - self._began

    def note(self, kind: str, patient_id: str, detail: str) -> None:
        """Take in an event of the simulated department."""
        with self._lock:
            row = self._rows.get(patient_id)
            if row is not None:
                row.at.setdefault(kind, self.seconds)
            if kind == "problem":
                self._problems.append(detail)

    def say(self, line: str) -> None:
        """Show a line below the table."""
        with self._lock:
            self._lines = [*self._lines, line][-_LINES:]

    def see(self, studies: Mapping[str, tuple[int, str | None, str]]) -> None:
        """Take in priority, triage outcome and tier as they stand in the store, by Study UID."""
        with self._lock:
            for row in self._rows.values():
                if row.patient.study_uid not in studies:
                    continue
                priority, triage, row.tier = studies[row.patient.study_uid]
                row.priority = Priority(priority).name.lower()
                if triage:
                    row.triage = triage
                    row.at.setdefault("judged", self.seconds)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table for the width there is."""
        with self._lock:
            wide = options.max_width >= _WIDE
            out = Table(
                box=box.SIMPLE_HEAD,
                padding=(0, 1 if options.max_width >= _ROOMY else 0),
                title=f"{self._title}, in seconds since its start: {self.seconds:.0f}",
                title_justify="left",
                title_style="bold",
            )
            for name in ("accession", "scanner", "priority"):
                out.add_column(name, no_wrap=True)
            if wide:
                out.add_column("what is special", no_wrap=True)
            for heading in STAGES.values():
                # As wide as it will get, so that nothing moves while it fills.
                width = len("critical") if heading == "AI" else len("99.9")
                out.add_column(heading, justify="right", no_wrap=True, min_width=width)
            out.add_column("tier", no_wrap=True)
            for row in self._rows.values():
                out.add_row(*self._cells(row, wide=wide))
            yield out
            yield Text(self._counts(), "dim")
            for problem in self._problems[-_LINES:]:
                yield Text(f"problem: {problem}", "red")
            for line in self._lines:
                yield Text(line, "dim")

    def _cells(self, row: _Row, *, wide: bool) -> list[Text]:
        patient = row.patient
        style = "bold red" if row.triage == "critical" else "dim" if patient.cancelled else ""
        cells = [
            Text(patient.accession or "no order", style),
            Text(patient.station),
            Text(row.priority, "bold red" if row.priority == "critical" else ""),
        ]
        if wide:
            cells.append(Text(peculiarities(patient), "dim"))
        busy = "scanning" in row.at
        for stage in STAGES:
            at = row.at.get(stage)
            if not _expected(patient, stage):
                cells.append(Text("–", "dim"))
            elif stage == "judged" and at is not None:
                cells.append(Text(row.triage, _OUTCOMES.get(row.triage, "")))
            elif at is not None:
                cells.append(Text(f"{at:.1f}"[:4].rstrip("."), "green"))
            elif busy:
                cells.append(Text(_SPINNER[int(self.seconds * 8) % len(_SPINNER)], "yellow"))
                busy = False
            else:
                cells.append(Text("·", "dim"))
        tier = row.tier if "scanning" in row.at else ""
        cells.append(Text(tier, _TIERS.get(tier, "")))
        return cells

    def _counts(self) -> str:
        parts = []
        for stage, heading in STAGES.items():
            due = [r for r in self._rows.values() if _expected(r.patient, stage)]
            parts.append(f"{heading} {sum(stage in r.at for r in due)}/{len(due)}")
        return "  " + " · ".join(parts)


def peculiarities(patient: PlannedPatient) -> str:
    """Return, in a few words, what makes a planned patient worth planning."""
    words = {
        "critical head": patient.critical,
        "Enhanced MR": patient.enhanced,
        "sent twice": patient.duplicated,
        "cancelled": patient.cancelled,
        "emergency, no order": patient.unordered,
    }
    return ", ".join(word for word, true in words.items() if true)


def _expected(patient: PlannedPatient, stage: str) -> bool:
    if stage == "ordered":
        return not patient.unordered
    # A report without an order is held until the desk has found one.
    return patient.reported if stage in {"read", "delivered"} else patient.scanned


@contextmanager
def shown(board: Board, store: Store, console: Console) -> Iterator[Callable[[str], None]]:
    """Show the board for the length of a ``with`` block; give the way to say a line meanwhile.

    Where nobody watches, each line is printed and no table is drawn.
    """
    if not console.is_terminal:
        yield lambda line: console.print(Text(line, "dim"), soft_wrap=True)
        return
    stop = Event()
    watching = Thread(target=_watch, args=(board, store, stop), daemon=True)
    watching.start()
    try:
        with Live(board, console=console, refresh_per_second=8, transient=True):
            yield board.say
    finally:
        stop.set()
        watching.join()


def _watch(board: Board, store: Store, stop: Event) -> None:
    query = select(study.c.study_uid, study.c.priority, study.c.triage, study.c.tier)
    while not stop.wait(0.5):
        try:
            with store() as uow:
                rows = uow.studies.select(query.order_by(study.c.created_at.desc()).limit(100))
        except SQLAlchemyError:
            continue  # the table shows what it knows; the day itself says what is wrong
        board.see({r.study_uid: (r.priority, r.triage, r.tier) for r in rows})
