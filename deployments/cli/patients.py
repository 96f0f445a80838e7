"""``spinecho patients``: what keeps the patient index whole."""

from __future__ import annotations

import typer

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    opened_store,
    print_json,
    read_settings,
)

app = typer.Typer(no_args_is_help=True, help="The patient index.")


@app.callback()
def _group() -> None:
    # With one command only, typer would drop the group's name.
    pass


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
