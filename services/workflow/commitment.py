"""Storage commitment (PS3.4 Annex J): we answer for what we have read back, and for nothing else.

A request is recorded before it is accepted, so that a result is owed whatever happens next; the
files are read back later, outside any transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from models.errors import UnknownKey
from models.tier import Tier
from services.archive.part10 import check_uid, digest_of
from services.archive.tiers import Tiers
from services.database.store import Store

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION: Final = 0x0131
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One item of the Referenced SOP Sequence (0008,1199)."""

    sop_class: str
    sop_uid: str


def accept_commitment(
    store: Store,
    transaction_uid: str,
    references: Iterable[Reference],
    requestor: str,
    *,
    host: str = "",
) -> bool:
    """Record a request; return False if its Transaction UID was used before.

    Raises
    ------
    MissingField, InvalidValue
        If the Transaction UID is none.
    """
    check_uid(transaction_uid, "TransactionUID")
    with store() as uow:
        return uow.studies.add_commitment(
            transaction_uid,
            requestor=requestor,
            host=host,
            referenced=[[r.sop_class, r.sop_uid] for r in references],
            failed=[],
        )


def verify_commitment(
    store: Store, tiers: Tiers, transaction_uid: str
) -> tuple[list[Reference], list[tuple[Reference, int]]]:
    """Read back every file that a recorded request names; return what is safe and what is not.

    May be repeated: a result that could not be delivered is made afresh, for a file may have come,
    or gone bad, in between.

    Returns
    -------
    committed : list of Reference
    failed : list of (Reference, int)
        With the Failure Reason (0008,1197).
    """
    with store() as uow:
        row = uow.holdings.commitment(transaction_uid)
        if row is None:
            raise UnknownKey("no such commitment request", location="TransactionUID")
        references = [Reference(sop_class=c, sop_uid=u) for c, u in row.referenced]
        uids = [reference.sop_uid for reference in references]
        stored, kept = uow.holdings.stored(uids), uow.holdings.kept(uids)
    committed: list[Reference] = []
    failed: list[tuple[Reference, int]] = []
    for reference in references:
        reason = _failure(
            tiers, reference, stored.get(reference.sop_uid), kept.get(reference.sop_uid)
        )
        if reason is None:
            committed.append(reference)
        else:
            failed.append((reference, reason))
    with store() as uow:
        uow.holdings.judge_commitment(
            transaction_uid, [{"sop_uid": r.sop_uid, "reason": reason} for r, reason in failed]
        )
        _tell_studies(uow, transaction_uid, row.requestor, committed, stored)
    return committed, failed


def commit_storage(
    store: Store,
    tiers: Tiers,
    transaction_uid: str,
    references: Iterable[Reference],
    requestor: str,
    *,
    host: str = "",
) -> tuple[list[Reference], list[tuple[Reference, int]]]:
    """Record a request and verify it at once; a used Transaction UID fails as a whole (0131H)."""
    wanted = list(references)
    if not accept_commitment(store, transaction_uid, wanted, requestor, host=host):
        return [], [(reference, DUPLICATE_TRANSACTION) for reference in wanted]
    return verify_commitment(store, tiers, transaction_uid)


def _failure(tiers: Tiers, reference: Reference, stored: Any, kept: Any) -> int | None:
    row = stored or kept
    if row is None:
        return NO_SUCH_INSTANCE
    if reference.sop_class != row.sop_class:
        return CLASS_INSTANCE_CONFLICT
    try:
        if stored is not None:
            whole = tiers.verify(Tier(stored.tier), stored.path, stored.digest)
        else:
            # Kept apart for the desk, and yet stored: the scanner may free its disk.
            with tiers.open_kept(kept.path) as stream:
                whole = digest_of(stream) == kept.digest
    except OSError:
        whole = False
    return None if whole else PROCESSING_FAILURE


def _tell_studies(
    uow: Any,
    transaction_uid: str,
    requestor: str,
    committed: list[Reference],
    stored: dict[str, Any],
) -> None:
    counts: dict[str, int] = {}
    for reference in committed:
        row = stored.get(reference.sop_uid)
        if row is not None:
            counts[row.study_id] = counts.get(row.study_id, 0) + 1
    for study_id, count in counts.items():
        uow.timeline.add(
            study_id,
            "storage.committed",
            f"{count} instances read back and committed to {requestor}",
            actor=requestor,
            transaction=transaction_uid,
        )
