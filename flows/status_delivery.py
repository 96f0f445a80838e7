"""The placers of orders hear of every change of status; one run tells all that is due."""

from __future__ import annotations

from prefect import flow

from tasks.stages import begin, close, tell_placer


@flow(name="status_delivery")
async def status_delivery(subject: str) -> None:
    """The placers of orders hear of every change of status; one run tells all that is due."""
    await begin("status_delivery", subject)
    # A placer that is away leaves the stage open: reconcile starts it again.
    await tell_placer()
    await close("status_delivery", subject)
