"""Appointments (HL7 v2.5.1 §10.4): a slot joins its order and moves its step."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Row

from models.errors import IllegalMove
from models.lifecycle import StepEvent, StepState, StudyState, move
from models.order import Order
from models.order_status import standing
from models.patient import Patient
from models.visit import AppointmentRequest, AppointmentState
from services.database.store import UnitOfWork

_A = AppointmentState
EVENTS: Final[dict[str, tuple[AppointmentState, StepEvent]]] = {
    "S12": (_A.BOOKED, StepEvent.BOOK),
    "S13": (_A.BOOKED, StepEvent.BOOK),
    "S14": (_A.BOOKED, StepEvent.BOOK),
    "S15": (_A.CANCELLED, StepEvent.FREE),
    "S16": (_A.CANCELLED, StepEvent.FREE),
    "S17": (_A.DELETED, StepEvent.FREE),
    "S18": (_A.BOOKED, StepEvent.BOOK),
    "S19": (_A.BOOKED, StepEvent.BOOK),
    "S20": (_A.BOOKED, StepEvent.BOOK),
    "S21": (_A.BOOKED, StepEvent.BOOK),
    "S22": (_A.BOOKED, StepEvent.BOOK),
    "S26": (_A.NOSHOW, StepEvent.FREE),
}
"""SIU event → what becomes of the slot, and of the step that it was for."""

_TOLD: Final = {
    "S12": "slot booked",
    "S13": "slot moved",
    "S14": "slot changed",
    "S15": "slot cancelled; the order waits for another",
    "S16": "series of slots ended; the order waits for another",
    "S17": "slot was booked in error; the order waits for another",
    "S18": "service or resource added to the slot",
    "S19": "service or resource of the slot changed",
    "S20": "service or resource of the slot cancelled",
    "S21": "service or resource of the slot ended",
    "S22": "service or resource of the slot deleted",
    "S26": "the patient did not come; the order waits for another slot",
}


def take_appointment(
    uow: UnitOfWork,
    event: str,
    request: AppointmentRequest,
    patient: Patient | None,
    *,
    message_id: int,
) -> str | None:
    """Apply one SIU event; return the id of the study whose exam it is for, if it is known.

    A slot may come before its order: it waits, and joins the order when that comes. One that is
    given up and was never told of is kept as given up: hospitals tell of slots for everything.

    Raises
    ------
    IllegalMove
        If the exam that is to be moved has begun.
    """
    state, step_event = EVENTS[event]
    known = uow.visits.find_appointment(request.key)
    said: dict[str, Any] = {
        name: value
        for name in ("start_at", "location", "station")
        if (value := getattr(request, name)) is not None
    }
    said |= {
        name: value
        for name in ("order_placer", "order_filler", "sender")
        if (value := getattr(request, name))
    }
    said |= {"state": state.value, "message_id": message_id}
    if patient is not None:
        said["patient_id"] = patient.id
    order = _order(uow, known, request, patient)
    if order is not None:
        said["order_id"] = order.id
    if known is None:
        uow.visits.add_appointment(key=request.key, **said)
    else:
        uow.visits.change_appointment(known.id, **said)
    if order is None:
        return None
    start = request.start_at if request.start_at is not None else known and known.start_at
    return _move_step(uow, order, step_event, start, request, event, message_id)


def slot_name(placer_number: str, authority: str) -> str:
    """Return how an appointment names the order with this placer number (SCH-26)."""
    return f"{placer_number}^{authority}".rstrip("^")


def join_appointments(uow: UnitOfWork, order: Order, study_id: str) -> None:
    """Give a new order the slot that was booked before it came."""
    for slot in uow.visits.unjoined(slot_name(order.placer_number, order.placer_authority)):
        if slot.patient_id not in (None, order.patient_id):
            continue
        uow.visits.change_appointment(slot.id, order_id=order.id)
        if slot.state != _A.BOOKED.value or slot.start_at is None:
            continue
        for step in order.steps:
            uow.orders.change_step(order.id, step.sps_id, start_at=slot.start_at)
        uow.timeline.add(
            study_id,
            "appointment.joined",
            "the slot that was booked before the order came is its own",
            actor=slot.sender,
            message=slot.message_id,
        )


def _order(
    uow: UnitOfWork,
    known: Row[Any] | None,
    request: AppointmentRequest,
    patient: Patient | None,
) -> Order | None:
    if known is not None and known.order_id is not None:
        return uow.orders.get(known.order_id)
    number, _, authority = request.order_placer.partition("^")
    found = uow.orders.placed_under(number, authority) if number else []
    if not found and request.order_filler:
        found = uow.orders.find_by_filler(request.order_filler.partition("^")[0])
    if patient is not None:
        # A number that belongs to somebody else's order is no join.
        found = [order for order in found if order.patient_id == patient.id]
    return found[0] if found else None


def _move_step(
    uow: UnitOfWork,
    order: Order,
    step_event: StepEvent,
    start: Any,
    request: AppointmentRequest,
    event: str,
    message_id: int,
) -> str | None:
    study = uow.studies.find(order.study_uid, lock=True)
    for step in order.steps:
        state = StepState(step.status)
        changes: dict[str, Any] = {}
        if step_event is StepEvent.BOOK and start not in (None, step.start_at):
            # Only a step that waits can be given another time.
            changes = {"start_at": start, "status": move(state, step_event).value}
        else:
            # A filler may tell of a slot late, when the exam has its own truth already.
            with suppress(IllegalMove):
                changes["status"] = move(state, step_event).value
        if step_event is StepEvent.BOOK and request.location:
            changes["location"] = request.location[:16]
        if changes:
            uow.orders.change_step(order.id, step.sps_id, **changes)
    if study is None:
        return None
    uow.timeline.add(
        study.id,
        f"appointment.{EVENTS[event][0].value}",
        _TOLD[event],
        actor=request.sender,
        message=message_id,
    )
    if study.state is StudyState.SCHEDULED:
        uow.notices.tell(study.id, standing(uow.orders.get(order.id), study.state))
    return study.id
