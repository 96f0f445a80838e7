"""Logging: one JSON object a line, UTC, and never the value of a patient's field."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog


def configure(level: int = logging.INFO, *, to: TextIO | None = None) -> None:
    """Set up structlog for a process; call once, at its start.

    Parameters
    ----------
    level : int
        The least that is written.
    to : TextIO, optional
        Standard output by default, which a supervisor collects.
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
        logger_factory=structlog.PrintLoggerFactory(to),
        cache_logger_on_first_use=to is None,
    )
