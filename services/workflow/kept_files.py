"""Files that were kept apart come into a study when the desk decides so, and out of it again.

The file in the quarantine stays where it is, byte for byte; a copy lies in the archive. Where the
study has another UID than the file says, it is laid over the file as it leaves.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Row, delete, select, update

from models.errors import IllegalMove
from models.events import Topic
from models.lifecycle import StudyEvent, StudyState
from models.priority import Priority
from models.study import Study, uid_from
from services.archive.landing import sync
from services.archive.part10 import Header, read_header
from services.archive.tiers import Tiers
from services.database.store import UnitOfWork
from services.database.tables import desk, desk_decision, instance, quarantine, series
from services.workflow.identification import Claim

FILED: Final = ("file", "apart")
"""Actions of a decision that bring kept files into a study; what comes later follows them."""


def kept_of(uow: UnitOfWork, row: Row[Any]) -> list[Row[Any]]:
    """Return the files that a row of the desk explains, oldest first."""
    query = select(quarantine).where(
        quarantine.c.kind == row.kind, quarantine.c.subject == row.subject
    )
    return list(uow.connection.execute(query.order_by(quarantine.c.received_at)))


def can_be_filed(uow: UnitOfWork, row: Row[Any]) -> bool:
    """Whether the files of a row can enter any study: they are objects, and their UIDs are free."""
    kept = kept_of(uow, row)
    known = uow.holdings.stored([k.sop_uid for k in kept])
    return bool(kept) and all(k.sop_uid and _is_free(k, known) for k in kept)


def own_study(uow: UnitOfWork, tiers: Tiers, row: Row[Any], *, by: str) -> Study:
    """Open a study of their own for kept files, under a UID that is always the same."""
    header = _header(tiers, kept_of(uow, row)[0])
    claim = Claim(
        name=header.patient_name,
        patient_id=header.patient_id,
        issuer=header.issuer,
        birth_date=header.birth_date,
    )
    study = uow.studies.ensure(
        uid_from("apart", row.kind, row.subject),
        state=StudyState.ACQUIRING,
        priority=Priority.HIGH,
        description=header.study_description,
    )
    uow.studies.change(study.id, dicom_patient_name=claim.name, dicom_patient_id=claim.patient_id)
    reason = "kept apart from another study; no order is known"
    evidence = {"claimed": claim.evidence(), "accession": header.accession}
    uow.studies.to_desk("no-order", study.study_uid, reason, study_id=study.id, evidence=evidence)
    uow.connection.execute(
        update(desk)
        .where(desk.c.kind == "no-order", desk.c.subject == study.study_uid)
        .values(resolved_at=None, resolved_by=None)
    )
    uow.timeline.add(study.id, "desk.apart", "opened for files that were kept apart", actor=by)
    return study


def file_kept(uow: UnitOfWork, tiers: Tiers, row: Row[Any], study: Study) -> list[str]:
    """File every kept file of a row that is not filed yet; return their SOP Instance UIDs.

    Raises
    ------
    IllegalMove
        If another object has one of their SOP Instance UIDs.
    """
    kept = kept_of(uow, row)
    known = uow.holdings.stored([k.sop_uid for k in kept])
    filed = []
    for one in kept:
        if not _is_free(one, known):
            raise IllegalMove("another object has the SOP Instance UID of a file that was kept")
        if one.sop_uid not in known:
            _file(uow, tiers, one, uow.studies.get(study.id))
            filed.append(one.sop_uid)
    if filed:
        uow.timeline.add(
            study.id, "images.filed", f"{len(filed)} instances from the quarantine", desk=row.id
        )
        version = f"desk-{row.id}-{len(uow.studies.instances(study.id))}"
        uow.outbox.announce(Topic.STUDY_RECEIVED, study.id, version, study.priority)
    return filed


def follow(uow: UnitOfWork, tiers: Tiers, row: Row[Any]) -> None:
    """File what came after a decision where the decision has filed what came before."""
    decision = uow.connection.execute(
        select(desk_decision).where(
            desk_decision.c.desk_id == row.id,
            desk_decision.c.done_at.is_not(None),
            desk_decision.c.undone_at.is_(None),
            desk_decision.c.action.in_(FILED),
        )
    ).one_or_none()
    if decision is not None and can_be_filed(uow, row):
        study = uow.studies.get(decision.before["study"], lock=True)
        file_kept(uow, tiers, row, study)


def take_out(uow: UnitOfWork, row: Row[Any], study: Study) -> None:
    """Take a row's files out of a study again; their copies in the archive stay, unnamed.

    Raises
    ------
    IllegalMove
        If a study that has nothing else was reported.
    """
    mine = {(k.sop_uid, k.digest) for k in kept_of(uow, row)}
    there = uow.studies.instances(study.id)
    gone = [i.sop_uid for i in there if (i.sop_uid, i.digest) in mine]
    is_own = study.study_uid == uid_from("apart", row.kind, row.subject)
    if is_own and uow.reports.of_study(study.id):
        raise IllegalMove("these images were reported; correct the report instead")
    uow.connection.execute(delete(instance).where(instance.c.sop_uid.in_(gone)))
    left = select(instance.c.series_uid).where(instance.c.series_uid == series.c.series_uid)
    uow.connection.execute(delete(series).where(series.c.study_id == study.id, ~left.exists()))
    if is_own:
        # As if it had never come; what comes again opens it again.
        uow.studies.change(study.id, state=StudyState.CANCELLED.value, patient_id=None)
        uow.studies.resolve_desk(study.id, "no-order", "undone")
    uow.timeline.add(
        study.id, "images.taken-out", f"{len(gone)} instances, back in the quarantine", desk=row.id
    )


def _is_free(kept: Row[Any], known: dict[str, Row[Any]]) -> bool:
    return kept.sop_uid not in known or known[kept.sop_uid].digest == kept.digest


def _file(uow: UnitOfWork, tiers: Tiers, kept: Row[Any], study: Study) -> None:
    header = _header(tiers, kept)
    owner = uow.holdings.series_owner(header.series_uid)
    is_other = header.study_uid != study.study_uid or owner not in (None, study.id)
    if is_other:
        series_uid = uid_from("apart", study.study_uid, header.series_uid)
        header = replace(header, study_uid=study.study_uid, series_uid=series_uid)
    path = tiers.place(header, kept.digest)
    uow.studies.add_instance(
        study.id,
        header.filed(path, size=kept.size, digest=kept.digest),
        source_ae=kept.source_ae,
        apart=is_other,
        **header.told,
    )
    row = uow.studies.row(study.id)
    changes: dict[str, Any] = {} if row.attributes else {"attributes": header.study_attributes}
    if row.started_at is None:
        changes["started_at"] = uow.now
    uow.studies.move(study, StudyEvent.INSTANCE_RECEIVED, **changes)
    tiers.land(_copied(tiers, kept.path), path, kept.digest)


def _copied(tiers: Tiers, path: str) -> Path:
    near = tiers.incoming("desk") / f"{uuid4().hex}.dcm"
    with tiers.open_kept(path) as source, near.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    sync(near.parent)
    return near


def _header(tiers: Tiers, kept: Row[Any]) -> Header:
    return read_header(tiers.kept(kept.path))
