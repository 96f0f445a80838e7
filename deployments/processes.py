"""The processes of one installation, and the supervisor that keeps them running."""

from __future__ import annotations

import configparser
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from services.database import cluster
from services.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One supervised process.

    Parameters
    ----------
    name : str
    command : tuple of str
    purpose : str
        One line for the operator.
    stop_s : int
        Seconds it may take to finish what it has in hand.
    stop_signal : str
    user : str or None
        Account it runs under, where that is not our own.
    """

    name: str
    command: tuple[str, ...]
    purpose: str
    stop_s: int = 10
    stop_signal: str = "TERM"
    user: str | None = None


PURPOSES = {
    "prefect": "Prefect server and UI",
    "hl7": "MLLP listener",
    "dicom": "worklist, MPPS, storage and commitment SCPs",
    "web": "reading room, DICOMweb, FHIR, health",
    "relay": "starts a flow run for everything that a commit announced",
    "worker-critical": "runs queue critical, and nothing else",
    "worker-routine": "runs queues urgent and routine",
    "worker-heavy": "runs tier migration and recall",
}


def programs(settings: Settings, binaries: Path | None) -> list[Program]:
    """Return every process of the installation; `binaries` are those of the embedded database."""
    own = [
        Program(
            name=name,
            command=(sys.executable, "-m", "deployments.process", name),
            purpose=purpose,
        )
        for name, purpose in PURPOSES.items()
    ]
    if binaries is None:
        return own
    database = Program(
        name="postgres",
        command=tuple(cluster.server_command(settings, binaries)),
        purpose="embedded PostgreSQL",
        stop_s=30,
        # A fast shutdown: SIGTERM would wait for every connection to close by itself.
        stop_signal="INT",
        user=cluster.server_user(),
    )
    return [database, *own]


def write_supervisor_config(settings: Settings, wanted: list[Program]) -> Path:
    """Write supervisord's configuration below the home and return its path."""
    logs, run = settings.home / "log", settings.run_dir
    logs.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": str(logs / "supervisor.log"),
        "pidfile": str(run / "supervisor.pid"),
        "childlogdir": str(logs),
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    config["unix_http_server"] = {"file": str(run / "supervisor.sock"), "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    config["supervisorctl"] = {"serverurl": f"unix://{run / 'supervisor.sock'}"}
    for order, program in enumerate(wanted):
        config[f"program:{program.name}"] = {
            # supervisord expands %(…)s in a command; nothing of ours is meant for it.
            "command": " ".join(_quoted(part) for part in program.command).replace("%", "%%"),
            "priority": str(order),
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "1000000",
            "stopwaitsecs": str(program.stop_s),
            "stopsignal": program.stop_signal,
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(logs / f"{program.name}.log"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "3",
            "directory": "/" if program.user else str(settings.home),
            **({"user": program.user} if program.user else {}),
        }
    path = run / "supervisord.conf"
    with path.open("w") as file:
        config.write(file)
    return path


def die_with_parent() -> None:
    """Have the kernel end this process with its parent, so that a killed supervisor leaves none.

    Linux only; elsewhere `spinecho up` finds ports taken and says so.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _quoted(part: str) -> str:
    return f'"{part}"' if not part or any(c in part for c in " ;'") else part
