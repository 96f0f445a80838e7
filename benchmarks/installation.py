"""A throw-away installation: its directory, its database, its processes, its free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deployments.installation import PORTS, free_ports
from services.database import cluster
from services.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def workspace() -> Iterator[Path]:
    """Yield an empty directory on a real disk that the database's own account can reach."""
    # Not /tmp, which is memory on many machines; not $HOME, which is closed to the account.
    directory = Path(tempfile.mkdtemp(prefix="spinecho-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def configure(home: Path) -> Settings:
    """Return settings of an installation of its own, whatever the caller's environment says."""
    return Settings(
        home=home,
        host="127.0.0.1",
        database_url=None,
        prefect_database_url=None,
        **free_ports(*PORTS),  # type: ignore[arg-type]
    )


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which our processes see `settings`, and nothing of ours else."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SPINECHO_", "PREFECT_"))}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "SPINECHO_HOME": str(settings.home),
        "SPINECHO_HOST": settings.host,
        "SPINECHO_HL7_PORT": str(settings.hl7_port),
        "SPINECHO_DICOM_PORT": str(settings.dicom_port),
        "SPINECHO_HTTP_PORT": str(settings.http_port),
        "SPINECHO_PREFECT_PORT": str(settings.prefect_port),
    }


@contextmanager
def database(home: Path) -> Iterator[Settings]:
    """Run the embedded PostgreSQL below `home`, migrated."""
    settings = configure(home)
    with cluster.running(settings):
        yield settings


@contextmanager
def process(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    log: Path,
    stop_s: float = 15,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the length of a ``with`` block; its output goes to `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            # Elsewhere, a spinecho.toml of the caller's would be read.
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(stop_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def listening(
    command: Sequence[str | Path], port: int, *, env: Mapping[str, str] | None = None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process and yield once it accepts connections on `port`.

    Raises
    ------
    RuntimeError
        If it ends or does not listen within half a minute; the message carries its output.
    """
    with process(command, env=env, log=log) as child:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} does not listen on {port}:\n{said}") from None
                time.sleep(0.05)
            else:
                break
        yield child


def ours(module: str) -> list[str]:
    """Return the command that runs one of our modules as a process."""
    return [sys.executable, "-m", module]
