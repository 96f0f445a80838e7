"""``python -m benchmarks [PART] [--json FILE]``, a part such as ``store`` or ``fhir``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import fhir, identity, machine, orders, profiles, store, triage, worklist
from benchmarks.figures import Figure, Outcome
from benchmarks.installation import workspace

PARTS: dict[str, Callable[[Path], Outcome]] = {
    "store": store.run,
    "worklist": worklist.run,
    "orders": orders.run,
    "profiles": profiles.run,
    "triage": triage.run,
    "identity": identity.run,
    "fhir": fhir.run,
}


def main() -> int:
    """Measure, print, and write what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    chosen = parser.parse_args()
    # As an exception, so that every process that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # In a file or a log, lines need not end where a terminal's would.
    console = Console(width=None if sys.stdout.isatty() else 140)
    whole = Outcome()
    begun = datetime.now(UTC)
    with workspace() as directory:
        about = machine.describe(directory)
        for name in PARTS if chosen.part == "all" else [chosen.part]:
            console.print(f"[dim]measuring {name} …[/dim]", highlight=False)
            outcome = PARTS[name](directory)
            whole.figures += outcome.figures
            whole.notes += outcome.notes
            whole.peers |= outcome.peers
    about |= {"load after": machine.load()}
    show(console, about, whole)
    if chosen.json is not None:
        document = {
            "at": begun.isoformat(timespec="seconds"),
            "machine": about,
            "peers": whole.peers,
            "figures": [{**asdict(f), "ratio": f.ratio} for f in whole.figures],
            "notes": whole.notes,
        }
        chosen.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


def show(console: Console, about: dict[str, str], whole: Outcome) -> None:
    """Print machine, peers, figures and notes."""
    for title, entries in (("Machine", about), ("Peers", whole.peers)):
        line = " · ".join(f"{name} {value}" for name, value in entries.items())
        console.print(f"[bold]{title}[/bold]  {line}", highlight=False)
    table = Table(pad_edge=False)
    for heading in ("", "measured"):
        table.add_column(heading)
    for heading in ("n", "Spinecho", "peer"):
        table.add_column(heading, justify="right")
    for heading in ("unit", "peer is"):
        table.add_column(heading)
    table.add_column("speed ÷ peer", justify="right")
    before = ""
    for figure in whole.figures:
        if before and figure.part != before:
            table.add_section()
        table.add_row(*_cells(figure, before))
        before = figure.part
    if whole.figures:
        console.print(table)
    for note in whole.notes:
        console.print(f"· {note}", style="dim", highlight=False, markup=False)


def _cells(figure: Figure, before: str) -> tuple[str, ...]:
    ratio = figure.ratio
    return (
        "" if figure.part == before else figure.part,
        figure.what,
        str(figure.samples),
        _number(figure.ours),
        "" if figure.theirs is None else _number(figure.theirs),
        figure.unit,
        figure.peer,
        "" if ratio is None else f"{ratio:.2f}×",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
