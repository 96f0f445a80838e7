"""A step is on the worklist since its order was committed; its priors are looked up."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, find_priors, finish, split


@flow(name="worklist_publication")
async def worklist_publication(subject: str) -> None:
    """A step is on the worklist since its order was committed; its priors are looked up."""
    await begin("worklist_publication", subject)
    study_id, _ = split(subject)
    await find_priors(study_id)
    await finish("worklist_publication", subject)
