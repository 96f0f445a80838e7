"""What happens to an HL7 message: recorded, understood, applied, answered, in one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import structlog
from sqlalchemy.exc import DBAPIError

from models.errors import OurError, PeerError, SpinechoError
from services.database.store import Store, UnitOfWork
from services.hl7.acknowledgement import NEVER_ANSWERED, TooLong, acknowledge
from services.hl7.er7 import Message, parse
from services.hl7.standardising import Rewriting
from services.settings import Settings
from services.workflow.dispatch import Applied, Received, apply

log = structlog.get_logger()

_LONGEST_HEADER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of a message."""

    message_id: int
    code: str
    """MSA-1, or ``none`` where no answer is due."""
    acknowledgement: bytes | None
    repeated: bool = False

    @property
    def answers(self) -> list[bytes]:
        """What is sent back, each in a frame of its own."""
        return [] if self.acknowledgement is None else [self.acknowledgement]


def receive_message(
    store: Store,
    raw: bytes,
    *,
    peer: str,
    settings: Settings,
    profiles: Rewriting | None = None,
) -> Answered:
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
    profiles : Rewriting, optional
        Knows how each sender writes; without it every message is read as IHE has it.

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If the database is away: nothing is kept and nothing may be acknowledged.
    """
    digest = sha256(raw).hexdigest()
    message, unreadable = _read(raw, settings.max_message_bytes)
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
        applied, failure = Applied(), unreadable
        if message is not None and unreadable is None:
            # A savepoint: the message stays recorded when what it asks for is undone.
            savepoint = uow.connection.begin_nested()
            try:
                with _standard(uow, message, raw, profiles) as asked:
                    applied = apply(
                        Received(uow=uow, message=asked, message_id=message_id, settings=settings)
                    )
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
        state = applied.state
        if failure is not None:
            state = "failed" if isinstance(failure, OurError) else "refused"
        acknowledgement, code = acknowledge(message, uow.now, failure)
        uow.messages.answer(
            message_id,
            state=state,
            ack=acknowledgement,
            ack_code=code,
            error=None if failure is None else f"{failure.code} at {failure.location}: {failure}",
            study_id=None if applied.study is None else applied.study.id,
        )
    log.info("hl7.answered", message=message_id, type=kind, ack=code, state=state)
    return Answered(message_id=message_id, code=code, acknowledgement=acknowledgement)


def _read(raw: bytes, limit: int) -> tuple[Message | None, SpinechoError | None]:
    try:
        if len(raw) <= limit:
            return parse(raw), None
        # Its header alone, which is enough to answer it.
        header = re.split(rb"[\r\n]", raw.lstrip(), maxsplit=1)[0][:_LONGEST_HEADER]
        too_long = TooLong(f"the message is larger than {limit} bytes", location="MSH^1")
        return parse(header), too_long
    except SpinechoError as error:
        return None, error


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


@contextmanager
def _standard(
    uow: UnitOfWork, message: Message, raw: bytes, profiles: Rewriting | None
) -> Iterator[Message]:
    """Give the message as IHE has it, and tell of what is wrong with it where its sender has it."""
    if profiles is None:
        yield message
        return
    standard = profiles.standardised(message, raw)
    uow.timeline.noting(**standard.evidence)
    with standard.as_sent():
        standard.require()
        yield standard.message
