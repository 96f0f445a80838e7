"""What happens to an HL7 message: recorded, understood, applied, answered, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import structlog
from sqlalchemy.exc import DBAPIError

from models.errors import MissingField, OurError, PeerError, SpinechoError, Unsupported
from models.study import Study
from services.database.store import Store, UnitOfWork
from services.hl7.acknowledgement import (
    NEVER_ANSWERED,
    UnsupportedEvent,
    UnsupportedVersion,
    acknowledge,
)
from services.hl7.er7 import Message, parse
from services.hl7.requests import (
    NOT_IMAGING,
    ORDER_TYPES,
    is_imaging,
    read_identifiers,
    read_orders,
    read_patient,
)
from services.settings import Settings
from services.workflow.intake import merge_patients, take_order, take_patient

log = structlog.get_logger()

VERSIONS = frozenset({"2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8"})
PATIENT_EVENTS = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of a message."""

    message_id: int
    code: str
    """MSA-1, or ``none`` where no answer is due."""
    acknowledgement: bytes | None
    repeated: bool = False


def receive_message(store: Store, raw: bytes, *, peer: str, settings: Settings) -> Answered:
    """Record and apply one message; whatever it is, its bytes are kept.

    Returns only after the commit, so that the acknowledgement may be sent (rule 1). The same
    message again, by sender, control id and content, gets the same answer and has no second
    effect (rule 2).

    Parameters
    ----------
    store : Store
    raw : bytes
        The message without its MLLP frame.
    peer : str
        Address of the sender, for the log.
    settings : Settings

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If the database is away: nothing is kept and nothing may be acknowledged.
    """
    digest = sha256(raw).hexdigest()
    try:
        message, unreadable = parse(raw), None
    except SpinechoError as error:
        message, unreadable = None, error
    sender = message.sender if message else ""
    control_id = message.control_id if message else ""
    kind = message.type if message else ""
    with store() as uow:
        message_id = uow.messages.add(
            direction="in",
            protocol="hl7",
            peer=peer,
            raw=raw,
            sender=sender,
            control_id=control_id,
            type=kind,
            digest=digest,
            state="received",
        )
        if message_id == 0:
            known = uow.messages.find_inbound(sender, control_id, digest)
            if known is None:
                raise LookupError("a message vanished inside its own transaction")
            if known.state != "failed":
                return Answered(
                    message_id=known.id,
                    code=known.ack_code or "none",
                    acknowledgement=known.ack,
                    repeated=True,
                )
            message_id = known.id
        if message is not None and message.msh.get(9) in NEVER_ANSWERED:
            uow.messages.answer(message_id, state="noted")
            return Answered(message_id=message_id, code="none", acknowledgement=None)
        state, failure, study = "processed", unreadable, None
        if message is not None:
            # A savepoint: the message stays recorded when what it asks for is undone.
            savepoint = uow.connection.begin_nested()
            try:
                state, study = _apply(uow, message, message_id, settings)
                savepoint.commit()
            except PeerError as error:
                savepoint.rollback()
                failure = error
            except DBAPIError:
                raise
            except Exception:
                # A fault of ours: the payload is kept, and the same message is tried afresh.
                log.exception("hl7.failed", message=message_id)
                savepoint.rollback()
                failure = OurError("internal error; the message is kept, send it again later")
        if failure is not None:
            state = "failed" if isinstance(failure, OurError) else "refused"
        acknowledgement, code = acknowledge(message, uow.now, failure)
        uow.messages.answer(
            message_id,
            state=state,
            ack=acknowledgement,
            ack_code=code,
            error=None if failure is None else f"{failure.code} at {failure.location}: {failure}",
            study_id=None if study is None else study.id,
        )
    log.info("hl7.answered", message=message_id, type=kind, ack=code, state=state)
    return Answered(message_id=message_id, code=code, acknowledgement=acknowledgement)


def keep_fragment(store: Store, raw: bytes, *, peer: str, reason: str) -> None:
    """Keep what a connection left behind without finishing a message."""
    with store() as uow:
        uow.messages.add(
            direction="in",
            protocol="hl7",
            peer=peer,
            raw=raw,
            digest=sha256(raw).hexdigest(),
            state="fragment",
            error=reason,
        )


def _apply(
    uow: UnitOfWork, message: Message, message_id: int, settings: Settings
) -> tuple[str, Study | None]:
    if not message.control_id:
        raise MissingField("MSH-10 is empty", location="MSH^1^10")
    if message.version and message.version not in VERSIONS:
        raise UnsupportedVersion("this HL7 version is not served", location="MSH^1^12")
    if len(message.segments) == 1:
        raise _Incomplete("the message has no segment after MSH", location="MSH^1")
    kind, event = message.msh.get(9), message.msh.get(9, 2)
    authority = settings.default_authority
    if message.type in ORDER_TYPES:
        if not is_imaging(message):
            sections = {obr.get(24) for obr in message.all("OBR")} & NOT_IMAGING
            log.info("hl7.not_imaging", message=message_id, sections=sorted(sections))
            return "ignored", None
        patient = take_patient(uow, read_patient(message, authority))
        studies = [
            take_order(uow, patient, request, message_id=message_id)
            for request in read_orders(message)
        ]
        return "processed", studies[0]
    if kind == "ADT" and event in PATIENT_EVENTS:
        take_patient(uow, read_patient(message, authority))
        return "processed", None
    if kind == "ADT" and event == "A40":
        survivor = read_patient(message, authority)
        mrg = message.first("MRG")
        retired = list(read_identifiers(mrg, 1, authority)) if mrg else []
        if not retired:
            raise MissingField("MRG-1 has no identifier", location="MRG^1^1")
        for identifier in retired:
            merge_patients(uow, survivor, identifier)
        return "processed", None
    if kind in {"ADT", "ORM", "OMI", "OMG"}:
        raise UnsupportedEvent(f"event {event[:4]!r} is not served", location="MSH^1^9^1^2")
    raise Unsupported("this message type is not served", location="MSH^1^9^1^1")


class _Incomplete(MissingField):
    """Readable, but a segment it needs is missing."""

    hl7_code = "100"
