"""``spinecho desk``: what could not be placed safely, and what is decided about it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.table import Table

from deployments.cli.terminal import (
    AsJson,
    console,
    errors_told,
    opened_store,
    print_json,
    read_settings,
    table,
)

app = typer.Typer(no_args_is_help=True, help="What could not be placed safely, and its decisions.")
_SHOWN: Final = 4
"""Candidates that fit beside each other."""
Number = Annotated[int, typer.Argument(help="Number of the row, as `desk list` shows it.")]
By = Annotated[str, typer.Option("--by", help="Who decides.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept with the decision.")]


@app.command("list")
def list_rows(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows to list.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List what waits on the desk, oldest first."""
    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        rows = [
            {"number": r.id, "at": r.at.isoformat(), "kind": r.kind, "reason": r.reason}
            for r in uow.studies.desk(limit=limit)
        ]
        waiting = uow.studies.on_desk()
    if as_json:
        print_json(rows)
        return
    lines = [(r["number"], r["at"][:19].replace("T", " "), r["kind"], r["reason"]) for r in rows]
    console.print(table(("number", "since (UTC)", "kind", "reason"), lines))
    if waiting > len(rows):
        console.print(f"{waiting - len(rows)} more wait; list them with --limit")


@app.command()
def show(number: Number, as_json: AsJson = False) -> None:
    """Show a row with the patients whose it may be, their scores and the evidence."""
    from services.workflow.desk import proposal_as_json, propose

    settings = read_settings()
    with errors_told(), opened_store(settings) as store, store() as uow:
        told = proposal_as_json(propose(uow, number, settings))
    if as_json:
        print_json(told)
        return
    console.print(f"{told['kind']}  {told['reason']}", markup=False)
    if told["candidates"] or told["claimed"]:
        console.print(_side_by_side(told))
    if len(told["candidates"]) > _SHOWN:
        console.print(f"{len(told['candidates']) - _SHOWN} more; --json has all")
    if told["open"]:
        console.print(_proposal(told), markup=False)
    for decision in told["decisions"]:
        console.print(_sentence(decision), markup=False)


@app.command()
def decide(
    number: Number,
    action: Annotated[str, typer.Argument(help="`file`, `apart`, `reject`, `reapply` or `leave`.")],
    by: By,
    why: Why,
    patient: Annotated[
        str | None, typer.Option("--patient", help="Whose it is: the patient of a candidate.")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="Whose exam it is: the order of a candidate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide about a row: file, apart, reject, reapply or leave it, as `desk show` offers it."""
    from models.errors import InvalidValue
    from services.hl7.profiles import Profiles
    from services.workflow.desk import Action, decision_as_json
    from services.workflow.desk import decide as decided
    from services.workflow.reapplying import apply_decided

    settings = read_settings()
    with errors_told(), opened_store(settings) as store, store() as uow:
        if action not in {a.value for a in Action}:
            known = ", ".join(a.value for a in Action)
            raise InvalidValue(f"an action is one of {known}", location="action")
        row = decided(
            uow,
            number,
            Action(action),
            patient_id=patient,
            order_id=order,
            by=by,
            why=why,
            settings=settings,
        )
        told = decision_as_json(row)
    if told["done"] and told["action"] == Action.REAPPLY.value:
        profiles = Profiles(settings.profile_root, good=settings.last_good_profiles)
        with errors_told(), opened_store(settings) as store:
            apply_decided(store, settings=settings, profiles=profiles)
    _print(told, as_json)


@app.command()
def undo(
    decision: Annotated[int, typer.Argument(help="Number of the decision.")],
    by: By,
    why: Why,
    as_json: AsJson = False,
) -> None:
    """Undo a decision: the study is shown as before, and waits on the desk again."""
    from services.workflow.desk import decision_as_json
    from services.workflow.desk import undo as undone

    with errors_told(), opened_store(read_settings()) as store, store() as uow:
        told = decision_as_json(undone(uow, decision, by=by, why=why))
    _print(told, as_json)


def _side_by_side(told: dict[str, Any]) -> Table:
    """Return what the images say beside each candidate, and what each field speaks for."""
    claimed, candidates = told["claimed"] or {}, told["candidates"][:_SHOWN]
    orders = [c["order"] or {} for c in candidates]
    lines = [
        ("patient", "", *(c["patient"] for c in candidates)),
        ("name", claimed.get("name", ""), *(c["name"] for c in candidates)),
        ("number", claimed.get("patient_id", ""), *(c["identifier"] for c in candidates)),
        ("born", claimed.get("birth_date") or "", *(c["birth_date"] for c in candidates)),
        ("order", "", *(o.get("id", "–") for o in orders)),
        ("accession", told["accession"], *(o.get("accession", "") for o in orders)),
        ("procedure", "", *(o.get("procedure", "") for o in orders)),
    ]
    compared = [{e["field"]: e for e in c["evidence"]} for c in candidates]
    for field in dict.fromkeys(field for fields in compared for field in fields):
        lines.append((f"  {field}", "", *(_speaks(fields.get(field)) for fields in compared)))
    lines.append(("score", "", *(c["score"] for c in candidates)))
    lines.append(("verdict", "", *(f"{c['verdict']}: {c['rule']}" for c in candidates)))
    return table(("", "images", *map(str, range(1, len(candidates) + 1))), lines)


def _proposal(told: dict[str, Any]) -> str:
    chosen = "nothing"
    if told["proposed"]:
        chosen = told["proposed"]
        if told["proposed_order"]:
            chosen += f" --order {told['proposed_order']}"
        elif told["proposed_patient"]:
            chosen += f" --patient {told['proposed_patient']}"
    return f"proposed  {chosen}; possible {', '.join(told['actions'])}"


def _speaks(evidence: dict[str, Any] | None) -> str:
    return "" if evidence is None else f"{evidence['how']} {evidence['weight']:+g}"


def _print(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        console.print(_sentence(told), markup=False)


def _sentence(told: dict[str, Any]) -> str:
    at = told["at"][:19].replace("T", " ")
    text = f"decision {told['decision']}: {told['action']}, {at} by {told['by']}: {told['why']}"
    if told["patient"]:
        text += f"; patient {told['patient_before'] or 'none'} → {told['patient']}"
    if told["undone_by"]:
        undone = told["undone_at"][:19].replace("T", " ")
        return f"{text}; undone {undone} by {told['undone_by']}: {told['undone_why']}"
    if told["approved_by"]:
        return f"{text}; {told['approved_by']} agreed"
    return text if told["done"] else f"{text}; waits for a second person"
