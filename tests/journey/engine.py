"""``spinecho up`` as an operator starts it, and the means to kill any part of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

import httpx
import psutil
from supervisor.xmlrpc import SupervisorTransport

from deployments.installation import PORTS, environment, free_ports
from services.settings import Settings


class Engine:
    """One installation in a process of its own.

    Parameters
    ----------
    settings : Settings
        Its home must be reachable by the database's account.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._up: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 150) -> None:
        """Start it and wait until it serves."""
        log = (self.settings.home / "up.log").open("ab")
        with log:
            self._up = subprocess.Popen(
                [Path(sys.executable).with_name("spinecho"), "up"],
                env=os.environ | environment(self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            assert self._up.poll() is None, self._journal()
            assert time.monotonic() < deadline, self._journal()
            time.sleep(0.3)

    def kill(self, name: str) -> None:
        """SIGKILL one part: a supervised process, ``model``, ``supervisor``, ``up``, or all."""
        assert self._up is not None
        if name in {"up", "supervisor", "everything"}:
            victims = {
                "up": [self._top()],
                "supervisor": self._top().children(),
                # Parents first, so that no supervisor starts anything anew.
                "everything": [self._top(), *self._top().children(recursive=True)],
            }[name]
            for victim in victims:
                victim.kill()
            self._up.wait(60)
            return
        if name == "model":
            below = self._top().children(recursive=True)
            spawned = [p for p in below if any("spawn_main" in part for part in p.cmdline())]
            assert spawned, "no worker has its model"
            spawned[0].kill()
            return
        psutil.Process(self._pid(name)).kill()

    def wait_for_restart(self, timeout_s: float = 60) -> None:
        """Wait until every supervised process runs again."""
        deadline = time.monotonic() + timeout_s
        while any(state != "RUNNING" for state in self._states().values()):
            assert time.monotonic() < deadline, self._states()
            time.sleep(0.2)

    def stop(self) -> None:
        """SIGTERM, as an operator would; it must end by itself."""
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            self._up.wait(90)

    def _top(self) -> psutil.Process:
        assert self._up is not None
        return psutil.Process(self._up.pid)

    def _is_ready(self) -> bool:
        try:
            ready = httpx.get(f"{self.settings.http_url}/readyz", timeout=5).is_success
            prefect = httpx.get(f"{self.settings.prefect_url}/api/health", timeout=5).is_success
        except httpx.HTTPError:
            return False
        return ready and prefect

    def _states(self) -> dict[str, str]:
        return {p["name"]: p["statename"] for p in self._ask().supervisor.getAllProcessInfo()}

    def _pid(self, name: str) -> int:
        return int(self._ask().supervisor.getProcessInfo(name)["pid"])

    def _ask(self) -> Any:
        address = f"unix://{self.settings.run_dir / 'supervisor.sock'}"
        transport = SupervisorTransport(None, None, serverurl=address)
        return ServerProxy("http://supervisor", transport=transport)

    def _journal(self) -> str:
        return (self.settings.home / "up.log").read_text()[-2000:]


@contextmanager
def installed(emr_port: int, status_port: int) -> Iterator[Engine]:
    """An installation that is up, sending its reports and statuses to these ports."""
    # Not below pytest's own directory, which the database's account may not enter.
    home = Path(tempfile.mkdtemp(prefix="spinecho-journey-", dir="/var/tmp"))
    home.chmod(0o755)
    engine = Engine(
        Settings(
            home=home,
            **free_ports(*PORTS),  # type: ignore[arg-type]
            destinations={"emr": f"mllp://127.0.0.1:{emr_port}"},
            status_destination=f"mllp://127.0.0.1:{status_port}",
            quiet_s=5,
            reconcile_s=10,
        )
    )
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(home, ignore_errors=True)
