"""``python -m deployments.process NAME``: one supervised process, once what it needs is there."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress

import structlog

from deployments.processes import die_with_parent
from models.errors import ModelError, Unavailable
from services import journal
from services.database.store import Store
from services.settings import Settings

log = structlog.get_logger()

WORKERS = {
    "worker-critical": ("clinical", ("critical",), 4),
    "worker-routine": ("clinical", ("urgent", "routine"), 3),
    "worker-heavy": ("heavy", ("default",), 1),
}
"""Process → pool, queues, runs at the same time."""


def main(name: str) -> None:
    """Run the process called `name`."""
    if name == "supervisor":
        # Between `spinecho up` and supervisord: a supervisor never outlives the one who started it.
        _exec_guarded([sys.executable, "-m", "supervisor.supervisord", "-c", sys.argv[2]])
    die_with_parent()
    journal.configure()
    settings = Settings()
    wait_for_store(settings)
    log.info("process.start", name=name)
    if name == "prefect":
        from deployments.prefect_server import (
            process_environment,
            server_command,
            server_environment,
        )

        environment = server_environment(
            home=settings.home,
            port=settings.prefect_port,
            database_url=settings.prefect_store_url,
        )
        command = server_command(port=settings.prefect_port)
        os.execvpe(command[0], command, process_environment(environment))
    if name in {"hl7", "dicom", "web"}:
        runpy.run_module(f"services.{name}.server", run_name="__main__")
        return
    _use_prefect(settings)
    if name == "relay":
        from deployments.dispatcher import main as dispatch

        asyncio.run(dispatch(settings))
        return
    from deployments.worker import main as work

    pool, queues, limit = WORKERS[name]
    if pool == "clinical":
        from tasks.parts import model

        # The first critical head of the day must not wait for a model to load. One that cannot be
        # loaded is told of where it is missed: on the study.
        with suppress(ModelError):
            model()
    arguments = ["--pool", pool, "--limit", str(limit), "--name", name]
    for queue in queues:
        arguments += ["--queue", queue]
    sys.exit(work(arguments))


def wait_for_store(settings: Settings) -> None:
    """Wait until the database answers and carries our tables."""
    store = Store(settings, pool_size=1)
    while True:
        try:
            store.check()
        except Unavailable:
            time.sleep(0.2)
        else:
            store.close()
            return


def _use_prefect(settings: Settings) -> None:
    # Prefect reads its settings when it is imported, so the environment comes first.
    # An operator's shell may carry another installation's; study ids must not go there.
    from deployments.prefect_server import client_environment, process_environment

    wanted = process_environment(client_environment(home=settings.home, port=settings.prefect_port))
    os.environ.clear()
    os.environ.update(wanted)


def _exec_guarded(command: list[str]) -> None:
    die_with_parent()
    os.execvp(command[0], command)


def start_supervisor(config: str) -> subprocess.Popen[bytes]:
    """Start supervisord so that it ends when we end."""
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.process", "supervisor", config],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main(sys.argv[1])
