"""``spinecho``: what an operator types."""

from __future__ import annotations

import json
import signal
import threading
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.cli.ingest import ingest
from deployments.installation import forget, installation
from models.errors import SpinechoError
from services import journal
from services.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Carries every MRI study from the physician's order to the archived report.",
)
study_app = typer.Typer(no_args_is_help=True, help="Where a study is, and why.")
app.add_typer(study_app, name="study")
app.command()(ingest)
console = Console()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def up() -> None:
    """Run everything in the foreground until SIGTERM or Ctrl-C."""
    settings = Settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with installation(settings, lambda line: console.print(f"[dim]{line}…[/dim]")) as running:
            console.print(addresses(settings))
            while not stop.wait(0.5):
                if running.poll() is not None:
                    console.print("[red]the supervisor ended[/red]")
                    raise typer.Exit(1)
            console.print("[dim]stopping…[/dim]")
    except SpinechoError as error:
        _fail(error)


def addresses(settings: Settings) -> Table:
    """Return where everything is served."""
    table = Table(title="Spinecho is up", show_header=False, title_justify="left")
    table.add_row("Reading room", settings.http_url)
    table.add_row("DICOMweb, FHIR", f"{settings.http_url}/dicom-web  {settings.http_url}/fhir/r4")
    table.add_row("HL7 v2 (MLLP)", f"{settings.host}:{settings.hl7_port}")
    table.add_row("DICOM", f"{settings.ae_title}@{settings.host}:{settings.dicom_port}")
    table.add_row("Prefect", f"{settings.prefect_url}  (sign-in: {settings.home}/secrets)")
    return table


@study_app.command("show")
def study_show(accession: str, as_json: AsJson = False) -> None:
    """Show what happened to a study, by its accession number or Study Instance UID."""
    from services.database.store import Store

    store = Store(Settings().store_url, pool_size=1)
    try:
        store.check()
        with store() as uow:
            found = uow.studies.find_by_accession(accession)
            by_uid = uow.studies.find(accession)
            studies = [*found, *([by_uid] if by_uid else [])]
            stories = [
                {
                    "accession": s.accession,
                    "study_uid": s.study_uid,
                    "state": s.state.value,
                    "priority": s.priority.name,
                    "triage": s.triage,
                    "tier": s.tier.value,
                    "timeline": [
                        {"at": e.at.isoformat(), "kind": e.kind, "summary": e.summary}
                        for e in uow.timeline.of_study(s.id)
                    ],
                }
                for s in studies
            ]
    except SpinechoError as error:
        _fail(error)
    finally:
        store.close()
    if not stories:
        console.print(f"no study has accession number or Study UID {accession!r}")
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(stories, indent=2))
        return
    for story in stories:
        _print_story(story)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say of every part whether it works, and what to do where it does not."""
    from deployments.examination import examine

    checks = examine(Settings())
    if as_json:
        typer.echo(json.dumps(checks, indent=2))
    else:
        table = Table("part", "state", "what to do")
        for check in checks:
            colour = "green" if check["ok"] else "red"
            table.add_row(check["part"], f"[{colour}]{check['state']}[/]", check["advice"])
        console.print(table)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _print_story(story: dict[str, Any]) -> None:
    title = (
        f"{story['accession'] or story['study_uid']}  {story['state']}  {story['priority']}  "
        f"triage {story['triage'] or '-'}  {story['tier']}"
    )
    table = Table("time (UTC)", "what", "summary", title=title, title_justify="left")
    for entry in story["timeline"]:
        table.add_row(entry["at"][:19].replace("T", " "), entry["kind"], entry["summary"])
    console.print(table)


def _fail(error: SpinechoError) -> None:
    Console(stderr=True).print(f"[red]{error.code}[/red]: {error}")
    raise typer.Exit(1) from None


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave everything running at the end.")] = False,
) -> None:
    """Live a simulated morning from order to archive, and check the end state."""
    from deployments import demonstration
    from services.database.store import Store
    from services.simulators.inbox import EmrInbox

    inbox = EmrInbox()
    settings = demonstration.demonstration_settings(inbox)

    def say(line: str) -> None:
        console.print(f"[dim]{line}[/dim]", highlight=False)

    wrong: list[str] = []
    try:
        with installation(settings, lambda line: say(line + "…")):
            log = demonstration.live_the_day(settings, inbox, say)
            store = Store(settings.store_url, pool_size=2)
            demonstration.wait_until_done(store)
            for days in (60, 1000):
                say(f"letting {days} days pass: tier migration…")
                demonstration.let_time_pass(settings, days)
            rows, wrong = demonstration.end_state(store, log, inbox)
            store.close()
            # Wide enough for every column where nobody can widen the window.
            wide = console if console.is_terminal else Console(width=120)
            wide.print(demonstration.summary(rows))
            for problem in wrong:
                console.print(f"[red]wrong[/red]: {problem}", highlight=False)
            if not wrong:
                console.print("[green]the end state is as it should be[/green]")
            if keep:
                console.print(addresses(settings))
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except SpinechoError as error:
        _fail(error)
    finally:
        inbox.close()
    if wrong:
        console.print(f"its logs and data stay in {settings.home}", highlight=False)
        raise typer.Exit(1)
    if not keep:
        forget(settings)


@app.callback()
def _start() -> None:
    journal.configure()
