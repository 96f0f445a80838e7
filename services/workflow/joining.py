"""Images become the exam of an order that reserved another Study Instance UID, and may part again.

An order has one study, and its Study UID is that study's. The order's own study, which has no
image, stands back while the images are there and gets everything back when they part.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from models.errors import IllegalMove, UnknownKey
from models.events import Topic
from models.lifecycle import StepEvent, StepState, StudyEvent, StudyState, move
from models.order import Order
from models.order_status import STATUS
from models.priority import Priority
from models.study import Study
from services.database.store import UnitOfWork

_STANDS_BACK = {
    StudyState.SCHEDULED: StudyEvent.CANCELLED,
    StudyState.ACQUIRING: StudyEvent.EXAM_DISCONTINUED,
}


def join_order(uow: UnitOfWork, study: Study, order: Order, *, by: str, why: str) -> dict[str, Any]:
    """Make a study the exam of an order; return what `part_from_order` needs to undo it.

    Parameters
    ----------
    study : Study
        Locked, without an order.

    Raises
    ------
    IllegalMove
        If the study has an order, or the order has images.
    UnknownKey
        If the order has no study.
    """
    if study.order_id is not None:
        raise IllegalMove("the study joined an order since")
    own = uow.studies.find(order.study_uid, lock=True)
    if own is None or own.order_id != order.id:
        raise UnknownKey("the order has no study", location="order")
    if uow.studies.instances(own.id):
        raise IllegalMove("the order has images of its own")
    performed = [step.sop_uid for step in uow.studies.mpps_of(own.id)]
    before = {
        "own_id": own.id,
        "own_state": own.state.value,
        "own_accession": own.accession,
        "study_uid": order.study_uid,
        "accession": study.accession,
        "priority": int(study.priority),
        "description": study.description,
        "steps": {step.sps_id: step.status for step in order.steps},
        "performed": performed,
    }
    # The order is gone from it first, so that the placer is not told of its end.
    uow.studies.change(own.id, order_id=None, accession="")
    if own.state in _STANDS_BACK:
        uow.studies.move(uow.studies.get(own.id), _STANDS_BACK[own.state])
    uow.orders.change(order.id, study_uid=study.study_uid)
    uow.studies.change(
        study.id,
        order_id=order.id,
        patient_id=order.patient_id,
        accession=order.accession,
        priority=int(study.priority.raised_to(order.priority)),
        description=order.procedure.meaning or order.procedure.value,
    )
    for step in order.steps:
        # A step that was cancelled or discontinued keeps its end.
        with suppress(IllegalMove):
            closed = move(StepState(step.status), StepEvent.CLOSE)
            uow.orders.set_step_status(order.id, closed, [step.sps_id])
    for sop_uid in performed:
        uow.studies.change_mpps(sop_uid, study_id=study.id)
    uow.timeline.add(own.id, "order.left", "images under another UID are its exam", actor=by)
    uow.timeline.add(study.id, "order.joined", f"joined its order: {why}", actor=by, study=own.id)
    # What its performed steps list may change the verdict; a report may have waited for an order.
    uow.outbox.announce(Topic.STUDY_RECEIVED, study.id, f"joined-{order.id[:8]}", study.priority)
    uow.outbox.reopen(study.id, "report_delivery")
    uow.notices.tell(study.id, STATUS[study.state])
    return before


def part_from_order(uow: UnitOfWork, study: Study, before: dict[str, Any], *, by: str) -> None:
    """Undo `join_order`: order, steps, performed steps and both studies are as they were.

    Raises
    ------
    IllegalMove
        If the study has no order, or the order's own study another one since.
    """
    own = uow.studies.get(before["own_id"], lock=True)
    if study.order_id is None or own.order_id is not None:
        raise IllegalMove("the study or its order were joined anew since")
    order_id = study.order_id
    uow.studies.change(
        study.id,
        order_id=None,
        accession=before["accession"],
        priority=int(Priority(before["priority"]).raised_to(study.priority)),
        description=before["description"],
    )
    uow.orders.change(order_id, study_uid=before["study_uid"])
    for sps_id, status in before["steps"].items():
        uow.orders.set_step_status(order_id, StepState(status), [sps_id])
    for sop_uid in before["performed"]:
        uow.studies.change_mpps(sop_uid, study_id=own.id)
    uow.studies.change(
        own.id,
        order_id=order_id,
        accession=before["own_accession"],
        state=own.state.value if uow.studies.instances(own.id) else before["own_state"],
    )
    uow.timeline.add(own.id, "order.returned", "the order is its own again", actor=by)
