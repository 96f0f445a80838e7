"""``spinecho archive``: where the bytes of studies lie, and where they will."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
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

app = typer.Typer(no_args_is_help=True, help="The tiers: hot, warm, cold.")
_NIGHTLY = time(2, tzinfo=UTC)
"""When the catalogue's schedule starts the migration."""


@app.command()
def plan(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="UTC; a day means its nightly run at 02:00. The next one by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what tier migration would move, and what holds the rest back; nothing is moved."""
    from services.workflow import migration

    settings = read_settings()
    with errors_told(), opened_store(settings) as store:
        moment = _moment(as_of, store.clock())
        planned = migration.plan(store, settings, moment)
    rows: list[dict[str, Any]] = [
        {
            "accession": m.accession,
            "study_uid": m.study_uid,
            "from": m.source.value,
            "to": m.target.value,
            "instances": m.instances,
            "bytes": m.bytes,
            "reason": m.reason,
            "held": m.held,
        }
        for m in planned
    ]
    moves, held = [r for r in rows if not r["held"]], [r for r in rows if r["held"]]
    if as_json:
        print_json({"as_of": moment.isoformat(), "moves": moves, "held": held})
        return
    _print(f"Would move at {moment:%Y-%m-%d %H:%M} UTC", moves, ("why", "reason"))
    if held:
        _print("Held back", held, ("why not", "held"))
    total = sum(m["bytes"] for m in moves)
    console.print(f"{len(moves)} studies, {_size(total)} to move; {len(held)} held back")


def _moment(as_of: datetime | None, now: datetime) -> datetime:
    if as_of is None:
        tonight = datetime.combine(now.date(), _NIGHTLY)
        return tonight if tonight > now else tonight + timedelta(days=1)
    if as_of.time() == time(0):
        return datetime.combine(as_of.date(), _NIGHTLY)
    return as_of.replace(tzinfo=UTC)


def _print(title: str, rows: list[dict[str, Any]], last: tuple[str, str]) -> None:
    heading, key = last
    cells = [
        (
            *(r["accession"] or r["study_uid"], r["from"], r["to"]),
            *(r["instances"], _size(r["bytes"]), r[key]),
        )
        for r in rows
    ]
    columns = ("study", "from", "to", "images", "size", heading)
    console.print(table(columns, cells, title=title))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
