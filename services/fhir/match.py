"""Patient/$match: who a described person may be, by the patient index (IHE PDQm, ITI-119)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final

from models.errors import InvalidValue, MissingField
from models.patient import Patient, PersonName
from services.fhir.identifiers import Systems
from services.fhir.order_reading import human_name
from services.fhir.served import Call, Operation, Resource
from services.identity.index import Candidate, PatientIndex
from services.identity.matching import Verdict

DEFINITION: Final = "http://hl7.org/fhir/OperationDefinition/Patient-match"
GRADE: Final = "http://hl7.org/fhir/StructureDefinition/match-grade"

_SEXES: Final = {"female": "F", "male": "M", "other": "O"}
_PROBABLE: Final = 0.9
"""From which probability on a match that only a person may confirm is graded ``probable``."""
_NOBODY: Final = "asked"
"""Id of the person that is asked for; ours have 32 digits."""


def operation(
    index: PatientIndex, systems: Systems, patient: Callable[[Call, str], Resource]
) -> Operation:
    """Return the operation.

    Parameters
    ----------
    index : PatientIndex
    systems : Systems
        What the site calls the issuers of numbers.
    patient : callable
        Makes the Patient with an id.
    """

    def perform(call: Call, body: Resource) -> Resource:
        asked, only_certain, count = _asked(body, systems)
        found = index.find(call.uow.connection, asked)
        if only_certain:
            found = [c for c in found if c.score.verdict is Verdict.AUTOMATIC]
        entries = [_entry(call, patient(call, c.patient_id), c) for c in found[:count]]
        told: Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
        return {**told, "entry": entries} if entries else told

    return Operation(name="match", definition=DEFINITION, reads=False, perform=perform)


def person(resource: Mapping[str, Any], systems: Systems) -> Patient:
    """Return a Patient of FHIR as it is compared."""
    names = resource.get("name", [{}])
    name = next((n for n in names if n.get("use") == "official"), names[0])
    numbers = [i for i in resource.get("identifier", ()) if i.get("value", "").strip()]
    born = resource.get("birthDate", "")
    return Patient(
        id=_NOBODY,
        identifiers=tuple(systems.patient_identifier(number) for number in numbers),
        name=human_name(name) or PersonName(),
        # A year or month alone is no day that could agree or disagree.
        birth_date=date.fromisoformat(born) if len(born) == 10 else None,
        sex=_SEXES.get(resource.get("gender", ""), ""),
    )


def _asked(body: Resource, systems: Systems) -> tuple[Patient, bool, int | None]:
    if body["resourceType"] == "Patient":
        return person(body, systems), False, None
    if body["resourceType"] != "Parameters":
        raise InvalidValue("$match takes Parameters or a Patient", location="resourceType")
    given = {p["name"]: p for p in body.get("parameter", [])}
    resource = given.get("resource", {}).get("resource", {})
    if resource.get("resourceType") != "Patient":
        raise MissingField(
            "$match needs a Patient", location="Parameters.parameter.where(name='resource')"
        )
    count = given.get("count", {}).get("valueInteger")
    if count is not None and count < 1:
        raise InvalidValue("count is at least 1", location="count")
    return (
        person(resource, systems),
        bool(given.get("onlyCertainMatches", {}).get("valueBoolean")),
        count,
    )


def _entry(call: Call, resource: Resource, candidate: Candidate) -> dict[str, Any]:
    score = candidate.score
    grade = "certain" if score.verdict is Verdict.AUTOMATIC else "possible"
    # The total is the logarithm of the odds (to base 2) that both are one person.
    share = 1 / (1 + 2 ** -min(max(score.total, -60), 60))
    if grade == "possible" and share >= _PROBABLE:
        grade = "probable"
    return {
        "fullUrl": f"{call.base}/Patient/{resource['id']}",
        "resource": resource,
        "search": {
            "extension": [{"url": GRADE, "valueCode": grade}],
            "mode": "match",
            "score": round(share, 4),
        },
    }
