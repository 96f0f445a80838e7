"""Server-sent events: every open page learns within a second that something has changed.

One query a second serves all pages together, and none is made while no page is open.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Final

import structlog
from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from services.database.store import Store
from services.database.tables import delivery, timeline
from services.web.reading_list import reading_list

log = structlog.get_logger(__name__)

_KEEP_ALIVE_S: Final = 15.0
_SHOWN: Final = 200
"""Studies whose lines are watched: what a reading-list page shows at most."""


class Pulse:
    """Watches the store while pages are open and wakes them when it has changed.

    Parameters
    ----------
    every_s : float
        Seconds between two looks.
    """

    def __init__(self, store: Store, every_s: float = 1.0) -> None:
        self._store = store
        self._every_s = every_s
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._state = ""
        self._closed = False

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events until the page goes or the server stops."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._readers.add(queue)
        try:
            yield "retry: 2000\n\n"
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._watching())
            elif self._state:
                yield _event(self._state)
            while not self._closed:
                try:
                    state = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
                except TimeoutError:
                    # A comment keeps proxies from closing the line and finds dead pages.
                    yield ": here\n\n"
                    continue
                if state is None:
                    return
                yield _event(state)
        finally:
            self._readers.discard(queue)

    def close(self) -> None:
        """End every stream, so that the server need not wait for pages to go."""
        self._closed = True
        for queue in self._readers:
            queue.put_nowait(None)

    async def _watching(self) -> None:
        self._state = ""
        while self._readers and not self._closed:
            try:
                state = await to_thread.run_sync(self._look)
            except SQLAlchemyError as error:
                log.warning("cannot watch for changes", kind=type(error).__name__)
            else:
                if state != self._state:
                    self._state = state
                    for queue in self._readers:
                        queue.put_nowait(state)
            await asyncio.sleep(self._every_s)

    def _look(self) -> str:
        with self._store() as uow:
            page = reading_list(uow, limit=_SHOWN)
            newest = uow.studies.select(
                select(
                    select(func.max(timeline.c.id)).scalar_subquery(),
                    select(func.max(delivery.c.sent_at)).scalar_subquery(),
                    select(func.max(delivery.c.accepted_at)).scalar_subquery(),
                )
            )
        seen = json.dumps([page.studies, page.unacknowledged, page.total, str(newest)])
        return sha256(seen.encode()).hexdigest()[:16]


def router(pulse: Pulse) -> APIRouter:
    """Return the route of the event stream."""
    routes = APIRouter(tags=["events"])

    @routes.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(
            pulse.events(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


def _event(state: str) -> str:
    # Only a fingerprint travels: the page asks for what it shows.
    return f"event: changed\ndata: {state}\n\n"
