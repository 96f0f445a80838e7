"""Stuck work is found and started again; nothing waits for somebody to notice."""

from __future__ import annotations

from prefect import flow

from tasks.housekeeping import restart_stuck, watch_lanes
from tasks.stages import (
    answer_commitments,
    apply_decided,
    escalate,
    forgotten,
    judge_quiet,
    place_waiting,
)


@flow(name="reconcile")
async def reconcile() -> None:
    """Start stuck stages again, judge quiet exams, place them, answer scanners, escalate."""
    await restart_stuck()
    await judge_quiet()
    await place_waiting()
    await apply_decided()
    await answer_commitments()
    await escalate()
    await forgotten()
    await watch_lanes()
