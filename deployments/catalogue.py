"""What runs where and when: the one record of pools, queues, deployments and automations.

`deployments.applying` makes the server agree with it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

from prefect import Flow

from deployments.warm import WarmWorker
from services.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A work queue; the lower its priority number, the sooner its runs are handed out."""

    name: str
    priority: int
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A work pool and all queues that it is meant to have."""

    name: str
    description: str
    queues: tuple[Queue, ...]
    type: str = WarmWorker.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """A schedule by interval."""

    interval: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A schedule by crontab line, read in UTC: an hour that daylight saving skips is never due."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where a flow runs unless its run says otherwise.

    Parameters
    ----------
    flow : str
        Key in the mapping of flows; also the deployment's name.
    pool, queue : str
        The default queue; the relay names another one for urgent and critical subjects.
    concurrency_limit : int, optional
        Runs at a time over all workers.
    skip_when_busy : bool
        At the limit, drop a new run instead of queueing it: right for a sweep that comes round
        again, wrong for anything that carries a study.
    schedules : tuple of Every or Cron
        When it runs by itself.
    """

    flow: str
    pool: str
    queue: str
    description: str
    concurrency_limit: int | None = None
    skip_when_busy: bool = False
    schedules: tuple[Every | Cron, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Zombie:
    """Mark a run Crashed that was Running and then fell silent.

    For the people at the window. The sweeper finds the same runs and re-issues them; nothing
    clinical waits for this.
    """

    name: str
    description: str
    silence: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Everything the server is told."""

    pools: tuple[Pool, ...]
    deployments: tuple[Deployment, ...]
    automations: tuple[Zombie, ...]


# Prefect gives every pool a queue of this name with the highest priority. In the clinical pool
# nobody serves it, and nothing may overtake the critical queue.
_UNSERVED = Queue(name="default", priority=100, description="Not served; use a named queue.")

CATALOGUE = Catalogue(
    pools=(
        Pool(
            name="clinical",
            description="Work on which a reader, a scanner or a physician waits.",
            queues=(
                _UNSERVED,
                Queue(name="critical", priority=1, description="Life-threatening: own worker."),
                Queue(name="urgent", priority=5, description="Urgent orders and housekeeping."),
                Queue(name="routine", priority=10, description="Everything else."),
            ),
        ),
        Pool(
            name="heavy",
            description="Moves bytes: tier migration, recall, key figures.",
            queues=(Queue(name="default", priority=1),),
        ),
    ),
    deployments=(
        Deployment(
            flow="order_intake",
            pool="clinical",
            queue="routine",
            description="A placed, changed or cancelled order becomes scheduled steps.",
        ),
        Deployment(
            flow="worklist_publication",
            pool="clinical",
            queue="routine",
            description="A scheduled step becomes visible on its scanner's worklist.",
        ),
        Deployment(
            flow="acquisition_receipt",
            pool="clinical",
            queue="routine",
            description="An arriving study is judged complete and announced.",
        ),
        Deployment(
            flow="triage",
            pool="clinical",
            queue="routine",
            description="An acquired study is looked at by the model.",
        ),
        Deployment(
            flow="report_delivery",
            pool="clinical",
            queue="routine",
            description="A signed report reaches each of its destinations.",
        ),
        Deployment(
            flow="status_delivery",
            pool="clinical",
            queue="routine",
            description="The placers of orders hear of every change of status.",
        ),
        Deployment(
            flow="critical_escalation",
            pool="clinical",
            queue="critical",
            description="A critical finding is carried until a named person acknowledges it.",
        ),
        Deployment(
            flow="reconcile",
            pool="clinical",
            queue="urgent",
            # No limit: a run that died while it held the only slot would end all sweeping.
            description="Stuck work is found and started again.",
            schedules=(Every(interval=timedelta(minutes=1)),),
        ),
        Deployment(
            flow="kpi_rollup",
            pool="heavy",
            queue="default",
            description="The hour's key figures are written.",
            concurrency_limit=1,
            skip_when_busy=True,
            schedules=(Cron(line="5 * * * *"),),
        ),
        Deployment(
            flow="tier_migration",
            pool="heavy",
            queue="default",
            description="Studies move between hot, warm and cold by age and policy.",
            concurrency_limit=1,
            skip_when_busy=True,
            schedules=(Cron(line="0 2 * * *"),),
        ),
        Deployment(
            flow="recall",
            pool="heavy",
            queue="default",
            description="A cold study comes back because somebody needs it.",
        ),
    ),
    automations=(
        Zombie(
            name="spinecho: silent run",
            description="A run that was alive and sent no heartbeat for 90 s is marked Crashed.",
            silence=timedelta(seconds=90),
        ),
    ),
)


def catalogue_for(settings: Settings) -> Catalogue:
    """Return the catalogue with the sweep at the interval that an installation has chosen."""
    interval = timedelta(seconds=settings.reconcile_s)
    return replace(
        CATALOGUE,
        deployments=tuple(
            replace(each, schedules=(Every(interval=interval),))
            if each.flow == "reconcile"
            else each
            for each in CATALOGUE.deployments
        ),
    )


def load_flows() -> dict[str, Flow[..., Any]]:
    """Import the flow that each deployment names: ``flows.triage`` holds ``triage``.

    Raises
    ------
    ImportError
        A module is missing, or holds no flow of its own name.
    """
    flows: dict[str, Flow[..., Any]] = {}
    for name in (deployment.flow for deployment in CATALOGUE.deployments):
        found = getattr(importlib.import_module(f"flows.{name}"), name, None)
        if not isinstance(found, Flow):
            raise ImportError(f"flows.{name} must hold a Prefect flow called {name!r}")  # noqa: TRY004
        flows[name] = cast("Flow[..., Any]", found)
    return flows
