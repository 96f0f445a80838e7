"""What ADT events do (HL7 v2.5.1 ch. 3) to patients, visits and the open orders they touch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from models.errors import DuplicateKey, MissingField
from models.patient import Patient
from models.request import PatientRequest
from models.study import Study
from models.visit import VisitRequest, VisitState
from services.database.store import UnitOfWork
from services.database.tables import imaging_order
from services.hl7.encounters import MergeRequest
from services.workflow import identity
from services.workflow.patients import merge_patients, take_patient


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitEvent:
    """What an event does to the visit that it names."""

    state: VisitState | None = None
    """None: it stays as it is."""
    arrives: bool = False
    reviews: bool = False
    """Open orders of the visit go to the desk: nobody cancelled them."""


VISIT_EVENTS: Final[dict[str, VisitEvent]] = {
    "A01": VisitEvent(state=VisitState.OPEN),
    "A02": VisitEvent(),
    "A03": VisitEvent(state=VisitState.CLOSED),
    "A04": VisitEvent(state=VisitState.OPEN),
    "A05": VisitEvent(state=VisitState.PLANNED),
    "A06": VisitEvent(),
    "A07": VisitEvent(),
    "A08": VisitEvent(),
    "A10": VisitEvent(arrives=True),
    "A11": VisitEvent(state=VisitState.CANCELLED, reviews=True),
    "A12": VisitEvent(),
    "A13": VisitEvent(state=VisitState.OPEN),
    "A38": VisitEvent(state=VisitState.CANCELLED, reviews=True),
}
"""ADT event → what it does (HL7 v2.5.1 §3.3.1 to §3.3.38)."""


def take_visit(
    uow: UnitOfWork,
    event: str,
    request: PatientRequest,
    visit: VisitRequest | None,
    *,
    allergies: str | None,
    sender: str,
    message_id: int,
) -> Patient:
    """Apply an event of a patient's visit: demographics, the visit, and every open order of it."""
    patient = take_patient(uow, request)
    effect = VISIT_EVENTS[event]
    number = ""
    changes: dict[str, Any] = {}
    if visit is not None:
        number = visit.number
        said = {
            name: value
            for name in (
                *("account", "patient_class", "location", "referring", "reason"),
                *("admitted_at", "discharged_at"),
            )
            if (value := getattr(visit, name)) is not None
        }
        uow.visits.save(patient.id, number, visit.authority, effect.state, **said)
        changes = {
            name: said[name]
            for name in ("location", "patient_class")
            if name in said and effect.state is not VisitState.CANCELLED
        }
    if allergies is not None:
        changes["allergies"] = allergies
    if changes:
        for _, study_id in uow.visits.open_orders(patient.id, number, **changes):
            _tell(
                uow,
                study_id,
                "visit.changed",
                "from the hospital's register: " + ", ".join(_WORDS[name] for name in changes),
                sender,
                message_id,
            )
    if effect.arrives:
        _arrive(uow, patient, sender, message_id)
    if effect.reviews:
        _review(uow, patient, number, event, sender, message_id)
    return patient


_WORDS: Final = {
    "location": "where the patient is",
    "patient_class": "class of patient",
    "allergies": "allergies",
}


def take_allergies(
    uow: UnitOfWork, request: PatientRequest, allergies: str, *, sender: str, message_id: int
) -> Patient:
    """Bring a patient's allergies to every open order (ADT^A60)."""
    patient = take_patient(uow, request)
    for _, study_id in uow.visits.open_orders(patient.id, allergies=allergies):
        told = "allergies changed; read them before the exam"
        _tell(uow, study_id, "patient.allergies", told, sender, message_id)
    return patient


def add_person(uow: UnitOfWork, request: PatientRequest) -> Patient:
    """Create a person (ADT^A28); one that exists is not overwritten."""
    for identifier in request.identifiers:
        known = uow.patients.find(identifier)
        if known is not None:
            return take_patient(uow, PatientRequest(identifiers=(identifier,)))
    return take_patient(uow, request)


def merge_records(
    uow: UnitOfWork, requests: list[MergeRequest], *, sender: str, message_id: int
) -> None:
    """Retire each MRG-1 into its PID-3 (ADT^A40); a survivor that is not there yet is made.

    Raises
    ------
    DuplicateKey
        If both are the same identifier.
    UnknownKey
        If either retired in another merge.
    """
    for request in requests:
        _refuse_self(request)
        for retired in request.retired:
            if uow.merges.owner(retired) is None:
                # Never seen here: it is kept, so that what comes under it later finds its way.
                take_patient(uow, PatientRequest(identifiers=(retired,)))
            merge_patients(uow, request.survivor, retired, by=sender, message_id=message_id)


def change_identifier(
    uow: UnitOfWork, request: MergeRequest, *, sender: str, message_id: int
) -> None:
    """Put PID-3 in the place of MRG-1 (ADT^A47).

    Raises
    ------
    DuplicateKey
        If the new identifier exists already.
    UnknownKey
        If the old one retired before.
    """
    _refuse_self(request)
    old = request.retired[0]
    same = [i for i in request.survivor.identifiers if i.authority == old.authority]
    new = (same or list(request.survivor.identifiers))[0]
    if uow.merges.owner(old) is None:
        # Never seen here: it is kept, so that what comes under it later finds its way.
        take_patient(uow, PatientRequest(identifiers=(old,)))
    identity.rekey(uow, old, new, by=sender, why="ADT^A47", message_id=message_id)
    take_patient(uow, request.survivor)


def move_children(
    uow: UnitOfWork, request: MergeRequest, event: str, *, sender: str, message_id: int
) -> bool:
    """Give the visits or the account that are listed, with their orders, to another patient.

    Nothing else of the first patient moves (ADT^A43, A44, A45). Return False if the first patient
    was never seen: then there is nothing of it here.

    Raises
    ------
    MissingField
        If the message lists neither an account nor a visit.
    """
    account, number = request.prior_account, request.prior_visit or request.visit
    if not (account or number):
        raise MissingField(
            "neither an account nor a visit is listed", location=f"MRG^{request.number}^5"
        )
    if request.retired:
        source = uow.patients.find(request.retired[0])
    else:
        # Whose visit or account it is, is known where only one patient has it.
        source = uow.visits.holder(number, account)
    target = take_patient(uow, request.survivor)
    if source is None or source == target.id:
        return False
    visits = [
        visit
        for visit in uow.visits.of_patient(source)
        if (number and visit.number == number) or (not number and visit.account == account)
    ]
    numbers = {visit.number for visit in visits} | ({number} if number else set())
    orders = uow.studies.select(_orders_of(source, numbers - {""}))
    uow.visits.change([visit.id for visit in visits], patient_id=target.id)
    if orders:
        identity.move(
            uow,
            source,
            target.id,
            order_ids=[row.id for row in orders],
            by=sender,
            why=f"ADT^{event}",
            message_id=message_id,
        )
    return True


def merge_visits(
    uow: UnitOfWork, request: MergeRequest, event: str, *, sender: str, message_id: int
) -> None:
    """Give an account (ADT^A41) or a visit (ADT^A42) the number of the one it is merged into."""
    patient = take_patient(uow, request.survivor)
    known = uow.visits.of_patient(patient.id)
    if event == "A41":
        old, new = request.prior_account, request.account
        ids = [visit.id for visit in known if old and visit.account == old]
        if new and ids:
            uow.visits.change(ids, account=new)
        return
    old, new = request.prior_visit, request.visit
    if not (old and new):
        raise MissingField("MRG-5 and PV1-19 name the visits", location="MRG^1^5")
    ids = [visit.id for visit in known if visit.number == old]
    taken = any(visit.number == new for visit in known)
    uow.visits.change(ids, **({"state": "cancelled"} if taken else {"number": new}))
    for order_id, study_id in uow.visits.open_orders(patient.id, old):
        uow.orders.change(order_id, admission_id=new)
        _tell(uow, study_id, "visit.merged", "its visit has another number", sender, message_id)


def link_records(uow: UnitOfWork, first: PatientRequest, second: PatientRequest) -> None:
    """Say that two records may be one person (ADT^A24); neither retires.

    Raises
    ------
    DuplicateKey
        If both are one record.
    """
    one, other = take_patient(uow, first), take_patient(uow, second)
    if one.id == other.id:
        raise DuplicateKey("both PID segments name one record", location="PID^2^3")
    uow.visits.link(one.id, other.id)


def unlink_records(uow: UnitOfWork, first: PatientRequest, second: PatientRequest) -> None:
    """Take a link back (ADT^A37)."""
    uow.visits.unlink(take_patient(uow, first).id, take_patient(uow, second).id)


def _refuse_self(request: MergeRequest) -> None:
    kept = {i.key for i in request.survivor.identifiers}
    if any(retired.key in kept for retired in request.retired):
        raise DuplicateKey(
            "MRG-1 and PID-3 are the same identifier", location=f"MRG^{request.number}^1"
        )


def _orders_of(patient_id: str, numbers: set[str]) -> Any:
    return imaging_order.select().where(
        imaging_order.c.patient_id == patient_id, imaging_order.c.admission_id.in_(sorted(numbers))
    )


def _arrive(uow: UnitOfWork, patient: Patient, sender: str, message_id: int) -> None:
    today = uow.now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    for order_id in uow.visits.arrive(patient.id, today, today + timedelta(days=1)):
        study = _study(uow, order_id)
        if study is not None:
            _tell(uow, study.id, "patient.arrived", "the patient has arrived", sender, message_id)


def _review(
    uow: UnitOfWork, patient: Patient, number: str, event: str, sender: str, message_id: int
) -> None:
    for _, study_id in uow.visits.open_orders(patient.id, number):
        reason = "the visit of this order was cancelled; the order is still on the worklist"
        uow.studies.to_desk(
            "visit-cancelled", study_id, reason, study_id=study_id, evidence={"event": event}
        )
        _tell(uow, study_id, "desk.visit-cancelled", f"{reason}; on the desk", sender, message_id)


def _study(uow: UnitOfWork, order_id: str) -> Study | None:
    return uow.studies.find(uow.orders.get(order_id).study_uid)


def _tell(
    uow: UnitOfWork, study_id: str, kind: str, told: str, sender: str, message_id: int
) -> None:
    uow.timeline.add(study_id, kind, told, actor=sender, message=message_id)
