"""Order status: the placer is told of every change, in order, once, with proof."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Row

from models.errors import Unavailable
from models.events import Topic
from models.order_status import OrderStatus
from models.priority import Priority
from services.database.store import Store, UnitOfWork
from services.hl7.er7 import parse
from services.hl7.notices import build_notice
from services.hl7.references import references
from services.hl7.sender import Link
from services.settings import Settings

SUBJECT: Final = "placer"
"""What a run of `status_delivery` is about: everything that is due, not one study."""
FLOW: Final = "status_delivery"
_ANSWER_S: Final = 10
_BATCH: Final = 100
_MOST: Final = 1000
"""Notices that one run sends before it makes room for others; the relay starts the next."""


def announce_due(uow: UnitOfWork, gathering: timedelta = timedelta(0)) -> None:
    """Announce that notices are due, unless a run has been announced that is not done.

    They are gathered for a while first: a run costs about a second of a core, which triage needs
    more than a placer needs to know at once.

    Called by the relay alone. It is what makes one run of a burst, whatever its length, and no
    order waits for another one's transaction to announce it. The version is the oldest due notice:
    a run that is done has told it.
    """
    oldest = uow.notices.oldest_due()
    if oldest is None or oldest.at > uow.now - gathering:
        return
    if uow.outbox.is_under_way(SUBJECT, FLOW):
        return
    uow.outbox.announce(Topic.ORDER_STATUS, SUBJECT, f"from-{oldest.id}", Priority.ROUTINE)


def tell_placer(store: Store, settings: Settings) -> int:
    """Send every notice that is due, oldest first, over one connection; return how many.

    The next is sent after the answer to the one before, so that the placer sees the changes of
    each order as they happened. A refused notice is put on the desk and overtaken; one that nobody
    answered stays due, and so do all behind it.

    Raises
    ------
    Unavailable
        If the placer does not answer, or another run is sending.
    """
    count = 0
    if settings.status_destination is None:
        return count
    with Link(settings.status_destination, settings=settings, timeout_s=_ANSWER_S) as link:
        while count < _MOST and (batch := _plan(store, settings)):
            for notice_id in batch:
                _tell(store, link, notice_id)
            count += len(batch)
    return count


def _plan(store: Store, settings: Settings) -> list[int]:
    """Write down the bytes of what is due, before anything is sent; return the notices.

    Every attempt, also after a crash, sends the same message under the same control id.
    """
    with store() as uow:
        _claim(uow)
        due = uow.notices.due(_BATCH)
        for notice in due:
            if notice.message_id is None:
                _write(uow, settings, notice)
        return [notice.id for notice in due]


def _write(uow: UnitOfWork, settings: Settings, notice: Row[Any]) -> None:
    study = uow.studies.get(notice.study_id)
    if study.order_id is None:
        raise LookupError("a notice is about an order, and its study has none")
    order = uow.orders.get(study.order_id)
    # MSH-10 holds 20 characters; the same change has the same one always.
    control_id = sha256(f"status|{study.id}|{notice.sequence}".encode()).hexdigest()[:20].upper()
    raw = build_notice(
        settings.status_message,
        OrderStatus(order=notice.order_status, result=notice.result_status, words=notice.words),
        order,
        study,
        uow.patients.get(order.patient_id),
        control_id=control_id,
        changed_at=notice.at,
        start_at=notice.start_at,
    )
    message_id = uow.messages.add(
        direction="out",
        protocol="hl7",
        peer=str(settings.status_destination),
        raw=raw,
        sender="SPINECHO|RAD",
        control_id=control_id,
        type=settings.status_message,
        state="planned",
        study_id=study.id,
        references=references(parse(raw)),
    )
    uow.notices.change(notice.id, control_id=control_id, message_id=message_id)


def _tell(store: Store, link: Link, notice_id: int) -> None:
    failure: Unavailable | None = None
    with store() as uow:
        _claim(uow)
        notice = uow.notices.get(notice_id)
        if notice.state != "due":
            return
        message = uow.messages.get(notice.message_id)
        changes: dict[str, Any] = {"attempts": notice.attempts + 1, "sent_at": uow.now}
        try:
            raw, reply = link.send(bytes(message.raw), notice.control_id)
        except Unavailable as error:
            failure = error
            changes["error"] = str(error)
        else:
            # Its own words may name the patient: they are in the answer, which is sealed.
            state = "accepted" if reply.accepted else "refused"
            changes |= {
                "state": state,
                "ack_code": reply.code,
                "answered_at": uow.clock(),
                "error": reply.reason or None,
            }
            uow.messages.answer(message.id, state=state, ack=raw, ack_code=reply.code)
            _note(uow, notice, reply.code, accepted=reply.accepted)
        uow.notices.change(notice.id, **changes)
    if failure is not None:
        raise failure


def _claim(uow: UnitOfWork) -> None:
    if not uow.notices.claim_sending():
        raise Unavailable("another run is telling the placer")


def _note(uow: UnitOfWork, notice: Row[Any], code: str, *, accepted: bool) -> None:
    said = f"{notice.words} ({notice.order_status})"
    uow.timeline.add(
        notice.study_id,
        "status.told" if accepted else "status.refused",
        f"{said} told to the placer: {code}"
        if accepted
        else f"the placer answered {code} to {said}",
        actor="placer",
        message=notice.message_id,
        control_id=notice.control_id,
        ack=code,
    )
    if not accepted:
        uow.studies.to_desk(
            "status-refused",
            f"{notice.study_id}:{notice.sequence}",
            f"the placer refused to be told: {said}",
            study_id=notice.study_id,
            evidence={"ack": code, "message": notice.message_id},
        )
