"""A signed report goes to every destination; one dead destination stalls no other."""

from __future__ import annotations

import asyncio

from prefect import flow

from tasks.stages import begin, deliver, finish, plan_deliveries, settle, split


@flow(name="report_delivery")
async def report_delivery(subject: str) -> None:
    """A signed report goes to every destination; one dead destination stalls no other."""
    await begin("report_delivery", subject)
    study_id, version = split(subject)
    destinations = await plan_deliveries(study_id, version)
    if destinations is None:
        # Held, and closed as such in the same commit: the order, when it comes, opens it again.
        return
    sent = await asyncio.gather(
        *(deliver(study_id, version, destination) for destination in destinations),
        return_exceptions=True,
    )
    failures = [outcome for outcome in sent if isinstance(outcome, BaseException)]
    if failures:
        # Left open: reconcile starts the stage again, and what was accepted is not sent twice.
        raise failures[0]
    await settle(study_id, version)
    await finish("report_delivery", subject)
