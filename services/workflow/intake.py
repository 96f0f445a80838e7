"""Order intake: what placers ask for, applied once.

Which order a message means, placing a new one and changing one are here; `order_control` has what
ends, pauses or replaces an order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from models.errors import DuplicateKey, IllegalMove, InvalidValue, UnknownKey
from models.events import Topic
from models.lifecycle import StepEvent, StepState, StudyEvent, StudyState, move
from models.order import Order, Safety, ScheduledStep
from models.order_control import OrderAction
from models.order_status import standing
from models.patient import Code, Issuer, Patient
from models.request import OrderRequest, PatientRequest, StepRequest
from models.study import Study, new_id, new_uid
from services.database.direct import Call
from services.database.store import UnitOfWork
from services.workflow.identification import Claim, contradictions
from services.workflow.said import overlaid, said_of
from services.workflow.scheduling import join_appointments, slot_name

_MUTABLE: Final = (
    *("filler_number", "procedure", "priority", "reason", "reason_code", "referring", "requesting"),
    *("entered_by", "issued_on", "institution", "department", "visit_reason", "patient_class"),
    *("location", "admission_id", "admission_issuer", "patient_state", "special_needs"),
    *("transport", "confidentiality", "placer_issuer", "filler_issuer", "accession_issuer"),
)
_VISIT: Final = ("admission_id", "location", "patient_class")
"""What PV1 and PID-18 say of a visit."""
_ANY: Final = Code(value="MR", meaning="MR examination")
_SAFETY: Final = tuple(f.name for f in fields(Safety))
_STEP: Final = (
    *("start_at", "modality", "station_aet", "station_name", "location", "description"),
    *("performing", "protocol"),
)
_PLACING: Final = frozenset({OrderAction.PLACE, OrderAction.REPLACEMENT, OrderAction.CHILD})
_WAITING: Final = (
    *(StepState.SCHEDULED, StepState.ARRIVED, StepState.ON_HOLD, StepState.UNBOOKED),
)


def foreseen(
    uow: UnitOfWork, patient: PatientRequest | None, orders: Iterable[OrderRequest]
) -> list[Call]:
    """Return what taking the patient and these orders will ask, to be asked in one round trip."""
    identifiers = () if patient is None else patient.identifiers
    asked = [uow.patients.finding(identifier) for identifier in identifiers]
    for request in orders:
        if request.action in _PLACING:
            # First: what the others then say includes whatever was waited for.
            asked.append(uow.orders.claiming(request.placer_number, request.placer_authority))
        asked += uow.orders.finding(
            request.placer_number, request.placer_authority, request.accession, request.study_uid
        )
        if request.study_uid:
            asked.append(uow.studies.finding(request.study_uid, lock=True))
        if request.action is not OrderAction.CHANGE:
            name = slot_name(request.placer_number, request.placer_authority)
            asked.append(uow.visits.waiting(name))
    return asked


def named_orders(uow: UnitOfWork, patient: Patient, request: OrderRequest) -> list[Order]:
    """Return the orders that a request about an existing order means.

    A placer number that stands for several requested procedures means all of them, unless the
    request says which by Study UID, accession number or requested procedure id.

    Raises
    ------
    UnknownKey
        If there is none.
    InvalidValue
        If it belongs to another patient.
    """
    known = uow.orders.placed_under(request.placer_number, request.placer_authority)
    if not known:
        raise UnknownKey("no order with this placer number was placed", location="ORC^1^2")
    if any(order.patient_id != patient.id for order in known):
        raise InvalidValue("the order belongs to another patient", location="PID^1^3")
    if len(known) == 1:
        # Its identity was given once and stays, whatever is said of it later.
        return known
    meant = [order for order in known if _is_meant(order, request)]
    if not meant and _says_which(request):
        raise UnknownKey(
            "no procedure of this order has the numbers that are said", location="ORC^1^2"
        )
    return meant or known


def study_of(uow: UnitOfWork, order: Order) -> Study:
    """Return the order's study, locked.

    Raises
    ------
    UnknownKey
        If it has none.
    """
    study = uow.studies.find(order.study_uid, lock=True)
    if study is None:
        raise UnknownKey("the order has no study", location="ORC^1^2")
    return study


def place_order(
    uow: UnitOfWork,
    patient: Patient,
    request: OrderRequest,
    *,
    message_id: int,
    parent_id: str | None = None,
    instead_of: Sequence[Order] = (),
) -> Study:
    """Place an order and open its study.

    The same order again changes nothing. Another requested procedure under a placer number that
    is in use is an order of its own.

    Raises
    ------
    DuplicateKey
        If a placer number, an accession number or a Study UID is in use with other content.
    InvalidValue
        If images under its Study UID are of somebody else.
    """
    uow.orders.claim(request.placer_number, request.placer_authority)
    known = uow.orders.placed_under(request.placer_number, request.placer_authority)
    same = _same_procedure(known, request)
    if same is not None:
        study = uow.studies.find(same.study_uid)
        if study is None or same.patient_id != patient.id or _changed(same, request) != same:
            raise DuplicateKey(
                "an order with this placer number exists; change it with XO", location="ORC^1^2"
            )
        uow.timeline.add(
            study.id,
            "order.repeated",
            "the same order was sent again; nothing changed",
            actor=request.sender,
            message=message_id,
        )
        return study
    if any(order.patient_id != patient.id for order in known):
        raise DuplicateKey("the placer number is another patient's order", location="ORC^1^2")
    request, inherits = _on_visit(uow, patient, request)
    accession = request.accession or uow.orders.next_accession(uow.now)
    if request.accession and uow.orders.find_by_accession(accession) is not None:
        raise DuplicateKey("the accession number belongs to another order", location="OBR^1^18")
    study_uid = request.study_uid or new_uid()
    exam = None
    if request.study_uid:
        if uow.orders.find_by_study_uid(study_uid) is not None:
            raise DuplicateKey("the Study UID belongs to another order", location="ZDS^1^1")
        exam = _exam_before_order(uow, study_uid, patient)
    stated = said_of(Order, request, _MUTABLE)
    order = Order(
        id=new_id(),
        patient_id=patient.id,
        placer_number=request.placer_number,
        placer_authority=request.placer_authority,
        accession=accession,
        study_uid=study_uid,
        requested_procedure_id=request.requested_procedure_id or accession,
        sender=request.sender,
        status="SC",
        parent_id=parent_id,
        safety=overlaid(Safety(), request, _SAFETY),
        steps=tuple(_steps(uow, request.steps or (StepRequest(),), accession)),
        **({"procedure": _ANY} | stated),
    )
    uow.orders.save(order)
    if exam is None:
        study = Study(
            id=new_id(),
            study_uid=study_uid,
            state=StudyState.SCHEDULED,
            order_id=order.id,
            patient_id=patient.id,
            accession=accession,
            priority=order.priority,
            description=order.procedure.meaning or order.procedure.value,
        )
        uow.studies.add(study)
    else:
        study = exam
        _join(uow, exam, order)
    told = f"order placed, {order.priority.dicom}, {len(order.steps)} step(s)"
    if inherits:
        told += "; on the patient's open visit"
    if instead_of:
        told += "; it replaces " + ", ".join(old.accession for old in instead_of)
    uow.timeline.add(
        study.id,
        "order.placed",
        told,
        actor=request.sender,
        message=message_id,
        warnings=list(request.warnings),
    )
    _mark(uow, study, request, message_id)
    join_appointments(uow, order, study.id)
    uow.outbox.announce(Topic.ORDER_PLACED, study.id, "1", order.priority)
    # The placer learns the numbers that were assigned and where the exam stands.
    uow.notices.tell(study.id, standing(order, study.state))
    return study


def change_order(uow: UnitOfWork, order: Order, request: OrderRequest, *, message_id: int) -> Study:
    """Change an order in place; its Study UID and accession number stay.

    Raises
    ------
    IllegalMove
        If its exam has begun, or it was cancelled.
    """
    study = study_of(uow, order)
    uow.studies.move(study, StudyEvent.CHANGED)
    refuse_begun(order)
    changed = replace(_changed(order, request), steps=_rescheduled(uow, order, request))
    uow.orders.save(changed)
    uow.studies.change(
        study.id,
        priority=int(min(study.priority, changed.priority)),
        description=changed.procedure.meaning or changed.procedure.value,
    )
    kept = [
        name
        for name in ("accession", "study_uid")
        if getattr(request, name) not in (None, getattr(order, name))
    ]
    uow.timeline.add(
        study.id,
        "order.changed",
        "order changed" + "".join(f"; its {name} stays as it was given" for name in kept),
        actor=request.sender,
        message=message_id,
        warnings=list(request.warnings),
    )
    _mark(uow, study, request, message_id)
    uow.outbox.announce(Topic.ORDER_PLACED, study.id, f"m{message_id}", changed.priority)
    uow.notices.tell(study.id, standing(changed, study.state))
    return study


def _mark(uow: UnitOfWork, study: Study, request: OrderRequest, message_id: int) -> None:
    if request.elsewhere:
        uow.timeline.add(
            study.id,
            "order.elsewhere",
            "its modality is not one that is examined here: "
            "a console that asks for its own does not see it",
            actor=request.sender,
            message=message_id,
        )


def refuse_begun(order: Order) -> None:
    """Raise unless every step still waits for its exam.

    Raises
    ------
    IllegalMove
        Naming the state that the exam has reached.
    """
    for step in order.steps:
        if StepState(step.status) not in _WAITING:
            raise IllegalMove(
                f"the exam of this order is {step.status.lower()}", location="ORC^1^1"
            )


def _on_visit(
    uow: UnitOfWork, patient: Patient, request: OrderRequest
) -> tuple[OrderRequest, bool]:
    """Return the request with what the patient's only open visit says, if it says nothing itself.

    Of two open visits neither is guessed at.
    """
    if any(getattr(request, name) is not None for name in _VISIT):
        return request, False
    visits = uow.visits.open_of(patient.id)
    if len(visits) != 1:
        return request, False
    (visit,) = visits
    values: dict[str, Any] = {
        n: said for n in ("location", "patient_class") if (said := getattr(visit, n))
    }
    if visit.number:
        values |= {"admission_id": visit.number, "admission_issuer": Issuer(visit.authority)}
    return replace(request, **values), bool(values)


def _exam_before_order(uow: UnitOfWork, study_uid: str, patient: Patient) -> Study | None:
    """Return the unordered exam that has this UID, once it is certain to be this patient's."""
    exam = uow.studies.find(study_uid, lock=True)
    if exam is None:
        return None
    row = uow.studies.row(exam.id)
    claim = Claim(name=row.dicom_patient_name, patient_id=row.dicom_patient_id)
    contradicting = contradictions(uow, claim, patient.id)
    if exam.patient_id not in (None, patient.id):
        contradicting.append("patient")
    if contradicting:
        raise InvalidValue(
            "images with this Study UID are here and say otherwise of their patient: "
            + ", ".join(contradicting),
            location="ZDS^1^1",
        )
    return exam


def _join(uow: UnitOfWork, exam: Study, order: Order) -> None:
    uow.studies.change(
        exam.id,
        order_id=order.id,
        patient_id=order.patient_id,
        accession=order.accession,
        priority=int(exam.priority.raised_to(order.priority)),
        description=order.procedure.meaning or order.procedure.value,
    )
    # The exam is done: its step must not appear on a worklist and be done again.
    uow.orders.set_step_status(order.id, StepState.COMPLETED)
    uow.studies.resolve_desk(exam.id, "no-order", order.sender)
    uow.timeline.add(exam.id, "order.joined", "the order came after its images and joined them")
    # A report that was held for want of an order can go out.
    uow.outbox.reopen(exam.id, "report_delivery")


def _is_meant(order: Order, request: OrderRequest) -> bool:
    return (
        order.study_uid == request.study_uid
        or order.accession == request.accession
        or order.requested_procedure_id == request.requested_procedure_id
    )


def _says_which(request: OrderRequest) -> bool:
    return any((request.study_uid, request.accession, request.requested_procedure_id))


def _same_procedure(known: list[Order], request: OrderRequest) -> Order | None:
    """Return the order, of those under one placer number, whose procedure is asked for again."""
    for order in known:
        if _is_meant(order, request):
            return order
    if request.requested_procedure_id or not known:
        return None  # a procedure with a number of its own is another one
    if len(known) == 1 or request.procedure is None:
        return known[0]
    return next((o for o in known if o.procedure.value == request.procedure.value), None)


def _changed(order: Order, request: OrderRequest) -> Order:
    safety = overlaid(order.safety, request, _SAFETY)
    return replace(order, safety=safety, **said_of(Order, request, _MUTABLE))


def _rescheduled(uow: UnitOfWork, order: Order, request: OrderRequest) -> tuple[ScheduledStep, ...]:
    steps = {step.sps_id: step for step in order.steps}
    by_place = list(order.steps) if len(request.steps) <= len(order.steps) else []
    for number, wish in enumerate(request.steps):
        step = steps.get(wish.sps_id or "") or (by_place[number] if by_place else None)
        if step is None:
            (step,) = _steps(uow, (wish,), f"{order.accession[:13]}-{len(steps) + 1:02d}")
        status = StepState(step.status)
        if wish.start_at is not None and status is StepState.UNBOOKED:
            status = move(status, StepEvent.BOOK)
        steps[step.sps_id] = replace(overlaid(step, wish, _STEP), status=status.value)
    return tuple(steps.values())


def _steps(uow: UnitOfWork, wishes: Sequence[StepRequest], own: str) -> list[ScheduledStep]:
    steps = []
    for number, wish in enumerate(wishes, 1):
        own_id = own if len(wishes) == 1 else f"{own[:13]}-{number:02d}"
        step = ScheduledStep(sps_id=wish.sps_id or own_id, start_at=uow.now)
        steps.append(overlaid(step, wish, _STEP))
    if len({step.sps_id for step in steps}) < len(steps):
        raise InvalidValue("two steps of an order have the same SPS ID", location="IPC^2^4")
    return steps
