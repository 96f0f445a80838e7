"""``spinecho demo``: a simulated morning, with everything started and checked."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
from rich.text import Text

from deployments.cli.system import addresses
from deployments.cli.terminal import console, errors_told, opened_store


def demo(
    keep: Annotated[bool, typer.Option(help="Leave everything running at the end.")] = False,
) -> None:
    """Live a simulated morning from order to archive, and check the end state."""
    from deployments import demonstration
    from deployments.installation import forget, installation
    from deployments.progress import Board, shown
    from services.simulators.inbox import EmrInbox
    from services.simulators.plan import plan
    from services.simulators.status_inbox import StatusInbox

    inbox, statuses = EmrInbox(), StatusInbox()
    settings = demonstration.demonstration_settings(inbox, statuses)
    wrong: list[str] = []
    try:
        with (
            errors_told(),
            installation(settings, lambda line: console.print(f"[dim]{line}…[/dim]")),
            opened_store(settings) as store,
        ):
            patients = plan(demonstration.SEED)
            board = Board(patients, "A morning in the department (synthetic patients)")
            with shown(board, store, console) as say:

                def on_event(kind: str, patient: str, detail: str) -> None:
                    board.note(kind, patient, detail)
                    say(f"{board.seconds:6.1f} s  {kind:<14} {patient:<14} {detail}")

                log = demonstration.department(
                    settings,
                    inbox,
                    seed=demonstration.SEED,
                    day=patients[0].scheduled.date(),
                    on_event=on_event,
                ).run(timeout_s=240)
                demonstration.wait_until_done(store)
                for days in (60, 1000):
                    say(f"letting {days} days pass: tier migration…")
                    demonstration.let_time_pass(settings, days)
            rows, wrong = demonstration.end_state(store, log, inbox, statuses)
            console.print(demonstration.summary(rows, console.width))
            for problem in wrong:
                console.print(Text(f"wrong: {problem}", "red"))
            if not wrong:
                console.print("[green]the end state is as it should be[/green]")
            if keep:
                console.print(addresses(settings))
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        inbox.close()
        statuses.close()
    if wrong:
        console.print(f"its logs and data stay in {settings.home}")
        raise typer.Exit(1)
    if not keep:
        forget(settings)
