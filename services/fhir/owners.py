"""Search by patient: of whatever has a patient, and after merges as before."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, any_, false, func, or_, select

from services.database.tables import patient, patient_identifier
from services.fhir.parameters import Parameter, Token, reference


def patient_parameter(owner: ColumnElement[Any]) -> Parameter:
    """Return the search by a patient's id or identifier.

    Parameters
    ----------
    owner : ColumnElement
        Column with the id of the living patient record.

    Notes
    -----
    A retired record's id and numbers find what its survivor has: it is the same person.
    """

    def by_id(value: str) -> ColumnElement[bool]:
        identity = reference(value, "Patient")
        if identity is None:
            return false()
        return owner == any_(_lives_on(select(patient.c.id).where(patient.c.id == identity)))

    def by_identifier(value: str) -> ColumnElement[bool]:
        numbered = select(patient_identifier.c.patient_id).where(has_identifier(value))
        return owner == any_(_lives_on(numbered))

    return Parameter(
        type="reference",
        condition=by_id,
        modifiers={"identifier": by_identifier},
        chains={"identifier": by_identifier},
        target="Patient",
    )


def has_identifier(value: str | Token) -> ColumnElement[bool]:
    """Return the condition on `patient_identifier` that a token asks for.

    The authority is told as a system only where it is an OID; by its name it is found too.
    """
    token = value if isinstance(value, Token) else Token.read(value)
    columns = patient_identifier.c
    if token.system is None:
        return columns.value == token.value
    if not token.system:
        is_oid = columns.authority.regexp_match(r"^[0-9]+(\.[0-9]+)+$")
        return (columns.value == token.value) & ~is_oid & (columns.universal_type != "ISO")
    if not token.value:
        return of_system(token.system)
    return of_system(token.system) & (columns.value == token.value)


def of_system(system: str) -> ColumnElement[bool]:
    """Return the condition on `patient_identifier` to be of a system."""
    columns, name = patient_identifier.c, system.removeprefix("urn:oid:")
    universal = (columns.universal_id == name) & (columns.universal_type == "ISO")
    return or_(columns.authority == name, universal)


def _lives_on(found: Select[Any]) -> Any:
    """Return the array of the records that these live on as, themselves included."""
    line = found.cte(recursive=True)
    above = select(patient.c.merged_into).join(line, patient.c.id == line.c[0])
    line = line.union(above.where(patient.c.merged_into.is_not(None)))
    # As an array it is found once, before any row is looked at, and an index is used for it.
    return func.array(select(line.c[0]).scalar_subquery())
