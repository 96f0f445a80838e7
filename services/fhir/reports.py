"""DiagnosticReport: read in every version, and searched."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, exists, false, func, or_, select

from models.errors import UnknownKey
from models.lifecycle import ReportStatus
from services.database.store import UnitOfWork
from services.database.tables import (
    imaging_order,
    patient_change,
    patient_change_item,
    report,
    study,
)
from services.fhir import codes
from services.fhir.parameters import Parameter, Token, constant, is_date
from services.fhir.report import Record, diagnostic_report
from services.fhir.served import Call, Order, Resource, Searched, Served
from services.fhir.studies import literals, record, study_parameters

_ISSUED = (
    select(func.max(report.c.signed_at)).where(report.c.study_id == study.c.id).scalar_subquery()
)
_PERFORMED = func.coalesce(study.c.started_at, study.c.acquired_at)


def served() -> Served:
    """Return the row of DiagnosticReport."""
    return Served(
        kind="DiagnosticReport",
        read=lambda call, identity: _resource(call, _reported(call.uow, identity)),
        vread=_vread,
        search=Searched(
            source=select(study.c.id)
            .outerjoin(imaging_order, imaging_order.c.id == study.c.order_id)
            .where(exists().where(report.c.study_id == study.c.id)),
            key=study.c.id,
            parameters={
                **study_parameters("based-on"),
                "identifier": Parameter(type="token", condition=_identifier),
                "status": Parameter(type="token", condition=_status),
                "date": Parameter(type="date", condition=is_date(_PERFORMED)),
                "issued": Parameter(type="date", condition=is_date(_ISSUED)),
                "category": Parameter(type="token", condition=constant(codes.V2_0074, "RAD")),
                "code": Parameter(type="token", condition=_code),
            },
            orders={
                "issued": Order(by=_ISSUED, read=datetime.fromisoformat),
                "_lastUpdated": Order(by=study.c.updated_at, read=datetime.fromisoformat),
                "_id": Order(by=study.c.id, read=str),
            },
            default="-_lastUpdated",
            load=lambda call, ids: [_resource(call, i) for i in ids],
            includes={
                "subject": lambda told: literals(told["subject"]),
                "patient": lambda told: literals(told["subject"]),
                "based-on": lambda told: literals(*told.get("basedOn", ())),
            },
        ),
        documentation="Read by the id of the study, or of any signed version of its report.",
    )


def version_of(uow: UnitOfWork, study_id: str, moment: datetime) -> int:
    """Return which version the resource of a study got at `moment`."""
    return sum(at <= moment for at in _versions(uow, record(uow, study_id)))


def _versions(uow: UnitOfWork, told: Record) -> list[datetime]:
    """Return when the resource got each of its versions, the first one first.

    A signature makes a version. So does what changes the resource without one: a model's finding
    that comes after the first signature, and a patient record that takes the study over.
    """
    signed = [r.signed_at for r in told.reports]
    others = [f["at"] for f in told.findings]
    changes = select(patient_change.c.at, patient_change.c.undone_at).join(
        patient_change_item, patient_change_item.c.change_id == patient_change.c.id
    )
    for row in uow.studies.select(
        changes.where(
            patient_change_item.c.kind == study.name, patient_change_item.c.key == told.study.id
        )
    ):
        others += [moment for moment in row if moment is not None]
    return sorted([*signed, *(moment for moment in others if moment > signed[0])])


def _resource(call: Call, study_id: str) -> Resource:
    told = record(call.uow, study_id)
    number = len(_versions(call.uow, told))
    return diagnostic_report(told, number=number, version=call.version)


def _vread(call: Call, identity: str, number: str) -> Resource:
    told = record(call.uow, _reported(call.uow, identity))
    moments = _versions(call.uow, told)
    if not (number.isascii() and number.isdigit() and 0 < int(number) <= len(moments)):
        raise UnknownKey("the report has no such version")
    position = int(number)
    moment = moments[position - 1]
    if position < len(moments):
        told = replace(
            told,
            reports=tuple(r for r in told.reports if r.signed_at <= moment),
            findings=tuple(f for f in told.findings if f["at"] <= moment),
            updated_at=moment,
        )
    return diagnostic_report(told, number=position, version=call.version)


def _reported(uow: UnitOfWork, identity: str) -> str:
    # A client may know the report by the id that signing returned; every version's id leads here.
    if identity.isprintable():
        rows = uow.studies.select(
            select(report.c.study_id)
            .where((report.c.study_id == identity) | (report.c.id == identity))
            .limit(1)
        )
        if rows:
            return str(rows[0].study_id)
    raise UnknownKey("no report has this id")


def _identifier(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    if token.system or not token.value:
        return false()
    return or_(study.c.accession == token.value, imaging_order.c.filler_number == token.value)


def _status(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    if not token.in_system(codes.REPORT_STATUS):
        return false()
    try:
        status = ReportStatus(token.value)
    except ValueError:
        # A status of the value set that no report of ours ever has matches nothing.
        return false()
    newest = (
        select(report.c.status)
        .where(report.c.study_id == study.c.id)
        .order_by(report.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    return newest == status.value


def _code(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    schemes = [name for name, system in codes.SCHEMES.items() if system == token.system]
    columns = imaging_order.c
    ordered = columns.procedure_code == token.value if token.value else columns.procedure_code != ""
    if token.system:
        ordered &= columns.procedure_scheme.in_(schemes)
    elif token.system == "":
        ordered &= columns.procedure_scheme.not_in(codes.SCHEMES)
    return or_(constant(codes.LOINC, codes.IMAGING_STUDY_REPORT)(value), ordered)
