"""An EMR's inbox, and a whole installation that reports to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.simulators.inbox import EmrInbox
from services.simulators.status_inbox import StatusInbox
from tests.journey.engine import Engine, installed


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
    with installed(inbox.port, statuses.port) as engine:
        yield engine
