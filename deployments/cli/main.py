"""``spinecho``: every command, by its group."""

from __future__ import annotations

import logging

import typer

from deployments.cli import (
    archive,
    audit,
    demo,
    desk,
    hl7,
    ingest,
    keys,
    messages,
    patients,
    simulate,
    study,
    system,
    triage,
)
from services import journal

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Carries every MRI study from the physician's order to the archived report.",
)
for command in (system.up, system.doctor, demo.demo, simulate.simulate, ingest.ingest):
    app.command()(command)
for name, group in {
    "study": study.app,
    "hl7": hl7.app,
    "messages": messages.app,
    "keys": keys.app,
    "triage": triage.app,
    "archive": archive.app,
    "desk": desk.app,
    "patients": patients.app,
    "audit": audit.app,
}.items():
    app.add_typer(group, name=name)


@app.callback()
def _start() -> None:
    # What a command says goes to stdout, which a program may read; its log must not stand there.
    journal.configure(logging.WARNING, to="stderr")
