"""Logging: one JSON object a line, UTC, and never the value of a patient's field."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog


class _Stream:
    """A standard stream as it is when a line is written: a logger may outlive a redirection."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        return int(getattr(sys, self._name).write(text))

    def flush(self) -> None:
        getattr(sys, self._name).flush()


def configure(level: int = logging.INFO, *, to: str = "stdout") -> None:
    """Set up structlog for a process; call once, at its start.

    Parameters
    ----------
    level : int
        The least that is written.
    to : str
        ``stdout``, which a supervisor collects, or ``stderr``.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Plain tracebacks: one that shows local variables would show patients.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stream(to))),
    )
