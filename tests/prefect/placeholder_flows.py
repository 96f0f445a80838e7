"""Flows under the catalogue's names that note when they begin, and nap as their subject says."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

from prefect import Flow, flow, task

from deployments.catalogue import CATALOGUE

SCHEDULED = {"reconcile", "kpi_rollup", "tier_migration"}


def note(what: str, subject: str) -> None:
    with Path(os.environ["PROBE"]).open("a") as probe:
        probe.write(f"{what} {subject} {time.time()}\n")


@task
async def effect(subject: str) -> str:
    return subject


async def on_a_subject(subject: str) -> None:
    note("began", subject)
    await effect(subject)
    if nap := re.search(r"nap(\d+)", subject):
        await asyncio.sleep(int(nap[1]) / 1000)
    note("ended", subject)


async def on_a_date(as_of: str | None = None) -> None:
    note("began", as_of or "now")


FLOWS: dict[str, Flow[..., Any]] = {
    name: flow(name=name)(on_a_date if name in SCHEDULED else on_a_subject)
    for name in (deployment.flow for deployment in CATALOGUE.deployments)
}
