"""``spinecho ingest``: what lies on a disk is filed, with a summary per study at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    fail,
    print_json,
    read_settings,
    table,
)
from services.archive.tiers import Tiers
from services.database.store import Store
from services.workflow.ingestion import Ingestion, LeftOut, files_below
from services.workflow.ingestion import ingest as ingest_files

_NAMED = 20
"""Files of one kind that are named on the screen; JSON names all."""


def ingest(
    directory: Annotated[
        Path, typer.Argument(exists=True, readable=True, help="A directory, or one file.")
    ],
    as_json: AsJson = False,
) -> None:
    """File every DICOM file below DIRECTORY as if a scanner had sent it; nothing is moved there.

    May be repeated: what is there already is counted as a duplicate. Ends with status 1 if a DICOM
    file was refused, or none was found.
    """
    settings = read_settings()
    store = Store(settings, pool_size=2)
    errors = Console(stderr=True, highlight=False)
    columns = (TextColumn("filing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with errors_told():
            store.check()
            files = files_below(directory)
            with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
                task = progress.add_task("", total=len(files))
                done = ingest_files(
                    store, Tiers(settings), files, on_file=lambda _: progress.advance(task)
                )
    finally:
        store.close()
    if as_json:
        print_json(_plain(done))
    else:
        _print(done, settings.quiet_s)
    if done.failure is not None:
        errors.print("it ended early; the same command goes on where it stopped")
        fail(str(done.failure), code=done.failure.code)
    if done.refused or not done.studies:
        raise typer.Exit(1)


def _plain(done: Ingestion) -> dict[str, object]:
    return {
        "studies": [asdict(study) for study in done.studies],
        "refused": [asdict(each) | {"file": str(each.file)} for each in done.refused],
        "skipped": [{"file": str(each.file), "reason": each.reason} for each in done.skipped],
        "failure": None if done.failure is None else done.failure.code,
    }


def _print(done: Ingestion, quiet_s: float) -> None:
    _name("left where it is", done.skipped)
    _name("refused, kept in quarantine", done.refused)
    if not done.studies:
        console.print("no DICOM object was filed")
        return
    columns = ("Study Instance UID", "accession", "state", "stored", "here before", "kept apart")
    rows = [
        (
            study.study_uid,
            study.accession or "–",
            study.state,
            *(study.stored, study.duplicates, study.apart, f"{study.bytes / 1e6:.1f}"),
            ", ".join(study.desk) or "–",
        )
        for study in done.studies
    ]
    summary = table((*columns, "MB", "on the desk"), rows)
    summary.columns[0].no_wrap = True  # to be copied from
    console.print(summary)
    if any(study.state == "acquiring" for study in done.studies):
        console.print(f"an exam without MPPS is judged complete after {quiet_s:g} s of silence")
    if any(not study.has_order for study in done.studies):
        console.print(
            "a study without an order can be read; its report waits until an order with its "
            "Study Instance UID and patient comes"
        )


def _name(title: str, files: list[LeftOut]) -> None:
    for each in files[:_NAMED]:
        told = escape(f"{each.file}: {each.reason}")
        console.print(f"[yellow]{title}[/yellow]: {told}", soft_wrap=True)
    if len(files) > _NAMED:
        console.print(f"[yellow]{title}[/yellow]: {len(files) - _NAMED} more; --json names all")
