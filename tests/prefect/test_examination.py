"""Whether workers are alive, as ``spinecho doctor`` asks Prefect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deployments.examination import examine_workers
from services.settings import Settings

if TYPE_CHECKING:
    from tests.prefect.conftest import Prefect


def states(prefect: Prefect) -> dict[str, bool]:
    settings = Settings(home=prefect.home, prefect_port=prefect.port)
    return {check["part"]: check["ok"] for check in examine_workers(settings)}


def test_a_queue_that_is_polled_has_a_worker_and_one_that_is_not_has_none(
    workers: Prefect,
) -> None:
    deadline = time.monotonic() + 20
    wanted = {
        "worker-critical, critical": True,
        "worker-routine, urgent": True,
        "worker-routine, routine": True,
        "worker-heavy, default": False,
    }
    while states(workers) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    assert states(workers) == wanted


def test_a_password_that_prefect_does_not_take_is_told(workers: Prefect, tmp_path) -> None:
    settings = Settings(home=tmp_path, prefect_port=workers.port)
    assert {c["state"] for c in examine_workers(settings)} == {"Prefect answers HTTP 401"}
    assert list(tmp_path.iterdir()) == [], "asking must not make a password"
