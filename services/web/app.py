"""The HTTP application: health, API, pages, and whatever is mounted beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from services.database.store import Store
from services.fhir.versions import R4, R5
from services.settings import Settings
from services.web import api, desk, health, pages, problems, pulse
from services.web.guard import Guard
from services.web.rendering import STATIC

DICOMWEB = "/dicom-web"
FHIR_R4 = R4.path
FHIR_R5 = R5.path


def create_app(
    settings: Settings, store: Store, *, mounts: Mapping[str, ASGIApp] | None = None
) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    mounts : mapping of path to ASGI application, optional
        Served below their paths, such as `DICOMWEB` and `FHIR_R4`. They answer errors in their
        own way and set their own content policy and limits; host and origin are checked here.

    Notes
    -----
    There is no sign-in: the default address is loopback, and `services.web.server` refuses any
    other one unless cleartext was allowed.
    """
    mounts = mounts or {}
    heart = pulse.Pulse(store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        heart.close()

    app = FastAPI(
        title="Spinecho",
        docs_url=None,  # its page loads script from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.pulse = heart
    problems.install(app)
    app.add_middleware(Guard, mounted=tuple(mounts), hosts=_hosts(settings))
    for routes in (
        health.router(settings, store),
        api.router(store),
        desk.router(store, settings),
        desk.pages(store, settings),
        pulse.router(heart),
        pages.router(store, dicomweb=DICOMWEB if DICOMWEB in mounts else None),
    ):
        app.include_router(routes)
    app.mount("/static", _Static(directory=STATIC), name="static")
    for path, mounted in mounts.items():
        app.router.routes.append(Route(path, _AtBase(mounted)))
        app.mount(path, mounted)
    return app


def _hosts(settings: Settings) -> tuple[str, ...]:
    # Off loopback the names of this machine are not known here.
    if not settings.is_loopback:
        return ()
    return ("127.0.0.1", "::1", "localhost", settings.host, *settings.http_hosts)


class _AtBase:
    """A mounted application asked at its very path: a redirect would lose a client's POST."""

    def __init__(self, mounted: ASGIApp) -> None:
        self._mounted = mounted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        base = scope["path"]
        root = scope.get("root_path", "") + base
        await self._mounted({**scope, "path": f"{base}/", "root_path": root}, receive, send)


class _Static(StaticFiles):
    """Our own few files, whose addresses carry their digest."""

    async def get_response(self, path: str, scope: dict[str, object]) -> Response:  # type: ignore[override]
        """Return the file, to be kept for ever if it was asked for by digest."""
        answer = await super().get_response(path, scope)
        if answer.status_code == 200 and Request(scope).query_params.get("v"):
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer
