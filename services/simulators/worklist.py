"""What a console asks the worklist for and what it makes of the answer (PS3.4 Table K.6-1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from services.simulators.header import dataset

_STEP_KEYS: Final = (
    "ScheduledPerformingPhysicianName",
    "ScheduledProcedureStepStartTime",
    "ScheduledProcedureStepDescription",
    "ScheduledProtocolCodeSequence",
    "ScheduledProcedureStepID",
    "ScheduledStationName",
    "ScheduledProcedureStepLocation",
    "ScheduledProcedureStepStatus",
)
_KEYS: Final = (
    "AccessionNumber",
    "ReferringPhysicianName",
    "ReferencedStudySequence",
    "ReferencedPatientSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "PregnancyStatus",
    "StudyInstanceUID",
    "RequestingPhysician",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "AdmissionID",
    "CurrentPatientLocation",
    "PatientState",
    "RequestedProcedureID",
    "RequestedProcedurePriority",
    "PatientTransportArrangements",
    "ConfidentialityConstraintOnPatientDataDescription",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistItem:
    """One scheduled step as the console shows it.

    Attributes
    ----------
    priority
        Requested Procedure Priority: STAT, HIGH, ROUTINE, MEDIUM or LOW.
    scheduled
        Start date and time, YYYYMMDDHHMMSS.
    answer
        The whole response, for what the console copies without showing it.
    """

    patient_name: str
    patient_id: str
    issuer: str
    birth_date: str
    sex: str
    accession: str
    study_uid: str
    procedure_id: str
    procedure_description: str
    referring_physician: str
    priority: str
    station: str
    step_id: str
    step_description: str
    scheduled: str
    answer: Dataset


def query(station: str, modality: str, day: date | None) -> Dataset:
    """Write the C-FIND identifier of a console: its own title, its modality, a day or any."""
    step = dataset(
        {
            "ScheduledStationAETitle": station,
            "ScheduledProcedureStepStartDate": f"{day:%Y%m%d}" if day else "",
            "Modality": modality,
        }
    )
    keys = Dataset()
    for target, keywords in ((keys, _KEYS), (step, _STEP_KEYS)):
        for keyword in keywords:
            setattr(target, keyword, Sequence() if keyword.endswith("Sequence") else None)
    keys.ScheduledProcedureStepSequence = Sequence([step])
    return keys


def read_item(answer: Dataset) -> WorklistItem:
    """Read one C-FIND response.

    Raises
    ------
    ValueError
        If it has not exactly one scheduled step, which no console can show.
    """
    steps = answer.get("ScheduledProcedureStepSequence") or []
    if len(steps) != 1:
        raise ValueError("(0040,0100) Scheduled Procedure Step Sequence must have one item")
    step = steps[0]
    return WorklistItem(
        patient_name=_text(answer, "PatientName"),
        patient_id=_text(answer, "PatientID"),
        issuer=_text(answer, "IssuerOfPatientID"),
        birth_date=_text(answer, "PatientBirthDate"),
        sex=_text(answer, "PatientSex"),
        accession=_text(answer, "AccessionNumber"),
        study_uid=_text(answer, "StudyInstanceUID"),
        procedure_id=_text(answer, "RequestedProcedureID"),
        procedure_description=_text(answer, "RequestedProcedureDescription"),
        referring_physician=_text(answer, "ReferringPhysicianName"),
        priority=_text(answer, "RequestedProcedurePriority"),
        station=_text(step, "ScheduledStationAETitle"),
        step_id=_text(step, "ScheduledProcedureStepID"),
        step_description=_text(step, "ScheduledProcedureStepDescription"),
        scheduled=_text(step, "ScheduledProcedureStepStartDate")
        + _text(step, "ScheduledProcedureStepStartTime"),
        answer=answer,
    )


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value)
