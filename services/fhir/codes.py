"""Code systems, and the check that fhir.resources leaves out.

The library knows most of the codes that a required binding allows, and accepts any other all the
same (STANDARDS §5.4). What leaves here is checked; a wrong code is an error of ours, never a
resource.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, Final

from pydantic import BaseModel

from services.fhir.r5 import as_r5
from services.fhir.versions import R4, R5, Version

ACCESSION: Final = "ACSN"
V2_0203: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"
V2_0074: Final = "http://terminology.hl7.org/CodeSystem/v2-0074"
INTERPRETATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
OBSERVATION_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
ABSENT: Final = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
ENDPOINT: Final = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
LOINC: Final = "http://loinc.org"
SNOMED: Final = "http://snomed.info/sct"
DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
RADLEX: Final = "http://radlex.org"
UCUM: Final = "http://unitsofmeasure.org"
DICOM_UID: Final = "urn:dicom:uid"
STUDY_STATUS: Final = "http://hl7.org/fhir/imagingstudy-status"
REPORT_STATUS: Final = "http://hl7.org/fhir/diagnostic-report-status"
ENDPOINT_STATUS: Final = "http://hl7.org/fhir/endpoint-status"
GENDER: Final = "http://hl7.org/fhir/administrative-gender"

CODING: Final = ("system", "code", "display")

IMAGING_STUDY_REPORT: Final = "18748-4"
"""LOINC: Diagnostic imaging study."""
DICOMWEB: Final = "dicomweb"
"""Id of the one Endpoint."""

IDENTIFIER_TYPES: Final = {
    "ACSN": "Accession ID",
    "FILL": "Filler Identifier",
    "PLAC": "Placer Identifier",
    "MR": "Medical record number",
    "PI": "Patient internal identifier",
    "PT": "Patient external identifier",
    "VN": "Visit number",
    "AN": "Account number",
    "SS": "Social Security number",
    "NI": "National unique individual identifier",
}
"""The codes of HL70203 that we write, with their displays."""

SCHEMES: Final = {
    "LN": LOINC,
    "SCT": SNOMED,
    "SRT": SNOMED,
    "DCM": DCM,
    "RADLEX": RADLEX,
    "RPID": RADLEX,
}
"""Coding schemes of HL70396 and PS3.16 table 8-1 as FHIR systems; a local one has none."""


REQUIRED: Final[dict[str, frozenset[str] | None]] = {
    # The library's list of these ends in "+", for "and more".
    "DiagnosticReport.status": frozenset(
        [
            "registered",
            "partial",
            "preliminary",
            "final",
            "amended",
            "corrected",
            "appended",
            "cancelled",
            "entered-in-error",
            "unknown",
        ]
    ),
    "Observation.status": frozenset(
        [
            "registered",
            "preliminary",
            "final",
            "amended",
            "corrected",
            "cancelled",
            "entered-in-error",
            "unknown",
        ]
    ),
    # It has none of these two.
    "OperationOutcomeIssue.code": frozenset(
        [
            "invalid",
            "structure",
            "required",
            "value",
            "invariant",
            "security",
            "login",
            "unknown",
            "expired",
            "forbidden",
            "suppressed",
            "processing",
            "not-supported",
            "duplicate",
            "multiple-matches",
            "not-found",
            "deleted",
            "too-long",
            "code-invalid",
            "extension",
            "too-costly",
            "business-rule",
            "conflict",
            "transient",
            "lock-error",
            "no-store",
            "exception",
            "timeout",
            "incomplete",
            "throttled",
            "informational",
        ]
    ),
    "CapabilityStatement.fhirVersion": frozenset({R4.number, R5.number}),
    # MIME types are no closed list.
    "CapabilityStatement.format": None,
}
"""Required value sets where the library's own list will not do."""


class InvalidResourceError(Exception):
    """We built a resource that FHIR does not allow; the message says where, without values."""


def validated(resource: dict[str, Any], version: Version = R4) -> dict[str, Any]:
    """Return the resource as JSON values, after structure and required codes were checked.

    Parameters
    ----------
    resource : dict
        Built as R4.
    version : Version
        What to return it as.

    Raises
    ------
    InvalidResourceError
        If a code is outside its required value set, or a ``#`` reference has no target.
    pydantic.ValidationError
        If structure, cardinality or a data type is wrong.
    """
    kind = str(resource["resourceType"])
    if version is R5:
        resource = as_r5(resource)
    parsed = _model(kind, version).model_validate(resource)
    wrong = [*_wrong_codes(parsed, kind), *_dangling(resource, kind)]
    if wrong:
        raise InvalidResourceError("; ".join(wrong))
    plain: dict[str, Any] = json.loads(parsed.model_dump_json(exclude_none=True))
    return plain


@cache
def mandatory(kind: str, version: Version) -> frozenset[str]:
    """Return the elements that a resource of a type cannot be without."""
    return frozenset(
        field.alias or name
        for name, field in _model(kind, version).model_fields.items()
        if field.is_required() or _extra(field.json_schema_extra).get("element_required")
    )


def _model(kind: str, version: Version) -> type[BaseModel]:
    model: type[BaseModel] = getattr(import_module(f"{version.models}.{kind.lower()}"), kind)
    return model


def _extra(told: Any) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


def _wrong_codes(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for inner in value:
            yield from _wrong_codes(inner, path)
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if inner is None:
                continue
            allowed = _allowed(type(value).__name__, name, field.json_schema_extra)
            given = inner if isinstance(inner, list) else [inner]
            if allowed is not None and not all(code in allowed for code in given):
                yield f"{path}.{name} has a code outside its required value set"
            yield from _wrong_codes(inner, f"{path}.{name}")


def _allowed(kind: str, name: str, extra: Any) -> frozenset[str] | None:
    element = f"{kind}.{name}"
    if element in REQUIRED:
        return REQUIRED[element]
    listed = _extra(extra).get("enum_values")
    return frozenset(listed) if isinstance(listed, list) else None


def _dangling(resource: dict[str, Any], kind: str) -> Iterator[str]:
    contained = {inner.get("id") for inner in resource.get("contained", [])}
    used = {reference[1:] for reference in _references(resource) if reference.startswith("#")}
    if used - contained:
        yield f"{kind} refers to something it does not contain"
    if contained - used:
        # Invariant dom-3: what is contained and never referred to does not exist.
        yield f"{kind} contains something it does not refer to"


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
