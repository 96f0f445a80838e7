"""AI triage of an acquired study: judged, written back, and raised in priority in one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version as installed
from pathlib import Path

from models.events import Topic
from models.finding import Finding, Outcome
from models.priority import Priority
from models.study import uid_from
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.structured_report import Device, read_evidence, triage_report
from services.inference.assessment import Assessment
from services.workflow.acquisition import store_derived

Assess = Callable[[Sequence[Path]], Assessment]
"""Files of one study → what the model says; never raises for what the images are."""


def judge(store: Store, tiers: Tiers, study_id: str, version: int, assess: Assess) -> str:
    """Have a model judge one version of a study, and write down what it said.

    The structured report is filed first, under UIDs that depend on model and input alone; finding,
    priority and announcement then change in one commit. Repeated, it finds everything done.

    Returns
    -------
    str
        The outcome: critical, normal or abstained.
    """
    with store() as uow:
        images = [
            row
            for row in uow.studies.instances(study_id)
            if row.source_ae != tiers.settings.ae_title
        ]
        study = uow.studies.get(study_id)
        series = {row.sop_uid: row.series_uid for row in images}
        known = [f for f in uow.studies.findings(study_id) if f.version == version]
    if known:
        return str(known[-1].outcome)
    with ExitStack() as files:
        paths = [files.enter_context(tiers.local(Tier(i.tier), i.path)) for i in images]
        assessment = assess(paths)
        report = None
        if assessment.evidence and assessment.outcome != "abstained":
            wanted = {e.sop_instance_uid for e in assessment.evidence}
            headers = read_evidence(
                p for p, i in zip(paths, images, strict=True) if i.sop_uid in wanted
            )
            for header in headers:
                # The study that they are in now; the desk may have taken them from another.
                header.StudyInstanceUID = study.study_uid
                header.SeriesInstanceUID = series[str(header.SOPInstanceUID)]
            report = triage_report(assessment, headers, when=store.clock(), device=_device(tiers))
    if report is not None:
        store_derived(store, tiers, report, study_id)
    outcome = Outcome(assessment.outcome)
    record = Finding(
        study_id=study_id,
        version=version,
        outcome=outcome,
        model=assessment.model,
        score=assessment.score,
        text="; ".join(assessment.findings),
        reason=assessment.reason,
        measurements=tuple((m.name, m.value, m.unit) for m in assessment.measurements),
        sr_sop_uid=str(report.SOPInstanceUID) if report is not None else None,
    )
    with store() as uow:
        study = uow.studies.get(study_id, lock=True)
        if not uow.studies.add_finding(record):
            return outcome.value
        # A finding is never taken back by a later, milder run.
        worst = Outcome.CRITICAL.value if study.triage == Outcome.CRITICAL.value else outcome.value
        uow.studies.change(study_id, triage=worst)
        uow.timeline.add(
            study_id,
            f"triage.{outcome.value}",
            f"{assessment.model}: {outcome.value}",
            actor=assessment.model,
            score=assessment.score,
            reason=assessment.reason,
            report=record.sr_sop_uid,
        )
        if outcome is Outcome.CRITICAL and uow.reports.found_critical(study_id):
            uow.studies.change(
                study_id,
                priority=int(study.priority.raised_to(Priority.CRITICAL)),
                critical_at=uow.now,
            )
            uow.outbox.announce(Topic.FINDING_CRITICAL, study_id, str(version), Priority.CRITICAL)
    return outcome.value


def _device(tiers: Tiers) -> Device:
    home = str(tiers.settings.home)
    return Device(
        uid=uid_from("device", home),
        serial_number=uid_from("device", home)[-16:],
        software_version=installed("spinecho"),
    )
