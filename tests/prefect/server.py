"""A real Prefect server on the session's PostgreSQL, and warm workers as real processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)

from deployments.applying import apply
from deployments.installation import free_port
from deployments.prefect_server import (
    api_url,
    client_environment,
    process_environment,
    server_command,
    server_environment,
    server_secrets,
)
from services.database import cluster
from services.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
Result = TypeVar("Result")


@dataclass
class Prefect:
    """The embedded server and the workers of a session."""

    home: Path
    port: int
    database_url: str
    process: subprocess.Popen[bytes] | None = None
    ready_s: float = 0.0
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        environment = process_environment(
            server_environment(home=self.home, port=self.port, database_url=self.database_url)
            # A new deployment's schedule is looked at at once, so that a test can wait for it.
            | {"PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "3"}
        )
        began = time.monotonic()
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                server_command(port=self.port), env=environment, stdout=log, stderr=log
            )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - began > 60:
                pytest.fail((self.home / "server.log").read_text()[-4000:])
            time.sleep(0.1)
        self.ready_s = time.monotonic() - began

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{api_url(self.port)}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def start_worker(
        self, name: str, *queues: str, pool: str = "clinical", limit: int = 2
    ) -> subprocess.Popen[bytes]:
        environment = process_environment(client_environment(home=self.home, port=self.port)) | {
            "PYTHONPATH": f"{ROOT}:{HERE}",
            "PROBE": str(self.probe),
        }
        command = [
            *(sys.executable, "-m", "deployments.worker", "--pool", pool, "--name", name),
            *("--limit", str(limit), "--flows", "placeholder_flows:FLOWS"),
            *(part for queue in queues for part in ("--queue", queue)),
        ]
        with (self.home / f"{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=ROOT
            )
        return self.workers[name]

    @property
    def probe(self) -> Path:
        return self.home / "probe"

    def noted(self, what: str, prefix: str) -> dict[str, float]:
        """Subjects that begin with `prefix`, and when their flows began or ended."""
        lines = [line.split() for line in self.probe.read_text().splitlines()]
        return {s: float(at) for w, s, at in lines if w == what and s.startswith(prefix)}

    def wait_noted(self, what: str, subjects: Sequence[str], *, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not set(subjects) <= set(self.noted(what, "")):
            if time.monotonic() > deadline:
                logs = "\n".join(p.read_text()[-1500:] for p in self.home.glob("*.log"))
                pytest.fail(f"not {what} within {seconds} s: {subjects}\n{logs}")
            time.sleep(0.05)

    def ask(self, question: Callable[[PrefectClient], Awaitable[Result]]) -> Result:
        """Open a client, as our processes do, and put a question to the server."""

        async def asked() -> Result:
            async with get_client() as client:
                return await question(client)

        return self.here(asked)

    def here(self, act: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Do something in this process as a client of the server, such as running a flow."""
        settings = {
            PREFECT_API_URL: api_url(self.port),
            PREFECT_API_AUTH_STRING: server_secrets(self.home).auth_string,
            PREFECT_HOME: self.home / "prefect",
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        }

        async def acted() -> Result:
            try:
                return await act()
            finally:
                # What a run logs is sent a moment later, and the server may be gone by then.
                await APILogHandler.aflush()

        with temporary_settings(updates=settings):
            return asyncio.run(acted())

    def stop(self) -> None:
        # Workers first, as the supervisor does: a worker says goodbye to the server.
        for group in ([*self.workers.values()], [self.process]):
            for process in group:
                if process is not None and process.poll() is None:
                    process.terminate()
            for process in group:
                if process is not None:
                    try:
                        process.wait(15)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


@contextmanager
def running(settings: Settings, home: Path) -> Iterator[Prefect]:
    """A server with the catalogue, whose deployments know the placeholder flows."""
    cluster.migrate(settings)
    server = Prefect(home=home, port=free_port(), database_url=settings.prefect_store_url)
    server.probe.touch()
    sys.path.insert(0, str(HERE))
    from placeholder_flows import FLOWS

    try:
        server.start()
        server.ask(lambda client: apply(client, flows=FLOWS))
        yield server
    finally:
        server.stop()
        sys.path.remove(str(HERE))
