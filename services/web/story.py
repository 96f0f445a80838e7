"""The whole story of one study, as the API and the study's page tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Row, func, select

from models.errors import Conflict, UnknownKey
from models.external_result import STATUS_WORDS
from models.finding import Outcome
from models.lifecycle import ReportStatus, StudyState
from models.order import Order
from models.patient import Patient
from models.priority import Priority
from models.study import Study
from services.database.store import UnitOfWork
from services.database.tables import instance, series
from services.workflow.reporting import is_critical, signable

_ANSWER_BYTES: Final = 4096


def find_study(uow: UnitOfWork, key: str) -> Study:
    """Return the study with this Study Instance UID or accession number.

    Raises
    ------
    UnknownKey
        If there is none.
    Conflict
        If several studies carry the accession number.
    """
    # PostgreSQL takes no NUL in a text, and no identifier has control characters.
    if not key.isprintable():
        raise UnknownKey("no study has this UID or accession number", location="study_uid")
    study = uow.studies.find(key)
    if study is not None:
        return study
    found = uow.studies.find_by_accession(key) if key else []
    if not found:
        raise UnknownKey("no study has this UID or accession number", location="study_uid")
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} studies carry this accession number; ask for one by its Study "
            "Instance UID",
            location="study_uid",
        )
    return found[0]


def story(uow: UnitOfWork, key: str) -> dict[str, Any]:
    """Return everything that is known of a study, as JSON values.

    Raises
    ------
    UnknownKey, Conflict
        As `find_study`.
    """
    study = find_study(uow, key)
    row = uow.studies.row(study.id)
    order = None if study.order_id is None else uow.orders.get(study.order_id)
    patient = None if study.patient_id is None else uow.patients.get(study.patient_id)
    reports = uow.reports.of_study(study.id)
    result = uow.reports.critical(study.id)
    last = reports[-1].status if reports else None
    told = {
        "study": _study(study, row),
        "patient": _patient(patient, row),
        "order": None if order is None else _order(order),
        "series": _series(uow, study.id),
        "mpps": [
            {
                "sop_uid": step.sop_uid,
                "state": step.state,
                "station_aet": step.station_aet,
                "created_at": step.created_at,
                "ended_at": step.ended_at,
                "instances": len(step.referenced),
            }
            for step in uow.studies.mpps_of(study.id)
        ],
        "critical": _critical(study, result),
        "findings": [_without(f, "study_id") for f in uow.studies.findings(study.id)],
        "external_results": [
            {
                **_without(r, "study_id", "id", "position"),
                "words": STATUS_WORDS.get(r.status, r.status),
            }
            for r in uow.external.of_study(study.id)
        ],
        "appointments": []
        if order is None
        else [
            _without(a, "id", "order_id", "patient_id", "key")
            for a in uow.visits.appointments_of(order.id)
        ],
        "reports": [_without(asdict(r), "study_id") for r in reports],
        "may_sign": [status.value for status in signable(study.state, last)],
        "deliveries": _deliveries(uow, study.id),
        "notices": [
            {**_without(notice, "id", "study_id"), "ack": _answer(uow, notice.message_id)}
            for notice in uow.notices.of_study(study.id)
        ],
        "messages": [_without(m, "study_id") for m in uow.messages.of_study(study.id)],
        "timeline": [_without(e, "study_id") for e in uow.timeline.of_study(study.id)],
        "desk": [_without(d, "study_id") for d in uow.studies.desk(study.id)],
        "stages": [_without(s, "subject") for s in uow.outbox.of_study(study.id)],
        "priors": []
        if study.patient_id is None
        else [
            {
                "study_uid": prior.study_uid,
                "accession": prior.accession,
                "description": prior.description,
                "started_at": prior.started_at,
                "state": prior.state.value,
            }
            for prior in uow.studies.priors(study.id, study.patient_id)
        ],
    }
    plain = _json(told)
    if not isinstance(plain, dict):
        raise TypeError("a story is a mapping")
    return plain


def desk_rows(uow: UnitOfWork, *, limit: int, offset: int = 0) -> list[dict[str, Any]]:
    """Return what waits on the reconciliation desk, oldest first, as JSON values."""
    return [_json(row._asdict()) for row in uow.studies.desk(limit=limit, offset=offset)]


def middle_image(uow: UnitOfWork, study_id: str) -> Row[Any] | None:
    """Return the image in the middle of the study's longest series, or None without images."""
    longest = (
        select(instance.c.series_uid)
        .join(series, series.c.series_uid == instance.c.series_uid)
        .where(instance.c.study_id == study_id, series.c.modality.not_in(("SR", "KO", "PR", "SEG")))
        .group_by(instance.c.series_uid)
        .order_by(func.count().desc(), instance.c.series_uid)
        .limit(1)
        .scalar_subquery()
    )
    images = uow.studies.select(
        select(instance.c.series_uid, instance.c.sop_uid, instance.c.frames)
        .where(instance.c.series_uid == longest)
        .order_by(instance.c.number, instance.c.sop_uid)
    )
    return images[len(images) // 2] if images else None


def _study(study: Study, row: Row[Any]) -> dict[str, Any]:
    return {
        **asdict(study),
        "priority": study.priority.name,
        "created_at": row.created_at,
        "completeness": row.completeness,
        "triage_text": row.triage_text,
    }


def _patient(patient: Patient | None, row: Row[Any]) -> dict[str, Any]:
    if patient is None:
        return {
            "identified": False,
            "name": row.dicom_patient_name,
            "mrn": row.dicom_patient_id,
            "authority": "",
            "identifiers": [],
            "birth_date": None,
            "sex": "",
        }
    return {
        "identified": True,
        "id": patient.id,
        "name": str(patient.name),
        "mrn": patient.mrn.value,
        "authority": patient.mrn.authority,
        "identifiers": [asdict(i) for i in patient.identifiers],
        "birth_date": patient.birth_date,
        "sex": patient.sex,
    }


def _order(order: Order) -> dict[str, Any]:
    return {
        **asdict(order),
        "priority": order.priority.name,
        "referring": str(order.referring),
        "requesting": str(order.requesting),
    }


def _series(uow: UnitOfWork, study_id: str) -> list[dict[str, Any]]:
    rows = uow.studies.select(
        select(
            series.c.series_uid,
            series.c.number,
            series.c.modality,
            series.c.description,
            func.count(instance.c.sop_uid).label("instances"),
            func.coalesce(func.sum(instance.c.size), 0).label("bytes"),
        )
        .outerjoin(instance, instance.c.series_uid == series.c.series_uid)
        .where(series.c.study_id == study_id)
        .group_by(series.c.series_uid)
        .order_by(series.c.number, series.c.series_uid)
    )
    return [{**row._asdict(), "bytes": int(row.bytes)} for row in rows]


def _critical(study: Study, result: Row[Any] | None) -> dict[str, Any] | None:
    if result is None:
        if not is_critical(study):
            return None
        return {
            "found_at": None,
            "notified_at": None,
            "escalations": 0,
            "acknowledged_at": None,
            "acknowledged_by": None,
        }
    return _without(result, "study_id")


def _deliveries(uow: UnitOfWork, study_id: str) -> list[dict[str, Any]]:
    told = []
    for row in uow.deliveries.of_study(study_id):
        line = row._asdict()
        if row.message_id is not None:
            line["ack"] = _answer(uow, row.message_id)
        told.append(line)
    return told


def _answer(uow: UnitOfWork, message_id: int | None) -> str | None:
    """Return what the peer answered, word for word: the proof that an operator asks for."""
    kept = None if message_id is None else uow.messages.find(message_id)
    answer = None if kept is None else kept.ack
    if answer is None:
        return None
    return answer[:_ANSWER_BYTES].decode("utf-8", "replace").strip("\x0b\x1c\r\n")


def _without(record: Row[Any] | Mapping[str, Any], *keys: str) -> dict[str, Any]:
    fields = record if isinstance(record, Mapping) else record._asdict()
    return {key: value for key, value in fields.items() if key not in keys}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, (ReportStatus, StudyState, Outcome)):
        return value.value
    if isinstance(value, Priority):
        return value.name
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(inner) for inner in value]
    return value
