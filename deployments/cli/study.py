"""``spinecho study``: where a study is, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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

app = typer.Typer(no_args_is_help=True, help="Where a study is, and why.")


@app.command()
def show(
    accession: Annotated[str, typer.Argument(help="Accession number or Study Instance UID.")],
    as_json: AsJson = False,
) -> None:
    """Show what happened to a study, by its accession number or Study Instance UID."""
    with errors_told(), opened_store(read_settings()) as store, store() as uow:
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
