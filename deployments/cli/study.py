"""``spinecho study`` and ``spinecho ingest``: one study, and files brought by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    fail,
    print_json,
    read_settings,
    table,
)
from models.errors import SpinechoError

app = typer.Typer(no_args_is_help=True, help="Where a study is, and why.")


@app.command()
def show(
    accession: Annotated[str, typer.Argument(help="Accession number or Study Instance UID.")],
    as_json: AsJson = False,
) -> None:
    """Show what happened to a study, by its accession number or Study Instance UID."""
    from services.database.store import Store

    store = Store(read_settings().store_url, pool_size=1)
    try:
        with errors_told():
            store.check()
            with store() as uow:
                by_uid = uow.studies.find(accession)
                studies = [*uow.studies.find_by_accession(accession), *([by_uid] if by_uid else [])]
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
    finally:
        store.close()
    if not stories:
        fail(f"no study has accession number or Study UID {accession!r}", code="unknown-key")
    if as_json:
        print_json(stories)
        return
    for story in stories:
        _print_story(story)


def _print_story(story: dict[str, Any]) -> None:
    title = (
        f"{story['accession'] or story['study_uid']}  {story['state']}  {story['priority']}  "
        f"triage {story['triage'] or '-'}  {story['tier']}"
    )
    rows = [(e["at"][:19].replace("T", " "), e["kind"], e["summary"]) for e in story["timeline"]]
    console.print(table(("time (UTC)", "what", "summary"), rows, title=title))


def ingest(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """File every DICOM file below DIRECTORY as if a scanner had sent it."""
    from services.archive.tiers import Tiers
    from services.database.store import Store
    from services.workflow.acquisition import association_ended, receive_instance
    from services.workflow.filing import Reception

    settings = read_settings()
    store, tiers = Store(settings.store_url, pool_size=2), Tiers(settings)
    reception = Reception(source_ae="INGEST")
    stored, refused = 0, []
    try:
        with errors_told():
            store.check()
            incoming = tiers.incoming("ingest")
            files = sorted(p for p in directory.rglob("*") if p.is_file())
            for number, file in enumerate(files):
                copy = incoming / f"{number}.dcm"
                shutil.copyfile(file, copy)
                try:
                    receive_instance(store, tiers, copy, source_ae="INGEST", reception=reception)
                    stored += 1
                except SpinechoError as error:
                    refused.append({"file": str(file), "code": error.code, "reason": str(error)})
            association_ended(store, reception)
    finally:
        store.close()
    if as_json:
        print_json({"stored": stored, "refused": len(refused), "files": refused})
        return
    if refused:
        rows = [(r["file"], r["code"], r["reason"]) for r in refused]
        console.print(table(("refused", "code", "reason"), rows))
    console.print(f"{stored} stored, {len(refused)} kept in quarantine")
