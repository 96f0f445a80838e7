"""Whether the process lives, whether it can serve, and the figures that a monitor collects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage
from typing import Any

import structlog
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from models.errors import Unavailable
from models.lifecycle import StudyState
from models.priority import Priority
from services.database.store import Store, UnitOfWork
from services.database.studies import READABLE
from services.database.tables import critical_result, delivery, desk, lane, outbox, report, study
from services.settings import Settings

log = structlog.get_logger(__name__)


def router(settings: Settings, store: Store) -> APIRouter:
    """Return the routes that need no sign-in."""
    routes = APIRouter(tags=["health"])
    registry = CollectorRegistry()
    registry.register(_Figures(settings, store))

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz")
    def readyz() -> JSONResponse:
        parts = {"database": _database(store), "disk": _disk(settings)}
        ready = all(part["state"] == "ok" for part in parts.values())
        body = {"status": "ready" if ready else "not ready", "parts": parts}
        return JSONResponse(body, 200 if ready else 503)

    @routes.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes


def _database(store: Store) -> dict[str, Any]:
    try:
        store.check()
    except Unavailable as error:
        return {"state": "down", "detail": str(error)}
    return {"state": "ok"}


def _disk(settings: Settings) -> dict[str, Any]:
    try:
        free = _free(settings) // 2**20
    except OSError as error:
        return {"state": "down", "detail": error.strerror}
    floor = settings.disk_floor_mb
    return {"state": "ok" if free >= floor else "full", "free_mb": free, "floor_mb": floor}


def _free(settings: Settings) -> int:
    # The hot tier appears with the first image; until then its disk is its parent's.
    place: Path = settings.hot_root
    while not place.exists() and place != place.parent:
        place = place.parent
    return disk_usage(place).free


class _Figures(Collector):
    """Reads every figure from the database at the moment it is asked for, so none can drift."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def describe(self) -> list[Metric]:
        """Say nothing: registering must not need the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; without a database only the disk and that it is down."""
        yield GaugeMetricFamily(
            "spinecho_disk_free_bytes",
            "Free bytes on the disk of the hot tier.",
            value=_free(self._settings),
        )
        try:
            with self._store() as uow:
                figures = list(_figures(uow))
        except SQLAlchemyError as error:
            log.error("figures unavailable", kind=type(error).__name__)  # noqa: TRY400 (its text may quote data)
            figures = []
        yield GaugeMetricFamily(
            "spinecho_database_up", "1 if the database answers.", value=1 if figures else 0
        )
        yield from figures


def _figures(uow: UnitOfWork) -> Iterator[Metric]:
    states = GaugeMetricFamily("spinecho_studies", "Studies by state.", labels=["state"])
    counted = dict.fromkeys((state.value for state in StudyState), 0)
    for row in uow.studies.select(
        select(study.c.state, func.count().label("n")).group_by(study.c.state)
    ):
        counted[row.state] = row.n
    for state, number in counted.items():
        states.add_metric([state], number)
    yield states

    unread = GaugeMetricFamily(
        "spinecho_unread_studies", "Readable studies without a final report.", labels=["priority"]
    )
    waiting = dict.fromkeys(Priority, 0)
    for row in uow.studies.select(
        select(study.c.priority, func.count().label("n"))
        .where(study.c.state.in_(READABLE))
        .group_by(study.c.priority)
    ):
        waiting[Priority(row.priority)] = row.n
    for priority, number in waiting.items():
        unread.add_metric([priority.name.lower()], number)
    yield unread

    for name, text, query in (
        (
            "spinecho_outbox_open",
            "Stages that were announced and are not done.",
            select(func.count().label("n")).select_from(outbox).where(outbox.c.done_at.is_(None)),
        ),
        (
            "spinecho_deliveries_unaccepted",
            "Deliveries that their destination has not accepted.",
            select(func.count().label("n"))
            .select_from(delivery)
            .where(delivery.c.state != "accepted"),
        ),
        (
            "spinecho_desk_open",
            "Rows that wait on the reconciliation desk.",
            select(func.count().label("n")).select_from(desk).where(desk.c.resolved_at.is_(None)),
        ),
        (
            "spinecho_critical_unacknowledged",
            "Critical results that no person has acknowledged.",
            select(func.count().label("n"))
            .select_from(critical_result)
            .where(critical_result.c.acknowledged_at.is_(None)),
        ),
    ):
        yield GaugeMetricFamily(name, text, value=uow.studies.select(query)[0].n)

    broken = GaugeMetricFamily(
        "spinecho_lane_broken",
        "1 while a sender's messages or those to a destination do not get through.",
        labels=["direction", "lane"],
    )
    for row in uow.studies.select(select(lane.c.direction, lane.c.name, lane.c.broken)):
        broken.add_metric([row.direction, row.name], int(row.broken))
    yield broken

    signed = CounterMetricFamily(
        "spinecho_reports_signed", "Report versions signed.", labels=["status"]
    )
    for row in uow.studies.select(
        select(report.c.status, func.count().label("n")).group_by(report.c.status)
    ):
        signed.add_metric([row.status], row.n)
    yield signed
