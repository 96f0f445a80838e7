"""What happens to an HL7 message: recorded, understood, applied, answered, in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from models.errors import InvalidValue, OurError, PeerError, SpinechoError
from services.database.store import Store
from services.hl7.acknowledgement import (
    Outcome,
    TooLong,
    UnsupportedProcessing,
    answer,
    is_acknowledgement,
    split_answers,
)
from services.hl7.er7 import Message, parse
from services.hl7.references import ACCESSION, references
from services.hl7.standardising import Rewriting, Standard
from services.settings import Settings
from services.workflow.dispatch import Applied, OrderReading, Received, apply
from services.workflow.doubts import show_doubts
from services.workflow.numbering import Turn, take, turn_of
from services.workflow.order_answers import with_orders

log = structlog.get_logger()

_LONGEST_HEADER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of a message."""

    message_id: int
    code: str
    """MSA-1, of the last answer where there are two, or ``none`` where none is due."""
    acknowledgement: bytes | None
    """What is answered; in enhanced mode the commit and the application acknowledgement."""
    repeated: bool = False

    @property
    def answers(self) -> list[bytes]:
        """What is sent back, each in a frame of its own."""
        return split_answers(self.acknowledgement or b"")


def receive_message(
    store: Store,
    raw: bytes,
    *,
    peer: str,
    settings: Settings,
    profiles: Rewriting | None = None,
    attempt_of: int | None = None,
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
    attempt_of : int, optional
        The recorded message whose bytes these are: they are applied although they came before.

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If the database is away: nothing is kept and nothing may be acknowledged.
    """
    for last in (False, False, False, True):
        try:
            return _receive(store, raw, peer, settings, profiles, attempt_of)
        except DBAPIError as error:
            if _is_of_the_message(error):
                # Writes go out with the COMMIT. Sent at once, it shows which of them is at fault.
                return _receive(store, raw, peer, settings, profiles, attempt_of, at_once=True)
            if last or not _is_of_the_moment(error):
                raise
    raise AssertionError("unreachable")


def _receive(
    store: Store,
    raw: bytes,
    peer: str,
    settings: Settings,
    profiles: Rewriting | None,
    attempt_of: int | None,
    *,
    at_once: bool = False,
) -> Answered:
    message, unreadable = _read(raw, settings.max_message_bytes)
    sender, control_id, kind = (
        _storable(text)
        for text in ((message.sender, message.control_id, message.type) if message else ("",) * 3)
    )
    if message is not None and message.warnings:
        log.warning("hl7.charset", peer=peer, sender=sender, warnings=message.warnings)
    standard: Standard | None = None
    reading: OrderReading | None = None
    # Sent at once, a value that cannot even be asked for shows inside the attempt.
    if message is not None and unreadable is None and not at_once:
        # What goes wrong here is met again, and told, where the message is applied.
        with suppress(Exception):
            standard = _standardised(message, raw, profiles)
            reading = OrderReading.ahead(standard.message, settings)

    def standardised() -> Standard:
        nonlocal standard
        if standard is None:
            standard = _standardised(received.message, raw, profiles)
        return standard

    with store() as uow:
        attempt = uow.messages.begin(
            raw, attempt_of=attempt_of, also=reading.questions(uow) if reading else ()
        )
        if (known := attempt.repeats) is not None:
            return Answered(
                message_id=known.id,
                code=known.ack_code or "none",
                acknowledgement=known.ack,
                repeated=True,
            )
        message_id = attempt.id
        # Written once, when everything is known of it.
        record = partial(
            uow.messages.add,
            attempt=attempt,
            direction="in",
            protocol="hl7",
            peer=peer,
            raw=raw,
            sender=sender,
            control_id=control_id,
            type=kind,
        )
        if message is not None and is_acknowledgement(message):
            record(state="noted", references=references(message))
            return Answered(message_id=message_id, code="none", acknowledgement=None)
        applied, failure, turn = Applied(), unreadable, Turn()
        read = [] if message is None else [message]
        if message is not None and failure is None:
            turn = turn_of(uow, message, sender) if settings.hl7_sequence_numbers else turn
            failure = turn.error
            if failure is None:
                received = Received(
                    uow=uow,
                    message=message,
                    message_id=message_id,
                    settings=settings,
                    reading=reading,
                )
                applied, failure = _attempt(
                    received,
                    standardised,
                    read,
                    at_once=at_once,
                )
                # It is written while the answer is made.
                uow.direct.ahead()
        # Where we failed, the same number comes again.
        ours = isinstance(failure, OurError)
        expected = turn.expected if ours else take(uow, turn, sender)
        state = applied.state
        if failure is not None:
            state = "failed" if ours else "refused"
        outcome = Outcome(number=message_id, at=uow.now, error=failure, expected=expected)
        answers, code = answer(message, outcome)
        if settings.order_reply == "order" and message is not None:
            answers = with_orders(uow, message, answers, applied.study)
        kept = b"".join(answers) or None
        found_by = references(*read)
        if applied.study is not None and applied.study.accession:
            found_by.append((ACCESSION, applied.study.accession))
        record(
            state=state,
            references=found_by,
            ack=kept,
            ack_code=code,
            error=None
            if failure is None
            else _storable(f"{failure.code} at {failure.location}: {failure}", 2000),
            profile=None if standard is None else standard.named,
            study_id=None if applied.study is None else applied.study.id,
        )
    log.info("hl7.answered", message=message_id, type=kind, ack=code, state=state)
    return Answered(message_id=message_id, code=code, acknowledgement=kept)


def _attempt(
    received: Received,
    standardised: Callable[[], Standard],
    read: list[Message],
    *,
    at_once: bool,
) -> tuple[Applied, SpinechoError | None]:
    """Apply a message so that it stays recorded when what it asks for is taken back.

    As its sender's profile has it, it is added to `read`.
    """
    uow, message = received.uow, received.message
    try:
        with uow.direct.attempt():
            _admit(message, received.settings)
            standard = standardised()
            uow.timeline.noting(**standard.evidence)
            # What is wrong with it is told where its sender has it.
            with standard.as_sent():
                standard.require()
                read.append(standard.message)
                applied = apply(replace(received, message=standard.message))
            show_doubts(received, standard, applied.study)
            if at_once:
                uow.direct.flush()
    except PeerError as error:
        return Applied(), error
    except DBAPIError as error:
        if not _is_of_the_message(error):
            raise
        # Sent again it would fail again, so it is answered: a NUL in a name, say.
        log.warning("hl7.not_storable", message=received.message_id, sqlstate=_sqlstate(error))
        return Applied(), InvalidValue(
            "a value cannot be stored: too large, or with a NUL", location="MSH^1"
        )
    except Exception:
        # A fault of ours: the payload is kept, and the same message is tried afresh.
        log.exception("hl7.failed", message=received.message_id)
        return Applied(), OurError("internal error; the message is kept, send it again later")
    return applied, None


def _admit(message: Message, settings: Settings) -> None:
    """Refuse what was sent as a test or for training; without MSH-11 it is meant in earnest."""
    processing = message.msh.get(11)
    if processing not in {"", settings.hl7_processing_id}:
        raise UnsupportedProcessing(
            f"MSH-11 is not {settings.hl7_processing_id}: this installation takes nothing else",
            location="MSH^1^11",
        )


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _is_of_the_moment(error: DBAPIError) -> bool:
    """Whether somebody else was faster with the same patient, order or message: look again.

    Besides IntegrityError a serialization failure or a deadlock, SQLSTATE class 40.
    """
    return isinstance(error, IntegrityError) or _sqlstate(error)[:2] == "40"


def _is_of_the_message(error: DBAPIError) -> bool:
    """Whether the values are at fault: SQLSTATE classes 22 (data) and 54 (limits)."""
    return isinstance(error, DataError) or _sqlstate(error)[:2] in {"22", "54"}


def _storable(text: str, most: int = 200) -> str:
    """Return a text that PostgreSQL and its indexes take; what is cut stays distinguishable."""
    text = text.replace("\0", "\ufffd")
    if len(text) <= most:
        return text
    return f"{text[: most - 65]}…{sha256(text.encode()).hexdigest()}"


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
            state="fragment",
            error=reason,
        )


def _standardised(message: Message, raw: bytes, profiles: Rewriting | None) -> Standard:
    """Give the message as IHE has it."""
    return Standard(message=message) if profiles is None else profiles.standardised(message, raw)
