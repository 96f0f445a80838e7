"""The real parts that tasks work with, built once a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.errors import ModelError
from services.archive.tiers import Tiers
from services.database.store import Store
from services.inference.assessment import Assessment
from services.inference.pool import ModelProcess
from services.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Settings, database and archive of this process."""

    settings: Settings
    store: Store
    tiers: Tiers


@cache
def parts() -> Parts:
    """Return this process's parts; the first call reads the settings and connects."""
    settings = Settings()
    return Parts(settings=settings, store=Store(settings), tiers=Tiers(settings))


@cache
def model() -> ModelProcess:
    """Return this process's warm model process; the first call starts it."""
    settings = parts().settings
    name, _, version = settings.triage_model.partition("@")
    return ModelProcess(name, version or None, timeout_s=settings.triage_timeout_s)


def assess(paths: Sequence[Path]) -> Assessment:
    """Have this process's model assess one study; a model that cannot be had abstains."""
    try:
        return model().assess(paths)
    except ModelError as error:
        return Assessment(
            outcome="abstained",
            reason=f"{error.code}: {error}",
            model=parts().settings.triage_model,
            failed=True,
        )
