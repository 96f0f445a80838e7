"""Merge, move, re-key, and the way back (IHE RAD patient reconciliation, STANDARDS §2.3).

Each is one change inside the caller's transaction: killed in the middle, nothing has happened.
Two changes that touch the same record wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from models.errors import DuplicateKey, IllegalMove, InvalidValue, UnknownKey
from models.events import Topic
from models.merge import ChangeKind, Merge
from models.patient import Identifier
from models.priority import Priority
from services.database.store import UnitOfWork
from services.database.tables import imaging_order, study


def merge(
    uow: UnitOfWork,
    survivor_id: str,
    retired_id: str,
    *,
    by: str,
    why: str,
    message_id: int | None = None,
    survivor_before: dict[str, Any] | None = None,
) -> Merge:
    """Retire one record into another; orders, studies and all that hangs on them follow.

    Parameters
    ----------
    uow : UnitOfWork
    survivor_id, retired_id : str
    by, why : str
        The sender or the person, and the reason, as the desk shows them.
    message_id : int, optional
        The message that asked for it.
    survivor_before : dict, optional
        What ``uow.merges.columns(survivor_id)`` said before the message's demographics were
        applied, so that an un-merge restores it; without it, the survivor is not changed.

    Returns
    -------
    Merge
        The change; the one that stands already, if both are one record since.

    Raises
    ------
    DuplicateKey
        If both are the same record, or the same two were merged the other way round.
    UnknownKey
        If the survivor or the retired record is not there, or retired before (rule 4).
    """
    if survivor_id == retired_id:
        raise DuplicateKey("a record cannot be merged into itself", location="MRG^1^1")
    records = uow.merges.lock(survivor_id, retired_id)
    if survivor_id not in records:
        raise UnknownKey("the surviving record does not exist", location="PID^1^3")
    if retired_id not in records:
        raise UnknownKey("the record to retire does not exist", location="MRG^1^1")
    retired_into = records[retired_id].merged_into
    if retired_into is not None and uow.patients.survivor(retired_id) == survivor_id:
        standing = uow.merges.standing(retired_id)
        if standing is not None:
            return standing
    if retired_into is not None:
        raise UnknownKey("the record to retire retired before", location="MRG^1^1")
    if uow.patients.survivor(survivor_id) == retired_id:
        raise DuplicateKey(
            "these records are merged the other way round; undo that first", location="PID^1^3"
        )
    if records[survivor_id].merged_into is not None:
        raise UnknownKey("the surviving record retired before", location="PID^1^3")
    after = uow.merges.columns(survivor_id)
    change_id = uow.merges.add(
        ChangeKind.MERGE,
        survivor_id,
        retired_id,
        by=by,
        why=why,
        message_id=message_id,
        before=after if survivor_before is None else survivor_before,
        after=after,
    )
    uow.merges.retire(change_id, retired_id, survivor_id)
    change = _get(uow, change_id)
    _tell(uow, change.study_ids, change, "patient.merged", "patient record merged into another")
    return change


def move(
    uow: UnitOfWork,
    from_id: str,
    to_id: str,
    *,
    order_ids: Iterable[str] = (),
    study_ids: Iterable[str] = (),
    by: str,
    why: str,
    message_id: int | None = None,
) -> Merge:
    """Give some orders and studies of one record to another; both records live on.

    An order takes its study with it, and a study its order.

    Raises
    ------
    DuplicateKey
        If both are the same record.
    UnknownKey
        If a record is not there or retired, or something named is not the first one's.
    """
    if from_id == to_id:
        raise DuplicateKey("nothing can be moved from a record to itself", location="MRG^1^1")
    records = uow.merges.lock(from_id, to_id)
    if len(records) < 2 or any(row.merged_into is not None for row in records.values()):
        raise UnknownKey("a record does not exist or retired before", location="PID^1^3")
    orders, studies = set(order_ids), set(study_ids)
    pairs = uow.studies.select(
        study.select().where(study.c.order_id.in_(orders) | study.c.id.in_(studies))
    )
    studies |= {row.id for row in pairs}
    orders |= {row.order_id for row in pairs if row.order_id is not None}
    change_id = uow.merges.add(
        ChangeKind.MOVE, to_id, from_id, by=by, why=why, message_id=message_id
    )
    moved = uow.merges.give(change_id, imaging_order.name, sorted(orders), from_id, to_id)
    moved += uow.merges.give(change_id, study.name, sorted(studies), from_id, to_id)
    if moved < len(orders) + len(studies) or not moved:
        raise UnknownKey("something to be moved is not this record's", location="MRG^1^1")
    change = _get(uow, change_id)
    _tell(uow, change.study_ids, change, "patient.moved", "given to another patient record")
    return change


def rekey(
    uow: UnitOfWork,
    old: Identifier,
    new: Identifier,
    *,
    by: str,
    why: str,
    message_id: int | None = None,
) -> Merge:
    """Put one identifier in the place of another (ADT^A47); objects under the old one still match.

    The same re-key again changes nothing.

    Raises
    ------
    DuplicateKey
        If the new identifier exists (rule 5).
    UnknownKey
        If the old one does not, or retired before.
    """
    if (old.value, old.authority) == (new.value, new.authority):
        raise DuplicateKey("MRG-1 and PID-3 are the same identifier", location="MRG^1^1")
    owner = uow.merges.owner(old)
    if owner is None:
        raise UnknownKey("the identifier to replace does not exist", location="MRG^1^1")
    uow.merges.lock(owner)
    plain = _plain(new)
    for known in uow.merges.of_patient(owner):
        is_same = known.kind is ChangeKind.REKEY and known.undone_at is None
        if is_same and known.after == plain and known.before == _plain(old):
            return known
    if uow.patients.is_retired(old):
        raise UnknownKey("the identifier to replace retired before", location="MRG^1^1")
    if uow.merges.owner(new) is not None:
        raise DuplicateKey("the new identifier exists already", location="PID^1^3")
    change_id = uow.merges.add(
        ChangeKind.REKEY,
        owner,
        owner,
        by=by,
        why=why,
        message_id=message_id,
        before=_plain(old),
        after=plain,
    )
    uow.merges.replace_identifier(change_id, old, new)
    return _get(uow, change_id)


def unmerge(uow: UnitOfWork, merge_id: int, *, by: str, why: str) -> Merge:
    """Take a merge, move or re-key back; what came for the retired record since goes with it.

    In whatever order changes are undone, each row ends with the record that it was filed under,
    or with that record's survivor. Undone before, it stays as it is.

    Raises
    ------
    UnknownKey
        If there is no such change.
    IllegalMove
        If a later change has to be undone first.
    """
    change = uow.merges.get(merge_id)
    if change is None:
        raise UnknownKey("no change of patient records has this number")
    uow.merges.lock(change.survivor_id, change.retired_id)
    change = _get(uow, merge_id, lock=True)
    if change.undone_at is not None:
        return change
    if not by.strip() or not why.strip():
        raise InvalidValue("an undoing needs who and why", location="why")
    if change.kind is ChangeKind.MERGE:
        studies = uow.merges.restore(change.retired_id)
        uow.merges.take_back(change.survivor_id, change.before, change.after)
    elif change.kind is ChangeKind.MOVE:
        studies = uow.merges.give_back(change)
    else:
        studies = []
        new = Identifier(**change.after)
        if uow.merges.is_replaced(new):
            raise IllegalMove("the identifier was replaced again; undo that first")
        uow.merges.restore_identifier(change.id, new)
    uow.merges.undone(change.id, by=by, why=why)
    change = _get(uow, merge_id)
    _tell(uow, studies, change, f"patient.{change.kind.value}-undone", "taken back", by=by)
    return change


def refuse_retired(uow: UnitOfWork, identifiers: Iterable[Identifier]) -> None:
    """Refuse a message that names its patient by nothing but retired identifiers (rule 4).

    Raises
    ------
    UnknownKey
        HL7 204; images under the same identifier are accepted and filed under the survivor.
    """
    known = [i for i in identifiers if uow.patients.find(i) is not None]
    if known and all(uow.patients.is_retired(i) for i in known):
        raise UnknownKey("PID-3 retired: send the survivor's identifier", location="PID^1^3")


def change_as_json(change: Merge) -> dict[str, Any]:
    """Return a change of patient records: what, who, when, why, and how many rows changed hands."""
    return {
        "change": change.id,
        "kind": change.kind.value,
        "kept_as": change.survivor_id,
        "was": change.retired_id,
        "by": change.by,
        "why": change.why,
        "at": change.at.isoformat(),
        "message": change.message_id,
        "moved": dict(Counter(item.kind for item in change.moved)),
        "before": change.before,
        "after": change.after,
        "undone_at": None if change.undone_at is None else change.undone_at.isoformat(),
        "undone_by": change.undone_by,
        "undone_why": change.undone_why,
    }


def _get(uow: UnitOfWork, change_id: int, *, lock: bool = False) -> Merge:
    change = uow.merges.get(change_id, lock=lock)
    if change is None:
        raise LookupError("a change of patient records vanished inside its own transaction")
    return change


def _plain(identifier: Identifier) -> dict[str, str]:
    return {
        "value": identifier.value,
        "authority": identifier.authority,
        "type": identifier.type,
    }


def _tell(
    uow: UnitOfWork,
    study_ids: Iterable[str],
    change: Merge,
    kind: str,
    summary: str,
    *,
    by: str | None = None,
) -> None:
    study_ids = list(study_ids)
    for study_id in study_ids:
        uow.timeline.add(
            study_id,
            kind,
            summary,
            actor=by or change.by,
            change=change.id,
            why=change.why if by is None else change.undone_why,
            kept_as=change.survivor_id,
            was=change.retired_id,
            message=change.message_id,
        )
    edition = f"{change.id}{'' if by is None else 'u'}"
    # Who has the report has it under the other record.
    for row in uow.deliveries.begun(study_ids):
        uow.outbox.announce(
            Topic.REPORT_READDRESSED,
            row.study_id,
            f"{row.version}.{edition}",
            Priority(row.priority),
        )
