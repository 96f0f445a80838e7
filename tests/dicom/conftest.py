from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.scp import StorageServer
from services.settings import Settings


@dataclass
class Listener:
    """The listener under test, in this process, on a port of its own."""

    store: Store
    tiers: Tiers
    settings: Settings
    server: StorageServer
    port: int


@pytest.fixture
def tiers(settings: Settings) -> Tiers:
    return Tiers(settings.model_copy(update={"dicom_port": 0, "disk_floor_mb": 1}))


@pytest.fixture
def listener(store: Store, tiers: Tiers) -> Iterator[Listener]:
    server = StorageServer(store, tiers)
    port = server.start()
    yield Listener(store, tiers, tiers.settings, server, port)
    # the library looks every half second whether to stop; a knock makes it look now
    threading.Timer(0.02, _knock, (port,)).start()
    server.close()


def _knock(port: int) -> None:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
