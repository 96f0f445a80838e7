"""The HTTP application as a process of its own: ``python -m services.web.server``."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from models.errors import SpinechoError, Unavailable
from services.database.store import Store
from services.fhir.api import fhir_app
from services.fhir.versions import VERSIONS
from services.journal import configure
from services.settings import Settings
from services.web.app import DICOMWEB, create_app

log = structlog.get_logger(__name__)

_FAREWELL_S: Final = 10
"""How long answers under way may go on after SIGTERM."""


class Server(uvicorn.Server):
    """A server that ends its event streams as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._application = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; an open page would otherwise hold the process until the farewell is over."""
        self._application.state.pulse.close()
        super().handle_exit(sig, frame)


def mounts(settings: Settings, store: Store) -> dict[str, ASGIApp]:
    """Return the applications that are served beside the pages, by path."""
    served: dict[str, ASGIApp] = {}
    try:
        dicomweb = import_module("services.dicomweb").dicomweb_app
        tiers = import_module("services.archive.tiers").Tiers
    except (ImportError, AttributeError):
        log.warning("DICOMweb is not part of this build")
    else:
        served[DICOMWEB] = dicomweb(store, tiers(settings))
    # An ImagingStudy names where its images are found only if they are.
    images = DICOMWEB if DICOMWEB in served else None
    for version in VERSIONS:
        served[version.path] = fhir_app(store, settings=settings, dicomweb=images, version=version)
    return served


def build(settings: Settings, store: Store) -> Server:
    """Return the server, ready to run."""
    app = create_app(settings, store, mounts=mounts(settings, store))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.http_port,
        # An access log would hold accession numbers and identifiers: who saw what belongs to the
        # audit trail.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_FAREWELL_S,
    )
    return Server(config, app)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    configure()
    settings = Settings()
    store = Store(settings, pool_size=16)
    try:
        serve(settings, store)
    except SpinechoError as error:
        log.error("web server not started", code=error.code, reason=str(error))  # noqa: TRY400 (told to an operator)
        return 1
    finally:
        store.close()
    return 0


def serve(settings: Settings, store: Store) -> None:
    """Serve until a signal comes.

    Raises
    ------
    Unavailable
        If the database does not answer, the port is taken, or cleartext off loopback was not
        allowed.
    """
    if not (settings.is_loopback or settings.allow_cleartext):
        raise Unavailable(
            f"refusing cleartext HTTP on {settings.host}; set SPINECHO_ALLOW_CLEARTEXT=1 if the "
            "network is trusted"
        )
    store.check()
    server = build(settings, store)

    def leave(_number: int, _frame: FrameType | None) -> None:
        # Before uvicorn listens for signals it stops at once; afterwards uvicorn passes the
        # signal on to here, when it has done its work.
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        server.run()
    except SystemExit as error:
        raise Unavailable(f"port {settings.http_port} of {settings.host} cannot be used") from error
    log.info("web server stopped")


if __name__ == "__main__":
    sys.exit(main())
