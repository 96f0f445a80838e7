"""The reconciliation desk: what could not be placed safely, who it may be, and what was decided.

Nothing in a file is changed: the study is shown under the patient that was chosen, and under what
its objects say again when the decision is undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from sqlalchemy import Row, insert, select, update

from models.errors import IllegalMove, InvalidValue, UnknownKey
from models.order import Order
from models.study import Study
from services.archive.tiers import Tiers
from services.database.store import UnitOfWork
from services.database.tables import desk, desk_decision, imaging_order
from services.identity.index import PatientIndex
from services.settings import Settings
from services.workflow.joining import join_order, part_from_order
from services.workflow.kept_files import (
    FILED,
    can_be_filed,
    file_kept,
    kept_of,
    own_study,
    take_out,
)
from services.workflow.unordered import Match, exam_of, is_clear, matches

RULES = "spinecho"
"""Who decides where rules leave no doubt."""


class Action(Enum):
    """What can be decided."""

    FILE = "file"
    """The study is this patient's, or the exam of this order."""
    APART = "apart"
    """Files that were kept apart become a study of their own, which has no order."""
    REJECT = "reject"
    """Files that were kept apart stay in the quarantine for good."""
    REAPPLY = "reapply"
    """The message is applied again."""
    LEAVE = "leave"
    """It stays as it is, and off the desk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A row of the desk with the orders and patients whose it may be, the likeliest first."""

    row: Row[Any]
    candidates: tuple[Match, ...]
    action: Action | None
    """What the evidence speaks for; None where it speaks for nothing."""
    actions: tuple[Action, ...]
    """What can be decided of it."""
    decisions: tuple[Row[Any], ...]


def propose(uow: UnitOfWork, desk_id: int, settings: Settings) -> Proposal:
    """Return a row of the desk, open or not, with its candidates and what was decided of it.

    Raises
    ------
    UnknownKey
        If the desk has no such row.
    """
    row = _row(uow, desk_id)
    index = PatientIndex(automatic=settings.match_auto, desk=settings.match_desk)
    found = matches(uow, exam_of(uow, row, settings), index)
    actions = _actions(uow, row)
    decisions = uow.connection.execute(
        select(desk_decision).where(desk_decision.c.desk_id == desk_id).order_by(desk_decision.c.id)
    ).all()
    return Proposal(
        row=row,
        candidates=tuple(found),
        action=_proposed(actions, found),
        actions=actions,
        decisions=tuple(decisions),
    )


def decide(
    uow: UnitOfWork,
    desk_id: int,
    action: Action,
    *,
    patient_id: str | None = None,
    order_id: str | None = None,
    by: str,
    why: str,
    settings: Settings,
    by_rules: bool = False,
) -> Row[Any]:
    """Decide about a row of the desk; where two have to agree, the second decides the same.

    Parameters
    ----------
    patient_id, order_id : str, optional
        What `Action.FILE` files it under: an order, which is its patient's, or a patient alone.
    by_rules : bool
        Nobody decides: rules leave no doubt, and nobody has to agree.

    Returns
    -------
    Row
        The decision; its ``done_at`` is empty while it waits for a second person.

    Raises
    ------
    UnknownKey
        If the row or the patient is not there.
    InvalidValue
        If somebody or the reason is not named, or no patient to file it under.
    IllegalMove
        If it was decided, joined its order since, cannot be filed, or the second person is the
        first one or decides otherwise.
    """
    if not by.strip() or not why.strip():
        raise InvalidValue("a decision needs who and why", location="why")
    if by == RULES and not by_rules:
        raise InvalidValue(f"nobody decides as {RULES}", location="by")
    order = None
    if action is Action.FILE:
        order, patient_id = _target(uow, order_id, patient_id)
    elif patient_id is not None or order_id is not None:
        raise InvalidValue("only filing names a patient or an order", location="action")
    row = _locked(uow, desk_id)
    if row.resolved_at is not None:
        raise IllegalMove("this is off the desk; undo its decision first")
    if action not in _actions(uow, row):
        raise IllegalMove(f"what is kept for {row.kind} cannot be decided so: {action.value}")
    standing = uow.connection.execute(
        select(desk_decision).where(
            desk_decision.c.desk_id == desk_id, desk_decision.c.undone_at.is_(None)
        )
    ).one_or_none()
    if standing is None:
        values = {"action": action.value, "chosen_id": patient_id, "order_id": order_id}
        values |= {"by": by, "why": why}
        decision_id = uow.connection.execute(
            insert(desk_decision)
            .values(desk_id=desk_id, at=uow.now, **values)
            .returning(desk_decision.c.id)
        ).scalar_one()
        if settings.desk_approvals == 1 or by_rules:
            _apply(uow, row, decision_id, settings, order)
    else:
        if standing.by == by:
            raise IllegalMove("a second person has to agree")
        chosen = (standing.action, standing.chosen_id, standing.order_id)
        if chosen != (action.value, patient_id, order_id):
            raise IllegalMove("the first person decided otherwise; undo that first")
        decision_id = standing.id
        _apply(uow, row, decision_id, settings, order, approved_by=by)
    return _decision(uow, decision_id)


def undo(uow: UnitOfWork, decision_id: int, *, by: str, why: str) -> Row[Any]:
    """Take a decision back: the study is where it was, and on the desk again.

    Raises
    ------
    UnknownKey
        If there is no such decision.
    InvalidValue
        If somebody or the reason is not named.
    IllegalMove
        If it was undone, or the study joined an order or went to another patient since.
    """
    if not by.strip() or not why.strip():
        raise InvalidValue("an undoing needs who and why", location="why")
    row = _locked(uow, _decision(uow, decision_id).desk_id)
    decision = _decision(uow, decision_id, lock=True)
    if decision.undone_at is not None:
        raise IllegalMove("this decision was undone before")
    if decision.done_at is not None:
        if decision.action == Action.REAPPLY.value:
            raise IllegalMove("a message that was applied cannot be taken back")
        if "study" in decision.before:
            _take_back(uow, row, decision, by)
        elif decision.action == Action.FILE.value:
            _unfile(uow, row, decision, by)
        uow.connection.execute(
            update(desk).where(desk.c.id == row.id).values(resolved_at=None, resolved_by=None)
        )
    uow.connection.execute(
        update(desk_decision)
        .where(desk_decision.c.id == decision_id)
        .values(undone_at=uow.now, undone_by=by, undone_why=why)
    )
    if row.study_id is not None:
        uow.timeline.add(
            row.study_id,
            "desk.undone",
            "a decision of the desk was undone; on the desk again",
            actor=by,
            decision=decision_id,
            why=why,
            patient=decision.before_id,
        )
    return _decision(uow, decision_id)


def decision_as_json(row: Row[Any]) -> dict[str, Any]:
    """Return a decision: what, who, when, why, and whether it was taken back."""
    return {
        "decision": row.id,
        "number": row.desk_id,
        "action": row.action,
        "patient": row.chosen_id,
        "patient_before": row.before_id,
        "order": row.order_id,
        "by": row.by,
        "why": row.why,
        "at": row.at.isoformat(),
        "approved_by": row.approved_by,
        "done": row.done_at is not None,
        "done_at": None if row.done_at is None else row.done_at.isoformat(),
        "undone_at": None if row.undone_at is None else row.undone_at.isoformat(),
        "undone_by": row.undone_by,
        "undone_why": row.undone_why,
    }


def proposal_as_json(proposal: Proposal) -> dict[str, Any]:
    """Return a row of the desk with its candidates, scores, evidence and decisions."""
    row = proposal.row
    first = proposal.candidates[0] if proposal.action is Action.FILE else None
    return {
        "number": row.id,
        "kind": row.kind,
        "at": row.at.isoformat(),
        "reason": row.reason,
        "open": row.resolved_at is None,
        "claimed": row.evidence.get("claimed"),
        "accession": row.evidence.get("accession", ""),
        "actions": [action.value for action in proposal.actions],
        "proposed": None if proposal.action is None else proposal.action.value,
        "proposed_patient": None if first is None else first.patient.id,
        "proposed_order": None if first is None or first.order is None else first.order.id,
        "candidates": [match.as_json() for match in proposal.candidates],
        "decisions": [decision_as_json(d) for d in proposal.decisions],
    }


def _apply(
    uow: UnitOfWork,
    row: Row[Any],
    decision_id: int,
    settings: Settings,
    order: Order | None,
    *,
    approved_by: str = "",
) -> None:
    decision = _decision(uow, decision_id)
    action, patient_id = Action(decision.action), decision.chosen_id
    who = f"{decision.by}, {approved_by}" if approved_by else decision.by
    values: dict[str, Any] = {"done_at": uow.now, "approved_by": approved_by}
    told = _TOLD[action]
    if action.value in FILED and row.kind != "no-order":
        values["before"] = _bring(uow, Tiers(settings), row, decision, order, who)
    elif action is Action.FILE:
        study = uow.studies.get(row.study_id, lock=True)
        values["before_id"] = study.patient_id
        if order is not None:
            told = "filed as the exam of an order"
        if study.order_id is not None:
            raise IllegalMove("the study joined its order since")
        if order is None:
            uow.studies.change(study.id, patient_id=patient_id)
        else:
            values["before"] = join_order(uow, study, order, by=who, why=decision.why)
    uow.connection.execute(
        update(desk_decision).where(desk_decision.c.id == decision_id).values(**values)
    )
    uow.connection.execute(
        update(desk).where(desk.c.id == row.id).values(resolved_at=uow.now, resolved_by=who)
    )
    if row.study_id is not None:
        uow.timeline.add(
            row.study_id,
            f"desk.{action.value}",
            f"{told} by {'rules' if decision.by == RULES else 'a decision of the desk'}",
            actor=who,
            decision=decision_id,
            why=decision.why,
            patient_before=values.get("before_id"),
            patient=patient_id,
        )


def _target(
    uow: UnitOfWork, order_id: str | None, patient_id: str | None
) -> tuple[Order | None, str]:
    if order_id is None and patient_id is None:
        raise InvalidValue("filing needs a patient or an order", location="patient")
    order = None
    if order_id is not None:
        known = select(imaging_order.c.patient_id).where(imaging_order.c.id == order_id)
        owner = uow.connection.execute(known).scalar_one_or_none()
        if owner is None:
            raise UnknownKey("there is no such order", location="order")
        if patient_id not in (None, owner):
            raise InvalidValue("the order is another patient's", location="order")
        patient_id = str(owner)
    if not uow.merges.lock(str(patient_id)):
        raise UnknownKey("there is no such patient", location="patient")
    if order_id is not None:
        order = uow.orders.get(order_id)
    return order, str(patient_id)


def _unfile(uow: UnitOfWork, row: Row[Any], decision: Row[Any], by: str) -> None:
    study = uow.studies.get(row.study_id, lock=True)
    is_there = study.patient_id == uow.patients.survivor(decision.chosen_id)
    if study.order_id != decision.order_id or not is_there:
        raise IllegalMove("the study joined an order or another patient since")
    if decision.order_id is not None:
        part_from_order(uow, study, decision.before, by=by)
    uow.studies.change(study.id, patient_id=decision.before_id)


def _bring(
    uow: UnitOfWork, tiers: Tiers, row: Row[Any], decision: Row[Any], order: Order | None, who: str
) -> dict[str, Any]:
    """File kept files: into the study that they came for if it is this patient's, else another."""
    own = None if row.study_id is None else uow.studies.get(row.study_id, lock=True)
    if own is not None and decision.action == Action.FILE.value and _is_of(own, decision):
        file_kept(uow, tiers, row, own)
        return {"study": own.id}
    study = own_study(uow, tiers, row, by=who)
    before: dict[str, Any] = {"study": study.id}
    file_kept(uow, tiers, row, study)
    study = uow.studies.get(study.id, lock=True)
    if order is not None:
        before["joined"] = join_order(uow, study, order, by=who, why=decision.why)
    elif decision.chosen_id is not None:
        uow.studies.change(study.id, patient_id=decision.chosen_id)
    if decision.action == Action.FILE.value:
        uow.studies.resolve_desk(study.id, "no-order", who)
    return before


def _is_of(study: Study, decision: Row[Any]) -> bool:
    same_order = decision.order_id in (None, study.order_id)
    return same_order and study.patient_id == decision.chosen_id


def _take_back(uow: UnitOfWork, row: Row[Any], decision: Row[Any], by: str) -> None:
    study = uow.studies.get(decision.before["study"], lock=True)
    if "joined" in decision.before:
        part_from_order(uow, study, decision.before["joined"], by=by)
    elif study.id != row.study_id and study.order_id is not None:
        raise IllegalMove("the study joined an order since; undo that first")
    take_out(uow, row, study)


def _locked(uow: UnitOfWork, desk_id: int) -> Row[Any]:
    """Lock the study first, as whoever files images does, and then its row of the desk."""
    row = _row(uow, desk_id)
    if row.study_id is not None:
        uow.studies.get(row.study_id, lock=True)
    return _row(uow, desk_id, lock=True)


def _row(uow: UnitOfWork, desk_id: int, *, lock: bool = False) -> Row[Any]:
    query = select(desk).where(desk.c.id == desk_id)
    row = uow.connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownKey("the desk has no row with this number", location="number")
    return row


def _decision(uow: UnitOfWork, decision_id: int, *, lock: bool = False) -> Row[Any]:
    query = select(desk_decision).where(desk_decision.c.id == decision_id)
    row = uow.connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownKey("no decision has this number", location="number")
    return row


def _actions(uow: UnitOfWork, row: Row[Any]) -> tuple[Action, ...]:
    if row.kind == "no-order" and row.study_id is not None:
        return (Action.FILE, Action.LEAVE)
    if row.kind == "unlinked-result":
        return (Action.REAPPLY, Action.LEAVE)
    if not kept_of(uow, row):
        return (Action.LEAVE,)
    if can_be_filed(uow, row):
        return (Action.FILE, Action.APART, Action.REJECT, Action.LEAVE)
    return (Action.REJECT, Action.LEAVE)


def _proposed(actions: tuple[Action, ...], found: list[Match]) -> Action | None:
    """Return the first action that the evidence speaks for; rejecting is never proposed."""
    if Action.FILE in actions and is_clear(found):
        return Action.FILE
    return next((a for a in actions if a in (Action.APART, Action.REAPPLY)), None)


_TOLD: Final = {
    Action.FILE: "filed under a patient",
    Action.APART: "its files became a study of their own",
    Action.REJECT: "its files were rejected and stay in the quarantine",
    Action.REAPPLY: "its message is applied again",
    Action.LEAVE: "left as it is",
}
