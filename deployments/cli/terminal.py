"""How every command speaks: tables for people, JSON for programs, errors on the error channel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from models.errors import SpinechoError
from services.settings import Settings

if TYPE_CHECKING:
    from services.database.store import Store

# Where nobody can widen the window, a table is as wide as its columns need.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
console = Console(width=_WIDTH, highlight=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def fail(reason: str, *, code: str = "error") -> NoReturn:
    """End the command with status 1 and say why on the error channel."""
    Console(stderr=True, highlight=False).print(
        f"[red]{escape(code)}[/red]: {escape(reason)}", soft_wrap=True
    )
    raise typer.Exit(1)


@contextmanager
def errors_told() -> Iterator[None]:
    """End the command with the code and the text of an error of ours, without a traceback."""
    try:
        yield
    except SpinechoError as error:
        fail(str(error), code=error.code)


def read_settings() -> Settings:
    """Return the settings, or end the command naming every one that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"{'__'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        fail("; ".join(wrong), code="settings")


@contextmanager
def opened_store(settings: Settings) -> Iterator[Store]:
    """Give the installation's store for the length of a ``with`` block, once it answers."""
    from services.database.store import Store

    store = Store(settings, pool_size=2)
    try:
        store.check()
        yield store
    finally:
        store.close()


def print_json(value: Any) -> None:
    """Print `value` for a program to read."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(
    columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str | None = None
) -> Table:
    """Return a table of plain texts: nothing in a cell is taken for markup."""
    out = Table(*columns, title=title and escape(title), title_justify="left")
    for row in rows:
        out.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return out
