"""A placed order is checked against its standard's structure, off the acknowledging path."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, check_messages, finish, split


@flow(name="order_intake")
async def order_intake(subject: str) -> None:
    """A placed order is checked against its standard's structure, off the acknowledging path."""
    await begin("order_intake", subject)
    study_id, _ = split(subject)
    await check_messages(study_id)
    await finish("order_intake", subject)
