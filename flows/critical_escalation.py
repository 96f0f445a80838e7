"""A critical finding is announced; `reconcile` escalates until a person acknowledges."""

from __future__ import annotations

from prefect import flow

from tasks.stages import announce_critical, begin, finish, split


@flow(name="critical_escalation")
async def critical_escalation(subject: str) -> None:
    """A critical finding is announced; `reconcile` escalates until a person acknowledges."""
    await begin("critical_escalation", subject)
    study_id, _ = split(subject)
    await announce_critical(study_id)
    await finish("critical_escalation", subject)
