"""The web server as the process that an installation runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments.installation import free_port
from services.database.store import Store
from services.settings import Settings
from tests.web.department import CASES, morning

REPOSITORY = Path(__file__).parents[2]


def start(settings: Settings, **variables: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPINECHO_")}
    environment |= {
        "SPINECHO_HOME": str(settings.home),
        "SPINECHO_DATABASE_URL": settings.store_url,
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.web.server"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(settings: Settings, store: Store, port: int) -> Iterator[subprocess.Popen[bytes]]:
    morning(store, CASES[:1])
    started = start(settings, SPINECHO_HTTP_PORT=str(port))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    yield started
    started.kill()
    started.communicate()


def test_it_serves_everything_and_stops_although_a_page_is_open(
    process: subprocess.Popen[bytes], port: int
) -> None:
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url) as http, http.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        assert http.get("/readyz").status_code == 200
        assert http.get("/").status_code == 200
        assert http.get("/fhir/r4/metadata").json()["resourceType"] == "CapabilityStatement"
        http.get(f"/api/studies/{CASES[0].accession}")
        http.get("/nowhere", params={"name": CASES[0].name})
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        list(lines)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    assert time.monotonic() - begun < 5
    # Nothing of a patient is logged, and an address may be of a patient.
    for secret in (CASES[0].accession, CASES[0].mrn, "ALDERBOURNE", CASES[0].study_uid):
        assert secret.encode() not in output


def test_a_taken_port_is_said_in_one_line(settings: Settings, store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        process = start(settings, SPINECHO_HTTP_PORT=taken)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"port {taken} of 127.0.0.1 cannot be used".encode() in output
    assert b"Traceback" not in output


def test_cleartext_off_loopback_is_refused(settings: Settings, store: Store) -> None:
    process = start(settings, SPINECHO_HOST="0.0.0.0")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"refusing cleartext HTTP" in output
