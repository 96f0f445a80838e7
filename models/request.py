"""What a neighbour asks for, before anything of ours has been looked up.

HL7 and FHIR intake produce these records, so that the same request makes the same order whichever
way it came. None means "not said" and leaves what is stored as it is; an empty string means
"delete it", whatever the type of the value (HL7 v2.5.1 §2.5.3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from models.order_control import OrderAction
from models.patient import Code, Identifier, Issuer, PersonName
from models.priority import Priority

Deleted = Literal[""]
"""Said to be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRequest:
    """A patient as a sender describes them."""

    identifiers: tuple[Identifier, ...]
    name: PersonName | Deleted | None = None
    birth_date: date | Deleted | None = None
    sex: str | None = None
    mother_name: PersonName | Deleted | None = None
    address: str | None = None
    language: Code | Deleted | None = None
    comments: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """A scheduled step as a sender describes it."""

    start_at: datetime | None = None
    sps_id: str | None = None
    modality: str | None = None
    station_aet: str | None = None
    station_name: str | None = None
    location: str | None = None
    description: str | None = None
    performing: PersonName | Deleted | None = None
    protocol: Code | Deleted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """An order as a sender describes it."""

    action: OrderAction
    control: str
    """ORC-1 as sent."""
    placer_number: str
    placer_authority: str = ""
    placer_issuer: Issuer | None = None
    parent_number: str = ""
    """ORC-8.1: placer order number of the parent."""
    parent_authority: str = ""
    filler_number: str | None = None
    filler_issuer: Issuer | None = None
    accession: str | None = None
    accession_issuer: Issuer | None = None
    study_uid: str | None = None
    requested_procedure_id: str | None = None
    procedure: Code | None = None
    priority: Priority | None = None
    reason: str | None = None
    reason_code: Code | Deleted | None = None
    referring: PersonName | Deleted | None = None
    requesting: PersonName | Deleted | None = None
    entered_by: PersonName | Deleted | None = None
    issued_on: date | Deleted | None = None
    institution: str | None = None
    department: str | None = None
    visit_reason: str | None = None
    patient_class: str | None = None
    location: str | None = None
    admission_id: str | None = None
    admission_issuer: Issuer | None = None
    patient_state: str | None = None
    special_needs: str | None = None
    transport: str | None = None
    confidentiality: str | None = None
    medical_alerts: str | None = None
    allergies: str | None = None
    pregnancy_status: int | Deleted | None = None
    weight_kg: float | Deleted | None = None
    height_m: float | Deleted | None = None
    status: str | None = None
    """ORC-5."""
    sender: str = ""
    steps: tuple[StepRequest, ...] = ()
    warnings: tuple[str, ...] = ()
    elsewhere: bool = False
    """Whether a step is for a modality that is not examined here."""
    """What was said and could not be used, free of patient data."""
