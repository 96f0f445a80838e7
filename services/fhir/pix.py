"""Patient/$ihe-pix: under which other numbers a patient is known (IHE PIXm, ITI-83)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import or_, select

from models.errors import InvalidValue, MissingField
from services.database.store import UnitOfWork
from services.database.tables import patient_identifier
from services.fhir.codes import validated
from services.fhir.outcome import Refused
from services.fhir.owners import has_identifier, of_system
from services.fhir.parameters import Token
from services.fhir.report import patient_identifier as as_identifier
from services.fhir.served import Call, Operation, Resource

DEFINITION: Final = "https://profiles.ihe.net/ITI/PIXm/OperationDefinition/IHE.PIXm.pix"

Items = Sequence[tuple[str, str]]


def operation() -> Operation:
    """Return the operation."""
    return Operation(name="ihe-pix", definition=DEFINITION, reads=True, perform=_perform)


def _perform(call: Call, items: Items) -> Resource:
    source = _source(items)
    targets = [value for name, value in items if name == "targetSystem"]
    if not _is_known(call.uow, str(source.system)):
        raise Refused(
            400,
            "code-invalid",
            "sourceIdentifier Assigning Authority not found",
            expression="sourceIdentifier",
        )
    for target in targets:
        if not _is_known(call.uow, target):
            raise Refused(403, "code-invalid", "targetSystem not found", expression="targetSystem")
    owner = _owner(call.uow, source)
    if owner is None:
        raise Refused(404, "not-found", "sourceIdentifier Patient Identifier not found")
    patient_id = call.uow.patients.survivor(owner)
    told: list[dict[str, Any]] = [
        {"name": "targetIdentifier", "valueIdentifier": identifier}
        for identifier in _identifiers(call.uow, patient_id, targets, source)
    ]
    if told or not targets:
        reference = {"reference": f"Patient/{patient_id}"}
        told.append({"name": "targetId", "valueReference": reference})
    resource: Resource = {"resourceType": "Parameters"}
    return validated({**resource, "parameter": told} if told else resource, call.version)


def _source(items: Items) -> Token:
    given = [value for name, value in items if name == "sourceIdentifier"]
    if not given:
        raise MissingField("a sourceIdentifier is needed", location="sourceIdentifier")
    if len(given) > 1 or not all(value.isprintable() for _, value in items):
        raise InvalidValue("exactly one sourceIdentifier is taken", location="sourceIdentifier")
    source = Token.read(given[0])
    if not (source.system and source.value):
        raise InvalidValue(
            "sourceIdentifier is system|value, both of them given", location="sourceIdentifier"
        )
    return source


def _is_known(uow: UnitOfWork, system: str) -> bool:
    query = select(patient_identifier.c.value).where(of_system(system)).limit(1)
    return bool(uow.studies.select(query))


def _owner(uow: UnitOfWork, source: Token) -> str | None:
    query = select(patient_identifier.c.patient_id).where(
        has_identifier(source), patient_identifier.c.retired_by.is_(None)
    )
    rows = uow.studies.select(query.limit(1))
    return str(rows[0].patient_id) if rows else None


def _identifiers(
    uow: UnitOfWork, patient_id: str, targets: Sequence[str], source: Token
) -> list[dict[str, Any]]:
    wanted = or_(*(of_system(t) for t in targets)) if targets else ~has_identifier(source)
    keys = select(patient_identifier.c.authority, patient_identifier.c.value).where(
        patient_identifier.c.patient_id == patient_id,
        patient_identifier.c.retired_by.is_(None),
        wanted,
    )
    kept = {(row.authority, row.value) for row in uow.studies.select(keys)}
    return [
        as_identifier(identifier)
        for identifier in uow.patients.get(patient_id).identifiers
        if (identifier.authority, identifier.value) in kept
    ]
