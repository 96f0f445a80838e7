"""Retention of the message store: its months are made ahead, and dropped when they are old."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from services.database.deliveries import SETTLED
from services.database.partitions import drop, following, month_of, months
from services.database.store import Store
from services.settings import Settings

log = structlog.get_logger()

_AHEAD: Final = 2
"""Months whose parts are made before they begin."""


@dataclass(slots=True, kw_only=True)
class Tended:
    """What was done to the message store."""

    dropped: list[date] = field(default_factory=list)
    held: list[date] = field(default_factory=list)
    """Months that are over and hold a report which is still to be delivered."""
    forgotten: int = 0


def tend_messages(store: Store, settings: Settings) -> Tended:
    """Make the parts of this month and the next two, and drop those whose time is over.

    A part is dropped once its newest message is older than `message_days`, with one exception: a
    report that waits for its destination is sent from its stored bytes, so its month stays.
    """
    done = Tended()
    with store() as uow:
        this = month_of(uow.now)
        for ahead in range(_AHEAD + 1):
            store.partitions.ensure(uow.connection, following(this, ahead))
        # A message whose answer is gone cannot be known for a repetition.
        days = min(settings.repeat_days, settings.message_days)
        done.forgotten = uow.messages.forget_repeats(uow.now - timedelta(days=days))
        kept_from = month_of(uow.now - timedelta(days=settings.message_days))
        over = [month for month in months(uow.connection) if month < kept_from]
    for month in over:
        if _drop(store, month):
            done.dropped.append(month)
        else:
            done.held.append(month)
    if done.dropped or done.held:
        log.info(
            "messages.retention",
            dropped=[f"{month:%Y-%m}" for month in done.dropped],
            held=[f"{month:%Y-%m}" for month in done.held],
        )
    return done


def _drop(store: Store, month: date) -> bool:
    # What is still to be sent is sent from its stored bytes.
    waiting = text(
        "SELECT EXISTS (SELECT FROM message_log m WHERE m.received_at >= :start "
        "AND m.received_at < :end AND m.direction = 'out' AND ("
        "EXISTS (SELECT FROM delivery d WHERE d.message_id = m.id AND d.state <> ALL (:settled)) "
        "OR EXISTS (SELECT FROM status_notice n WHERE n.message_id = m.id AND n.state = 'due')))"
    )
    try:
        with store() as uow:
            # Dropping locks the whole log for a moment; senders must not queue up behind it.
            uow.connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            values = {"start": month, "end": following(month), "settled": list(SETTLED)}
            if uow.connection.execute(waiting, values).scalar_one():
                return False
            drop(uow.connection, month)
    except OperationalError as error:
        log.warning("messages.not_dropped", month=f"{month:%Y-%m}", kind=type(error).__name__)
        return False
    return True
