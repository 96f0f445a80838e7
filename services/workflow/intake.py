"""Order intake: patients and orders as their placers want them, applied once."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from models.errors import DuplicateKey, InvalidValue, UnknownKey
from models.events import Topic
from models.lifecycle import StepState, StudyEvent, StudyState
from models.order import Code, Order, Safety, ScheduledStep
from models.order_status import STATUS
from models.patient import Identifier, Patient, PersonName
from models.request import OrderControl, OrderRequest, PatientRequest, StepRequest
from models.study import Study, new_id, new_uid
from services.database.store import UnitOfWork
from services.workflow.identification import Claim, contradictions

_MUTABLE = (
    "filler_number",
    "procedure",
    "priority",
    "reason",
    "referring",
    "requesting",
    "patient_class",
    "location",
    "admission_id",
    "transport",
    "confidentiality",
)
_SAFETY = tuple(f.name for f in fields(Safety))


def take_patient(uow: UnitOfWork, request: PatientRequest) -> Patient:
    """Create or refresh the patient that the request's identifiers point to.

    Raises
    ------
    InvalidValue
        If its identifiers point to different patients: it is attached to neither.
    """
    found = {uow.patients.find(i): i for i in request.identifiers}
    found.pop(None, None)
    if len(found) > 1:
        raise InvalidValue("PID-3 names identifiers of different patients", location="PID^1^3")
    if found:
        known = uow.patients.get(next(i for i in found if i is not None))
        patient = replace(
            known,
            identifiers=_joined(known.identifiers, request.identifiers),
            name=known.name if request.name is None else request.name,
            birth_date=known.birth_date if request.birth_date is None else request.birth_date,
            sex=known.sex if request.sex is None else request.sex,
        )
        if patient == known:
            return known
    else:
        patient = Patient(
            id=new_id(),
            identifiers=request.identifiers,
            name=request.name or PersonName(),
            birth_date=request.birth_date,
            sex=request.sex or "",
        )
    uow.patients.save(patient)
    return patient


def merge_patients(uow: UnitOfWork, survivor: PatientRequest, retired: Identifier) -> Patient:
    """Retire the record of `retired` into the survivor (ADT^A40, STANDARDS §2.3).

    Raises
    ------
    DuplicateKey
        If both are the same identifier.
    """
    if retired in survivor.identifiers:
        raise DuplicateKey("MRG-1 and PID-3 are the same identifier", location="MRG^1^1")
    kept = take_patient(uow, survivor)
    retired_id = uow.patients.find(retired)
    if retired_id is None or retired_id == kept.id:
        return kept
    uow.patients.merge(retired_id, kept.id)
    for study_id in uow.studies.hand_over(retired_id, kept.id):
        uow.timeline.add(study_id, "patient.merged", "patient record merged into another")
    return uow.patients.get(kept.id)


def take_order(
    uow: UnitOfWork, patient: Patient, request: OrderRequest, *, message_id: int
) -> Study:
    """Apply one order request and return the study it concerns.

    Raises
    ------
    UnknownKey
        If a change or cancellation names an order that was never placed.
    DuplicateKey
        If a new order reuses a placer number, an accession or a Study UID with other content.
    IllegalMove
        If the order has gone too far for the change.
    InvalidValue
        If the order belongs to another patient, or its control code is not served.
    """
    order = uow.orders.find_by_placer(request.placer_number, request.placer_authority)
    if request.control is OrderControl.NEW:
        return _new_order(uow, patient, request, order, message_id)
    if order is None:
        raise UnknownKey("no order with this placer number was placed", location="ORC^1^2")
    if order.patient_id != patient.id:
        raise InvalidValue("the order belongs to another patient", location="PID^1^3")
    study = uow.studies.find(order.study_uid, lock=True)
    if study is None:
        raise UnknownKey("the order has no study", location="ORC^1^2")
    if request.control is OrderControl.CHANGE:
        _change_order(uow, order, study, request, message_id)
    elif request.control in {OrderControl.CANCEL, OrderControl.DISCONTINUE}:
        _cancel_order(uow, order, study, request, message_id)
    elif request.control is OrderControl.STATUS:
        uow.timeline.add(
            study.id,
            "order.status",
            "placer sent a status",
            actor=request.sender,
            message=message_id,
        )
    else:
        raise InvalidValue(
            f"order control {request.control.value} is not served yet", location="ORC^1^1"
        )
    return study


def _new_order(
    uow: UnitOfWork,
    patient: Patient,
    request: OrderRequest,
    known: Order | None,
    message_id: int,
) -> Study:
    if known is not None:
        study = uow.studies.find(known.study_uid)
        same = known.patient_id == patient.id and _changed(known, request) == known
        if study is None or not same:
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
    accession = request.accession or uow.orders.next_accession(uow.now)
    if uow.orders.find_by_accession(accession) is not None:
        raise DuplicateKey("the accession number belongs to another order", location="OBR^1^18")
    study_uid = request.study_uid or new_uid()
    if uow.orders.find_by_study_uid(study_uid) is not None:
        raise DuplicateKey("the Study UID belongs to another order", location="ZDS^1^1")
    exam = _exam_before_order(uow, study_uid, patient)
    order = _changed(
        Order(
            id=new_id(),
            patient_id=patient.id,
            placer_number=request.placer_number,
            placer_authority=request.placer_authority,
            accession=accession,
            study_uid=study_uid,
            requested_procedure_id=request.requested_procedure_id or accession,
            procedure=Code(value="MR", meaning="MR examination"),
            sender=request.sender,
            status="SC",
            steps=tuple(_steps(uow, request.steps or (StepRequest(),), accession)),
        ),
        request,
    )
    uow.orders.save(order)
    study = uow.studies.ensure(
        study_uid,
        state=StudyState.SCHEDULED,
        order_id=order.id,
        patient_id=patient.id,
        accession=accession,
        priority=order.priority,
        description=order.procedure.meaning or order.procedure.value,
    )
    if exam is not None:
        _join(uow, exam, order)
    uow.timeline.add(
        study.id,
        "order.placed",
        f"order placed, {order.priority.dicom}, {len(order.steps)} step(s)",
        actor=request.sender,
        message=message_id,
        warnings=list(request.warnings),
    )
    uow.outbox.announce(Topic.ORDER_PLACED, study.id, "1", order.priority)
    # The placer learns the numbers that were assigned and where the exam stands.
    uow.notices.tell(study.id, STATUS[study.state])
    return study


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


def _change_order(
    uow: UnitOfWork, order: Order, study: Study, request: OrderRequest, message_id: int
) -> None:
    uow.studies.move(study, StudyEvent.CHANGED)
    changed = _changed(order, request)
    if request.steps:
        by_id = {step.sps_id: step for step in order.steps}
        steps = []
        for wish, fallback in zip(request.steps, order.steps, strict=False):
            step = by_id.get(wish.sps_id or fallback.sps_id, fallback)
            steps.append(
                replace(
                    step,
                    **{
                        name: value
                        for name in (
                            *("start_at", "station_aet", "station_name", "location"),
                            "performing",
                        )
                        if (value := getattr(wish, name)) is not None
                    },
                )
            )
        changed = replace(changed, steps=tuple(steps))
    uow.orders.save(changed)
    uow.studies.change(study.id, priority=int(min(study.priority, changed.priority)))
    uow.timeline.add(
        study.id, "order.changed", "order changed", actor=request.sender, message=message_id
    )
    uow.outbox.announce(Topic.ORDER_PLACED, study.id, f"m{message_id}", changed.priority)
    uow.notices.tell(study.id, STATUS[study.state])


def _cancel_order(
    uow: UnitOfWork, order: Order, study: Study, request: OrderRequest, message_id: int
) -> None:
    if study.state is StudyState.CANCELLED:
        return
    uow.studies.move(study, StudyEvent.CANCELLED)
    uow.orders.set_step_status(order.id, StepState.CANCELED)
    uow.orders.save(replace(order, status="CA", steps=()))
    uow.timeline.add(
        study.id,
        "order.cancelled",
        "order cancelled by its placer; off the worklist",
        actor=request.sender,
        message=message_id,
    )


def _changed(order: Order, request: OrderRequest) -> Order:
    wishes: dict[str, Any] = {
        name: value for name in _MUTABLE if (value := getattr(request, name)) is not None
    }
    safety = {name: value for name in _SAFETY if (value := getattr(request, name)) is not None}
    return replace(order, safety=replace(order.safety, **safety), **wishes)


def _steps(uow: UnitOfWork, wishes: tuple[StepRequest, ...], accession: str) -> list[ScheduledStep]:
    steps = []
    for number, wish in enumerate(wishes, 1):
        given = {
            name: value
            for name in (
                *("modality", "station_aet", "station_name", "location", "description"),
                "performing",
            )
            if (value := getattr(wish, name))
        }
        own_id = accession if len(wishes) == 1 else f"{accession[:13]}-{number:02d}"
        steps.append(
            ScheduledStep(
                sps_id=wish.sps_id or own_id,
                start_at=wish.start_at or uow.now,
                protocol=wish.protocol,
                **given,
            )
        )
    return steps


def _joined(known: tuple[Identifier, ...], more: tuple[Identifier, ...]) -> tuple[Identifier, ...]:
    keys = {(i.value, i.authority) for i in known}
    return known + tuple(i for i in more if (i.value, i.authority) not in keys)
