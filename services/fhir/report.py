"""Patient and signed report as FHIR: DiagnosticReport with the AI's finding inside.

Element by element after STANDARDS §5.3; §4.6 for how a critical flag is carried.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1
from html import escape
from typing import Any, Final

from models.finding import Outcome
from models.lifecycle import ReportStatus
from models.order import Code, Order
from models.patient import Identifier, Patient, PersonName
from models.report import Report
from models.study import Study
from services.fhir import codes
from services.fhir.codes import validated
from services.fhir.versions import R4, Version

GENDERS: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "N": "other"}
"""HL70001 → AdministrativeGender; any other code is ``unknown``."""
_READ: Final = (ReportStatus.FINAL, ReportStatus.CORRECTED)
_NOT_FOR_DIAGNOSIS: Final = "AI triage, unverified: it sets reading order and is not a diagnosis."


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that a study's resources are made of."""

    study: Study
    patient: Patient | None
    order: Order | None
    reports: tuple[Report, ...] = ()
    """Oldest first."""
    findings: tuple[Mapping[str, Any], ...] = ()
    """Rows of the finding table."""
    dicom_name: str = ""
    """What the images say of the patient, used while none is linked."""
    dicom_id: str = ""
    updated_at: datetime | None = None
    """When anything of the study last changed."""


def patient_resource(
    patient: Patient,
    *,
    merged_into: str | None = None,
    replaces: Sequence[str] = (),
    updated_at: datetime | None = None,
    version: Version = R4,
) -> dict[str, Any]:
    """Return a Patient; after a merge, retired record and survivor point to each other."""
    resource = _patient(patient)
    resource["id"] = patient.id
    if updated_at is not None:
        resource["meta"] = meta(updated_at)
    resource["active"] = merged_into is None
    links = [("replaces", retired) for retired in replaces]
    if merged_into is not None:
        links.append(("replaced-by", merged_into))
    if links:
        resource["link"] = [
            {"other": {"reference": f"Patient/{other}"}, "type": kind} for kind, other in links
        ]
    return validated(resource, version)


def diagnostic_report(
    record: Record, *, number: int | None = None, version: Version = R4
) -> dict[str, Any]:
    """Return the study's DiagnosticReport in its newest version.

    Versions of a report are versions of one resource, as a correction replaces what it corrects.
    Its id is that of the study.

    Parameters
    ----------
    number : int, optional
        The resource's version; the report's if not given.

    Raises
    ------
    ValueError
        If nothing was signed yet.
    """
    if not record.reports:
        raise ValueError("a DiagnosticReport needs a signed report")
    study, newest = record.study, record.reports[-1]
    subject, contained = subject_of(record)
    observations = [
        _observation(record, finding, subject, number)
        for number, finding in enumerate(record.findings, start=1)
    ]
    for observation, device in observations:
        contained += [observation, device]
    resource: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "id": study.id,
        "meta": {
            "versionId": str(number or newest.version),
            **meta(record.updated_at or newest.signed_at),
        },
        "text": _narrative(newest, study),
        "identifier": _identifiers(record),
        "status": newest.status.value,
        "category": [{"coding": [_coding(codes.V2_0074, "RAD", "Radiology")]}],
        "code": _code(record),
        "subject": subject,
        "issued": instant(newest.signed_at),
        "resultsInterpreter": [{"type": "Practitioner", "display": readable_author(newest.author)}],
        "imagingStudy": [{"reference": f"ImagingStudy/{study.id}"}],
        "conclusion": newest.impression,
        "presentedForm": [_text_form(newest, study)],
    }
    performed = study.started_at or study.acquired_at
    if performed is not None:
        resource["effectiveDateTime"] = instant(performed)
    if record.order is not None:
        resource["basedOn"] = [order_reference(record.order)]
    if observations:
        resource["result"] = [{"reference": f"#{o['id']}"} for o, _ in observations]
    if contained:
        resource["contained"] = contained
    return validated(
        {key: value for key, value in resource.items() if value not in ([], None)}, version
    )


def meta(updated_at: datetime | None) -> dict[str, Any]:
    """Return the ``meta`` of a resource that is not versioned."""
    return {} if updated_at is None else {"lastUpdated": instant(updated_at)}


def order_reference(order: Order) -> dict[str, Any]:
    """Return a reference to the order, with the number that its placer knows."""
    return {
        "reference": f"ServiceRequest/{order.id}",
        "type": "ServiceRequest",
        "identifier": _identifier("PLAC", order.placer_number, order.placer_authority),
    }


def subject_of(record: Record) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the subject reference and what has to be contained for it."""
    if record.patient is not None:
        reference = {
            "reference": f"Patient/{record.patient.id}",
            "display": readable_name(record.patient.name),
        }
        return reference, []
    # Images nobody could be matched to: they name a patient, and say so themselves.
    inside: dict[str, Any] = {"resourceType": "Patient", "id": "patient"}
    if record.dicom_id:
        inside["identifier"] = [{"value": record.dicom_id}]
    inside["name"] = [_name(PersonName.parse(record.dicom_name))]
    return {"reference": "#patient"}, [inside]


def accession_identifier(accession: str) -> dict[str, Any]:
    """Return an accession number as an identifier; no system, as the site has declared none."""
    return _identifier("ACSN", accession)


def instant(at: datetime) -> str:
    """Return an ``instant``: UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def readable_name(name: PersonName) -> str:
    """Return a name as people write it: ``Dr Anna Example``."""
    parts = (name.prefix, name.given, name.middle, name.family, name.suffix)
    return " ".join(part for part in parts if part) or "unknown"


def _patient(patient: Patient) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "resourceType": "Patient",
        "identifier": [patient_identifier(i) for i in patient.identifiers],
        "name": [_name(patient.name)],
    }
    if patient.sex:
        resource["gender"] = GENDERS.get(patient.sex, "unknown")
    if patient.birth_date is not None:
        resource["birthDate"] = patient.birth_date.isoformat()
    return resource


def patient_identifier(identifier: Identifier) -> dict[str, Any]:
    """Return a patient's number; its system is told where the authority has an OID."""
    told = _identifier(identifier.type, identifier.value, identifier.authority)
    if identifier.universal_type == "ISO" and identifier.universal_id:
        told["system"] = f"urn:oid:{identifier.universal_id}"
    return told


def _identifier(kind: str, value: str, authority: str = "") -> dict[str, Any]:
    told: dict[str, Any] = {"value": value}
    if kind in codes.IDENTIFIER_TYPES:
        told["type"] = {"coding": [_coding(codes.V2_0203, kind, codes.IDENTIFIER_TYPES[kind])]}
    elif kind:
        told["type"] = {"text": kind}
    if authority:
        # A namespace is no URI: only an OID says system, a name says who assigned it.
        if all(part.isdigit() for part in authority.split(".")) and "." in authority:
            told["system"] = f"urn:oid:{authority}"
        told["assigner"] = {"display": authority}
    return told


def _name(name: PersonName) -> dict[str, Any]:
    told: dict[str, Any] = {"text": readable_name(name)}
    if name.family:
        told["family"] = name.family
    given = [part for part in (name.given, name.middle) if part]
    if given:
        told["given"] = given
    for key, value in (("prefix", name.prefix), ("suffix", name.suffix)):
        if value:
            told[key] = [value]
    return told


def readable_author(author: str) -> str:
    """Return who signed as people write it; some sign as HL7 does: ``EXAMPLE^ANNA``."""
    return readable_name(PersonName.parse(author)) if "^" in author else author


def _identifiers(record: Record) -> list[dict[str, Any]]:
    told = []
    if record.study.accession:
        told.append(accession_identifier(record.study.accession))
    if record.order is not None and record.order.filler_number:
        told.append(_identifier("FILL", record.order.filler_number))
    return told


def _code(record: Record) -> dict[str, Any]:
    told = [_coding(codes.LOINC, codes.IMAGING_STUDY_REPORT, "Diagnostic imaging study")]
    text = record.study.description
    if record.order is not None:
        told.append(procedure_coding(record.order.procedure))
        text = text or record.order.procedure.meaning
    return {"coding": told, "text": text or "Diagnostic imaging study"}


def procedure_coding(procedure: Code) -> dict[str, Any]:
    """Return an order's procedure; a local code stays without a system."""
    told = {"code": procedure.value, "display": procedure.meaning or procedure.value}
    system = codes.SCHEMES.get(procedure.scheme)
    return told if system is None else {"system": system, **told}


def _coding(system: str, code: str, display: str) -> dict[str, Any]:
    return {"system": system, "code": code, "display": display}


def _narrative(report: Report, study: Study) -> dict[str, Any]:
    parts = [
        f"<p><b>{escape(study.description or 'Imaging report')}</b>, {report.status.value}, "
        f"version {report.version}</p>"
    ]
    for heading, text in (("Findings", report.findings), ("Impression", report.impression)):
        if text:
            body = escape(text).replace("\n", "<br/>")
            parts.append(f"<p><b>{heading}</b><br/>{body}</p>")
    parts.append(f"<p>{escape(readable_author(report.author))}</p>")
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{"".join(parts)}</div>'
    return {"status": "generated", "div": div}


def _text_form(report: Report, study: Study) -> dict[str, Any]:
    # R4 has no place for the findings but the form as presented.
    sections = (
        (study.description, f"{report.status.value}, version {report.version}"),
        ("Findings", report.findings),
        ("Impression", report.impression),
        ("Signed by", f"{readable_author(report.author)}, {instant(report.signed_at)}"),
    )
    text = "\n\n".join(f"{head}\n{body}".strip() for head, body in sections if body)
    data = text.encode()
    return {
        "contentType": "text/plain; charset=utf-8",
        "data": b64encode(data).decode(),
        "size": len(data),
        "hash": b64encode(sha1(data, usedforsecurity=False).digest()).decode(),
        "title": f"Report, version {report.version}",
        "creation": instant(report.signed_at),
    }


def _observation(
    record: Record, finding: Mapping[str, Any], subject: Mapping[str, Any], number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    outcome = Outcome(finding["outcome"])
    read = bool(record.reports) and record.reports[-1].status in _READ
    name, _, version = str(finding["model"]).partition("@")
    device: dict[str, Any] = {
        "resourceType": "Device",
        "id": f"model-{number}",
        "deviceName": [{"name": name, "type": "model-name"}],
        "type": {"text": "AI triage model"},
    }
    if version:
        device["version"] = [{"value": version}]
    resource: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        # No person has verified what a model says, also when the study was read since.
        "status": "preliminary",
        "category": [
            {"coding": [_coding(codes.OBSERVATION_CATEGORY, "imaging", "Imaging")]},
        ],
        "code": {
            "coding": [_coding(codes.DCM, "121071", "Finding")],
            "text": "AI triage finding",
        },
        "subject": dict(subject),
        "issued": instant(finding["at"]),
        "derivedFrom": [{"reference": f"ImagingStudy/{record.study.id}"}],
        "device": {"reference": f"#model-{number}", "display": finding["model"]},
        "note": [{"text": _NOT_FOR_DIAGNOSIS}],
    }
    if record.study.acquired_at is not None:
        resource["effectiveDateTime"] = instant(record.study.acquired_at)
    if outcome is Outcome.ABSTAINED:
        resource["dataAbsentReason"] = {
            "coding": [_coding(codes.ABSENT, "not-performed", "Not Performed")],
            "text": finding["reason"] or "the model abstained",
        }
    else:
        resource["valueCodeableConcept"] = {"text": finding["text"] or _plain(outcome)}
    if outcome is Outcome.CRITICAL and not read:
        resource["interpretation"] = [
            {"coding": [_coding(codes.INTERPRETATION, "AA", "Critical abnormal")]}
        ]
        resource["category"].append(
            {"coding": [_coding(codes.RADLEX, "RID49480", "ACR Category 1 actionable finding")]}
        )
    components = _components(finding["measurements"])
    if components:
        resource["component"] = components
    return resource, device


def _plain(outcome: Outcome) -> str:
    return "critical finding" if outcome is Outcome.CRITICAL else "no critical finding"


def _components(measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "code": {"text": m["name"]},
            "valueQuantity": {
                "value": m["value"],
                **(
                    {"unit": m["unit"], "system": codes.UCUM, "code": m["unit"]}
                    if m["unit"]
                    else {}
                ),
            },
        }
        for m in measurements
    ]
