"""``spinecho hl7``: what a message is, and what it would do."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
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
    from services.hl7.profile import Declared
    from services.hl7.standardising import Rewriting, Standardiser
    from services.workflow.rehearsal import Rehearsed
    from services.workflow.replay import Played, Summary

_RUNNING = "the running installation"
_EMPTY = "an empty store"
app = typer.Typer(no_args_is_help=True, help="HL7 v2 messages.")


@app.command("try")
def try_(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="One message; - reads stdin.")],
    empty: Annotated[
        bool, typer.Option("--empty", help="Try it against an empty store in any case.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(help="Read it by this profile (a name or a file) instead of its sender's."),
    ] = None,
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
        profiles = candidate(settings, profile) if profile else profiles_in_force(settings)
        with _store(settings, empty=empty) as (store, against):
            rehearsed = rehearse(store, raw, settings=settings, profiles=profiles)
    if as_json:
        print_json(_plain(rehearsed, against))
    else:
        _print(rehearsed, against)


@app.command("profiles")
def list_profiles(
    show: Annotated[
        str | None, typer.Option(help="Print the file of this profile, to be copied and edited.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the interface profiles: whose messages each is for, and whether it is in force."""
    from services.hl7.profiles import survey

    settings = read_settings()
    with errors_told():
        known, wrong = survey(settings.profile_root)
    if show is not None:
        typer.echo(_named(known, show).text, nl=False)
        return
    rows: list[dict[str, Any]] = [
        {
            "name": declared.profile.name,
            "title": declared.profile.title,
            "applications": list(declared.profile.sender.application),
            "facilities": list(declared.profile.sender.facility),
            "versions": list(declared.profile.sender.versions),
            "origin": declared.origin,
            "active": declared.profile.active,
            "digest": declared.digest,
            "file": declared.file,
        }
        for declared in known.values()
    ]
    if as_json:
        print_json({"profiles": rows, "wrong": wrong})
        raise typer.Exit(1 if wrong else 0)
    shown = [
        (
            *(row["name"], row["title"], " ".join(row["applications"])),
            *(" ".join(row["facilities"]), " ".join(row["versions"]) or "any", row["origin"]),
            Text("in force", "green") if row["active"] else "not in force",
        )
        for row in rows
    ]
    columns = ("name", "title", "MSH-3", "MSH-4", "versions", "origin", "state")
    console.print(table(columns, shown))
    console.print(f"the installation's own: {settings.profile_root}", soft_wrap=True)
    if wrong:
        kept = "the listener goes on with the last good ones"
        fail("\n".join([*wrong, kept]), code="profile")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A profile, wherever it lies.")],
    as_json: AsJson = False,
) -> None:
    """Say whether a profile is right, and where it is not; nothing is put in force."""
    from services.hl7.profiles import load, read_file, require_one_each

    settings = read_settings()
    with errors_told():
        declared = read_file(file, "file")
        name = declared.profile.name
        # As it would be among the others, once it lies there under its name.
        require_one_each([*(load(settings.profile_root) | {name: declared}).values()])
    said = {"name": name, "active": declared.profile.active, "digest": declared.digest}
    if as_json:
        print_json(said)
    else:
        state = "in force once it lies" if declared.profile.active else "not in force even"
        console.print(
            f"{file} is right: profile {name}, {state} in {settings.profile_root} as {name}.toml",
            soft_wrap=True,
        )


@app.command()
def replay(
    since: Annotated[datetime, typer.Option(help="From this time on, in UTC.")],
    profile: Annotated[str, typer.Option(help="The candidate: the name of a profile, or a file.")],
    until: Annotated[datetime | None, typer.Option(help="Before this time, in UTC.")] = None,
    sender: Annotated[
        str | None, typer.Option(help="Of this sender only: MSH-3, or MSH-3|MSH-4.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many only.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Play recorded messages with a candidate profile and say what would have differed.

    The profiles in force and the candidate each get an empty store of their own, where the real
    intake takes the messages in the order in which they came; the installation's is only read.
    """
    from services.hl7.profiles import Force, load
    from services.workflow.replay import Summary, recorded
    from services.workflow.replay import replay as play

    settings = read_settings()
    with errors_told():
        chosen_by = candidate(settings, profile).declared
        known = load(settings.profile_root)
        others = [d for name, d in known.items() if name != chosen_by.profile.name]
        chosen = replace(chosen_by, profile=chosen_by.profile.model_copy(update={"active": True}))
        with opened_store(settings) as store:
            messages = recorded(
                store,
                since=since.replace(tzinfo=UTC),
                until=until and until.replace(tzinfo=UTC),
                sender=sender,
                limit=limit,
            )
        played, summary = [], Summary()
        with ExitStack() as stack:
            stores = tuple(stack.enter_context(_empty_store(settings)) for _ in range(2))
            by = (Force(known.values()), Force([chosen, *others]))
            for one in play(messages, (stores[0], stores[1]), by, settings=settings):
                summary.count(one)
                if not one.unchanged:
                    played.append(one)
    if as_json:
        print_json(
            {"profile": chosen_by.profile.name, "digest": chosen_by.digest}
            | {"messages": [_plain_played(one) for one in played], "summary": asdict(summary)}
        )
    else:
        _print_played(played, summary)


def _plain_played(played: Played) -> dict[str, Any]:
    message = played.message
    return {
        "id": message.id,
        "at": message.at,
        "sender": message.sender,
        "type": message.type,
        "code": list(played.code),
        "error": list(played.error),
        "profile": list(played.profile),
        "differences": [asdict(difference) for difference in played.differences],
    }


def _print_played(played: list[Played], summary: Summary) -> None:
    rows = []
    for one in played:
        told = [
            f"{d.what}{'' if d.field == 'presence' else f' {d.field}'}: "
            f"{_shown(d.in_force)} → {_shown(d.candidate)}"
            for d in one.differences
        ]
        if one.error[0] != one.error[1]:
            told += [
                f"{whose}: {error}"
                for whose, error in zip(("in force", "candidate"), one.error, strict=True)
                if error
            ]
        code = one.code[0] if one.code[0] == one.code[1] else " → ".join(one.code)
        at = f"{one.message.at:%Y-%m-%d %H:%M:%S}"
        rows.append(
            (one.message.id, at, one.message.sender, one.message.type, code, "\n".join(told))
        )
    if rows:
        columns = ("message", "at", "sender", "type", "answer", "what would differ")
        console.print(table(columns, rows))
    console.print(
        f"{summary.messages} messages: {summary.unchanged} unchanged, "
        f"{summary.accepted} now accepted, {summary.refused} now refused"
    )
    if summary.fields:
        most = sorted(summary.fields.items(), key=lambda counted: -counted[1])
        fields = ", ".join(f"{name} {count}" for name, count in most)
        console.print(f"fields changed: {fields}", soft_wrap=True)


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "") else str(value)


def profiles_in_force(settings: Settings) -> Rewriting:
    """Return the profiles that the listener reads messages by."""
    from services.hl7.profiles import Profiles

    return Profiles(settings.profile_root)


def candidate(settings: Settings, name: str) -> Standardiser:
    """Return a profile by its name or its file, whether it is in force or not."""
    from services.hl7.profiles import load, read_file
    from services.hl7.standardising import Standardiser

    if name.endswith(".toml"):
        return Standardiser(read_file(Path(name), "file"))
    return Standardiser(_named(load(settings.profile_root), name))


def _named(known: dict[str, Declared], name: str) -> Declared:
    if name not in known:
        fail(f"there is no profile {name}; known are {', '.join(known)}", code="profile")
    return known[name]


def _message(content: bytes, limit: int) -> bytes:
    """Return the one message of a file, which may still be in its MLLP frame."""
    from services.hl7.mllp import START, Deframer

    messages = list(Deframer(limit).feed(content)) if content.startswith(START) else [content]
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
    standard = rehearsed.standard
    lines = (answered.acknowledgement or b"").decode().split("\r")
    return {
        "against": against,
        "code": answered.code,
        "repeated": answered.repeated,
        "state": rehearsed.state,
        "error": rehearsed.error,
        "profile": standard.profile if standard and standard.profile else None,
        "profile_digest": standard.digest if standard and standard.profile else None,
        "rewritten": [note._asdict() for note in (standard.notes if standard else ())],
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
    if plain["profile"]:
        console.print(f"read by profile {plain['profile']} ({plain['profile_digest'][:16]})")
        if plain["rewritten"]:
            notes = [
                [Text(value, overflow="fold") for value in note.values()]
                for note in plain["rewritten"]
            ]
            console.print(table(("place", "sent", "read as", "by"), notes))
        else:
            console.print("it changes nothing in this message")
    else:
        console.print("read as IHE has it: no profile is for this sender")
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
