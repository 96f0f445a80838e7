"""Which use case a message type and event leads to (STANDARDS: HL7 v2.5.1 ch. 3, 4, 7 and 10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from models.errors import MissingField, PeerError, Unsupported
from models.request import OrderRequest, PatientRequest
from models.study import Study
from services.database.direct import Call
from services.database.store import UnitOfWork
from services.hl7.acknowledgement import UnsupportedEvent, UnsupportedVersion
from services.hl7.encounters import (
    MergeRequest,
    read_appointment,
    read_merges,
    read_visit,
)
from services.hl7.er7 import Message
from services.hl7.reported import is_laboratory, read_results
from services.hl7.requests import (
    NOT_IMAGING,
    ORDER_TYPES,
    is_imaging,
    patient_of,
    read_allergies,
    read_orders,
    read_patient,
)
from services.settings import Settings
from services.workflow.encounters import (
    VISIT_EVENTS,
    add_person,
    change_identifier,
    link_records,
    merge_records,
    merge_visits,
    move_children,
    take_allergies,
    take_visit,
    unlink_records,
)
from services.workflow.external_results import take_results
from services.workflow.intake import foreseen
from services.workflow.order_control import names_alone, owner_of, take_orders
from services.workflow.patients import take_patient
from services.workflow.scheduling import EVENTS, take_appointment

log = structlog.get_logger()

VERSIONS: Final = frozenset(
    {"2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReading:
    """What an order message says, of whom and of what."""

    subject: PatientRequest | None
    """None where cancellations alone name their orders and nobody names the patient."""
    requests: Sequence[OrderRequest]

    @classmethod
    def of(cls, message: Message, settings: Settings) -> OrderReading:
        """Read the whole message: most of what is refused is refused before anything is written.

        Raises
        ------
        PeerError
            Naming the place.
        """
        requests = [_marked(r, settings.modalities) for r in read_orders(message)]
        subject = None
        if message.first("PID") is not None or not names_alone(requests):
            subject = read_patient(message, settings.default_authority)
        return cls(subject=subject, requests=requests)

    @classmethod
    def ahead(cls, message: Message, settings: Settings) -> OrderReading | None:
        """Read an order before its transaction begins, so that one question asks for everything.

        Anything else is None, and so is a wrong order: what is wrong is told when it is applied.
        """
        if message.type not in ORDER_TYPES or not is_imaging(message):
            return None
        try:
            return cls.of(message, settings)
        except PeerError:
            return None

    def questions(self, uow: UnitOfWork) -> list[Call]:
        """Return what applying it will look up."""
        return foreseen(uow, self.subject, self.requests)


def _marked(request: OrderRequest, modalities: Sequence[str]) -> OrderRequest:
    foreign = any(step.modality and step.modality not in modalities for step in request.steps)
    return replace(request, elsewhere=True) if foreign else request


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message that was read and recorded, with all that a use case needs."""

    uow: UnitOfWork
    message: Message
    message_id: int
    settings: Settings
    reading: OrderReading | None = None
    """Of an order, where it could be read ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a use case made of a message."""

    state: str = "processed"
    """``processed``, or ``ignored`` where there was nothing for us in it."""
    study: Study | None = None
    """The study under which the message is shown; the first one when there are several."""


UseCase = Callable[[Received], Applied]


def apply(received: Received) -> Applied:
    """Do what a message asks for.

    Raises
    ------
    MissingField
        If MSH-10 is empty, or nothing follows MSH.
    UnsupportedVersion, UnsupportedEvent, Unsupported
        If MSH-12 or MSH-9 names what is not served.
    PeerError
        Whatever the use case finds wrong.
    """
    message = received.message
    if not message.control_id:
        raise MissingField("MSH-10 is empty", location="MSH^1^10")
    if message.version and message.version not in VERSIONS:
        raise UnsupportedVersion("this HL7 version is not served", location="MSH^1^12")
    if len(message.segments) == 1:
        raise _Incomplete("the message has no segment after MSH", location="MSH^1")
    use_case = USE_CASES.get(message.type)
    if use_case is None:
        kind, event = message.msh.get(9), message.msh.get(9, 2)
        if kind in _KINDS:
            raise UnsupportedEvent(f"event {event[:4]!r} is not served", location="MSH^1^9^1^2")
        raise Unsupported("this message type is not served", location="MSH^1^9^1^1")
    return use_case(received)


def _orders(received: Received) -> Applied:
    uow, message = received.uow, received.message
    if not is_imaging(message):
        sections = {obr.get(24) for obr in message.all("OBR")} & NOT_IMAGING
        log.info("hl7.not_imaging", message=received.message_id, sections=sorted(sections))
        return Applied(state="ignored")
    reading = received.reading or OrderReading.of(message, received.settings)
    if reading.subject is None:
        patient = owner_of(uow, reading.requests)
    else:
        patient = take_patient(uow, reading.subject)
    studies = take_orders(uow, patient, reading.requests, message_id=received.message_id)
    return Applied(study=studies[0]) if studies else Applied(state="ignored")


def _patient(received: Received) -> PatientRequest:
    return read_patient(received.message, received.settings.default_authority)


def _sender(received: Received) -> dict[str, Any]:
    return {"sender": received.message.sender, "message_id": received.message_id}


def _visit(received: Received) -> Applied:
    message = received.message
    take_visit(
        received.uow,
        message.msh.get(9, 2),
        _patient(received),
        read_visit(message),
        allergies=read_allergies(message.all("AL1")),
        **_sender(received),
    )
    return Applied()


def _person(received: Received) -> Applied:
    if received.message.msh.get(9, 2) == "A28":
        add_person(received.uow, _patient(received))
    else:
        take_patient(received.uow, _patient(received))
    return Applied()


def _allergies(received: Received) -> Applied:
    message = received.message
    stated = [*message.all("IAM"), *message.all("AL1")]
    allergies = read_allergies(stated)
    if allergies is None:
        raise MissingField("IAM-3 names no allergy", location="IAM^1^3")
    take_allergies(received.uow, _patient(received), allergies, **_sender(received))
    return Applied()


def _merges(received: Received, *, of_visits: bool = False) -> list[MergeRequest]:
    authority = received.settings.default_authority
    return read_merges(received.message, authority, of_visits=of_visits)


def _merge(received: Received) -> Applied:
    merge_records(received.uow, _merges(received), **_sender(received))
    return Applied()


def _rekey(received: Received) -> Applied:
    for request in _merges(received):
        change_identifier(received.uow, request, **_sender(received))
    return Applied()


def _move(received: Received) -> Applied:
    event = received.message.msh.get(9, 2)
    moved = [
        move_children(received.uow, request, event, **_sender(received))
        for request in _merges(received, of_visits=event == "A45")
    ]
    return Applied(state="processed" if any(moved) else "ignored")


def _merge_visits(received: Received) -> Applied:
    event = received.message.msh.get(9, 2)
    for request in _merges(received, of_visits=True):
        merge_visits(received.uow, request, event, **_sender(received))
    return Applied()


def _link(received: Received) -> Applied:
    authority = received.settings.default_authority
    pids = list(received.message.all("PID"))
    if len(pids) != 2:
        raise MissingField("a link names two patients", location="PID^2")
    one, other = (patient_of(pid, authority, n) for n, pid in enumerate(pids, 1))
    if received.message.msh.get(9, 2) == "A24":
        link_records(received.uow, one, other)
    else:
        unlink_records(received.uow, one, other)
    return Applied()


def _appointment(received: Received) -> Applied:
    uow, message = received.uow, received.message
    request = read_appointment(message)
    patient = None
    if message.first("PID") is not None:
        patient = take_patient(uow, _patient(received))
    study_id = take_appointment(
        uow, message.msh.get(9, 2), request, patient, message_id=received.message_id
    )
    return Applied(study=None if study_id is None else uow.studies.get(study_id))


def _block(received: Received) -> Applied:
    # A slot that is blocked has no patient: nothing of ours is in it (v2.5.1 §10.4.23).
    if received.message.first("SCH") is None:
        raise MissingField("there is no SCH segment", location="SCH")
    return Applied(state="ignored")


def _results(received: Received) -> Applied:
    message = received.message
    if not is_imaging(message) or is_laboratory(message):
        return Applied(state="ignored")
    studies = take_results(
        received.uow,
        _patient(received),
        read_results(message),
        message_id=received.message_id,
    )
    return Applied(study=studies[0] if studies else None)


USE_CASES: Final[dict[str, UseCase]] = {
    **dict.fromkeys(ORDER_TYPES, _orders),
    **dict.fromkeys((f"ADT^{event}" for event in VISIT_EVENTS), _visit),
    **dict.fromkeys(("ADT^A28", "ADT^A31"), _person),
    "ADT^A60": _allergies,
    "ADT^A40": _merge,
    "ADT^A47": _rekey,
    **dict.fromkeys(("ADT^A43", "ADT^A44", "ADT^A45"), _move),
    **dict.fromkeys(("ADT^A41", "ADT^A42"), _merge_visits),
    **dict.fromkeys(("ADT^A24", "ADT^A37"), _link),
    **dict.fromkeys((f"SIU^{event}" for event in EVENTS), _appointment),
    **dict.fromkeys(("SIU^S23", "SIU^S24"), _block),
    "ORU^R01": _results,
}
"""MSH-9.1 and MSH-9.2 → what is done; whatever is not here is refused with AR."""

_KINDS: Final = frozenset(key.split("^")[0] for key in USE_CASES)


class _Incomplete(MissingField):
    """Readable, but a segment it needs is missing."""

    hl7_code = "100"
