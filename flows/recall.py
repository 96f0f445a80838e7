"""A cold study comes back because somebody needs it; until then it is read in place."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, finish


@flow(name="recall")
async def recall(subject: str) -> None:
    """A cold study comes back because somebody needs it; until then it is read in place."""
    await begin("recall", subject)
    # Every tier is read in place; moving a study back up belongs to the archive's own work.
    await finish("recall", subject)
