"""The data sets of a modality performed procedure step (PS3.4 Annex F, PS3.3 §C.4.14 to C.4.15)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from services.simulators.header import Exam, code, dataset

# CID 9301; the code is what a caller names, the meaning travels with it
DISCONTINUATION: Final = {
    "110500": "Doctor cancelled procedure",
    "110501": "Equipment failure",
    "110502": "Incorrect procedure ordered",
    "110504": "Patient died",
    "110505": "Patient refused to continue procedure",
    "110507": "Patient did not arrive",
    "110513": "Discontinued for unspecified reason",
    "110514": "Incorrect worklist entry selected",
    "110515": "Patient condition prevented continuing",
}


def creation(exam: Exam, scheduled: Dataset | None) -> Dataset:
    """Write the attributes of N-CREATE, status IN PROGRESS.

    Parameters
    ----------
    scheduled
        The worklist's answer that the exam fulfils; None for an unscheduled exam, which keeps one
        item with its own Study UID and nothing else.
    """
    return dataset(
        {
            "SpecificCharacterSet": exam.charset,
            "Modality": "MR",
            "PatientName": exam.patient_name,
            "PatientID": exam.patient_id,
            "PatientBirthDate": exam.birth_date,
            "PatientSex": exam.sex,
            "ReferencedPatientSequence": DicomSequence(),
            "StudyID": exam.study_id,
            "ProcedureCodeSequence": DicomSequence(),
            "PerformedStationAETitle": exam.station,
            "PerformedStationName": exam.station,
            "PerformedLocation": "",
            "PerformedProcedureStepStartDate": f"{exam.started:%Y%m%d}",
            "PerformedProcedureStepStartTime": f"{exam.started:%H%M%S}",
            "PerformedProcedureStepStatus": "IN PROGRESS",
            "PerformedProcedureStepID": exam.performed_step_id,
            "PerformedProcedureStepDescription": exam.step_description or exam.protocol,
            "PerformedProcedureTypeDescription": "",
            "PerformedProcedureStepEndDate": "",
            "PerformedProcedureStepEndTime": "",
            "PerformedProtocolCodeSequence": DicomSequence(),
            # only what was created may be set later, so the reason is created empty
            "PerformedProcedureStepDiscontinuationReasonCodeSequence": DicomSequence(),
            "PerformedSeriesSequence": DicomSequence(),
            "ScheduledStepAttributesSequence": [_scheduled(exam, scheduled)],
        }
    )


def _scheduled(exam: Exam, answer: Dataset | None) -> Dataset:
    step = answer.ScheduledProcedureStepSequence[0] if answer is not None else Dataset()
    item = dataset(
        {
            "AccessionNumber": exam.accession,
            "ReferencedStudySequence": DicomSequence(),
            "StudyInstanceUID": exam.study_uid,
            "RequestedProcedureDescription": exam.study_description if answer else "",
            "ScheduledProcedureStepDescription": exam.step_description,
            "ScheduledProtocolCodeSequence": DicomSequence(
                step.get("ScheduledProtocolCodeSequence") or []
            ),
            "ScheduledProcedureStepID": exam.step_id,
            "RequestedProcedureID": exam.requested_procedure_id,
        }
    )
    for keyword in (
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
    ):
        if answer is not None and answer.get(keyword):
            setattr(item, keyword, answer.get(keyword))
    return item


def ending(
    exam: Exam, images: Sequence[Dataset], ended: datetime, discontinued: str | None
) -> Dataset:
    """Write the modifications of the last N-SET.

    Parameters
    ----------
    images
        What was made; none is allowed, the series is named all the same.
    discontinued
        A code of `DISCONTINUATION`, or None for COMPLETED.

    Raises
    ------
    ValueError
        If the code is not in `DISCONTINUATION`.
    """
    changes = dataset(
        {
            "SpecificCharacterSet": exam.charset,
            "PerformedProcedureStepStatus": "DISCONTINUED" if discontinued else "COMPLETED",
            "PerformedProcedureStepEndDate": f"{ended:%Y%m%d}",
            "PerformedProcedureStepEndTime": f"{ended:%H%M%S}",
            "PerformedSeriesSequence": [_series(exam, images)],
        }
    )
    if discontinued:
        if discontinued not in DISCONTINUATION:
            raise ValueError(f"{discontinued} is no discontinuation reason known here (CID 9301)")
        changes.PerformedProcedureStepDiscontinuationReasonCodeSequence = DicomSequence(
            [code(discontinued, "DCM", DISCONTINUATION[discontinued])]
        )
    return changes


def _series(exam: Exam, images: Sequence[Dataset]) -> Dataset:
    return dataset(
        {
            "PerformingPhysicianName": "",
            "OperatorsName": "TESTOPERATOR^TESS",
            "ProtocolName": exam.protocol,
            "SeriesInstanceUID": exam.series_uid,
            "SeriesDescription": f"SYNTHETIC {exam.protocol}",
            "RetrieveAETitle": "",
            "ReferencedImageSequence": DicomSequence(reference(image) for image in images),
            "ReferencedNonImageCompositeSOPInstanceSequence": DicomSequence(),
        }
    )


def reference(image: Dataset) -> Dataset:
    """Name an instance by class and UID."""
    return dataset(
        {
            "ReferencedSOPClassUID": image.SOPClassUID,
            "ReferencedSOPInstanceUID": image.SOPInstanceUID,
        }
    )
