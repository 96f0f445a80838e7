"""An EMR's inbox, and a whole installation that reports to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.installation import PORTS, free_ports
from services.settings import Settings
from services.simulators.inbox import EmrInbox
from services.simulators.status_inbox import StatusInbox
from tests.journey.engine import Engine


@pytest.fixture
def inbox() -> Iterator[EmrInbox]:
    with EmrInbox() as inbox:
        yield inbox


@pytest.fixture
def statuses() -> Iterator[StatusInbox]:
    with StatusInbox() as statuses:
        yield statuses


@pytest.fixture
def engine(inbox: EmrInbox, statuses: StatusInbox) -> Iterator[Engine]:
    """An installation that is up."""
    # Not below pytest's own directory, which the database's account may not enter.
    home = Path(tempfile.mkdtemp(prefix="spinecho-journey-", dir="/var/tmp"))
    home.chmod(0o755)
    engine = Engine(
        Settings(
            home=home,
            **free_ports(*PORTS),  # type: ignore[arg-type]
            destinations={"emr": f"mllp://127.0.0.1:{inbox.port}"},
            status_destination=f"mllp://127.0.0.1:{statuses.port}",
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
