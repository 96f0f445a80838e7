"""What arrived is judged: is the exam complete? If so, the study is announced as acquired."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, finish, judge_complete, split


@flow(name="acquisition_receipt")
async def acquisition_receipt(subject: str) -> None:
    """What arrived is judged: is the exam complete? If so, the study is announced as acquired."""
    await begin("acquisition_receipt", subject)
    study_id, _ = split(subject)
    await judge_complete(study_id)
    await finish("acquisition_receipt", subject)
