"""Studies leave a tier by age: copied, read back, switched, and only then deleted."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from tasks.stages import begin_moves, migrate


@flow(name="tier_migration")
async def tier_migration(as_of: str | None = None) -> int:
    """Move everything that is due at `as_of` (ISO 8601, default now); return how many studies."""
    moment = datetime.fromisoformat(as_of) if as_of else None
    studies = await begin_moves(moment)
    for study_id in studies:
        await migrate(study_id)
    return len(studies)
