"""A model judges the acquired study; a critical finding raises its priority everywhere."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from tasks.stages import begin, finish, judge_images, split


@flow(name="triage")
async def triage(subject: str) -> State[str]:
    """A model judges the acquired study; a critical finding raises its priority everywhere."""
    await begin("triage", subject)
    study_id, version = split(subject)
    outcome = await judge_images(study_id, version)
    await finish("triage", subject)
    return Completed(name=outcome.capitalize(), message=outcome)
