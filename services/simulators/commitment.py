"""Results of storage commitment: they arrive on any association, at any time (PS3.4 Annex J)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from time import monotonic
from typing import Any


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
        self._results: dict[str, CommitResult] = {}
        self._arrived = Condition()

    def keep(self, event: Any, same_association: bool) -> tuple[int, None]:
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
        with self._arrived:
            self._results[result.transaction_uid] = result
            self._arrived.notify_all()
        return 0x0000, None

    def wait(
        self, transaction_uid: str, timeout_s: float, hopeless: Callable[[], bool]
    ) -> CommitResult | None:
        """Wait for a result; None when time ran out or waiting has become hopeless."""
        deadline = monotonic() + timeout_s
        with self._arrived:
            while transaction_uid not in self._results:
                left = deadline - monotonic()
                if left <= 0 or hopeless():
                    return None
                self._arrived.wait(min(left, 0.2))
            return self._results[transaction_uid]
