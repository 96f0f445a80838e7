"""One installation, started, watched and stopped: what ``spinecho up`` does."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx

from deployments.prefect_server import LOOPBACK
from deployments.process import start_supervisor
from deployments.processes import programs, write_supervisor_config
from models.errors import Unavailable
from services.database import cluster
from services.settings import Settings

Running = subprocess.Popen[bytes]
"""The supervisor of an installation."""
PORTS = {
    "hl7_port": "HL7 v2 over MLLP",
    "dicom_port": "DICOM",
    "http_port": "reading room, DICOMweb, FHIR",
    "prefect_port": "Prefect",
}
_TRIES = 200


@contextmanager
def installation(settings: Settings, say: Callable[[str], None]) -> Iterator[Running]:
    """Run an installation for the length of a ``with`` block; stop it cleanly afterwards.

    Parameters
    ----------
    settings : Settings
        Also written into the environment of every process.
    say : callable
        Told, in one line, what is being waited for.

    Raises
    ------
    Unavailable
        If another installation holds the home, a port is taken, or a part does not come up.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with _only_one(settings):
        binaries = None
        if settings.database_url is None:
            say("preparing the database")
            binaries = cluster.prepare(settings)
            cluster.stop_orphan(settings)
        _require_free_ports(settings)
        os.environ.update(environment(settings))
        config = write_supervisor_config(settings, programs(settings, binaries))
        supervisor = start_supervisor(str(config))
        try:
            cluster.migrate_when_ready(settings)
            _wait_until_serving(settings, supervisor, say)
            yield supervisor
        finally:
            with suppress(ProcessLookupError):
                supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(60)


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as ``SPINECHO_*`` variables, as every process of ours reads them."""
    values: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, dict):
            for key, entry in value.items():
                values[f"SPINECHO_{name.upper()}__{key}"] = str(entry)
        elif value is not None:
            values[f"SPINECHO_{name.upper()}"] = str(value)
    return values


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    with (settings.run_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(f"an installation is already up in {settings.home}") from None
        yield


def _require_free_ports(settings: Settings) -> None:
    for name, purpose in PORTS.items():
        port = getattr(settings, name)
        # What a crash left behind may need a moment to let go.
        deadline = time.monotonic() + 15
        while True:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host_of(settings, name), port))
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"port {port} ({purpose}) is taken; stop what uses it or set "
                            f"SPINECHO_{name.upper()}"
                        ) from error
            time.sleep(0.5)


def _wait_until_serving(
    settings: Settings, supervisor: subprocess.Popen[bytes], say: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + 120
    waiting: dict[str, Callable[[], bool]] = {
        "the HL7 listener": lambda: _answers(settings.host, settings.hl7_port),
        "the DICOM listener": lambda: _answers(settings.host, settings.dicom_port),
        "the reading room": lambda: _ok(f"{settings.http_url}/readyz"),
        "Prefect": lambda: _ok(f"{settings.prefect_url}/api/health"),
    }
    for name, ready in waiting.items():
        say(f"waiting for {name}")
        while not ready():
            if supervisor.poll() is not None:
                raise Unavailable(f"the supervisor ended; see {settings.home / 'log'}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} did not come up; see {settings.home / 'log'}")
            time.sleep(0.25)


def free_ports(*names: str) -> dict[str, int]:
    """Return, for each name, another port of loopback that nobody listens on at the moment.

    They are below the ports that systems hand out by themselves (RFC 6335 §6: from 49152; Linux:
    from 32768), where a connection of someone else's could take one before it is listened on.
    """
    with ExitStack() as probes:
        return {name: _hold(probes) for name in names}


def free_port() -> int:
    """Return one such port."""
    return free_ports("any")["any"]


def _hold(probes: ExitStack) -> int:
    for _ in range(_TRIES):
        port = 10_000 + secrets.randbelow(22_000)
        with suppress(OSError):
            probes.enter_context(socket.create_server((LOOPBACK, port)))
            return port
    raise OSError(errno.EADDRINUSE, "no free port was found on loopback")


def host_of(settings: Settings, port: str) -> str:
    """Return where the part that has this port setting listens: Prefect never leaves the house."""
    return LOOPBACK if port == "prefect_port" else settings.host


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def forget(settings: Settings) -> None:
    """Delete all state of a stopped installation; the demonstration starts afresh with it."""
    shutil.rmtree(settings.home, ignore_errors=True)
