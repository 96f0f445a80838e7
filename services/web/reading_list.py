"""The reading list: which studies wait for a radiologist, in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, case, exists, func, or_, select, true

from models.finding import Outcome
from models.lifecycle import StudyState
from models.priority import Priority
from services.database.store import UnitOfWork
from services.database.studies import READABLE
from services.database.tables import (
    critical_result,
    finding,
    imaging_order,
    instance,
    patient,
    patient_identifier,
    report,
    series,
    study,
)

MOST: Final = 1000
"""Studies on one page of the list."""

_DERIVED = ("SR", "KO", "PR", "SEG")
_SIGNED = (StudyState.FINAL.value, StudyState.DELIVERED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingList:
    """One page of the list."""

    studies: list[dict[str, Any]]
    total: int
    unacknowledged: list[dict[str, Any]]
    """Signed studies whose critical result no person has acknowledged yet."""


def reading_list(
    uow: UnitOfWork, *, everything: bool = False, limit: int = MOST, offset: int = 0
) -> ReadingList:
    """Return readable unread studies: critical first, then by priority, then longest waiting.

    Parameters
    ----------
    everything : bool
        Also what is scheduled (below the unread) and what is done (below that, newest first).
    """
    wanted = true() if everything else _unread()
    total = uow.studies.select(
        select(func.count().label("total")).select_from(study).where(wanted)
    )[0].total
    rows = uow.studies.select(_base().where(wanted).order_by(*_order()).limit(limit).offset(offset))
    open_results = uow.studies.select(
        _base()
        .where(study.c.state.in_(_SIGNED), _critical(), critical_result.c.acknowledged_at.is_(None))
        .order_by(critical_result.c.found_at)
    )
    return ReadingList(
        studies=[_line(row) for row in rows],
        total=total,
        unacknowledged=[_line(row) for row in open_results],
    )


def next_unread(uow: UnitOfWork, besides: str) -> dict[str, Any] | None:
    """Return the first study of the list that is not the study with the id `besides`."""
    query = _base().where(_unread(), study.c.id != besides).order_by(*_order()).limit(1)
    rows = uow.studies.select(query)
    return _line(rows[0]) if rows else None


def _unread() -> ColumnElement[bool]:
    # An exam that has begun, or was broken off, can be read only once it has images.
    has_images = exists().where(instance.c.study_id == study.c.id)
    begun = (StudyState.ACQUIRING.value, StudyState.DISCONTINUED.value)
    return and_(study.c.state.in_(READABLE), or_(study.c.state.not_in(begun), has_images))


def _critical() -> ColumnElement[bool]:
    return or_(
        study.c.triage == Outcome.CRITICAL.value,
        study.c.priority == int(Priority.CRITICAL),
        critical_result.c.found_at.is_not(None),
    )


def _waiting_since() -> ColumnElement[datetime]:
    return func.coalesce(
        study.c.acquired_at, study.c.ended_at, study.c.started_at, study.c.created_at
    )


def _order() -> tuple[ColumnElement[Any], ...]:
    rank = case((_unread(), 0), (study.c.state == StudyState.SCHEDULED.value, 1), else_=2)
    # A preliminary report that somebody has acknowledged is no longer the first thing to read.
    dealt_with = and_(
        study.c.state == StudyState.PRELIMINARY.value,
        critical_result.c.acknowledged_at.is_not(None),
    )
    age = func.extract("epoch", _waiting_since())
    return (
        rank,
        case((rank == 2, 0), (and_(_critical(), ~dealt_with), 0), else_=1),
        case((rank == 2, 0), (dealt_with, int(Priority.STAT)), else_=study.c.priority),
        case((rank == 2, -age), else_=age),
        study.c.id,
    )


def _base() -> Select[Any]:
    images = (
        select(
            func.count().label("instances"),
            func.count(instance.c.series_uid.distinct()).label("series"),
        )
        .where(instance.c.study_id == study.c.id)
        .lateral("images")
    )
    modality = (
        select(func.string_agg(series.c.modality.distinct(), "\\"))
        .where(series.c.study_id == study.c.id, series.c.modality.not_in(("", *_DERIVED)))
        .scalar_subquery()
    )
    mrn = (
        select(patient_identifier.c.value, patient_identifier.c.authority)
        .where(patient_identifier.c.patient_id == study.c.patient_id)
        .order_by(patient_identifier.c.type != "MR", patient_identifier.c.position)
        .limit(1)
        .lateral("mrn")
    )
    # What the models found worst stays in view: a later run never lowers anything.
    judged = (
        select(*(finding.c[n] for n in ("outcome", "text", "reason", "score", "model")))
        .where(finding.c.study_id == study.c.id)
        .order_by(
            (finding.c.outcome != Outcome.CRITICAL.value), finding.c.version.desc(), finding.c.model
        )
        .limit(1)
        .lateral("judged")
    )
    signed = (
        select(report.c.version, report.c.status, report.c.author, report.c.signed_at)
        .where(report.c.study_id == study.c.id)
        .order_by(report.c.version.desc())
        .limit(1)
        .lateral("signed")
    )
    return (
        select(
            study,
            _waiting_since().label("waiting_since"),
            _critical().label("critical"),
            patient.c.id.label("known_patient"),
            *(patient.c[n] for n in ("family", "given", "middle", "prefix", "suffix")),
            patient.c.birth_date,
            patient.c.sex,
            mrn.c.value.label("mrn"),
            mrn.c.authority,
            imaging_order.c.procedure_meaning,
            imaging_order.c.reason.label("order_reason"),
            imaging_order.c.referring,
            imaging_order.c.location,
            imaging_order.c.priority.label("order_priority"),
            images.c.instances,
            images.c.series,
            modality.label("modality"),
            judged.c.outcome,
            judged.c.text.label("finding_text"),
            judged.c.reason.label("finding_reason"),
            judged.c.score,
            judged.c.model,
            critical_result.c.found_at,
            critical_result.c.acknowledged_at,
            critical_result.c.acknowledged_by,
            signed.c.version.label("report_version"),
            signed.c.status.label("report_status"),
            signed.c.author,
            signed.c.signed_at,
        )
        .outerjoin(patient, patient.c.id == study.c.patient_id)
        .outerjoin(imaging_order, imaging_order.c.id == study.c.order_id)
        .outerjoin(critical_result, critical_result.c.study_id == study.c.id)
        .outerjoin(mrn, true())
        .outerjoin(images, true())
        .outerjoin(judged, true())
        .outerjoin(signed, true())
    )


def _line(row: Row[Any]) -> dict[str, Any]:
    identified = row.known_patient is not None
    name = "^".join(
        (row.family, row.given, row.middle, row.prefix, row.suffix) if identified else ()
    ).rstrip("^")
    return {
        "study_uid": row.study_uid,
        "id": row.id,
        "accession": row.accession,
        "priority": Priority(row.priority).name,
        "order_priority": None if row.order_priority is None else Priority(row.order_priority).name,
        "state": row.state,
        "patient_name": name or row.dicom_patient_name,
        "patient_id": row.mrn or row.dicom_patient_id,
        "issuer": row.authority or "",
        "identified": identified,
        "birth_date": _iso(row.birth_date),
        "sex": row.sex or "",
        "description": row.description or row.procedure_meaning or "",
        "modality": row.modality or "MR",
        "reason": row.order_reason or "",
        "referring": row.referring or "",
        "location": row.location or "",
        "critical": bool(row.critical),
        "found_at": _iso(row.found_at),
        "acknowledged_at": _iso(row.acknowledged_at),
        "acknowledged_by": row.acknowledged_by,
        "triage": row.triage or row.outcome,
        "finding": row.finding_text or row.triage_text or row.finding_reason or None,
        "score": row.score,
        "model": row.model,
        "started_at": _iso(row.started_at),
        "acquired_at": _iso(row.acquired_at),
        "waiting_since": _iso(row.waiting_since),
        "instances": row.instances,
        "series": row.series,
        "tier": row.tier,
        "report": None
        if row.report_version is None
        else {
            "version": row.report_version,
            "status": row.report_status,
            "author": row.author,
            "signed_at": _iso(row.signed_at),
        },
    }


def _iso(value: Any) -> str | None:
    return None if value is None else str(value.isoformat())
