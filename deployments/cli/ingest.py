"""``spinecho ingest``: files brought by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    opened_store,
    print_json,
    read_settings,
    table,
)
from models.errors import SpinechoError


def ingest(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """File every DICOM file below DIRECTORY as if a scanner had sent it."""
    from services.archive.tiers import Tiers
    from services.workflow.acquisition import association_ended, receive_instance
    from services.workflow.filing import Reception

    settings = read_settings()
    tiers, reception = Tiers(settings), Reception(source_ae="INGEST")
    stored, refused = 0, []
    with errors_told(), opened_store(settings) as store:
        incoming = tiers.incoming("ingest")
        for number, file in enumerate(sorted(p for p in directory.rglob("*") if p.is_file())):
            copy = incoming / f"{number}.dcm"
            shutil.copyfile(file, copy)
            try:
                receive_instance(store, tiers, copy, source_ae="INGEST", reception=reception)
                stored += 1
            except SpinechoError as error:
                refused.append({"file": str(file), "code": error.code, "reason": str(error)})
        association_ended(store, reception)
    if as_json:
        print_json({"stored": stored, "refused": len(refused), "files": refused})
        return
    if refused:
        rows = [(r["file"], r["code"], r["reason"]) for r in refused]
        console.print(table(("refused", "code", "reason"), rows))
    console.print(f"{stored} stored, {len(refused)} kept in quarantine")
