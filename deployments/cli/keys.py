"""``spinecho keys``: what the message store is sealed with."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    opened_store,
    print_json,
    read_settings,
)

app = typer.Typer(no_args_is_help=True, help="The keys of the message store.")


@app.callback()
def _group() -> None:
    # With one command only, typer would drop the group's name.
    pass


@app.command()
def rotate(
    reseal: Annotated[
        bool, typer.Option("--reseal", help="Also seal what is stored with the new key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new key, which new messages are sealed with from now on.

    Running processes notice at once. Messages that are stored stay readable with their own keys,
    which stay in the file.
    """
    from services.workflow.reapplying import reseal as seal_all

    with errors_told(), opened_store(read_settings()) as store:
        with store() as uow:
            uow.messages.prepare()
        key = store.keys.rotate()
        count = seal_all(store) if reseal else 0
        path = store.keys.path
    if as_json:
        print_json({"key": key.id, "file": str(path), "resealed": count})
        return
    console.print(f"new messages are sealed with key {key.id}", markup=False)
    if reseal:
        console.print(f"{count} stored messages were sealed anew")
    console.print(f"back up {path}: without it no stored message can be read", markup=False)
