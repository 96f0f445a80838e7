"""What every image of an exam has in common, and the identifiers of everything simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

MANUFACTURER: Final = "Spinecho simulator"
MODEL: Final = "Synthetic MR"
SYNTHETIC: Final = "SYNTHETIC: drawn from a template, no patient was scanned"
FIELD_STRENGTH_T: Final = 3.0
_NAMESPACE: Final = UUID("6f0d7f3c-2f5e-4f0e-9a55-4d1f3b8e7c21")


def uid(*parts: object) -> UID:
    """Derive a UID below 2.25 from its parts (PS3.5 §B.2): same parts, same UID.

    Examples
    --------
    >>> uid("study", 7) == uid("study", 7) != uid("study", 8)
    True
    """
    return UID(f"2.25.{uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")


def dataset(values: Mapping[str, object]) -> Dataset:
    """Make a Dataset from keywords; a list of datasets becomes a sequence."""
    result = Dataset()
    for keyword, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Dataset):
            value = Sequence(value)
        setattr(result, keyword, value)
    return result


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Make one item of a code sequence."""
    return dataset({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What a console knows when it scans: the worklist's words and its own numbers.

    Attributes
    ----------
    key
        Names the exam; series, instance, frame of reference and step UIDs derive from it, so that
        an exam sent again is the same exam.
    started
        Local wall-clock time of the scanner, as DICOM wants it.
    """

    key: str
    patient_name: str
    patient_id: str
    study_uid: str
    started: datetime
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    accession: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""
    requested_procedure_id: str = ""
    step_id: str = ""
    step_description: str = ""
    station: str = "MRSIM"
    institution: str = "Test hospital"
    protocol: str = "T1 MPRAGE AX"
    series_number: int = 1

    @property
    def series_uid(self) -> UID:
        """Series Instance UID."""
        return uid(self.key, "series", self.series_number)

    @property
    def mpps_uid(self) -> UID:
        """SOP Instance UID of the performed procedure step."""
        return uid(self.key, "mpps")

    @property
    def performed_step_id(self) -> str:
        """Performed Procedure Step ID: the console's own number, at most 16 characters."""
        return f"PPS{int(str(self.mpps_uid).rsplit('.', 1)[1]) % 10**10:010d}"

    @property
    def charset(self) -> str:
        """Specific Character Set that holds the exam's text."""
        words = self.patient_name + self.study_description + self.referring_physician
        return "ISO_IR 100" if words.isascii() else "ISO_IR 192"


def request_item(exam: Exam) -> Dataset:
    """Name the request that the images answer (Request Attributes Macro, PS3.3 Table 10-9)."""
    return dataset(
        {
            "RequestedProcedureID": exam.requested_procedure_id,
            "RequestedProcedureDescription": exam.study_description,
            "ScheduledProcedureStepID": exam.step_id,
            "ScheduledProcedureStepDescription": exam.step_description,
        }
    )


def common(exam: Exam) -> Dataset:
    """Fill the patient, study, series, frame of reference and equipment modules of an exam."""
    day, time = exam.started.strftime("%Y%m%d"), exam.started.strftime("%H%M%S")
    result = dataset(
        {
            "SpecificCharacterSet": exam.charset,
            "InstanceCreationDate": day,
            "InstanceCreationTime": time,
            "SyntheticData": "YES",
            "StudyDate": day,
            "SeriesDate": day,
            "AcquisitionDate": day,
            "ContentDate": day,
            "StudyTime": time,
            "SeriesTime": time,
            "AcquisitionTime": time,
            "ContentTime": time,
            "AccessionNumber": exam.accession,
            "Modality": "MR",
            "Manufacturer": MANUFACTURER,
            "InstitutionName": exam.institution,
            "ReferringPhysicianName": exam.referring_physician,
            "StationName": exam.station,
            "StudyDescription": exam.study_description,
            "SeriesDescription": f"SYNTHETIC {exam.protocol}",
            "ManufacturerModelName": MODEL,
            "PatientName": exam.patient_name,
            "PatientID": exam.patient_id,
            "PatientBirthDate": exam.birth_date,
            "PatientSex": exam.sex if exam.sex in ("M", "F", "O") else "",
            "BodyPartExamined": "BRAIN",
            "DeviceSerialNumber": f"SIM-{exam.station}",
            "SoftwareVersions": "1",
            "ProtocolName": exam.protocol,
            "PatientPosition": "HFS",
            "StudyInstanceUID": exam.study_uid,
            "SeriesInstanceUID": exam.series_uid,
            "StudyID": exam.study_id,
            "SeriesNumber": exam.series_number,
            "FrameOfReferenceUID": uid(exam.key, "frame of reference"),
            "PositionReferenceIndicator": "",
            "PerformedProcedureStepStartDate": day,
            "PerformedProcedureStepStartTime": time,
            "PerformedProcedureStepID": exam.performed_step_id,
            "PerformedProcedureStepDescription": exam.step_description or exam.protocol,
            "ReferencedPerformedProcedureStepSequence": [
                dataset(
                    {
                        "ReferencedSOPClassUID": "1.2.840.10008.3.1.2.3.3",
                        "ReferencedSOPInstanceUID": exam.mpps_uid,
                    }
                )
            ],
        }
    )
    if exam.issuer:
        result.IssuerOfPatientID = exam.issuer
    if exam.step_id:
        result.RequestAttributesSequence = Sequence([request_item(exam)])
    return result
