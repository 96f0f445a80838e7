"""A study's images as FHIR ImagingStudy (STANDARDS §5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from models.lifecycle import StudyState
from services.fhir import codes
from services.fhir.codes import validated
from services.fhir.report import (
    Record,
    accession_identifier,
    instant,
    meta,
    order_reference,
    procedure_coding,
    readable_name,
    subject_of,
)
from services.fhir.versions import R4, Version

_DICOM_MODALITY: Final = codes.DCM
WITHOUT_IMAGES: Final = {
    StudyState.CANCELLED: "cancelled",
    StudyState.DISCONTINUED: "cancelled",
}
"""The status of a study that has no images, where it is not ``registered``."""


def imaging_study(
    record: Record,
    series: Sequence[Mapping[str, Any]],
    *,
    has_endpoint: bool = False,
    version: Version = R4,
) -> dict[str, Any]:
    """Return the ImagingStudy.

    Parameters
    ----------
    series : sequence of mapping
        ``series_uid``, ``number``, ``modality``, ``description``, ``instances`` of each.
    has_endpoint : bool
        The images are served over DICOMweb, and an Endpoint says where.
    """
    study = record.study
    subject, contained = subject_of(record)
    count = sum(int(s["instances"]) for s in series)
    resource: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "id": study.id,
        "meta": meta(record.updated_at),
        "identifier": [
            {"use": "official", "system": codes.DICOM_UID, "value": f"urn:oid:{study.study_uid}"}
        ],
        "status": "available" if count else WITHOUT_IMAGES.get(study.state, "registered"),
        "subject": subject,
        "numberOfSeries": len(series),
        "numberOfInstances": count,
        "series": [_series(s) for s in series],
    }
    if study.accession:
        resource["identifier"].append(accession_identifier(study.accession))
    modalities = sorted({s["modality"] for s in series if s["modality"]})
    resource["modality"] = [{"system": _DICOM_MODALITY, "code": code} for code in modalities]
    if study.started_at is not None:
        resource["started"] = instant(study.started_at)
    if study.description:
        resource["description"] = study.description
    if record.order is not None:
        order = record.order
        resource["basedOn"] = [order_reference(order)]
        resource["procedureCode"] = [{"coding": [procedure_coding(order.procedure)]}]
        if readable_name(order.referring) != "unknown":
            resource["referrer"] = {"display": readable_name(order.referring)}
        if order.reason:
            resource["reasonCode"] = [{"text": order.reason}]
    if has_endpoint and count:
        resource["endpoint"] = [{"reference": f"Endpoint/{codes.DICOMWEB}"}]
    if contained:
        resource["contained"] = contained
    return validated(
        {key: value for key, value in resource.items() if value not in ([], {})}, version
    )


def _series(series: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        # A bare UID here, a URN in the study's identifier: the standard has it both ways.
        "uid": series["series_uid"],
        "modality": {"system": _DICOM_MODALITY, "code": series["modality"] or "OT"},
        "numberOfInstances": int(series["instances"]),
    }
    if series["number"] is not None and series["number"] >= 0:
        told["number"] = series["number"]
    if series["description"]:
        told["description"] = series["description"]
    return told
