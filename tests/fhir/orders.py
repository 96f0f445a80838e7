"""Orders that tests send over FHIR, written out element by element; every patient is invented."""

from __future__ import annotations

import json
from typing import Any

from services.fhir.versions import R4, Version

FHIR_JSON = {"Content-Type": "application/fhir+json"}
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
PLACER = "http://emr.example/orders"
SYSTEMS = {
    PLACER: "EMR",
    "http://ris.example/orders": "RIS",
    "urn:oid:1.2.3.4": "HOSP",
    "urn:oid:1.2.9": "EMR",
    "urn:oid:1.2.8": "RIS",
    "http://hl7.org/fhir/sid/icd-10": "I10",
}
PATIENT = {
    "resourceType": "Patient",
    "identifier": [
        {
            "type": {"coding": [{"system": V2_0203, "code": "MR"}]},
            "system": "urn:oid:1.2.3.4",
            "value": "0012345",
        }
    ],
    "name": [{"family": "DOE", "given": ["JANE", "Q"]}],
    "gender": "female",
    "birthDate": "1980-02-14",
}
SUBJECT = {"identifier": {"system": "urn:oid:1.2.3.4", "value": "0012345"}}


def number(kind: str, value: str, system: str) -> dict[str, Any]:
    return {
        "type": {"coding": [{"system": V2_0203, "code": kind}]},
        "system": system,
        "value": value,
    }


def order(**changes: Any) -> dict[str, Any]:
    """A ServiceRequest of R4 for a patient who is known; None takes an element away."""
    resource = {
        "resourceType": "ServiceRequest",
        "identifier": [number("PLAC", "P100", PLACER)],
        "status": "active",
        "intent": "order",
        "category": [
            {
                "coding": [
                    {"system": "http://snomed.info/sct", "code": "363679005"},
                    {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "MR"},
                ]
            }
        ],
        "priority": "stat",
        "code": {"coding": [{"code": "MRBRWO", "display": "MRI brain w/o contrast"}]},
        "subject": SUBJECT,
        "occurrenceDateTime": "2026-03-01T09:00:00Z",
        "requester": {"display": "Dr Anna Ref"},
        "reasonCode": [{"text": "Acute severe headache"}],
    }
    merged = {**resource, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def entry(resource: dict[str, Any], full_url: str = "", **request: Any) -> dict[str, Any]:
    """An entry of a transaction that creates a resource."""
    asked = {"method": "POST", "url": resource["resourceType"], **request}
    return {**({"fullUrl": full_url} if full_url else {}), "resource": resource, "request": asked}


def transaction(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}


def as_r5(resource: dict[str, Any]) -> dict[str, Any]:
    """A ServiceRequest of R4 written as R5 (code, reason, location, supportingInfo)."""
    told = dict(resource)
    told["code"] = {"concept": told["code"]}
    if "reasonCode" in told:
        told["reason"] = [{"concept": concept} for concept in told.pop("reasonCode")]
    if "supportingInfo" in told:
        told["supportingInfo"] = [{"reference": one} for one in told["supportingInfo"]]
    return told


def full() -> dict[str, Any]:
    """A transaction that says all that the short ORM^O01 of the HL7 tests says."""
    supporting: list[dict[str, Any]] = [
        {
            "resourceType": "AllergyIntolerance",
            "code": {"coding": [{"code": "GADO", "display": "Gadolinium contrast"}]},
            "patient": {"reference": "urn:uuid:patient"},
        },
        {
            "resourceType": "Condition",
            "clinicalStatus": {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/condition-clinical",
                        "code": "active",
                    }
                ]
            },
            "code": {"text": "Pacemaker"},
            "subject": {"reference": "urn:uuid:patient"},
        },
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
            "subject": {"reference": "urn:uuid:patient"},
            "valueQuantity": {
                "value": 72,
                "unit": "kg",
                "system": "http://unitsofmeasure.org",
                "code": "kg",
            },
        },
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "82810-3"}]},
            "subject": {"reference": "urn:uuid:patient"},
            "valueCodeableConcept": {
                "coding": [{"system": "http://snomed.info/sct", "code": "77386006"}]
            },
        },
    ]
    practitioner = {
        "resourceType": "Practitioner",
        "identifier": [{"system": "http://emr.example/staff", "value": "9876"}],
        "name": [{"family": "REF", "given": ["ANNA"]}],
    }
    places: list[dict[str, Any]] = [
        {"resourceType": "Location", "name": "ED"},
        {"resourceType": "Location", "name": "B12", "partOf": {"reference": "urn:uuid:place0"}},
        {"resourceType": "Location", "name": "1", "partOf": {"reference": "urn:uuid:place1"}},
    ]
    encounter = {
        "resourceType": "Encounter",
        "identifier": [
            {"assigner": {"display": "HOSP"}, "value": "V123"},
        ],
        "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
        "subject": {"reference": "urn:uuid:patient"},
        "location": [{"location": {"reference": "urn:uuid:place2"}}],
    }
    scanner = {
        "resourceType": "Device",
        "identifier": [{"type": {"text": "AE Title"}, "value": "MR1AE"}],
    }
    request = order(
        identifier=[
            number("PLAC", "P100", PLACER),
            number("FILL", "F200", "http://ris.example/orders"),
            number("ACSN", "A2026000123", "http://ris.example/orders"),
            {"type": {"text": "Requested Procedure ID"}, "value": "RP1"},
            {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.4.5.6.7"},
        ],
        subject={"reference": "urn:uuid:patient"},
        encounter={"reference": "urn:uuid:encounter"},
        requester={"reference": "urn:uuid:practitioner"},
        performer=[{"reference": "urn:uuid:scanner"}],
        supportingInfo=[{"reference": f"urn:uuid:info{n}"} for n in range(len(supporting))],
    )
    task = {
        "resourceType": "Task",
        "identifier": [{"type": {"text": "Scheduled Procedure Step ID"}, "value": "SPS1"}],
        "status": "requested",
        "intent": "order",
        "focus": {"reference": "urn:uuid:order"},
        "for": {"reference": "urn:uuid:patient"},
    }
    return transaction(
        entry(task, "urn:uuid:task"),
        entry(request, "urn:uuid:order"),
        entry(PATIENT, "urn:uuid:patient"),
        entry(practitioner, "urn:uuid:practitioner"),
        entry(encounter, "urn:uuid:encounter"),
        entry(scanner, "urn:uuid:scanner"),
        *(entry(p, f"urn:uuid:place{n}") for n, p in enumerate(places)),
        *(entry(s, f"urn:uuid:info{n}") for n, s in enumerate(supporting)),
    )


def in_r5(bundle: dict[str, Any]) -> dict[str, Any]:
    """A transaction of R4 written as R5."""
    told: dict[str, Any] = json.loads(json.dumps(bundle))
    for one in told["entry"]:
        resource = one["resource"]
        if resource["resourceType"] == "ServiceRequest":
            one["resource"] = as_r5(resource)
        elif resource["resourceType"] == "Encounter":
            resource["class"] = [{"coding": [resource["class"]]}]
    return told


def everything_taken(version: Version) -> dict[str, Any]:
    """A transaction with a resource of every type that is taken."""
    bundle = full() if version is R4 else in_r5(full())
    others: list[dict[str, Any]] = [
        {"resourceType": "Organization", "name": "General Hospital"},
        {
            "resourceType": "PractitionerRole",
            "practitioner": {"reference": "urn:uuid:practitioner"},
        },
        {
            "resourceType": "Flag",
            "status": "active",
            "code": {"text": "Pacemaker"},
            "subject": {"reference": "urn:uuid:patient"},
        },
    ]
    bundle["entry"] += [entry(resource) for resource in others]
    return bundle
