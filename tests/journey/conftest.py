"""An EMR's inbox, and a whole installation that reports to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.simulators.inbox import EmrInbox
from services.simulators.status_inbox import StatusInbox
from tests.journey.engine import Engine, installed


@pytest.fixture(scope="session")
def inbox() -> Iterator[EmrInbox]:
    with EmrInbox() as inbox:
        yield inbox


@pytest.fixture(scope="session")
def engine(inbox: EmrInbox) -> Iterator[Engine]:
    """One installation, up, for all that leave it alive: each takes half a minute to start."""
    with StatusInbox() as statuses, installed(inbox.port, statuses.port) as engine:
        yield engine
