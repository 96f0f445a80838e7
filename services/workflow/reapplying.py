"""Applying recorded messages again, and sealing them anew: what an operator does to the store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import select

from models.errors import InvalidValue, SpinechoError
from services.database.messages import StoredMessage, Wanted
from services.database.partitions import month_of, rewrite
from services.database.store import Store, UnitOfWork
from services.database.tables import desk, desk_decision
from services.fhir.references import references as fhir_references
from services.hl7.er7 import parse
from services.hl7.references import ACCESSION, MRN, Reference, references
from services.hl7.standardising import Rewriting
from services.settings import Settings
from services.workflow.fhir_requests import FhirRequest, receive_request
from services.workflow.messages import Answered, receive_message

DEAD: Final = ("refused", "failed", "fragment", "rejected")
"""States in which a message lies until somebody looks at it."""
_BATCH: Final = 200
_RECENT: Final = timedelta(days=1)


def apply_again(
    store: Store, message_id: int, *, settings: Settings, profiles: Rewriting | None = None
) -> Answered:
    """Apply the bytes of a recorded message as a new attempt, through the intake of every other.

    Its sender gets no answer. If it is accepted, the new answer is the one that the sender gets
    when it sends the same bytes again.

    Raises
    ------
    UnknownKey
        If there is no such message.
    InvalidValue
        If it is not a whole message, over HL7 or FHIR, that came in.
    """
    with store() as uow:
        message = uow.messages.get(message_id)
    if not _is_repeatable(message):
        raise InvalidValue(f"message {message_id} is not a whole message that came in")
    if message.protocol == "fhir":
        request = FhirRequest.stored(message.raw, peer=message.peer)
        answer = receive_request(store, request, settings=settings, attempt_of=message_id)
        return Answered(
            message_id=answer.message_id, code=str(answer.status), acknowledgement=answer.raw()
        )
    return receive_message(
        store,
        message.raw,
        peer=message.peer,
        settings=settings,
        profiles=profiles,
        attempt_of=message_id,
    )


def apply_decided(
    store: Store, *, settings: Settings, profiles: Rewriting | None = None
) -> list[int]:
    """Apply again what the desk decided to apply again and was not yet; return the messages.

    Idempotent: a message that was tried again since it came is not tried another time.
    """
    with store() as uow:
        decided = uow.connection.execute(
            select(desk.c.evidence["message"].as_integer())
            .join_from(desk_decision, desk)
            .where(
                desk_decision.c.action == "reapply",
                desk_decision.c.done_at > uow.now - _RECENT,
                desk_decision.c.undone_at.is_(None),
            )
        ).scalars()
        wanted = set(decided)
        wanted -= set(uow.messages.retried(wanted))
    for message_id in sorted(wanted):
        apply_again(store, message_id, settings=settings, profiles=profiles)
    return sorted(wanted)


def repeatable(store: Store, wanted: Wanted, limit: int) -> list[Any]:
    """Return the inbound messages that are wanted and were not tried again since, oldest first."""
    with store() as uow:
        rows = [row for row in uow.messages.search(wanted, limit=limit) if _is_repeatable(row)]
        retried = uow.messages.retried(row.id for row in rows)
    return [row for row in reversed(rows) if wanted.ids or row.id not in retried]


def dead_letters(store: Store, *, since: Any = None, limit: int = 200) -> list[dict[str, Any]]:
    """Return what lies undone: messages that came or went, and reports nobody answers to."""
    with store() as uow:
        rows = uow.messages.search(Wanted(states=DEAD, since=since), limit=limit)
        retried = uow.messages.retried(row.id for row in rows)
        found = [
            {
                "id": row.id,
                "direction": row.direction,
                "at": row.received_at,
                "lane": row.sender if row.direction == "in" else row.peer,
                "type": row.type,
                "control_id": row.control_id,
                "state": row.state,
                "attempts": 1,
                "reason": row.error or f"answered {row.ack_code}",
            }
            for row in rows
            if row.id not in retried
        ]
        found += [
            {
                "id": row.message_id,
                "direction": "out",
                "at": row.first_at,
                "lane": row.destination,
                "type": row.type,
                "control_id": row.control_id,
                "state": "undelivered",
                "attempts": row.attempts,
                "reason": row.error or f"answered {row.ack_code}",
            }
            for row in uow.deliveries.undelivered()
        ]
    return sorted(found, key=lambda line: line["at"], reverse=True)


def reseal(store: Store, progress: Callable[[int], None] = lambda _: None) -> int:
    """Seal everything with the newest key, what was never sealed too; return how many.

    Where readable bytes were replaced, the files of their month are written anew, so that the old
    bytes do not lie in them; the log waits for that.
    """
    count, rewritten = 0, set()
    while True:
        with store() as uow:
            batch = list(uow.messages.foreign(_BATCH))
            for message in batch:
                found_by = _found_by(message)
                if message.study_id is not None:
                    found_by += _of_study(uow, message)
                uow.messages.reseal(message, found_by)
                if message.key_id is None:
                    rewritten.add(month_of(message.received_at))
        if not batch:
            break
        count += len(batch)
        progress(count)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for month in sorted(rewritten):
            rewrite(connection, month)
    return count


def _is_repeatable(message: Any) -> bool:
    """Whether a message, or a row of one, is whole and came over a protocol that is taken."""
    taken = message.protocol in {"hl7", "fhir"}
    return taken and message.direction == "in" and message.state != "fragment"


def _found_by(message: StoredMessage) -> list[Reference]:
    if message.protocol == "fhir":
        return fhir_references(message.raw.partition(b"\r\n\r\n")[2])
    try:
        return references(parse(message.raw))
    except SpinechoError:
        return []


def _of_study(uow: UnitOfWork, message: StoredMessage) -> list[Reference]:
    study = uow.studies.get(str(message.study_id))
    found: list[Reference] = [(ACCESSION, study.accession)] if study.accession else []
    if message.protocol == "fhir" and study.patient_id is not None:
        # A request may name its patient by an id of ours alone.
        found += [(MRN, i.value) for i in uow.patients.get(study.patient_id).identifiers]
    return found
