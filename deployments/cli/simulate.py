"""``spinecho simulate``: the simulated morning of a seed, planned or lived."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.text import Text

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    fail,
    opened_store,
    print_json,
    read_settings,
    table,
)
from services.settings import Settings

_PRIORITIES = {"S": "stat", "A": "urgent", "R": "routine"}


def simulate(
    seed: Annotated[int, typer.Option(help="Which morning; the same seed is the same morning.")],
    day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day of the appointments; today by default."),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Live it against the running installation.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds it may take with --run.")] = 300,
    as_json: AsJson = False,
) -> None:
    """Print the simulated morning that a seed plans; with --run, live it.

    The patients are invented. The same seed on the same day brings the same orders again, so that
    a second --run needs another seed.
    """
    try:
        from services.simulators.plan import plan
    except ImportError as error:
        fail(f"the simulators need the packages of spinecho[simulators]: {error.name} is missing")
    patients = plan(seed, day.date() if day else None)
    if run:
        _live(read_settings(), seed, patients, timeout, as_json=as_json)
        return
    if as_json:
        print_json([_planned(p) for p in patients])
        return
    from deployments.progress import peculiarities

    rows = [
        (
            f"{p.scheduled:%H:%M}",
            p.accession or "no order",
            p.name.replace("^", ", "),
            p.reason,
            p.station,
            _PRIORITIES[p.priority],
            Text(peculiarities(p), "bold red" if p.critical else ""),
        )
        for p in patients
    ]
    columns = ("at", "accession", "patient", "reason", "scanner", "ordered as", "special")
    day_of = patients[0].scheduled
    console.print(table(columns, rows, title=f"Seed {seed} on {day_of:%Y-%m-%d} (invented)"))


def _planned(patient: Any) -> dict[str, Any]:
    from dataclasses import asdict

    values = {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in asdict(patient).items()
    }
    return {**values, "critical": patient.critical}


def _live(
    settings: Settings, seed: int, patients: list[Any], timeout: float, *, as_json: bool
) -> None:
    from deployments import demonstration
    from deployments.progress import Board, shown
    from services.simulators.inbox import EmrInbox
    from services.simulators.status_inbox import StatusInbox

    port = _inbox_port(settings)
    try:
        inbox = EmrInbox(port=port)
    except OSError as error:
        fail(f"the EMR's inbox on port {port} cannot be opened: {error.strerror}")
    status_port = _local_port(settings.status_destination or "")
    try:
        statuses = StatusInbox(port=status_port) if status_port else nullcontext()
    except OSError as error:
        inbox.close()
        fail(f"the EMR's inbox on port {status_port} cannot be opened: {error.strerror}")
    events: list[dict[str, Any]] = []
    board = Board(patients, f"Seed {seed} on {patients[0].scheduled:%Y-%m-%d} (invented)")
    screen = Console(stderr=True) if as_json else console
    with (
        inbox,
        statuses,
        errors_told(),
        opened_store(settings) as store,
        shown(board, store, screen) as say,
    ):

        def on_event(kind: str, patient: str, detail: str) -> None:
            board.note(kind, patient, detail)
            at = round(board.seconds, 1)
            events.append({"at_s": at, "kind": kind, "patient": patient, "detail": detail})
            if not as_json:
                say(f"{at:6.1f} s  {kind:<14} {patient:<14} {detail}")

        log = demonstration.department(
            settings, inbox, seed=seed, day=patients[0].scheduled.date(), on_event=on_event
        ).run(timeout_s=timeout)
    result = {
        "finished": log.finished,
        "seconds": round(log.seconds, 1),
        "scans": len(log.scans),
        "read": len(log.signed),
        "acknowledged": len(log.acknowledged),
        "delivered": len(log.delivered),
        "problems": log.problems,
        "events": events,
    }
    if as_json:
        print_json(result)
    else:
        console.print(
            f"{result['scans']} scans, {result['read']} reports read, {result['delivered']} "
            f"delivered, {result['acknowledged']} critical results acknowledged, "
            f"{result['seconds']} s"
        )
        for problem in log.problems:
            console.print(Text(f"problem: {problem}", "red"))
        if not log.finished:
            console.print("[red]the day did not finish in time[/red]")
    if log.problems or not log.finished:
        raise typer.Exit(1)


def _inbox_port(settings: Settings) -> int:
    """Return the port of the first report destination on this machine: there the EMR listens."""
    for url in settings.destinations.values():
        port = _local_port(url)
        if port:
            return port
    fail(
        "the simulated EMR would get no report: no destination is on this machine. Start "
        "Spinecho, and this command, with SPINECHO_DESTINATIONS__EMR=mllp://127.0.0.1:2576"
    )


def _local_port(url: str) -> int | None:
    place = urlsplit(url)
    local = place.scheme == "mllp" and place.hostname in {"127.0.0.1", "localhost"}
    return place.port if local else None
