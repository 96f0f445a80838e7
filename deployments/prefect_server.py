"""The embedded Prefect server: how it is started, and how our processes reach it.

Everything here is a value: two environments and a command line. The supervisor starts the process.
Prefect is the window onto the work and not the truth, so the settings aim at little idle load,
nothing that leaves the house, and state that may be thrown away after days (events) or months
(runs).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
EVENT_RETENTION_DAYS = 3
RUN_RETENTION_DAYS = 90
_DAY = 24 * 60 * 60

# Settings that Prefect reads straight from the environment, past its settings model.
OUTSIDE_THE_MODEL = frozenset({"DO_NOT_TRACK", "PREFECT_SERVER_ENCRYPTION_KEY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSecrets:
    """What only the owner of ``SPINECHO_HOME`` may read.

    Parameters
    ----------
    auth_string : str
        Basic authentication as ``user:password``; the UI asks for it once.
    encryption_key : str
        Fernet key of Prefect's secret blocks. Without it Prefect keeps the key in the same
        database as the secrets.
    """

    auth_string: str
    encryption_key: str


def server_secrets(home: Path) -> ServerSecrets:
    """Read the server's secrets, generating each one on first use.

    Parameters
    ----------
    home : Path
        ``SPINECHO_HOME``; the files lie in its ``secrets`` folder with mode 0600.

    Returns
    -------
    ServerSecrets
    """
    folder = home / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ServerSecrets(
        auth_string=_secret(folder / "prefect_auth", f"spinecho:{secrets.token_urlsafe(24)}"),
        encryption_key=_secret(
            folder / "prefect_encryption_key",
            base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii"),
        ),
    )


def _secret(path: Path, fresh: str) -> str:
    # Written beside and linked into place: of two processes that start at once one wins, both
    # read the winner's value, and nobody ever reads half a secret.
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(fresh)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return path.read_text(encoding="ascii").strip()


def database_url(socket_directory: Path | str, *, database: str = "prefect") -> str:
    """Name Prefect's database on the embedded PostgreSQL, over its Unix socket."""
    return f"postgresql+asyncpg://postgres@/{database}?host={socket_directory}"


def api_url(port: int) -> str:
    """Where the embedded server answers."""
    return f"http://{LOOPBACK}:{port}/api"


def _common_environment(home: Path, port: int) -> dict[str, str]:
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_API_URL": api_url(port),
        "PREFECT_API_AUTH_STRING": server_secrets(home).auth_string,
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        # Without it a missing server silently becomes a second, private one on SQLite.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_LOGGING_COLORS": "false",
    }


def server_environment(*, home: Path, port: int, database_url: str) -> dict[str, str]:
    """Give the environment of the embedded server.

    Parameters
    ----------
    home : Path
        ``SPINECHO_HOME``.
    port : int
        TCP port on loopback.
    database_url : str
        SQLAlchemy address with the asyncpg driver, as of `database_url`.

    Returns
    -------
    dict of str to str
        Only what we decide; lay it over the process's own with `process_environment`.
    """
    keys = server_secrets(home)
    services = "PREFECT_SERVER_SERVICES"
    return _common_environment(home, port) | {
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": keys.auth_string,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        # A worker fetches one token for each client it opens; with one client for its whole life
        # a day's token spares it the refresh in the middle of a study.
        "PREFECT_SERVER_API_CSRF_TOKEN_EXPIRATION": "P1D",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{port}",
        # Longer than any poll, so that pollers keep their connection instead of opening one each.
        "PREFECT_SERVER_API_KEEPALIVE_TIMEOUT": "60",
        "PREFECT_SERVER_ENCRYPTION_KEY": keys.encryption_key,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        # Nothing that leaves the house, nothing that sells.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The recorders take one message a turn by default and fall behind on a busy morning.
        f"{services}_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
        f"{services}_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        f"{services}_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        f"{services}_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
        f"{services}_EVENT_PERSISTER_BATCH_SIZE": "200",
        f"{services}_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
        f"{services}_TRIGGERS_READ_BATCH_SIZE": "50",
        # Most of the database is events.
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{EVENT_RETENTION_DAYS}D",
        f"{services}_DB_VACUUM_ENABLED": "events,flow_runs",
        f"{services}_DB_VACUUM_RETENTION_PERIOD": str(RUN_RETENTION_DAYS * _DAY),
        f"{services}_DB_VACUUM_EVENT_RETENTION_OVERRIDES": json.dumps(
            {"prefect.flow-run.heartbeat": _DAY}
        ),
        # Nothing here pauses a run or cleans up infrastructure.
        f"{services}_PAUSE_EXPIRATIONS_ENABLED": "false",
        f"{services}_CLEANUP_RECONCILER_ENABLED": "false",
        # A restarted server must know whose slots to free, or a limit of one stays taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        # Sixty waiting runs of a sweep that comes every minute help nobody.
        f"{services}_SCHEDULER_MIN_SCHEDULED_TIME": "PT3M",
        # The rest looks for slow things; it need not look every five seconds.
        f"{services}_LATE_RUNS_LOOP_SECONDS": "20",
        f"{services}_LATE_RUNS_AFTER_SECONDS": "60",
        f"{services}_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
        f"{services}_FOREMAN_LOOP_SECONDS": "30",
        f"{services}_REPOSSESSOR_LOOP_SECONDS": "30",
        f"{services}_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "30",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT15S",
    }


def client_environment(*, home: Path, port: int) -> dict[str, str]:
    """Give the environment of every process of ours that talks to the server.

    Parameters
    ----------
    home : Path
        ``SPINECHO_HOME``.
    port : int
        TCP port on which the server listens on loopback.

    Returns
    -------
    dict of str to str
    """
    return _common_environment(home, port) | {
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        # Server and client come from one lock file.
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_API_REQUEST_TIMEOUT": "30",
        # Thirty seconds is the least that Prefect accepts; the sweeper misses three of them.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "0.25",
        "PREFECT_WORKER_PREFETCH_SECONDS": "0",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "30",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "2",
        # Results of a stage are rows in our database, not pickles on a disk.
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    }


def server_command(*, port: int) -> list[str]:
    """Give the command line that runs the server in the foreground."""
    return [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
    ]


def process_environment(
    settings: Mapping[str, str], *, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Lay our settings over a process's environment, free of Prefect settings from elsewhere.

    An operator's shell may carry ``PREFECT_API_URL`` of another installation; mixing the two
    would send study ids there.
    """
    inherited = os.environ if base is None else base
    kept = {name: value for name, value in inherited.items() if not name.startswith("PREFECT_")}
    return kept | dict(settings)
