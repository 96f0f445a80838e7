"""``spinecho triage``: what the model says of images, without an installation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    fail,
    print_json,
    read_settings,
    table,
)
from models.errors import PeerError

app = typer.Typer(no_args_is_help=True, help="AI triage, tried on files.")
_URGENCY = ("critical", "abstained", "normal")
_STYLES = {"critical": "bold red", "abstained": "yellow", "normal": "green"}
_SHOWN = 10


@app.command("try")
def try_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, help="Of DICOM files.")],
    as_json: AsJson = False,
) -> None:
    """Judge the studies below DIR as the triage flow would; nothing is stored or sent.

    Every study is judged by itself. In JSON the most urgent one stands at the top, and all of
    them under "studies".
    """
    from services.inference.pool import ModelProcess

    settings = read_settings()
    studies, skipped = _sorted(folder)
    if not studies:
        why = "it is empty"
        if skipped:
            first = skipped[0]
            why = f"{len(skipped)} skipped, the first, {first['file']}: {first['reason']}"
        fail(f"no DICOM file to try in {folder}: {why}")
    name, _, version = settings.triage_model.partition("@")
    with (
        errors_told(),
        ModelProcess(name, version or None, timeout_s=settings.triage_timeout_s) as model,
    ):
        judged = [
            {"study_uid": uid, "files": len(files), **model.assess(files).to_json()}
            for uid, files in studies.items()
        ]
    judged.sort(key=lambda one: _URGENCY.index(one["outcome"]))
    if as_json:
        print_json({**judged[0], "studies": judged, "skipped": skipped})
        return
    for one in judged:
        console.print(*_told(one), "", sep="\n")
    if skipped:
        _print_skipped(skipped)


def _sorted(folder: Path) -> tuple[dict[str, list[Path]], list[dict[str, str]]]:
    """Return the files of each study, and what the archive would not have filed, with the reason.

    Triage only ever sees what was filed, so files are read here as they are at reception.
    """
    from services.archive.part10 import read_header

    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    studies: dict[str, list[Path]] = {}
    skipped = []
    for file in files:
        try:
            studies.setdefault(read_header(file).study_uid, []).append(file)
        except (PeerError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            skipped.append({"file": str(file), "reason": str(reason)})
    return studies, skipped


def _told(one: dict[str, Any]) -> Iterable[Any]:
    facts = Table.grid(padding=(0, 2))
    series = ", ".join({e["series_uid"] for e in one["evidence"]})
    for name, value in (
        ("outcome", Text(one["outcome"], _STYLES[one["outcome"]])),
        ("reason", one["reason"]),
        ("findings", "; ".join(one["findings"])),
        ("model", one["model"]),
        ("study", f"{one['study_uid']}, {one['files']} files"),
        ("series judged", series and f"{series}, {len(one['evidence'])} files"),
    ):
        if value:
            facts.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    yield facts
    if one["measurements"]:
        rows = [(m["name"], f"{m['value']:g}", m["unit"]) for m in one["measurements"]]
        yield table(("measurement", "value", "unit"), rows)


def _print_skipped(skipped: list[dict[str, str]]) -> None:
    rows = [(s["file"], s["reason"]) for s in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        rows.append((f"and {len(skipped) - _SHOWN} more", ""))
    console.print(table(("skipped", "reason"), rows))
