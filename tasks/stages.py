"""The tasks of every stage: one idempotent side effect each, with its retry policy beside it.

A flow's subject is ``study:version``: opaque, and all that Prefect is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from prefect import get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from services.dicom.commitment import answer_open_commitments
from services.hl7.conformance import check_structure
from services.hl7.profiles import Profiles
from services.workflow import (
    automatic_filing,
    delivery,
    escalation,
    migration,
    reapplying,
    reconcile,
    status,
    triage,
)
from services.workflow.acquisition import judge_completeness, studies_to_judge
from tasks.artifacts import show_timeline
from tasks.parts import assess, parts

T = TypeVar("T")
PATIENT: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.3,
    "cache_policy": NO_CACHE,
}
"""For what may fail because a neighbour or the disk is away for a moment."""


async def _apart(call: Callable[[], T]) -> T:
    # Database and files are synchronous; the worker's loop must stay free for the critical run.
    return await asyncio.to_thread(call)


def split(subject: str) -> tuple[str, str]:
    """Return study id and version of a subject."""
    study_id, _, version = subject.partition(":")
    return study_id, version


async def begin(flow: str, subject: str) -> None:
    """Record that the flow's first line ran."""
    study_id, version = split(subject)

    def mark() -> None:
        with parts().store() as uow:
            uow.outbox.started(study_id, flow, version)

    await _apart(mark)


@task(name="finish", **PATIENT)
async def finish(flow: str, subject: str) -> None:
    """Record that the stage is done, and show in Prefect where the study stands."""
    study_id, version = split(subject)

    def mark() -> list[dict[str, str]]:
        with parts().store() as uow:
            uow.outbox.done(study_id, flow, version)
            return [
                {"at": f"{e.at:%Y-%m-%d %H:%M:%S}Z", "what": e.kind, "summary": e.summary}
                for e in uow.timeline.of_study(study_id)
            ]

    rows = await _apart(mark)
    async with get_client() as client:
        await show_timeline(
            client, study_id=study_id, rows=rows, flow_run_id=flow_run.id and UUID(flow_run.id)
        )


async def close(flow: str, subject: str) -> None:
    """Record that a stage is done that is about no single study."""
    about, version = split(subject)

    def mark() -> None:
        with parts().store() as uow:
            uow.outbox.done(about, flow, version)

    await _apart(mark)


@task(name="check structure", **PATIENT)
async def check_messages(study_id: str) -> int:
    """Ask hl7apy what is wrong with the study's messages, and note it on the timeline."""

    def check() -> int:
        with parts().store() as uow:
            told = {
                e.evidence.get("message")
                for e in uow.timeline.of_study(study_id)
                if e.kind == "order.checked"
            }
            messages = [m for m in uow.messages.inbound_of(study_id) if m.id not in told]
            for message in messages:
                found = check_structure(message.raw)
                uow.timeline.add(
                    study_id,
                    "order.checked",
                    found[0] if found else "the order keeps to the structure of its version",
                    message=message.id,
                )
        return len(messages)

    return await _apart(check)


@task(name="find priors", **PATIENT)
async def find_priors(study_id: str) -> int:
    """Note that the steps are on the worklist, and how many priors the patient has here."""

    def find() -> int:
        with parts().store() as uow:
            study = uow.studies.get(study_id)
            count = len(uow.studies.priors(study_id, study.patient_id)) if study.patient_id else 0
            kinds = {e.kind for e in uow.timeline.of_study(study_id)}
            # An order that came after its images has no step left to be done.
            if not kinds & {"worklist.published", "order.joined"}:
                uow.timeline.add(
                    study_id, "worklist.published", f"on the worklist; {count} prior(s) here"
                )
        return count

    return await _apart(find)


@task(name="judge completeness", **PATIENT)
async def judge_complete(study_id: str) -> str:
    """Judge whether the exam is complete; the reason goes to the timeline."""
    p = parts()
    verdict = await _apart(lambda: judge_completeness(p.store, study_id, settings=p.settings))
    return verdict.reason


@task(name="place study", **PATIENT)
async def place(study_id: str) -> bool:
    """File a study without an order if rules leave no doubt whose it is."""
    p = parts()
    return await _apart(
        lambda: automatic_filing.place_study(p.store, study_id, settings=p.settings)
    )


@task(name="place waiting studies", **PATIENT)
async def place_waiting() -> int:
    """Look again at the youngest studies without an order: theirs may have come."""
    p = parts()
    return await _apart(lambda: automatic_filing.place_waiting(p.store, p.settings))


@task(name="apply decided messages", **PATIENT)
async def apply_decided() -> int:
    """Apply again what the desk decided to, where that was cut off."""
    p = parts()

    def apply() -> int:
        profiles = Profiles(p.settings.profile_root, good=p.settings.last_good_profiles)
        return len(reapplying.apply_decided(p.store, settings=p.settings, profiles=profiles))

    return await _apart(apply)


@task(name="judge images", **PATIENT)
async def judge_images(study_id: str, version: str) -> str:
    """Have the model judge the study; abstaining is an outcome, not a failure."""
    p = parts()
    return await _apart(lambda: triage.judge(p.store, p.tiers, study_id, int(version), assess))


@task(name="announce critical", **PATIENT)
async def announce_critical(study_id: str) -> bool:
    """Announce a critical finding to the reading room, once."""
    return await _apart(lambda: escalation.announce_critical(parts().store, study_id))


@task(name="plan deliveries", **PATIENT)
async def plan_deliveries(study_id: str, version: str) -> list[str] | None:
    """Write down what is to be sent where; None while the study has no order."""
    p = parts()
    number, edition = delivery.split_version(version)
    return await _apart(
        lambda: delivery.plan_deliveries(p.store, p.settings, study_id, number, edition)
    )


@task(name="deliver", **PATIENT)
async def deliver(study_id: str, version: str, destination: str) -> str:
    """Send one report version to one destination, unless it has it."""
    p = parts()
    number, _ = delivery.split_version(version)
    done = await _apart(
        lambda: delivery.deliver(p.store, p.settings, study_id, number, destination)
    )
    return done.state


@task(name="settle", **PATIENT)
async def settle(study_id: str, version: str) -> bool:
    """Close the delivery once every destination has the report."""
    number, _ = delivery.split_version(version)
    return await _apart(lambda: delivery.settle(parts().store, study_id, number))


@task(name="tell placer", **{**PATIENT, "retries": 2})
async def tell_placer() -> int:
    """Tell the placers of orders every change of status that is due.

    Two retries: a placer that is away for longer must not hold a worker's place. The sweep comes
    back to it.
    """
    p = parts()
    return await _apart(lambda: status.tell_placer(p.store, p.settings))


@task(name="begin moves", **PATIENT)
async def begin_moves(as_of: datetime | None) -> list[str]:
    """Plan what leaves its tier by age; return the studies to move."""
    p = parts()
    moment = as_of or p.store.clock()
    return await _apart(lambda: migration.begin_moves(p.store, p.settings, moment))


@task(name="migrate", **PATIENT)
async def migrate(study_id: str) -> str:
    """Move one study: copy, read back, switch, delete."""
    p = parts()
    return await _apart(lambda: migration.migrate(p.store, p.tiers, study_id))


@task(name="judge quiet exams", **PATIENT)
async def judge_quiet() -> int:
    """Judge every exam whose verdict is due."""
    p = parts()

    def judge() -> int:
        due = studies_to_judge(p.store, settings=p.settings)
        for study_id in due:
            judge_completeness(p.store, study_id, settings=p.settings)
        return len(due)

    return await _apart(judge)


@task(name="answer commitments", **PATIENT)
async def answer_commitments() -> int:
    """Deliver commitment results that are still owed."""
    p = parts()
    return await _apart(lambda: answer_open_commitments(p.store, p.tiers))


@task(name="escalate", **PATIENT)
async def escalate() -> int:
    """Announce anew every critical result that nobody acknowledged in time."""
    p = parts()
    return len(await _apart(lambda: escalation.escalate_overdue(p.store, p.settings)))


@task(name="forgotten exams", **PATIENT)
async def forgotten() -> int:
    """Put exams on the desk that were begun and never ended."""
    p = parts()
    return await _apart(lambda: reconcile.forgotten_exams(p.store, p.settings))
