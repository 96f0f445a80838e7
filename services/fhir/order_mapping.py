"""Where each worklist attribute stands in a FHIR order; the FHIR half of `services.hl7.mapping`.

The paths are those of R4. What R5 has elsewhere is moved to its place in R4 before it is read
(`order_r5`), so that one table serves both; docs/fhir-orders.md is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from models.priority import Priority

RP_ID, SPS_ID = "Requested Procedure ID", "Scheduled Procedure Step ID"


class Kind(Enum):
    """How an element becomes a value."""

    TEXT = "text"
    CONCEPT_TEXT = "text of a concept, its display, else its code"
    CODE = "first coding: code, display (else the text) and system"
    NAME = "HumanName"
    PERSON = "name of the Practitioner (also by way of a PractitionerRole), else `display`"
    ORGANIZATION = "name of the Organization (also of a PractitionerRole), else `display`"
    PLACE = "name of the Location, else `display`; the names of those it is part of before it"
    ADDRESS = "line 1, line 2, city, state, postal code and country, parted by ^"
    NUMBER = "identifier's value"
    SHORT = "value of at most 16 characters; a longer one is not used, with a warning"
    STRICT = "value of at most 16 characters; a longer one is refused"
    ISSUER = "identifier's system and assigner"
    DATE = "date"
    TIME = "dateTime, start of a Period, first event of a Timing"
    PRIORITY = "see Priority below"
    CLASS = "see Class below"
    MODALITY = "coding of the DICOM ontology (`…/DCM`)"
    DEVICE = "number of the Device (its AE title); several parted by \\\\"
    COMPUTED = "see the note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attribute: what it is called here and in DICOM, and where it stands in FHIR."""

    name: str
    """Field of the request record that carries it."""
    keyword: str
    paths: tuple[str, ...]
    """The first one that says anything is followed; ``[X]`` picks an identifier's type."""
    kind: Kind
    r5: str = ""
    """The places of R5 where they differ."""
    note: str = ""


def _row(
    name: str, keyword: str, paths: str, kind: Kind = Kind.TEXT, *, r5: str = "", note: str = ""
) -> Row:
    return Row(name=name, keyword=keyword, paths=tuple(paths.split()), kind=kind, r5=r5, note=note)


K = Kind
PATIENT: Final = (
    _row(
        "identifiers",
        "PatientID",
        "",
        K.COMPUTED,
        note="Patient.identifier: the first of type MR; one without a type is of type MR",
    ),
    _row("name", "PatientName", "Patient.name", K.NAME, note="the official one, else the first"),
    _row("birth_date", "PatientBirthDate", "Patient.birthDate", K.DATE),
    _row("sex", "PatientSex", "", K.COMPUTED, note="Patient.gender: male M, female F, others O"),
    _row(
        "mother_name",
        "PatientMotherBirthName",
        "",
        K.COMPUTED,
        note="extension patient-mothersMaidenName of Patient, its family name",
    ),
    _row("address", "PatientAddress", "Patient.address", K.ADDRESS),
    _row(
        "language",
        "PatientPrimaryLanguageCodeSequence",
        "Patient.communication.language",
        K.CODE,
        note="the preferred one, else the first",
    ),
)

VISIT: Final = (
    _row("patient_class", "RouteOfAdmissions", "Encounter.class", K.CLASS),
    _row("location", "CurrentPatientLocation", "Encounter.location.location", K.PLACE),
    _row(
        "referring",
        "ReferringPhysicianName",
        "Encounter.participant.individual ServiceRequest.requester",
        K.PERSON,
        r5="Encounter.participant.actor, ServiceRequest.requester",
        note="of the participants the one of type REF",
    ),
    _row("admission_id", "AdmissionID", "Encounter.identifier", K.NUMBER),
    _row("admission_issuer", "IssuerOfAdmissionIDSequence", "Encounter.identifier", K.ISSUER),
    _row(
        "visit_reason",
        "ReasonForVisit",
        "Encounter.reasonCode",
        K.CONCEPT_TEXT,
        r5="Encounter.reason.value.concept",
    ),
    _row(
        "special_needs",
        "SpecialNeeds",
        "Encounter.hospitalization.specialArrangement",
        K.CONCEPT_TEXT,
        r5="Encounter.specialArrangement",
    ),
)

ORDER: Final = (
    *VISIT,
    _row(
        "placer_number",
        "PlacerOrderNumberImagingServiceRequest",
        "ServiceRequest.identifier[PLAC]",
        K.NUMBER,
        note="also an identifier without a type; required",
    ),
    _row(
        "placer_issuer",
        "OrderPlacerIdentifierSequence",
        "ServiceRequest.identifier[PLAC]",
        K.ISSUER,
    ),
    _row(
        "filler_number",
        "FillerOrderNumberImagingServiceRequest",
        "ServiceRequest.identifier[FILL]",
        K.NUMBER,
    ),
    _row(
        "filler_issuer",
        "OrderFillerIdentifierSequence",
        "ServiceRequest.identifier[FILL]",
        K.ISSUER,
    ),
    _row(
        "accession",
        "AccessionNumber",
        "ServiceRequest.identifier[ACSN]",
        K.STRICT,
        note="given here once where nobody says it",
    ),
    _row(
        "accession_issuer",
        "IssuerOfAccessionNumberSequence",
        "ServiceRequest.identifier[ACSN] ServiceRequest.identifier[FILL]",
        K.ISSUER,
        note="the filler numbers what it fills",
    ),
    _row(
        "study_uid",
        "StudyInstanceUID",
        "",
        K.COMPUTED,
        note="ServiceRequest.identifier of system `urn:dicom:uid`; made here where nobody says it",
    ),
    _row(
        "requested_procedure_id",
        "RequestedProcedureID",
        f"ServiceRequest.identifier[{RP_ID.replace(' ', '_')}]",
        K.SHORT,
        note=f"type.text `{RP_ID}`; the accession number where nobody says it",
    ),
    _row(
        "procedure",
        "RequestedProcedureCodeSequence",
        "ServiceRequest.code",
        K.CODE,
        r5="ServiceRequest.code.concept",
    ),
    _row("priority", "RequestedProcedurePriority", "ServiceRequest.priority", K.PRIORITY),
    _row(
        "reason",
        "ReasonForTheRequestedProcedure",
        "ServiceRequest.reasonCode ServiceRequest.reasonReference.code",
        K.CONCEPT_TEXT,
        r5="ServiceRequest.reason.concept, ServiceRequest.reason.reference.code",
    ),
    _row(
        "reason_code",
        "ReasonForRequestedProcedureCodeSequence",
        "ServiceRequest.reasonCode ServiceRequest.reasonReference.code",
        K.CODE,
        r5="ServiceRequest.reason.concept, ServiceRequest.reason.reference.code",
    ),
    _row("requesting", "RequestingPhysician", "ServiceRequest.requester", K.PERSON),
    _row("issued_on", "IssueDateOfImagingServiceRequest", "ServiceRequest.authoredOn", K.DATE),
    _row("institution", "InstitutionName", "ServiceRequest.requester", K.ORGANIZATION),
    _row(
        "confidentiality",
        "ConfidentialityConstraintOnPatientDataDescription",
        "ServiceRequest.meta.security",
        K.CONCEPT_TEXT,
    ),
    _row(
        "allergies",
        "Allergies",
        "",
        K.COMPUTED,
        note="code of each AllergyIntolerance in supportingInfo",
    ),
    _row(
        "medical_alerts",
        "MedicalAlerts",
        "",
        K.COMPUTED,
        note="code or type of each Condition, Flag and Device in supportingInfo",
    ),
    _row(
        "weight_kg",
        "PatientWeight",
        "",
        K.COMPUTED,
        note="Observation LOINC 29463-7 or 3141-9 in supportingInfo; kg, g, [lb_av]",
    ),
    _row(
        "height_m",
        "PatientSize",
        "",
        K.COMPUTED,
        note="Observation LOINC 8302-2 or 3137-7 in supportingInfo; m, cm, [in_i]",
    ),
    _row(
        "pregnancy_status",
        "PregnancyStatus",
        "",
        K.COMPUTED,
        note="Observation LOINC 82810-3 in supportingInfo: SNOMED 60001007 is 1, 102874004 is 2, "
        "77386006 is 3, 261665006 is 4",
    ),
)

STEP: Final = (
    _row(
        "sps_id",
        "ScheduledProcedureStepID",
        f"Task.identifier[{SPS_ID.replace(' ', '_')}] Task.identifier "
        f"ServiceRequest.identifier[{SPS_ID.replace(' ', '_')}]",
        K.SHORT,
        note=f"type.text `{SPS_ID}`; given here where nobody says it",
    ),
    _row(
        "modality",
        "Modality",
        "Task.code ServiceRequest.category ServiceRequest.orderDetail",
        K.MODALITY,
        note="MR where nobody says it",
    ),
    _row(
        "station_aet",
        "ScheduledStationAETitle",
        "Task.owner ServiceRequest.performer",
        K.DEVICE,
    ),
    _row(
        "location",
        "ScheduledProcedureStepLocation",
        "ServiceRequest.locationCode",
        K.CONCEPT_TEXT,
        r5="ServiceRequest.location.concept",
    ),
    _row(
        "start_at",
        "ScheduledProcedureStepStartDate",
        "Task.executionPeriod Task.restriction.period ServiceRequest.occurrenceDateTime "
        "ServiceRequest.occurrencePeriod ServiceRequest.occurrenceTiming",
        K.TIME,
        note="and Start Time; when the order came where nobody says it",
    ),
    _row(
        "performing",
        "ScheduledPerformingPhysicianName",
        "Task.owner ServiceRequest.performer",
        K.PERSON,
    ),
    _row(
        "description",
        "ScheduledProcedureStepDescription",
        "Task.code ServiceRequest.orderDetail ServiceRequest.code",
        K.CONCEPT_TEXT,
    ),
    _row(
        "protocol",
        "ScheduledProtocolCodeSequence",
        "Task.code ServiceRequest.orderDetail",
        K.CODE,
        r5="Task.code, ServiceRequest.orderDetail.parameter.valueCodeableConcept",
    ),
)

PRIORITIES: Final = {
    "routine": Priority.ROUTINE,
    "urgent": Priority.HIGH,
    "asap": Priority.HIGH,
    "stat": Priority.STAT,
}
"""RequestPriority → (0040,1003); STANDARDS §1.3."""

CLASSES: Final = {
    "EMER": "E",
    "IMP": "I",
    "ACUTE": "I",
    "NONAC": "I",
    "AMB": "O",
    "PRENC": "P",
    "OBSENC": "O",
    "SS": "O",
    "HH": "O",
    "VR": "O",
}
"""v3-ActCode of Encounter.class → HL70004, after the v2-to-FHIR concept map read backwards."""

NOT_CARRIED: Final = {
    "OrderEnteredBy": "who typed the order is no part of a ServiceRequest",
    "InstitutionalDepartmentName": "a ServiceRequest has no entering device",
    "PatientState": "there is no element for it",
    "PatientTransportArrangements": "there is no element for it",
    "PatientComments": "Patient has no note",
    "ScheduledStationName": "a Device is told by its AE title",
}
"""Attributes that HL7 orders have and FHIR orders do not."""
