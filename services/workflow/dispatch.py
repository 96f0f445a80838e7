"""Which use case a message type and event leads to (STANDARDS: HL7 v2.5.1 ch. 3, 4, 7 and 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from models.errors import MissingField, Unsupported
from models.study import Study
from services.database.store import UnitOfWork
from services.hl7.acknowledgement import UnsupportedEvent, UnsupportedVersion
from services.hl7.er7 import Message
from services.hl7.fields import read_identifiers
from services.hl7.requests import (
    NOT_IMAGING,
    ORDER_TYPES,
    is_imaging,
    read_orders,
    read_patient,
)
from services.settings import Settings
from services.workflow.intake import foresee
from services.workflow.order_control import take_orders
from services.workflow.patients import merge_patients, take_patient

log = structlog.get_logger()

VERSIONS: Final = frozenset(
    {"2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message that was read and recorded, with all that a use case needs."""

    uow: UnitOfWork
    message: Message
    message_id: int
    settings: Settings


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
    # Everything is read before anything is written: most of what is refused is refused here.
    requests = read_orders(message)
    subject = read_patient(message, received.settings.default_authority)
    foresee(uow, subject, requests)
    patient = take_patient(uow, subject)
    studies = take_orders(uow, patient, requests, message_id=received.message_id)
    return Applied(study=studies[0]) if studies else Applied(state="ignored")


def _patient(received: Received) -> Applied:
    take_patient(received.uow, read_patient(received.message, received.settings.default_authority))
    return Applied()


def _merge(received: Received) -> Applied:
    message, authority = received.message, received.settings.default_authority
    survivor = read_patient(message, authority)
    mrg = message.first("MRG")
    retired = list(read_identifiers(mrg, 1, authority)) if mrg else []
    if not retired:
        raise MissingField("MRG-1 has no identifier", location="MRG^1^1")
    for identifier in retired:
        merge_patients(
            received.uow,
            survivor,
            identifier,
            by=message.sender,
            message_id=received.message_id,
        )
    return Applied()


USE_CASES: Final[dict[str, UseCase]] = {
    **dict.fromkeys(ORDER_TYPES, _orders),
    **dict.fromkeys((f"ADT^{e}" for e in ("A01", "A04", "A05", "A08", "A28", "A31")), _patient),
    "ADT^A40": _merge,
}
"""MSH-9.1 and MSH-9.2 → what is done; whatever is not here is refused with AR."""

_KINDS: Final = frozenset(key.split("^")[0] for key in USE_CASES)


class _Incomplete(MissingField):
    """Readable, but a segment it needs is missing."""

    hl7_code = "100"
