"""``spinecho hl7``: what a message is, and what it would do."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

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
from models.errors import Unavailable
from services.settings import Settings

if TYPE_CHECKING:
    from services.database.store import Store
    from services.workflow.rehearsal import Rehearsed

_RUNNING = "the running installation"
_EMPTY = "an empty store"
app = typer.Typer(no_args_is_help=True, help="HL7 v2 messages.")


@app.command("try")
def try_(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="One message; - reads stdin.")],
    empty: Annotated[
        bool, typer.Option("--empty", help="Try it against an empty store in any case.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a message would be answered and what it would change; nothing is written.

    It goes through the real intake in a transaction that is rolled back: in the store of the
    running installation, or in an empty one where none runs.
    """
    from services.workflow.rehearsal import rehearse

    settings = read_settings()
    with errors_told():
        raw = _message(file.read(), settings.max_message_bytes)
        with _store(settings, empty=empty) as (store, against):
            rehearsed = rehearse(store, raw, settings=settings)
    if as_json:
        print_json(_plain(rehearsed, against))
    else:
        _print(rehearsed, against)


def _message(content: bytes, limit: int) -> bytes:
    """Return the one message of a file, which may still be in its MLLP frame."""
    from services.hl7.mllp import START, Deframer

    messages = Deframer(limit).feed(content) if content.startswith(START) else [content]
    count = sum(len(re.findall(rb"(?:^|[\r\n])MSH", one)) for one in messages)
    if count > 1:
        fail(f"the file holds {count} messages: try one at a time")
    return messages[0] if messages else content


@contextmanager
def _store(settings: Settings, *, empty: bool) -> Iterator[tuple[Store, str]]:
    """Give the running installation's store, or else an empty one of our own, and its name."""
    with ExitStack() as stack:
        store = None
        if not empty:
            with suppress(Unavailable):
                store = stack.enter_context(opened_store(settings))
        if store is not None:
            yield store, _RUNNING
        else:
            yield stack.enter_context(_empty_store(settings)), _EMPTY


@contextmanager
def _empty_store(settings: Settings) -> Iterator[Store]:
    from services.database import cluster

    home = Path(tempfile.mkdtemp(prefix="spinecho-try-", dir="/var/tmp"))
    home.chmod(0o755)
    own = settings.model_copy(update={"home": home, "database_url": None})
    try:
        with cluster.running(own), opened_store(own) as store:
            yield store
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _plain(rehearsed: Rehearsed, against: str) -> dict[str, Any]:
    answered = rehearsed.answered
    lines = (answered.acknowledgement or b"").decode().split("\r")
    return {
        "against": against,
        "code": answered.code,
        "repeated": answered.repeated,
        "state": rehearsed.state,
        "error": rehearsed.error,
        "acknowledgement": [line for line in lines if line],
        "changes": [
            {"what": c.what, "change": c.change, "name": c.name, "fields": c.fields}
            for c in rehearsed.changes
        ],
    }


def _print(rehearsed: Rehearsed, against: str) -> None:
    plain = _plain(rehearsed, against)
    code = Text(plain["code"], "green" if plain["code"] in {"AA", "none"} else "bold red")
    console.print(f"tried against {against}")
    console.print("answer", code, f"({plain['state']})", plain["error"] or "", markup=False)
    for line in plain["acknowledgement"]:
        console.print(f"  {line}", markup=False)
    if plain["repeated"]:
        console.print("it was received before: the same answer, and no second effect")
    if not rehearsed.changes:
        console.print("nothing would change")
        return
    rows = [
        (c.what, c.change, c.name, ", ".join(_said(*field) for field in c.fields.items()))
        for c in rehearsed.changes
    ]
    console.print(table(("what", "change", "name", "fields"), rows))


def _said(name: str, values: list[Any]) -> str:
    before, after = values
    return f"{name} {after}" if before in (None, "") else f"{name} {before} → {after}"
