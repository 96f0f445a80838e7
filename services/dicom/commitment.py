"""How a commitment result reaches its requestor (PS3.4 J.3.3).

On the association of the request while that stays open, else on a new one that we open in the SCP
role. A result that could not be delivered is owed until it is taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any, Final

import structlog
from pydicom import Dataset
from pynetdicom import AE, build_role
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.sop import COMMITMENT, COMMITMENT_INSTANCE
from services.settings import Settings
from services.workflow.commitment import DUPLICATE_TRANSACTION, Reference, verify_commitment

log = structlog.get_logger(__name__)

_GRACE_S: Final = 0.5
"""How long a requestor has, after our response, to release before we answer on its association."""
_ANSWER_S: Final = 10.0
_Failures = Sequence[tuple[Reference, int]]


def result(
    transaction_uid: str, committed: Sequence[Reference], failed: _Failures, ae_title: str
) -> tuple[int, Dataset]:
    """Build the event type and Event Information of PS3.4 Table J.3-2.

    Type 1: all committed. Type 2: some failed; it carries both lists, which together are the
    whole request.
    """
    event = Dataset()
    event.TransactionUID = transaction_uid
    event.RetrieveAETitle = ae_title
    if committed or not failed:
        event.ReferencedSOPSequence = [_item(reference) for reference in committed]
    if failed:
        event.FailedSOPSequence = [_item(reference, reason) for reference, reason in failed]
    return (2 if failed else 1), event


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class
    item.ReferencedSOPInstanceUID = reference.sop_uid
    if reason is not None:
        item.FailureReason = reason
    return item


class Committer:
    """Verifies requests in the background and brings their results home.

    Parameters
    ----------
    store : Store
    tiers : Tiers
    """

    def __init__(self, store: Store, tiers: Tiers) -> None:
        self._store, self._tiers = store, tiers
        self._settings = tiers.settings
        # Two: reading back a study must not hold up the result of the next one, nor the disk.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="commitment")

    def answer(self, transaction_uid: str, association: Any) -> None:
        """Verify an accepted request and send its result, after the response has gone out."""
        self._pool.submit(self._answer, transaction_uid, association, time.monotonic())

    def refuse(
        self, transaction_uid: str, references: Sequence[Reference], association: Any
    ) -> None:
        """Answer a request whose Transaction UID was used before: everything failed (0131H)."""
        failed = [(reference, DUPLICATE_TRANSACTION) for reference in references]
        event_type, event = result(transaction_uid, [], failed, self._settings.ae_title)
        requestor, host = caller(association)
        self._pool.submit(
            self._send, event_type, event, requestor, host, association, time.monotonic()
        )

    def close(self) -> None:
        """Stop; what is not answered by now is owed and comes with the next sweep."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, transaction_uid: str, association: Any, since: float) -> None:
        try:
            requestor, host = caller(association)
            committed, failed = verify_commitment(self._store, self._tiers, transaction_uid)
            event_type, event = result(transaction_uid, committed, failed, self._settings.ae_title)
            if self._send(event_type, event, requestor, host, association, since):
                with self._store() as uow:
                    uow.studies.answer_commitment(transaction_uid)
        except Exception:
            # Still owed: `answer_open_commitments` tries again.
            log.exception("commitment not answered", transaction=transaction_uid)

    def _send(
        self,
        event_type: int,
        event: Dataset,
        requestor: str,
        host: str,
        association: Any,
        since: float,
    ) -> bool:
        while association.is_established and time.monotonic() < since + _GRACE_S:
            time.sleep(0.02)
        if association.is_established and report_on(association, event_type, event):
            return True
        return deliver(self._store, self._settings, requestor, host, event_type, event)


def caller(association: Any) -> tuple[str, str]:
    """Return AE title and address of the peer that opened `association`."""
    requestor = association.requestor
    return requestor.ae_title.strip(), str(requestor.address)


def report_on(association: Any, event_type: int, event: Dataset) -> bool:
    """Send an N-EVENT-REPORT on an association that the peer opened; return whether it took it.

    pynetdicom's own ``send_n_event_report`` takes the next message for the answer. The peer may
    send a request of its own at that very moment: here that is put aside and served afterwards.
    """
    contexts = [
        context
        for context in association.accepted_contexts
        if context.abstract_syntax == COMMITMENT
    ]
    if not contexts:
        return False
    context = contexts[0]
    syntax = context.transfer_syntax[0]
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID = COMMITMENT
    request.AffectedSOPInstanceUID = COMMITMENT_INSTANCE
    request.EventTypeID = event_type
    request.EventInformation = BytesIO(
        encode(event, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated) or b""
    )
    deadline = time.monotonic() + _ANSWER_S
    aside: list[Any] = []
    association._reactor_checkpoint.clear()
    try:
        while not association._is_paused:
            if time.monotonic() > deadline or not association.is_established:
                return False
            time.sleep(0.001)
        association.dimse.send_msg(request, context.context_id)
        # A release or an abort that arrives meanwhile belongs to the reactor, which is paused.
        while (
            time.monotonic() < deadline
            and association.is_established
            and association.dul.peek_next_pdu() is None
        ):
            context_id, message = association.dimse.get_msg(block=False)
            if message is None:
                time.sleep(0.005)
            elif isinstance(message, N_EVENT_REPORT) and message.is_valid_response:
                return bool(message.Status == 0x0000)
            else:
                aside.append((context_id, message))
        return False
    finally:
        for item in aside:
            association.dimse.msg_queue.put(item)
        association._reactor_checkpoint.set()


def deliver(
    store: Store, settings: Settings, requestor: str, host: str, event_type: int, event: Dataset
) -> bool:
    """Open an association to the requestor, in the SCP role, and report; return whether it took it.

    Its registered address is used, else the one it called from and the configured port.
    """
    with store() as uow:
        peer = uow.peers.find(requestor)
    host, port = (peer.host, peer.port) if peer else (host, settings.peer_port)
    if not host:
        return False
    ae = AE(ae_title=settings.ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = _ANSWER_S
    ae.add_requested_context(COMMITMENT)
    role = build_role(COMMITMENT, scp_role=True)
    association = ae.associate(host, port, ae_title=requestor, ext_neg=[role])
    if not association.is_established:
        log.warning("commitment requestor not reached", requestor=requestor, port=port)
        return False
    try:
        status, _ = association.send_n_event_report(
            event, event_type, COMMITMENT, COMMITMENT_INSTANCE
        )
        return bool(status.get("Status") == 0x0000)
    except (ValueError, RuntimeError):  # the context was refused, or the peer is gone
        return False
    finally:
        if association.is_established:
            association.release()


def answer_open_commitments(
    store: Store, tiers: Tiers, *, older_s: float = 60, now: datetime | None = None
) -> int:
    """Verify afresh and deliver every result that is owed; return how many were taken.

    Called by the sweep: results survive a restart of ours and an absence of the scanner's.
    """
    settings = tiers.settings
    with store() as uow:
        rows = uow.studies.open_commitments((now or uow.now) - timedelta(seconds=older_s))
    taken = 0
    for row in rows:
        committed, failed = verify_commitment(store, tiers, row.transaction_uid)
        event_type, event = result(row.transaction_uid, committed, failed, settings.ae_title)
        if deliver(store, settings, row.requestor, row.host, event_type, event):
            with store() as uow:
                uow.studies.answer_commitment(row.transaction_uid)
            taken += 1
    return taken
