"""Whether a study is all there: what the scanner listed first, silence last.

"Stable for N seconds" proves nothing, so the timer is the last resort and the verdict says which
rule it rests on. A missing image must not hold back a critical study for ever either: after a long
silence the study is judged with what there is, and the gap goes to the desk.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from models.events import Topic
from models.lifecycle import StepState, StudyEvent, StudyState
from models.study import Study
from services.database.store import Store, UnitOfWork
from services.settings import Settings
from services.workflow.exam import is_of_another

MISSING_FACTOR: Final = 5
"""Quiet periods to wait for instances that a finished MPPS lists and that have not come."""
ABANDONED_S: Final = 3600.0
"""Silence after which an MPPS without a final N-SET no longer holds a study open.

An hour: an exam may pause between two series for many minutes, and a lost N-SET never comes.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided about a study, and by which rule."""

    complete: bool
    reason: str
    version: int
    changed: bool = False
    """Whether this call made the verdict; a repeated call finds it made."""
    missing: int = 0


def judge_completeness(
    store: Store, study_id: str, *, settings: Settings, now: datetime | None = None
) -> Verdict:
    """Judge a study and, if it is complete with something new, announce its next version.

    Idempotent: without a new instance there is no new version.

    Parameters
    ----------
    now : datetime, optional
        The present time in UTC; a test may let time pass.
    """
    with store() as uow:
        study = uow.studies.get(study_id, lock=True)
        judged = int(uow.studies.row(study_id).judged)
        images = uow.holdings.from_others(study_id, settings.ae_title)
        steps = [s for s in uow.studies.mpps_of(study_id) if not is_of_another(uow, study, s)]
        if len(images) == judged and judged and study.state is not StudyState.ACQUIRING:
            return Verdict(complete=True, reason="judged already", version=study.version)
        facts = _Facts(study, images, steps, now or uow.now, settings)
        if not images:
            return _without_images(uow, facts)
        complete, reason = facts.verdict()
        missing = len(facts.missing)
        if not complete:
            return Verdict(complete=False, reason=reason, version=study.version, missing=missing)
        return _complete(uow, facts, judged, reason)


def studies_to_judge(store: Store, *, settings: Settings, now: datetime | None = None) -> list[str]:
    """Return the studies whose verdict is due, for the sweep that finds what was missed."""
    with store() as uow:
        return uow.holdings.unjudged(
            settings.ae_title, (now or uow.now) - timedelta(seconds=settings.quiet_s)
        )


class _Facts:
    def __init__(
        self, study: Study, images: list[Any], steps: list[Any], now: datetime, settings: Settings
    ) -> None:
        self.study, self.images, self.steps, self.now = study, images, steps, now
        self.quiet_s = settings.quiet_s
        self.present = {image.sop_uid for image in images}
        self.listed = {uid for step in steps for uid in step.referenced}
        self.missing = self.listed - self.present
        self.ended = all(step.state != StepState.IN_PROGRESS.value for step in steps)
        last = [image.received_at for image in images]
        last += [step.ended_at or step.created_at for step in steps]
        self.silent_s = (now - max(last)).total_seconds() if last else 0.0

    def verdict(self) -> tuple[bool, str]:
        """Return whether the study, which has images, is complete, and the rule that says so."""
        count = len(self.images)
        if not self.ended:
            if self.silent_s < ABANDONED_S:
                return False, "the exam is in progress (MPPS)"
            return True, f"{count} instances; an MPPS had no final N-SET for {ABANDONED_S:.0f} s"
        if self.listed and not self.missing:
            return True, f"all {len(self.listed)} instances that the MPPS lists are here"
        if self.missing:
            gap = f"{len(self.missing)} of {len(self.listed)} instances that the MPPS lists"
            if self.silent_s < self.quiet_s * MISSING_FACTOR:
                return False, f"{gap} have not come yet"
            return True, f"{gap} did not come in {self.silent_s:.0f} s; judged with {count}"
        source = "the MPPS lists none" if self.steps else "there is no MPPS"
        if self.silent_s < self.quiet_s:
            return False, f"{count} instances, the last one {self.silent_s:.0f} s ago; {source}"
        return True, f"{count} instances and silence for {self.silent_s:.0f} s; {source}"


def _without_images(uow: UnitOfWork, facts: _Facts) -> Verdict:
    study = facts.study
    stopped = bool(facts.steps) and all(
        step.state == StepState.DISCONTINUED.value for step in facts.steps
    )
    hopeless = not facts.listed or facts.silent_s >= facts.quiet_s * MISSING_FACTOR
    if stopped and hopeless and study.state is StudyState.ACQUIRING:
        reason = "every performed step was discontinued and no image was made"
        uow.studies.move(study, StudyEvent.EXAM_DISCONTINUED, completeness=reason)
        uow.timeline.add(study.id, "acquisition.discontinued", reason)
        return Verdict(complete=False, reason=reason, version=study.version, changed=True)
    reason = "no image has come"
    return Verdict(complete=False, reason=reason, version=study.version, missing=len(facts.missing))


def _complete(uow: UnitOfWork, facts: _Facts, judged: int, reason: str) -> Verdict:
    study, count = facts.study, len(facts.images)
    if count == judged:
        # A further performed step had reopened the study and brought nothing new.
        uow.studies.move(study, StudyEvent.COMPLETE)
        return Verdict(complete=True, reason=reason, version=study.version)
    version = study.version + 1
    uow.studies.move(
        study,
        StudyEvent.COMPLETE,
        version=version,
        acquired_at=facts.now,
        completeness=reason,
        judged=count,
        **({"ended_at": facts.now} if study.ended_at is None else {}),
    )
    uow.timeline.add(
        study.id,
        "acquisition.complete",
        f"version {version}: {reason}",
        version=version,
        instances=count,
        missing=len(facts.missing),
    )
    if facts.missing:
        uow.studies.to_desk(
            "missing-instances",
            f"{study.study_uid}#{version}",
            reason,
            study_id=study.id,
            evidence={"missing": sorted(facts.missing)},
        )
    uow.outbox.announce(Topic.STUDY_ACQUIRED, study.id, str(version), study.priority)
    return Verdict(
        complete=True,
        reason=reason,
        version=version,
        changed=True,
        missing=len(facts.missing),
    )
