"""What arrived is judged: complete or not, and whose it is if nobody ordered it."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, finish, judge_complete, place, split


@flow(name="acquisition_receipt")
async def acquisition_receipt(subject: str) -> None:
    """What arrived is judged: complete or not, and whose it is if nobody ordered it."""
    await begin("acquisition_receipt", subject)
    study_id, _ = split(subject)
    await judge_complete(study_id)
    await place(study_id)
    await finish("acquisition_receipt", subject)
