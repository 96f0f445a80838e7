"""Patient: read and searched, retired records included."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, false, func, or_, select

from services.database.store import UnitOfWork
from services.database.tables import (
    patient,
    patient_change,
    patient_identifier,
    patient_trait,
)
from services.fhir import codes
from services.fhir.owners import has_identifier
from services.fhir.parameters import Condition, Parameter, Token, is_date
from services.fhir.report import GENDERS, patient_resource
from services.fhir.served import Call, Operation, Order, Resource, Searched, Served
from services.fhir.studies import require
from services.identity.normalise import fold


def served(operations: tuple[Operation, ...] = ()) -> Served:
    """Return the row of Patient."""
    return Served(
        kind="Patient",
        read=_read,
        search=Searched(
            source=select(patient.c.id),
            key=patient.c.id,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: patient.c.id == v),
                "_lastUpdated": Parameter(type="date", condition=is_date(patient.c.updated_at)),
                "identifier": Parameter(type="token", condition=_identifier),
                "family": Parameter(type="string", condition=_named("family")),
                "given": Parameter(type="string", condition=_named("given", "middle")),
                "name": Parameter(type="string", condition=_named("family", "given", "middle")),
                "birthdate": Parameter(
                    type="date", condition=is_date(patient.c.birth_date, whole_days=True)
                ),
                "gender": Parameter(type="token", condition=_gender),
                "active": Parameter(type="token", condition=_active),
            },
            orders={
                "_id": Order(by=patient.c.id, read=str),
                "_lastUpdated": Order(by=patient.c.updated_at, read=datetime.fromisoformat),
                "family": Order(by=patient.c.family, read=str),
                "birthdate": Order(
                    by=func.coalesce(patient.c.birth_date, date.min), read=date.fromisoformat
                ),
            },
            default="_id",
            load=lambda call, ids: [told(call, i) for i in ids],
        ),
        operations=operations,
        writes=("create", "update"),
        documentation=(
            "A record that retired in a merge stays readable, inactive, with a link of type "
            "replaced-by; its survivor has one of type replaces. Names are found from their "
            "beginning, without case and accents, former ones too."
        ),
    )


def told(call: Call, patient_id: str) -> Resource:
    """Return the Patient with this id."""
    row = call.uow.studies.select(
        select(patient.c.merged_into, patient.c.updated_at).where(patient.c.id == patient_id)
    )[0]
    return patient_resource(
        call.uow.patients.get(patient_id),
        merged_into=row.merged_into,
        replaces=_retired(call.uow, patient_id),
        updated_at=row.updated_at,
        version=call.version,
    )


def _read(call: Call, identity: str) -> Resource:
    require(call.uow, patient.c.id, identity)
    return told(call, identity)


def _retired(uow: UnitOfWork, patient_id: str) -> list[str]:
    # By way of the changes, which have an index for it.
    retired = (
        select(patient.c.id)
        .join(patient_change, patient_change.c.retired_id == patient.c.id)
        .where(patient_change.c.survivor_id == patient_id, patient.c.merged_into == patient_id)
        .distinct()
        .order_by(patient.c.id)
    )
    return [str(row.id) for row in uow.studies.select(retired)]


def _identifier(value: str) -> ColumnElement[bool]:
    owners = select(patient_identifier.c.patient_id).where(has_identifier(value))
    return patient.c.id.in_(owners)


def _named(*columns: str) -> Condition:
    def condition(value: str) -> ColumnElement[bool]:
        wanted = fold(value)
        if not wanted:
            return false()
        trait = patient_trait.c
        begins: list[Any] = [trait[c].startswith(wanted, autoescape=True) for c in columns]
        return exists().where(trait.patient_id == patient.c.id, or_(*begins))

    return condition


def _gender(value: str) -> ColumnElement[bool]:
    token = Token.read(value)
    if not token.in_system(codes.GENDER):
        return false()
    known = [sex for sex, gender in GENDERS.items() if gender == token.value]
    if token.value == "unknown":
        return patient.c.sex.not_in(["", *GENDERS])
    return patient.c.sex.in_(known)


def _active(value: str) -> ColumnElement[bool]:
    retired = patient.c.merged_into
    return {"true": retired.is_(None), "false": retired.is_not(None)}.get(
        Token.read(value).value, false()
    )
