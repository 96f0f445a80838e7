"""``spinecho audit``: what is to be known before a feed is connected; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.text import Text

from deployments.cli.hl7 import candidate, profiles_in_force
from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    opened_store,
    print_json,
    read_settings,
    table,
)

if TYPE_CHECKING:
    from services.identity.audit.files import Unread
    from services.identity.audit.sightings import Sighting

_FORMATS = 6
"""Formats of one authority on the screen, and authorities; JSON has all."""
_AUTHORITIES = 20
_STEPS = 500
app = typer.Typer(no_args_is_help=True, help="What is to be known before a feed is connected.")


@app.callback()
def _group() -> None:
    """Keep the command's name, also while it is the only one."""


@app.command()
def identifiers(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, help="HL7 and DICOM files, directories, tar archives."),
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Also what the installation received and filed.")
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(help="Of what is recorded: from this time on, in UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Of what is recorded: before this time, in UTC.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Read messages by this profile (a name or a file), not their sender's."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print numbers whole: they identify patients.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how a feed and images write their identifiers, and where they will not meet.

    Nothing is written. Ends with status 1 if something needs attention, or nothing was read.
    """
    from services.identity.audit.files import read_files
    from services.identity.audit.recorded import read_recorded
    from services.identity.audit.report import audit

    if not paths and not recorded:
        raise typer.BadParameter("name files or directories, or --recorded")
    if recorded != (since is not None) or (until is not None and not recorded):
        raise typer.BadParameter("--recorded and --since belong together, --until to both")
    settings = read_settings()
    with errors_told(), ExitStack() as stack:
        by = candidate(settings, profile) if profile else profiles_in_force(settings)
        limit = settings.max_message_bytes
        said: Iterator[Sighting | Unread] = read_files(paths or [], limit=limit, profiles=by)
        if since is not None:
            store = stack.enter_context(opened_store(settings))
            filed = read_recorded(
                store,
                since=since.replace(tzinfo=UTC),
                until=until and until.replace(tzinfo=UTC),
                limit=limit,
                profiles=by,
            )
            said = chain(said, filed)
        report = audit(
            _counted(said),
            default_authority=settings.default_authority,
            automatic=settings.match_auto,
            desk=settings.match_desk,
        )
    if as_json:
        print_json(report.as_json(whole=show))
    else:
        _print(report.as_json(whole=show))
    raise typer.Exit(0 if report.is_clean else 1)


def _counted(said: Iterator[Sighting | Unread]) -> Iterator[Sighting | Unread]:
    """Tell how far it is, where somebody looks."""
    errors = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} messages and objects read"))
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("")
        for number, one in enumerate(said, 1):
            if number % _STEPS == 0:
                progress.update(task, completed=number)
            yield one


def _print(told: dict[str, Any]) -> None:
    for what in ("broken", "skipped"):
        for left in told[what]["first"]:
            console.print(Text(f"{what}: {left['where']}: {left['reason']}", "yellow"))
        more = told[what]["count"] - len(told[what]["first"])
        if more > 0:
            console.print(Text(f"{what}: {more} more", "yellow"))
    console.print(f"{told['messages']} messages with a patient, {told['objects']} DICOM objects")
    if told["authorities"]:
        columns = (
            "said by",
            "authority",
            "type",
            "numbers",
            "patients",
            "zeros first",
            "check digit",
        )
        rows = [_authority(one) for one in told["authorities"][:_AUTHORITIES]]
        console.print(table((*columns, "formats, an example each"), rows))
        if len(told["authorities"]) > _AUTHORITIES:
            console.print(f"{len(told['authorities']) - _AUTHORITIES} more; --json has all")
    rules: list[dict[str, Any]] = []
    rows = [_finding(one, rules) for one in told["findings"]]
    if rows:
        console.print(table(("", "what", "cases", "examples", "where", "rule"), rows))
    for number, rule in enumerate(rules, 1):
        _print_rule(number, rule)
    if told["clean"]:
        console.print(Text("nothing needs attention", "green"))
    else:
        console.print(Text(_verdict(told), "bold red"))


def _verdict(told: dict[str, Any]) -> str:
    if not told["messages"] and not told["objects"]:
        return "nothing could be read"
    faults = sum(one["fault"] for one in told["findings"])
    return (
        f"{faults} findings need attention, {told['broken']['count']} files or messages are broken"
    )


def _authority(one: dict[str, Any]) -> tuple[Any, ...]:
    universal = "&".join(filter(None, (one["universal_id"], one["universal_type"])))
    formats = [
        f"{f['pattern']}  {f['share']:.1%}  {f['example']}" for f in one["formats"][:_FORMATS]
    ]
    if len(one["formats"]) > _FORMATS:
        formats.append(f"{len(one['formats']) - _FORMATS} more; --json has all")
    scheme = one["check_digit"] or "–"
    if one["check_digits_sent"]:
        scheme = f"in CX-2, {one['check_digits_wrong']} wrong"
    return (
        one["side"],
        "\n".join(filter(None, (one["authority"], universal))) or "none",
        one["type"],
        one["identifiers"],
        one["patients"],
        f"{one['leading_zeros']:.0%}",
        scheme,
        "\n".join(formats),
    )


def _finding(one: dict[str, Any], rules: list[dict[str, Any]]) -> tuple[Any, ...]:
    examples, where = [], []
    for example in one["examples"]:
        numbers = " ↔ ".join(n or "(none)" for n in example["numbers"])
        examples.append(f"{numbers}  {example['said']}".rstrip())
        where += example["where"]
    rule = ""
    if one["rule"] is not None:
        if one["rule"] not in rules:
            rules.append(one["rule"])
        rule = str(rules.index(one["rule"]) + 1)
    mark = Text("attention", "bold red") if one["fault"] else Text("to know", "yellow")
    where = list(dict.fromkeys(where))
    return (
        mark,
        one["what"],
        one["count"],
        "\n".join(examples),
        Text("\n".join(where), overflow="fold"),
        rule,
    )


def _print_rule(number: int, rule: dict[str, Any]) -> None:
    broken = f", {rule['broken']} that agree now would not" if rule["broken"] else ""
    console.print(
        f"rule {number}: with this in the sender's profile {rule['gone']} of {rule['of']} "
        f"are gone{broken}"
    )
    for line in rule["toml"].splitlines():
        console.print(f"  {line}", markup=False, soft_wrap=True)
