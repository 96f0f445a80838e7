"""What a neighbour asks for, before anything of ours has been looked up.

HL7 and FHIR intake produce these records, so that the same request makes the same order whichever
way it came. None means "not said" and leaves what is stored as it is; an empty string means
"delete it" (HL7 v2.5.1 §2.5.3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum

from models.order import Code
from models.patient import Identifier, PersonName
from models.priority import Priority


class OrderControl(Enum):
    """ORC-1 (HL70119), as far as it asks us to do something."""

    NEW = "NW"
    CHANGE = "XO"
    CANCEL = "CA"
    DISCONTINUE = "DC"
    HOLD = "HD"
    RELEASE = "RL"
    STATUS = "SC"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRequest:
    """A patient as a sender describes them."""

    identifiers: tuple[Identifier, ...]
    name: PersonName | None = None
    birth_date: date | None = None
    sex: str | None = None


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
    performing: PersonName | None = None
    protocol: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """An order as a sender describes it."""

    control: OrderControl
    placer_number: str
    placer_authority: str = ""
    filler_number: str | None = None
    accession: str | None = None
    study_uid: str | None = None
    requested_procedure_id: str | None = None
    procedure: Code | None = None
    priority: Priority | None = None
    reason: str | None = None
    referring: PersonName | None = None
    requesting: PersonName | None = None
    patient_class: str | None = None
    location: str | None = None
    admission_id: str | None = None
    transport: str | None = None
    confidentiality: str | None = None
    medical_alerts: str | None = None
    allergies: str | None = None
    pregnancy_status: int | None = None
    weight_kg: float | None = None
    height_m: float | None = None
    status: str | None = None
    sender: str = ""
    steps: tuple[StepRequest, ...] = ()
    warnings: tuple[str, ...] = ()
    """What was said and could not be used, free of patient data."""
