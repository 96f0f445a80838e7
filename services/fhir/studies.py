"""ImagingStudy: read and searched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, false, func, or_, select

from models.errors import UnknownKey
from services.database.store import UnitOfWork
from services.database.tables import imaging_order, instance, series, study
from services.fhir import codes
from services.fhir.imaging_study import WITHOUT_IMAGES, imaging_study
from services.fhir.owners import patient_parameter
from services.fhir.parameters import Condition, Parameter, Token, is_date, reference
from services.fhir.report import Record
from services.fhir.served import Call, Order, Resource, Searched, Served
from services.fhir.versions import R4, Version

STARTED = func.coalesce(study.c.started_at, study.c.created_at)
"""When a study was done, or else when it became known: an index has it (``ix_study_started``)."""


def served(version: Version) -> Served:
    """Return the row of ImagingStudy."""
    based_on = "basedon" if version is R4 else "based-on"
    return Served(
        kind="ImagingStudy",
        read=_read,
        search=Searched(
            source=select(study.c.id).outerjoin(
                imaging_order, imaging_order.c.id == study.c.order_id
            ),
            key=study.c.id,
            parameters={
                **study_parameters(based_on),
                "identifier": Parameter(type="token", condition=_identifier),
                "started": Parameter(type="date", condition=_started),
                "modality": Parameter(type="token", condition=_modality),
                "status": Parameter(type="token", condition=_status),
                "series": Parameter(type="token", condition=_of(series, series.c.series_uid)),
                "instance": Parameter(type="token", condition=_of(instance, instance.c.sop_uid)),
                "endpoint": Parameter(type="reference", condition=_endpoint, target="Endpoint"),
            },
            orders={
                "started": Order(by=STARTED, read=datetime.fromisoformat),
                "_lastUpdated": Order(by=study.c.updated_at, read=datetime.fromisoformat),
                "_id": Order(by=study.c.id, read=str),
            },
            default="-started",
            load=lambda call, ids: [_resource(call, i) for i in ids],
            includes={
                "subject": lambda told: literals(told["subject"]),
                "patient": lambda told: literals(told["subject"]),
                based_on: lambda told: literals(*told.get("basedOn", ())),
                "endpoint": lambda told: literals(*told.get("endpoint", ())),
            },
        ),
        documentation="Read by id. meta.lastUpdated is when the study was last judged or changed.",
    )


def study_parameters(based_on: str) -> dict[str, Parameter]:
    """Return what everything is searched by that belongs to a study.

    Parameters
    ----------
    based_on : str
        What the version calls the search by order.
    """
    owner = patient_parameter(study.c.patient_id)
    return {
        "_id": Parameter(type="token", condition=lambda v: study.c.id == v),
        "_lastUpdated": Parameter(type="date", condition=is_date(study.c.updated_at)),
        "accession": Parameter(
            type="token", condition=lambda v: study.c.accession == Token.read(v).value, own=True
        ),
        "patient": owner,
        "subject": owner,
        based_on: Parameter(
            type="reference",
            condition=_based_on,
            modifiers={"identifier": _order_number},
            target="ServiceRequest",
        ),
    }


def record(uow: UnitOfWork, study_id: str) -> Record:
    """Return all that a study's resources are made of."""
    found = uow.studies.get(study_id)
    row = uow.studies.row(study_id)
    return Record(
        study=found,
        patient=None if found.patient_id is None else uow.patients.get(found.patient_id),
        order=None if found.order_id is None else uow.orders.get(found.order_id),
        reports=tuple(uow.reports.of_study(study_id)),
        findings=tuple(f._asdict() for f in uow.studies.findings(study_id)),
        dicom_name=row.dicom_patient_name,
        dicom_id=row.dicom_patient_id,
        updated_at=row.updated_at,
    )


def literals(*references: dict[str, Any]) -> list[str]:
    """Return where references lead that lead out of their resource."""
    told = [reference.get("reference", "#") for reference in references]
    return [target for target in told if not target.startswith("#")]


def require(uow: UnitOfWork, column: Any, identity: str) -> None:
    """Raise `UnknownKey` unless a row has this id."""
    if not identity.isprintable() or not uow.studies.select(
        select(column).where(column == identity)
    ):
        raise UnknownKey("no resource has this id")


def _read(call: Call, identity: str) -> Resource:
    require(call.uow, study.c.id, identity)
    return _resource(call, identity)


def _resource(call: Call, study_id: str) -> Resource:
    return imaging_study(
        record(call.uow, study_id),
        _series(call.uow, study_id),
        has_endpoint=call.wado_root is not None,
        version=call.version,
    )


def _series(uow: UnitOfWork, study_id: str) -> Sequence[dict[str, Any]]:
    rows = uow.studies.select(
        select(
            series.c.series_uid,
            series.c.number,
            series.c.modality,
            series.c.description,
            func.count(instance.c.sop_uid).label("instances"),
        )
        .outerjoin(instance, instance.c.series_uid == series.c.series_uid)
        .where(series.c.study_id == study_id)
        .group_by(series.c.series_uid)
        .order_by(series.c.number, series.c.series_uid)
    )
    return [row._asdict() for row in rows]


def _identifier(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    uid = study.c.study_uid == token.value.removeprefix("urn:oid:")
    if token.system == codes.DICOM_UID:
        return uid if token.value else study.c.study_uid.is_not(None)
    if token.system:
        return false()
    accession = (study.c.accession == token.value) & (study.c.accession != "")
    return or_(uid, accession) if token.system is None else accession


def _started(value: str) -> ColumnElement[bool]:
    return study.c.started_at.is_not(None) & is_date(STARTED)(value)


def _modality(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    if not token.in_system(codes.DCM):
        return false()
    modality = series.c.modality
    named = modality == token.value if token.value else modality != ""
    return exists().where(series.c.study_id == study.c.id, named)


def _status(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    has_images = exists().where(instance.c.study_id == study.c.id)
    ended = study.c.state.in_([state.value for state in WITHOUT_IMAGES])
    told = {
        "available": has_images,
        "cancelled": ~has_images & ended,
        "registered": ~has_images & ~ended,
    }
    # A status of the value set that no study of ours ever has matches nothing.
    return told.get(token.value, false()) if token.in_system(codes.STUDY_STATUS) else false()


def _of(table: Any, uid: ColumnElement[str]) -> Condition:
    def condition(value: str) -> ColumnElement[bool]:
        token = Token.read(value)
        number = token.value.removeprefix("urn:oid:")
        wanted = exists().where(table.c.study_id == study.c.id, uid == number)
        return wanted if token.in_system("", codes.DICOM_UID) else false()

    return condition


def _endpoint(value: str) -> ColumnElement[bool]:
    if reference(value, "Endpoint") != codes.DICOMWEB:
        return false()
    return exists().where(instance.c.study_id == study.c.id)


def _based_on(value: str) -> ColumnElement[bool]:
    identity = reference(value, "ServiceRequest")
    return false() if identity is None else study.c.order_id == identity


def _order_number(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    order = imaging_order.c
    numbered = or_(
        (order.placer_number == token.value) & _of_authority(token),
        (order.filler_number == token.value) & (token.system is None or token.system == ""),
    )
    return numbered if token.value else false()


def _of_authority(token: Token) -> Any:
    if token.system is None:
        return True
    authority = imaging_order.c.placer_authority
    if not token.system:
        return ~authority.regexp_match(r"^[0-9]+(\.[0-9]+)+$")
    return authority == token.system.removeprefix("urn:oid:")
