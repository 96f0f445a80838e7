"""What the physician asked for, and when and where it is to be done."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from models.patient import Code, Issuer, PersonName
from models.priority import Priority

__all__ = ["Code", "Order", "Safety", "ScheduledStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledStep:
    """One Scheduled Procedure Step (PS3.3 C.4.10): one entry on a scanner's worklist."""

    sps_id: str
    start_at: datetime
    modality: str = "MR"
    station_aet: str = ""
    """Scheduled Station AE Title (0040,0001); several are parted by a backslash, as in DICOM."""
    station_name: str = ""
    location: str = ""
    description: str = ""
    performing: PersonName = field(default_factory=PersonName)
    """Scheduled Performing Physician (0040,0006)."""
    protocol: Code | None = None
    status: str = "SCHEDULED"

    def __post_init__(self) -> None:
        if len(self.sps_id) > 16:
            raise ValueError(f"SPS ID has {len(self.sps_id)} characters; SH allows 16")
        widest = max(len(title) for title in self.station_aet.split("\\"))
        if widest > 16:
            raise ValueError(f"station AE title has {widest} characters, not 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """What must be known before the patient enters the magnet."""

    medical_alerts: str = ""
    allergies: str = ""
    pregnancy_status: int | None = None
    """1 no, 2 possibly, 3 definitely, 4 unknown (PS3.3 C.2.4); None when nobody said."""
    weight_kg: float | None = None
    height_m: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An imaging order and the identity it gives to a study, assigned once."""

    id: str
    patient_id: str
    placer_number: str
    placer_authority: str = ""
    filler_number: str = ""
    accession: str
    study_uid: str
    requested_procedure_id: str
    procedure: Code
    priority: Priority = Priority.ROUTINE
    reason: str = ""
    referring: PersonName = field(default_factory=PersonName)
    requesting: PersonName = field(default_factory=PersonName)
    patient_class: str = ""
    location: str = ""
    admission_id: str = ""
    transport: str = ""
    confidentiality: str = ""
    safety: Safety = field(default_factory=Safety)
    sender: str = ""
    """MSH-3 of the placer, where its report goes back to."""
    status: str = "SC"
    """ORC-5, HL70038."""
    placer_issuer: Issuer = field(default_factory=Issuer)
    filler_issuer: Issuer = field(default_factory=Issuer)
    accession_issuer: Issuer = field(default_factory=Issuer)
    admission_issuer: Issuer = field(default_factory=Issuer)
    issued_on: date | None = None
    """Issue Date of Imaging Service Request (0040,2004)."""
    entered_by: PersonName = field(default_factory=PersonName)
    institution: str = ""
    department: str = ""
    visit_reason: str = ""
    """Reason for Visit (0032,1066)."""
    patient_state: str = ""
    special_needs: str = ""
    reason_code: Code | None = None
    replaced_by: str | None = None
    """Internal id of the order that took its place (HL70119 RP)."""
    parent_id: str | None = None
    """Internal id of the order that it was made of (ORC-8)."""
    steps: tuple[ScheduledStep, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (
            ("accession", self.accession),
            ("requested_procedure_id", self.requested_procedure_id),
        ):
            if not 1 <= len(value) <= 16:
                raise ValueError(f"{name} has {len(value)} characters; SH allows 1 to 16")
