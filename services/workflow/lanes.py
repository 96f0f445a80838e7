"""Lanes: one sender's messages in, or one destination's messages out, and whether they get through.

A lane is judged by housekeeping, never while a sender waits for its answer. It is told once when it
breaks and once when it is well again, however many messages fail between.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Row, func, select, text
from sqlalchemy.dialects.postgresql import insert

from services.database.store import Store, UnitOfWork
from services.database.tables import delivery, lane, message_log, status_notice
from services.settings import Settings

log = structlog.get_logger()

STATUS: Final = "order status"
"""The lane on which placers are told of their orders."""
_LOCK: Final = 7333
_BAD: Final = ("refused", "failed")
_SILENT: Final = ("fragment", "noted")
"""States that say nothing about a lane: no whole message, or nothing that is answered."""
_WINDOW: Final = timedelta(days=1)
_LONGEST_NAME: Final = 100

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the last messages of a lane say of it; `broken` is None where they say nothing new."""

    broken: bool | None
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A lane that has broken, or is well again."""

    direction: str
    name: str
    broken: bool
    failures: int
    since: datetime


def judge_lanes(store: Store, settings: Settings) -> list[Alert]:
    """Judge every lane, tell what has changed, and return it."""
    alerts = []
    with store() as uow:
        # Two sweeps at once would tell the same twice.
        uow.connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        known = {(row.direction, row.name): row for row in lanes(uow)}
        for key, verdict in _verdicts(uow, settings, known).items():
            was = known.get(key)
            if verdict.broken is None or (was is not None and was.broken == verdict.broken):
                continue
            if was is not None or verdict.broken:
                direction, name = key
                alerts.append(
                    Alert(
                        direction=direction,
                        name=name,
                        broken=verdict.broken,
                        failures=verdict.failures,
                        since=uow.now if was is None else was.since,
                    )
                )
            _write(uow, key, verdict)
    for alert in alerts:
        # After the commit: what is told is so.
        log.warning(
            "lane.broken" if alert.broken else "lane.cleared",
            direction=alert.direction,
            lane=alert.name,
            failures=alert.failures,
            since=alert.since.isoformat(),
        )
    return alerts


def lanes(uow: UnitOfWork) -> list[Row[Any]]:
    """Return the lanes that are known, by name."""
    return list(uow.connection.execute(select(lane).order_by(lane.c.direction, lane.c.name)))


def _write(uow: UnitOfWork, key: _Key, verdict: Verdict) -> None:
    values = {"broken": verdict.broken, "since": uow.now, "failures": verdict.failures}
    uow.connection.execute(
        insert(lane)
        .values(direction=key[0], name=key[1], **values)
        .on_conflict_do_update(index_elements=["direction", "name"], set_=values)
    )


def _verdicts(
    uow: UnitOfWork, settings: Settings, known: dict[_Key, Row[Any]]
) -> dict[_Key, Verdict]:
    most = settings.lane_failures
    found: dict[_Key, Verdict] = {}
    for sender in _suspects(uow, most) | {name for way, name in known if way == "in"}:
        found["in", sender] = _inbound(uow, sender, most)
    for name in {*settings.destinations, *(n for way, n in known if way == "out" and n != STATUS)}:
        found["out", name] = _outbound(uow, _deliveries_to(name, most), most)
    if settings.status_destination is not None:
        found["out", STATUS] = _outbound(uow, _notices(most), most)
    return found


def _suspects(uow: UnitOfWork, most: int) -> set[str]:
    """Return the senders of whom enough has failed lately: few, and found by a small index."""
    row = message_log.c
    return set(
        uow.connection.scalars(
            select(row.sender)
            .where(
                row.direction == "in",
                row.state.in_(_BAD),
                row.received_at > uow.now - _WINDOW,
                func.length(row.sender) <= _LONGEST_NAME,
            )
            .group_by(row.sender)
            .having(func.count() >= most)
        )
    )


def _inbound(uow: UnitOfWork, sender: str, most: int) -> Verdict:
    row = message_log.c
    states = list(
        uow.connection.scalars(
            select(row.state)
            .where(
                row.direction == "in",
                row.sender == sender,
                row.state.not_in(_SILENT),
                row.received_at > uow.now - _WINDOW,
            )
            .order_by(row.id.desc())
            .limit(most)
        )
    )
    return _judged([state in _BAD for state in states], most)


def _judged(bad: list[bool], most: int) -> Verdict:
    """Judge the newest messages, the newest first: one that got through makes a lane well."""
    failures = bad.index(False) if False in bad else len(bad)
    if bad and failures == 0:
        return Verdict(broken=False)
    return Verdict(broken=True if failures >= most else None, failures=failures)


def _deliveries_to(destination: str, most: int) -> Any:
    row = delivery.c
    return (
        select(row.state, row.ack_code, row.attempts)
        .where(row.destination == destination, row.sent_at.is_not(None))
        .order_by(row.sent_at.desc())
        .limit(most)
    )


def _notices(most: int) -> Any:
    row = status_notice.c
    return (
        select(row.state, row.ack_code, row.attempts)
        .where(row.sent_at.is_not(None))
        .order_by(row.sent_at.desc())
        .limit(most)
    )


def _outbound(uow: UnitOfWork, newest: Any, most: int) -> Verdict:
    rows = uow.connection.execute(newest).all()
    failures = 0
    for row in rows:
        if row.state == "accepted":
            break
        failures += row.attempts
    if rows and failures == 0:
        return Verdict(broken=False)
    # Refused once may be that report's fault; no answer at all is the destination's.
    unanswered = bool(rows) and rows[0].ack_code is None
    return Verdict(
        broken=True if unanswered or failures >= most else None,
        failures=failures,
    )
