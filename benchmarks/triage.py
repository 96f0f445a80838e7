"""Commit of ``study.acquired`` → first line of the triage flow, while 50 routine runs wait."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Row, func, select

from benchmarks.figures import Figure, Outcome, quantile
from benchmarks.installation import configure, environment, process
from models.events import Topic
from models.lifecycle import ReportStatus, StudyState
from models.priority import Priority
from models.report import Report
from models.study import Study, new_id, new_uid
from services.database.store import Store
from services.database.tables import outbox
from services.settings import Settings

BACKLOG = 50
ROUNDS = 5
READY_S, START_S = 240.0, 120.0


@dataclass(frozen=True, slots=True)
class Start:
    """One critical study: how long it waited, and what waited beside it."""

    seconds: float
    waiting_before: int
    """Routine stages not started when the critical one was committed."""
    waiting_after: int
    """The same when it was seen to have started: what it overtook."""


def run(directory: Path) -> Outcome:
    """Start a whole installation, fill the routine queue, and commit one critical study at a time.

    Raises
    ------
    RuntimeError
        If the installation does not become ready, or a critical study's triage never starts.
    """
    outcome = Outcome(peers={"Prefect": metadata.version("prefect")})
    if find_spec("deployments.cli") is None:
        outcome.notes.append("triage: left out, deployments.cli is not there to start")
        return outcome
    settings = configure(directory / "triage")
    with ExitStack() as stack:
        stack.enter_context(_installation(settings, directory))
        store = Store(settings)
        stack.callback(store.close)
        # Not counted: readiness says nothing of Prefect, and a worker's first run imports.
        _fill(store, 1)
        _start(store, READY_S)
        _drain(store)
        idle = _start(store)
        starts = []
        for _ in range(ROUNDS):
            _fill(store, BACKLOG - _waiting(store))
            starts.append(_start(store))
    seconds = [start.seconds for start in starts]
    for name, share in (("median", 0.5), ("worst", 1.0)):
        outcome.figures.append(
            Figure(
                part="triage",
                what=f"commit → flow's first line, critical, {BACKLOG} routine waiting, {name}",
                unit="s",
                ours=quantile(seconds, share),
                peer="the same, nothing waiting (one run)",
                theirs=idle.seconds,
                lower_is_better=True,
                samples=len(seconds),
                our_samples=tuple(seconds),
            )
        )
    overtaken = [start.waiting_after for start in starts]
    outcome.notes += [
        "triage: outbox.started_at - outbox.created_at of the same row; created_at is the time at "
        "which the transaction began, a few milliseconds before its commit",
        "triage: routine stages waiting at each critical commit "
        f"{[start.waiting_before for start in starts]}, still waiting at its start {overtaken}",
    ]
    return outcome


@contextmanager
def _installation(settings: Settings, directory: Path) -> Iterator[None]:
    """Run ``spinecho up`` until the end of the block; yield when it says that it is ready."""
    log = directory / "up.log"
    command = [sys.executable, "-c", "from deployments.cli import app; app()", "up"]
    with process(command, env=environment(settings), log=log, stop_s=60) as up:
        deadline = time.monotonic() + READY_S
        while not _ready(settings):
            if up.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(_why(up, log))
            time.sleep(0.5)
        yield


def _ready(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.http_url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _why(up: subprocess.Popen[bytes], log: Path) -> str:
    state = "still runs" if up.poll() is None else f"ended with {up.returncode}"
    said = log.read_text(errors="replace")[-2000:]
    return f"'spinecho up' is not ready within {READY_S:.0f} s and {state}:\n{said}"


def _fill(store: Store, count: int) -> None:
    """Commit `count` routine studies whose signed report waits for delivery."""
    with store() as uow:
        for _ in range(count):
            study = _study(uow, Priority.ROUTINE)
            # Delivery to no destination: a complete run of the routine queue with nothing to fail.
            uow.reports.add(
                Report(
                    id=new_id(),
                    study_id=study.id,
                    version=1,
                    status=ReportStatus.FINAL,
                    findings="",
                    impression="Benchmark.",
                    author="benchmark",
                    signed_at=uow.now,
                )
            )
            uow.outbox.announce(Topic.REPORT_SIGNED, study.id, "1", study.priority)


def _start(store: Store, patience_s: float = START_S) -> Start:
    """Commit one critical study and wait until its triage has started."""
    before = _waiting(store)
    with store() as uow:
        study = _study(uow, Priority.STAT)
        uow.outbox.announce(Topic.STUDY_ACQUIRED, study.id, "1", study.priority)
    deadline = time.monotonic() + patience_s
    while True:
        row = _triage(store, study.id)
        if row.started_at is not None:
            seconds = (row.started_at - row.created_at).total_seconds()
            return Start(seconds, before, _waiting(store))
        if time.monotonic() > deadline:
            state = "was never dispatched" if row.dispatched_at is None else f"run {row.run_id}"
            raise RuntimeError(f"triage did not start within {patience_s:.0f} s: {state}")
        time.sleep(0.02)


def _drain(store: Store) -> None:
    """Wait until the routine queue is empty."""
    deadline = time.monotonic() + START_S
    while _waiting(store):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the routine worker did not start its run within {START_S:.0f} s")
        time.sleep(0.2)


def _study(uow: Any, priority: Priority) -> Study:
    study: Study = uow.studies.ensure(new_uid(), state=StudyState.ACQUIRED, priority=priority)
    uow.studies.change(study.id, acquired_at=uow.now, version=1)
    return study


def _triage(store: Store, subject: str) -> Row[Any]:
    with store() as uow:
        return next(row for row in uow.outbox.of_study(subject) if row.flow == "triage")


def _waiting(store: Store) -> int:
    """Return how many stages of the routine queue have not started."""
    with store() as uow:
        count = uow.connection.scalar(
            select(func.count())
            .select_from(outbox)
            .where(outbox.c.queue == "routine", outbox.c.started_at.is_(None))
        )
    return int(count or 0)
