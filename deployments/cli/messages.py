"""``spinecho messages``: what came and went, why it was refused, and applying it again."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
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

if TYPE_CHECKING:
    from services.database.messages import StoredMessage, Wanted

app = typer.Typer(no_args_is_help=True, help="Messages that came and went.")

Accession = Annotated[str | None, typer.Option(help="Accession number that it names.")]
Mrn = Annotated[str | None, typer.Option(help="Patient identifier that it names, PID-3.1.")]
ControlId = Annotated[str | None, typer.Option(help="MSH-10.")]
Sender = Annotated[str | None, typer.Option(help="MSH-3, or MSH-3|MSH-4.")]
Type = Annotated[str | None, typer.Option("--type", help="MSH-9, such as ORM^O01.")]
State = Annotated[list[str] | None, typer.Option(help="Such as refused; may be repeated.")]
Since = Annotated[datetime | None, typer.Option(help="From this time on, in UTC.")]
Until = Annotated[datetime | None, typer.Option(help="Before this time, in UTC.")]
Limit = Annotated[int, typer.Option(help="The newest of them only.", min=1)]
_GOOD = frozenset({"processed", "accepted", "noted", "ignored"})
_BAD = frozenset({"refused", "failed", "fragment", "rejected", "undelivered"})


@app.command("list")
def list_(
    accession: Accession = None,
    mrn: Mrn = None,
    control_id: ControlId = None,
    sender: Sender = None,
    type_: Type = None,
    state: State = None,
    since: Since = None,
    until: Until = None,
    direction: Annotated[str | None, typer.Option(help="in or out.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List messages, the newest first, by what they are about."""
    if direction not in {None, "in", "out"}:
        fail("--direction is in or out", code="invalid-value")
    wanted = _wanted(accession, mrn, control_id, sender, type_, state, since, until, direction)
    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        rows = [_line(row) for row in uow.messages.search(wanted, limit=limit)]
    if as_json:
        print_json(rows)
        return
    _print_lines(rows)
    if len(rows) == limit:
        console.print(f"the newest {limit}; --limit shows more")


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of a message.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bytes as they are, and nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a message with its answer, its study and what it did there."""
    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        message = uow.messages.get(number)
        retried = uow.messages.retried([number])
        study = None if message.study_id is None else uow.studies.get(message.study_id)
        events = [] if study is None else uow.timeline.of_study(study.id)
    if raw:
        sys.stdout.buffer.write(message.raw)
        sys.stdout.buffer.flush()
        return
    told = _line(message) | {
        "peer": message.peer,
        "profile": message.profile,
        "sealed": message.key_id is not None,
        "attempt_of": message.attempt_of,
        "tried_again_as": retried.get(number),
        "message": _segments(message.raw),
        "answer": [] if message.ack is None else _segments(message.ack),
        "study": None
        if study is None
        else {
            "accession": study.accession,
            "study_uid": study.study_uid,
            "state": study.state.value,
        },
        "timeline": [
            {"at": e.at.isoformat(), "kind": e.kind, "summary": e.summary}
            for e in events
            if e.evidence.get("message") == number
        ],
    }
    if as_json:
        print_json(told)
    else:
        _print_message(message, told)


@app.command()
def replay(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Numbers of messages.")
    ] = None,
    sender: Sender = None,
    type_: Type = None,
    state: State = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 500,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this, only say what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Apply recorded inbound messages again, in the order in which they came.

    Each is a new attempt under a new number that names the old one; the intake is that of every
    other message, and the sender gets no answer. Chosen by state or time, those that were tried
    again already are left out.
    """
    from services.hl7.profiles import Profiles
    from services.workflow.reapplying import apply_again, repeatable

    if not numbers and not (state or since):
        fail("name messages, or choose them by --state or --since", code="invalid-value")
    wanted = _wanted(None, None, None, sender, type_, state, since, until, "in", numbers or ())
    settings = read_settings()
    with errors_told(), opened_store(settings) as store:
        rows = repeatable(store, wanted, limit)
        missing = set(numbers or ()) - {row.id for row in rows}
        if missing:
            named = ", ".join(map(str, sorted(missing)))
            fail(f"no whole message that came in has number {named}", code="unknown-key")
        lines = [_line(row) for row in rows]
        if yes:
            profiles = Profiles(settings.profile_root, good=settings.last_good_profiles)
            for line in lines:
                done = apply_again(store, line["id"], settings=settings, profiles=profiles)
                with store() as uow:
                    again = uow.messages.get(done.message_id)
                line |= {"became": again.id, "outcome": again.state, "reason": again.error}
    if as_json:
        print_json(lines)
    elif not yes:
        _print_lines(lines)
        console.print(f"{len(lines)} would be applied again; --yes does it")
    else:
        shown = [
            (x["id"], x["type"], x["lane"], x["became"], _coloured(x["outcome"]), x["reason"] or "")
            for x in lines
        ]
        columns = ("message", "type", "sender", "again as", "outcome", "reason")
        console.print(table(columns, shown))
        good = sum(x["outcome"] in _GOOD for x in lines)
        console.print(f"{good} of {len(lines)} accepted")
    if yes and any(x["outcome"] not in _GOOD for x in lines):
        raise typer.Exit(1)


@app.command("dead-letters")
def dead_letters(since: Since = None, limit: Limit = 200, as_json: AsJson = False) -> None:
    """List what lies undone: refused, failed, cut off, or not taken by its destination."""
    from services.workflow.reapplying import dead_letters as find

    with errors_told(), opened_store(read_settings()) as store:
        rows = find(store, since=since and since.replace(tzinfo=UTC), limit=limit)
        now = store.clock()
    if as_json:
        print_json([row | {"at": row["at"].isoformat()} for row in rows])
        return
    if not rows:
        console.print("nothing lies undone")
        return
    shown = [
        (
            row["id"],
            row["direction"],
            _age(now - row["at"]),
            row["lane"] or "no sender",
            row["type"],
            _coloured(row["state"]),
            row["reason"],
        )
        for row in rows
    ]
    console.print(table(("message", "way", "age", "lane", "type", "state", "reason"), shown))
    console.print("spinecho messages show ID shows one; spinecho messages replay ID tries it again")


def _wanted(
    accession: str | None,
    mrn: str | None,
    control_id: str | None,
    sender: str | None,
    type_: str | None,
    state: list[str] | None,
    since: datetime | None,
    until: datetime | None,
    direction: str | None,
    ids: Any = (),
) -> Wanted:
    from services.database.messages import Wanted
    from services.hl7.references import ACCESSION, MRN

    named = ((ACCESSION, accession), (MRN, mrn))
    return Wanted(
        ids=tuple(ids),
        references=[(kind, value) for kind, value in named if value],
        control_id=control_id,
        sender=sender,
        type=type_,
        states=tuple(state or ()),
        direction=direction,
        since=since and since.replace(tzinfo=UTC),
        until=until and until.replace(tzinfo=UTC),
    )


def _line(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": row.received_at.isoformat(),
        "direction": row.direction,
        "lane": row.sender if row.direction == "in" else row.peer,
        "type": row.type,
        "control_id": row.control_id,
        "state": row.state,
        "ack_code": row.ack_code,
        "error": row.error,
    }


def _print_lines(lines: list[dict[str, Any]]) -> None:
    if not lines:
        console.print("no such message")
        return
    rows = [
        (
            x["id"],
            f"{datetime.fromisoformat(x['at']):%Y-%m-%d %H:%M:%S}",
            x["direction"],
            x["lane"] or "no sender",
            x["type"],
            x["control_id"],
            _coloured(x["state"]),
            x["ack_code"] or "",
        )
        for x in lines
    ]
    columns = ("message", "at (UTC)", "way", "lane", "type", "control id", "state", "answer")
    console.print(table(columns, rows))


def _print_message(message: StoredMessage, told: dict[str, Any]) -> None:
    way = "from" if message.direction == "in" else "to"
    console.print(
        f"message {message.id}  {told['at'][:19].replace('T', ' ')} UTC  {way} "
        f"{told['lane'] or 'no sender'}",
        _coloured(message.state),
        markup=False,
    )
    if message.error:
        console.print(message.error, markup=False)
    if message.profile:
        console.print(f"read by profile {message.profile}", markup=False)
    if message.attempt_of:
        console.print(f"applies message {message.attempt_of} again")
    if told["tried_again_as"]:
        console.print(f"tried again as message {told['tried_again_as']}")
    for name in ("message", "answer"):
        if told[name]:
            console.print(f"\n{name}", style="bold")
            for segment in told[name]:
                console.print(Text(f"  {segment}"), soft_wrap=True)
    if told["study"]:
        study = told["study"]
        console.print("\nstudy", style="bold")
        console.print(
            f"  {study['accession'] or study['study_uid']}  {study['state']}", markup=False
        )
    for event in told["timeline"]:
        console.print(f"  {event['at'][:19].replace('T', ' ')}  {event['summary']}", markup=False)


def _segments(raw: bytes) -> list[str]:
    from models.errors import SpinechoError
    from services.hl7.er7 import parse

    try:
        message = parse(raw)
    except SpinechoError:
        try:
            lines = raw.decode().splitlines()
        except UnicodeDecodeError:
            lines = raw.decode("latin-1").splitlines()
    else:
        separator = message.delimiters.field
        lines = [
            # MSH-1 is the separator itself.
            separator.join((s.name, *s.fields[2 if s.name == "MSH" else 1 :]))
            for s in message.segments
        ]
    # A control character of a message must not steer the terminal.
    return [
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in x) for x in lines
    ]


def _coloured(state: str) -> Text:
    return Text(state, "green" if state in _GOOD else "bold red" if state in _BAD else "")


def _age(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
