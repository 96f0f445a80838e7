"""What an order control code does to an order (HL7 v2.5.1 §4.5.1.1; rules in models)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from models.errors import DuplicateKey, IllegalMove, MissingField, UnknownKey
from models.lifecycle import StepEvent, StepState, StudyEvent, StudyState, move
from models.order import Order
from models.order_control import OrderAction, meaning
from models.order_status import CLOSED, HELD, STATUS, OrderStatus
from models.patient import Patient
from models.request import OrderRequest
from models.study import Study
from services.database.store import UnitOfWork
from services.workflow.intake import (
    change_order,
    named_orders,
    place_order,
    refuse_begun,
    study_of,
)

_A = OrderAction


def names_alone(requests: Sequence[OrderRequest]) -> bool:
    """Tell whether a message may do without PID: it cancels, and says whose number it means."""
    return all(r.action is _A.CANCEL and r.placer_authority for r in requests)


def owner_of(uow: UnitOfWork, requests: Sequence[OrderRequest]) -> Patient:
    """Return the patient whose orders are cancelled by their numbers alone.

    The patient group of an order message is optional in HL7 (v2.5.1 §4.4.1), and IHE requires it.
    It can be done without where the number is beyond doubt: the placer order number with its
    authority stands for one order, which came from this sender, and the filler order number is
    said and is that order's, too.

    Raises
    ------
    MissingField
        If one of them is in doubt, or they are of several patients.
    """
    owners = set()
    for request in requests:
        known = uow.orders.placed_under(request.placer_number, request.placer_authority)
        certain = len(known) == 1 and (
            (known[0].sender, known[0].filler_number) == (request.sender, request.filler_number)
        )
        if not certain or not request.filler_number:
            raise _no_patient()
        owners.add(known[0].patient_id)
    if len(owners) != 1:
        raise _no_patient()
    return uow.patients.get(owners.pop())


def _no_patient() -> MissingField:
    return MissingField(
        "there is no PID segment, and the order numbers are not enough to do without",
        location="PID",
    )


def take_orders(
    uow: UnitOfWork, patient: Patient, requests: Sequence[OrderRequest], *, message_id: int
) -> list[Study]:
    """Apply every order request of a message, and return the studies that they concern.

    Raises
    ------
    UnknownKey
        If one names an order that was never placed.
    DuplicateKey
        If a new order reuses a number with other content.
    IllegalMove
        If an order has gone too far for what is asked.
    InvalidValue
        If an order belongs to another patient.
    MissingField
        If a replaced order comes without its replacement, or the other way round.
    """
    actions = {request.action for request in requests}
    if (_A.REPLACE in actions) is not (_A.REPLACEMENT in actions):
        raise MissingField("RP and RO come in one message", location="ORC^1^1")
    studies: dict[str, Study] = {}
    replaced: list[Order] = []
    for request in requests:
        for study in _take(uow, patient, request, message_id, replaced):
            studies.setdefault(study.id, study)
    return list(studies.values())


def _take(
    uow: UnitOfWork,
    patient: Patient,
    request: OrderRequest,
    message_id: int,
    replaced: list[Order],
) -> Iterable[Study]:
    if request.action is _A.PLACE:
        return [place_order(uow, patient, request, message_id=message_id)]
    if request.action is _A.REPLACEMENT:
        return [_replacement(uow, patient, request, message_id, replaced)]
    if request.action is _A.CHILD:
        return [_child(uow, patient, request, message_id)]
    if request.action is _A.NOTE:
        return _note(uow, patient, request, message_id)
    if request.action is _A.NUMBER:
        return _number(uow, patient, request, message_id)
    orders = named_orders(uow, patient, request)
    if request.action is _A.REPLACE:
        replaced += orders
    apply = _ACTIONS[request.action]
    return [apply(uow, order, request, message_id=message_id) for order in orders]


def _cancel(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    if study.state is StudyState.CANCELLED:
        return study
    refuse_begun(order)
    uow.studies.move(study, StudyEvent.CANCELLED)
    _end(uow, order, StepEvent.CANCEL, status="CA")
    by = "its filler" if request.control == "OC" else "its placer"
    _tell(
        uow,
        study,
        "order.cancelled",
        f"order cancelled by {by}; off the worklist",
        request,
        message_id,
    )
    return study


def _discontinue(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    if study.state in (StudyState.SCHEDULED, StudyState.CANCELLED):
        return _cancel(uow, order, request, message_id=message_id)
    if study.state is StudyState.DISCONTINUED and order.status == "DC":
        return study
    uow.studies.move(study, StudyEvent.EXAM_DISCONTINUED)
    for step in order.steps:
        # A step that is done stays done; one that waits is not begun any more.
        for event in (StepEvent.DISCONTINUE, StepEvent.CANCEL):
            with suppress(IllegalMove):
                uow.orders.set_step_status(
                    order.id, move(StepState(step.status), event), [step.sps_id]
                )
    uow.orders.change(order.id, status="DC")
    _tell(
        uow,
        study,
        "order.discontinued",
        "exam discontinued by order; images kept",
        request,
        message_id,
    )
    return study


def _replace(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    if order.replaced_by is not None:
        raise IllegalMove("the order was replaced before", location="ORC^1^2")
    refuse_begun(order)
    uow.studies.move(study, StudyEvent.REPLACED)
    _end(uow, order, StepEvent.CANCEL, status="RP")
    return study


def _replacement(
    uow: UnitOfWork,
    patient: Patient,
    request: OrderRequest,
    message_id: int,
    replaced: list[Order],
) -> Study:
    if not replaced:
        raise MissingField("RO stands behind the RP that it replaces", location="ORC^1^1")
    if uow.orders.placed_under(request.placer_number, request.placer_authority):
        raise DuplicateKey("a replacement has a placer number of its own", location="ORC^1^2")
    study = place_order(uow, patient, request, message_id=message_id, instead_of=replaced)
    order = uow.orders.find_by_study_uid(study.study_uid)
    if order is None:
        raise LookupError("an order vanished inside its own transaction")
    for old in replaced:
        uow.orders.change(old.id, replaced_by=order.id)
        _tell(
            uow,
            study_of(uow, old),
            "order.replaced",
            f"order replaced by {order.accession}; off the worklist",
            request,
            message_id,
        )
    return study


def _child(uow: UnitOfWork, patient: Patient, request: OrderRequest, message_id: int) -> Study:
    if not request.parent_number:
        raise MissingField("a child order names its parent", location="ORC^1^8")
    parents = uow.orders.placed_under(request.parent_number, request.parent_authority)
    parents = [parent for parent in parents if parent.patient_id == patient.id]
    if not parents:
        raise UnknownKey("the parent order was never placed", location="ORC^1^8")
    parent = parents[0]
    study = place_order(uow, patient, request, message_id=message_id, parent_id=parent.id)
    _tell(uow, study, "order.linked", f"order is part of {parent.accession}", request, message_id)
    _tell(
        uow,
        study_of(uow, parent),
        "order.linked",
        f"{study.accession} is part of it",
        request,
        message_id,
    )
    return study


def _hold(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    _end(uow, order, StepEvent.HOLD, status="HD")
    _tell(uow, study, "order.held", "order on hold; off the worklist for now", request, message_id)
    uow.notices.tell(study.id, HELD)
    return study


def _release(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    _end(uow, order, StepEvent.RELEASE, status="SC")
    _tell(
        uow, study, "order.released", "order released; on the worklist again", request, message_id
    )
    uow.notices.tell(study.id, STATUS[study.state])
    return study


def _status(event: StepEvent, status: OrderStatus, told: str) -> _Action:
    def apply(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
        study = study_of(uow, order)
        for step in order.steps:
            # A filler may tell late what we know better from the scanner.
            with suppress(IllegalMove):
                after = move(StepState(step.status), event)
                if after.value != step.status:
                    uow.orders.set_step_status(order.id, after, [step.sps_id])
        uow.orders.change(order.id, status=status.order)
        _tell(uow, study, "order.status", told, request, message_id)
        if study.state is StudyState.SCHEDULED:
            # Later the scanner and the reading room know better than a filler elsewhere.
            uow.notices.tell(study.id, status)
        return study

    return apply


def _removed(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    if request.status == "DC":
        return _discontinue(uow, order, request, message_id=message_id)
    return _cancel(uow, order, request, message_id=message_id)


def _ask(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    study = study_of(uow, order)
    _tell(uow, study, "order.status-asked", "status asked for by its placer", request, message_id)
    return study


def _note(uow: UnitOfWork, patient: Patient, request: OrderRequest, message_id: int) -> list[Study]:
    orders: list[Order] = []
    if request.placer_number:
        orders = uow.orders.placed_under(request.placer_number, request.placer_authority)
    elif request.filler_number:
        orders = uow.orders.find_by_filler(request.filler_number)
    studies = [study_of(uow, order) for order in orders if order.patient_id == patient.id]
    for study in studies:
        _tell(uow, study, "order.noted", f"told: {meaning(request.control)}", request, message_id)
    return studies


def _number(
    uow: UnitOfWork, patient: Patient, request: OrderRequest, message_id: int
) -> list[Study]:
    if not request.filler_number:
        raise MissingField("NA names the order by its filler number", location="ORC^1^3")
    orders = [
        order
        for order in uow.orders.find_by_filler(request.filler_number)
        if order.patient_id == patient.id
    ]
    if not orders:
        raise UnknownKey("no order has this filler number", location="ORC^1^3")
    taken = uow.orders.placed_under(request.placer_number, request.placer_authority)
    if {order.id for order in taken} - {order.id for order in orders}:
        raise DuplicateKey("the placer number is another order's", location="ORC^1^2")
    studies = []
    for order in orders:
        uow.orders.change(
            order.id,
            placer_number=request.placer_number,
            placer_authority=request.placer_authority,
        )
        study = study_of(uow, order)
        _tell(uow, study, "order.numbered", "the placer numbered the order", request, message_id)
        studies.append(study)
    return studies


def _end(uow: UnitOfWork, order: Order, event: StepEvent, *, status: str) -> None:
    """Move every step by `event`, or none of them."""
    after = {step.sps_id: move(StepState(step.status), event) for step in order.steps}
    for state in set(after.values()):
        uow.orders.set_step_status(order.id, state, [s for s, to in after.items() if to is state])
    uow.orders.change(order.id, status=status)


def _tell(
    uow: UnitOfWork, study: Study, kind: str, told: str, request: OrderRequest, message_id: int
) -> None:
    uow.timeline.add(
        study.id,
        kind,
        told,
        actor=request.sender,
        message=message_id,
        control=request.control,
    )


_Action = Callable[..., Study]
_ACTIONS: Final[dict[OrderAction, _Action]] = {
    _A.CHANGE: change_order,
    _A.CANCEL: _cancel,
    _A.DISCONTINUE: _discontinue,
    _A.REPLACE: _replace,
    _A.HOLD: _hold,
    _A.RELEASE: _release,
    _A.SCHEDULED: _status(StepEvent.BOOK, STATUS[StudyState.SCHEDULED], "told: scheduled"),
    _A.STARTED: _status(StepEvent.CREATE, STATUS[StudyState.ACQUIRING], "told: the exam has begun"),
    _A.COMPLETED: _status(StepEvent.CLOSE, CLOSED, "told: completed; off the worklist"),
    _A.REMOVED: _removed,
    _A.ASK: _ask,
}
"""What concerns orders that exist, one at a time."""
