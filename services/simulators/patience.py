"""How a neighbour behaves while the engine is away: it tries again, with the same words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class StoppedError(Exception):
    """The day is over, or somebody has stopped it."""


class UnavailableError(OSError):
    """The peer was reached but could not serve now; the same request may be sent again."""


def patiently(
    act: Callable[[], T],
    *,
    patience_s: float = 120.0,
    stop: Event | None = None,
) -> T:
    """Do something until it succeeds, backing off from 0.1 s to 2 s between attempts.

    Parameters
    ----------
    act
        One attempt. It must send the same identifiers each time it is called; an OSError is worth
        another attempt, anything else is not.
    patience_s
        Seconds after which the last error is raised.
    stop
        Ends the waiting at once when set.

    Raises
    ------
    StoppedError
        If `stop` was set while waiting.
    """
    halt = stop or Event()

    def sleep(seconds: float) -> None:
        if halt.wait(seconds):
            raise StoppedError("stopped while waiting for the engine")

    def log(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        # the type only: an error's text may quote what was sent
        _LOG.info("attempt %d failed: %s", state.attempt_number, type(error).__name__)

    retrying = Retrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
        stop=stop_after_delay(patience_s),
        sleep=sleep,
        before_sleep=log,
        reraise=True,
    )
    return retrying(act)
