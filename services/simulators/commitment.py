"""Results of storage commitment: they arrive on any association, at any time (PS3.4 Annex J)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from time import monotonic
from typing import Any

from pynetdicom import evt


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Who takes responsibility for what.

    Attributes
    ----------
    committed
        SOP Instance UIDs that the engine will keep.
    failed
        SOP Instance UIDs that it will not, with Failure Reason (0008,1197).
    same_association
        Whether the result came on the association of the request.
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: tuple[tuple[str, int], ...]
    same_association: bool


class CommitmentBox:
    """Keeps results by transaction until somebody asks for them."""

    def __init__(self) -> None:
        self._unanswered: dict[Any, CommitResult] = {}
        self._results: dict[str, CommitResult] = {}
        self._changed = Condition()

    def handlers(self, *, same_association: bool) -> list[tuple[Any, ...]]:
        """Return what an association has to be bound to so that its results come here."""
        return [
            (evt.EVT_N_EVENT_REPORT, self.take, [same_association]),
            (evt.EVT_PDU_SENT, self._sent),
        ]

    def take(self, event: Any, same_association: bool) -> tuple[int, None]:
        """Take an N-EVENT-REPORT; event type 2 carries failures beside the successes."""
        report = event.event_information
        result = CommitResult(
            transaction_uid=str(report.TransactionUID),
            committed=tuple(
                str(item.ReferencedSOPInstanceUID)
                for item in report.get("ReferencedSOPSequence") or []
            ),
            failed=tuple(
                (str(item.ReferencedSOPInstanceUID), int(item.FailureReason))
                for item in report.get("FailedSOPSequence") or []
            ),
            same_association=same_association,
        )
        with self._changed:
            self._unanswered[event.assoc] = result
        return 0x0000, None

    def _sent(self, event: Any) -> None:
        # Whoever waits releases the association at once. pynetdicom would let the release overtake
        # the response, which is a protocol error (PS3.8 §9.2: P-DATA while a release is awaited),
        # so a result counts once something was sent after it: its response.
        with self._changed:
            result = self._unanswered.pop(event.assoc, None)
            if result is not None:
                self._results[result.transaction_uid] = result
                self._changed.notify_all()

    def wait(
        self, transaction_uid: str, timeout_s: float, hopeless: Callable[[], bool]
    ) -> CommitResult | None:
        """Wait for a result; None when time ran out or waiting has become hopeless."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while transaction_uid not in self._results:
                left = deadline - monotonic()
                coming = any(
                    r.transaction_uid == transaction_uid for r in self._unanswered.values()
                )
                if (left <= 0 and not coming) or hopeless():
                    return None
                self._changed.wait(min(max(left, 0.01), 0.2))
            return self._results[transaction_uid]
