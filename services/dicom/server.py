"""The DICOM listener as a process of its own: ``python -m services.dicom.server``."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Final

import structlog
from pydicom import config

from models.errors import SpinechoError, Unavailable
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.scp import StorageServer
from services.journal import configure
from services.settings import Settings

log = structlog.get_logger(__name__)

_FAREWELL_S: Final = 10.0
"""How long established associations may go on after SIGTERM."""


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    configure()
    settings = Settings()
    try:
        serve(settings)
    except SpinechoError as error:
        log.error("DICOM listener not started", code=error.code, reason=str(error))  # noqa: TRY400 (told to an operator)
        return 1
    return 0


def serve(settings: Settings) -> None:
    """Listen until a signal comes; then let open associations end.

    Raises
    ------
    Unavailable
        If the database does not answer, or cleartext off loopback was not allowed.
    """
    if not (settings.is_loopback or settings.allow_cleartext):
        raise Unavailable(
            f"refusing cleartext DICOM on {settings.host}; set SPINECHO_ALLOW_CLEARTEXT=1 if the "
            "network is trusted"
        )
    # Values of others are never worth a warning of the library on every image.
    config.settings.reading_validation_mode = config.IGNORE
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    store = Store(settings, pool_size=16)
    try:
        store.check()
        server = StorageServer(store, Tiers(settings))
        try:
            server.start()
        except OSError as error:
            raise Unavailable(
                f"port {settings.dicom_port} of {settings.host} cannot be used: {error.strerror}"
            ) from error
        stopped.wait()
        server.stop_listening()
        deadline = time.monotonic() + _FAREWELL_S
        while server.busy and time.monotonic() < deadline:
            time.sleep(0.05)
        server.close()
        log.info("DICOM listener stopped")
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
