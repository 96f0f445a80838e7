"""The command line: one command per operator need."""

from __future__ import annotations

from deployments.cli.main import app

__all__ = ["app"]
