from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.prefect.server import Prefect


@pytest.fixture(scope="session")
def workers(prefect: Prefect) -> Prefect:
    """The server, with worker A on critical and worker B on urgent and routine."""
    prefect.start_worker("critical-1", "critical")
    prefect.start_worker("general-1", "urgent", "routine")
    return prefect
