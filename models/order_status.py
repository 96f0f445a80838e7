"""What an order's placer is told of it: two HL7 status codes, from the lives of study and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.lifecycle import StepState, StudyEvent, StudyState
from models.order import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStatus:
    """One status of an order in the words of HL7 v2.

    Attributes
    ----------
    order
        ORC-5, HL70038: SC scheduled, IP in process, A some results, CM complete, CA cancelled,
        DC discontinued, HD on hold, RP replaced.
    result
        OBR-25, HL70123; empty where the table has no word for it.
    words
        For people.
    """

    order: str
    result: str
    words: str


_S = StudyState
STATUS: Final[dict[StudyState, OrderStatus]] = {
    _S.SCHEDULED: OrderStatus(order="SC", result="S", words="scheduled"),
    _S.ACQUIRING: OrderStatus(order="IP", result="I", words="exam started"),
    # R: images are stored, and nobody has verified what they show.
    _S.ACQUIRED: OrderStatus(order="CM", result="R", words="exam completed"),
    _S.PRELIMINARY: OrderStatus(order="A", result="P", words="preliminary report"),
    _S.FINAL: OrderStatus(order="CM", result="F", words="final report"),
    _S.DELIVERED: OrderStatus(order="CM", result="F", words="final report"),
    _S.CANCELLED: OrderStatus(order="CA", result="X", words="cancelled"),
    # No X here: what was acquired before the end can still be read.
    _S.DISCONTINUED: OrderStatus(order="DC", result="", words="exam discontinued"),
}
"""Study state → status (HL7 v2.5.1 §4.5.1.5 and §7.4.1.25, STANDARDS §1.7)."""

HELD: Final = OrderStatus(order="HD", result="S", words="on hold")
# HL70038 has no word for an order that waits for a slot: it stays SC, without a start.
UNBOOKED: Final = OrderStatus(order="SC", result="O", words="waiting for a slot")
REPLACED: Final = OrderStatus(order="RP", result="X", words="replaced")
CORRECTED: Final = OrderStatus(order="CM", result="C", words="corrected report")
# No R here: whether there are images, its filler did not say.
CLOSED: Final = OrderStatus(order="CM", result="", words="exam completed, as its filler says")


def standing(order: Order, state: StudyState) -> OrderStatus:
    """Return where an order stands, whose study is in `state`."""
    if state is StudyState.CANCELLED and order.status == REPLACED.order:
        return REPLACED
    if state is StudyState.SCHEDULED:
        if order.status == HELD.order:
            return HELD
        steps = {step.status for step in order.steps}
        if steps == {StepState.UNBOOKED.value}:
            return UNBOOKED
    return STATUS[state]


def status_change(before: StudyState, event: StudyEvent, after: StudyState) -> OrderStatus | None:
    """Return what a move makes of the order's status, or None when it leaves it as it was."""
    if event is StudyEvent.REPORTED_CORRECTED:
        return CORRECTED
    if event is StudyEvent.REPLACED:
        return REPLACED
    status = STATUS[after]
    return None if status == STATUS[before] else status
