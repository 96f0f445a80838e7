"""``spinecho patients``: the patient index, and what was done to patient records."""

from __future__ import annotations

from typing import Annotated, Any

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

app = typer.Typer(no_args_is_help=True, help="The patient index, and changes of patient records.")


@app.command()
def index(as_json: AsJson = False) -> None:
    """File the patients that were saved before there was a patient index.

    It may be stopped at any moment and goes on where it was; a running installation does the same
    once an hour.
    """
    from services.workflow.patients import fill_index

    with errors_told(), opened_store(read_settings()) as store:
        count = fill_index(
            store, progress=lambda done: None if as_json else console.print(f"{done} filed…")
        )
    if as_json:
        print_json({"filed": count})
    else:
        console.print(f"{count} patients were filed in the index")


@app.command()
def changes(
    number: Annotated[str, typer.Argument(help="A number of the patient, of any authority.")],
    as_json: AsJson = False,
) -> None:
    """List the merges, moves and re-keys of a patient: who, when, why, and what changed hands."""
    from services.workflow.identity import change_as_json

    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        found = {
            change.id: change
            for patient_id in uow.patients.find_by_value(number)
            for change in uow.merges.of_patient(patient_id)
        }
        told = [change_as_json(found[key]) for key in sorted(found)]
    if as_json:
        print_json(told)
        return
    lines = [
        (
            c["change"],
            c["at"][:19].replace("T", " "),
            c["kind"],
            c["by"],
            c["why"],
            ", ".join(f"{count} {kind}" for kind, count in c["moved"].items()),
            f"{c['undone_at'][:19]} {c['undone_by']}: {c['undone_why']}" if c["undone_at"] else "",
        )
        for c in told
    ]
    columns = ("change", "at (UTC)", "kind", "by", "why", "changed hands", "undone")
    console.print(table(columns, lines))


@app.command()
def undo(
    change: Annotated[int, typer.Argument(help="Number of the change, as `changes` shows it.")],
    by: Annotated[str, typer.Option("--by", help="Who undoes it.")],
    why: Annotated[str, typer.Option("--why", help="The reason, kept with the change.")],
    as_json: AsJson = False,
) -> None:
    """Undo a merge, move or re-key: everything goes back to the record it was filed under."""
    from services.workflow.identity import change_as_json, unmerge

    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        told: dict[str, Any] = change_as_json(unmerge(uow, change, by=by, why=why))
    if as_json:
        print_json(told)
    else:
        console.print(f"change {change} ({told['kind']}) is undone", markup=False)
