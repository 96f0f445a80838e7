"""``spinecho up`` and ``spinecho doctor``: the installation itself."""

from __future__ import annotations

import signal
import threading

import typer
from rich.table import Table
from rich.text import Text

from deployments.cli.terminal import AsJson, console, errors_told, print_json, read_settings, table
from services.settings import Settings


def up() -> None:
    """Run everything in the foreground until SIGTERM or Ctrl-C."""
    from deployments.installation import installation

    settings = read_settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with (
        errors_told(),
        installation(settings, lambda line: console.print(f"[dim]{line}…[/dim]")) as running,
    ):
        console.print(addresses(settings))
        while not stop.wait(0.5):
            if running.poll() is not None:
                console.print("[red]the supervisor ended[/red]")
                raise typer.Exit(1)
        console.print("[dim]stopping…[/dim]")


def addresses(settings: Settings) -> Table:
    """Return where everything is served."""
    out = Table(title="Spinecho is up", show_header=False, title_justify="left")
    out.add_row("Reading room", settings.http_url)
    out.add_row("DICOMweb, FHIR", f"{settings.http_url}/dicom-web  {settings.http_url}/fhir/r4")
    out.add_row("HL7 v2 (MLLP)", f"{settings.host}:{settings.hl7_port}")
    out.add_row("DICOM", f"{settings.ae_title}@{settings.host}:{settings.dicom_port}")
    out.add_row("Prefect", f"{settings.prefect_url}  (sign-in: {settings.home}/secrets)")
    return out


def doctor(as_json: AsJson = False) -> None:
    """Say of every part whether it works, and what to do where it does not."""
    from deployments.examination import examine

    checks = examine(read_settings())
    if as_json:
        print_json(checks)
    else:
        rows = [
            (c["part"], Text(c["state"], "green" if c["ok"] else "red"), c["advice"])
            for c in checks
        ]
        console.print(table(("part", "state", "what to do"), rows))
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)
