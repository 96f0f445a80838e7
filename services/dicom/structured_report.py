"""A triage result as DICOM SR: Comprehensive 3D SR after TID 1500 (PS3.16), one per assessment.

The same model on the same instances of the same study gives the same UIDs, so that writing a
report twice is writing it once. Nothing of the pixels is read: headers are enough.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from services.inference.assessment import (
    ASYMMETRIC_VOLUME,
    ASYMMETRY_INDEX,
    LEFT_VENTRICLE,
    MIDLINE_SHIFT,
    RIGHT_VENTRICLE,
    Assessment,
    Measurement,
)

DESCRIPTION: Final = "AI triage – not for diagnosis"
SCHEME: Final = "99SPINECHO"
_NAMESPACE: Final = uuid.UUID("6f0dd29a-4b77-5c1e-9a3f-3b6a1f6d52c8")
_SERIES_NUMBER: Final = 9001  # beyond what scanners number

# what a report copies from the study (PS3.3 C.7.1.1, C.7.2.1)
_TEXTS: Final = ("PatientID", "IssuerOfPatientID", "StudyID", "AccessionNumber", "StudyDescription")
_NAMES: Final = ("PatientName", "ReferringPhysicianName")
EVIDENCE_KEYWORDS: Final = (
    "SpecificCharacterSet",
    *_TEXTS,
    *_NAMES,
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "TimezoneOffsetFromUTC",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)

# no standard code says these; PS3.16 §8 asks for a private scheme then, never a look-alike
_ASYMMETRY: Final = Code("ASYM-BRAIN", SCHEME, "Left-right asymmetry of the brain")
_ACTIONABLE: Final = Code("ACTIONABLE", SCHEME, "Actionable finding classification")
_PRESENT: Final = Code("52101004", "SCT", "Present")
_ABSENT: Final = Code("2667000", "SCT", "Absent")
_LEFT: Final = Code("7771000", "SCT", "Left")
_RIGHT: Final = Code("24028007", "SCT", "Right")
_BRAIN: Final = Code("12738006", "SCT", "Brain")
_VENTRICLE: Final = Code("66720007", "SCT", "Lateral Ventricle")
_VOLUME: Final = Code("118565006", "SCT", "Volume")
_ESTIMATED: Final = Code("414135002", "SCT", "Estimated")

# measurement → its concept and, where it is not the whole brain, the site with its side
_CONCEPTS: Final[dict[str, tuple[Code, Code, Code | None]]] = {
    ASYMMETRY_INDEX: (Code("ASYM-INDEX", SCHEME, "Asymmetry index"), _BRAIN, None),
    ASYMMETRIC_VOLUME: (Code("ASYM-VOLUME", SCHEME, "Volume of asymmetric tissue"), _BRAIN, None),
    LEFT_VENTRICLE: (_VOLUME, _VENTRICLE, _LEFT),
    RIGHT_VENTRICLE: (_VOLUME, _VENTRICLE, _RIGHT),
    MIDLINE_SHIFT: (Code("MIDLINE-SHIFT", SCHEME, "Midline shift"), _BRAIN, None),
}
_UNITS: Final = {
    "1": Code("1", "UCUM", "no units"),
    "ml": Code("ml", "UCUM", "milliliter"),
    "mm": Code("mm", "UCUM", "millimeter"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The observer: this installation.

    Attributes
    ----------
    uid
        Device Observer UID (121012); the same for the life of the installation.
    serial_number
        Names the installation among others.
    software_version
        Version of Spinecho, not of the model.
    institution
        Where it stands; left out when empty.
    """

    uid: str
    serial_number: str
    software_version: str
    name: str = "Spinecho triage"
    manufacturer: str = "Spinecho"
    model_name: str = "Spinecho"
    institution: str = ""


def read_evidence(paths: Iterable[Path]) -> list[Dataset]:
    """Read what `triage_report` needs of every instance; the pixels are left on the disk."""
    tags = list(EVIDENCE_KEYWORDS)
    return [dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in paths]


def triage_report(
    assessment: Assessment,
    evidence_headers: Sequence[Dataset],
    *,
    when: datetime,
    device: Device,
) -> Dataset:
    """Write an assessment as a structured report.

    Parameters
    ----------
    assessment
        Of one study.
    evidence_headers
        Headers of at least the instances that the assessment names as its evidence; if it names
        none, because it abstained early, of the instances that it was offered. Of instances in
        other series only those named are referenced.
    when
        When the assessment was made; with a time zone. Give the same time again to get the same
        bytes again.
    device
        Who made it.

    Returns
    -------
    Dataset
        Comprehensive 3D SR, Explicit VR Little Endian, unverified and preliminary. A report of a
        normal outcome says that the analysis succeeded and the finding is absent; one of an
        abstention says that it was not attempted or failed, and has no finding at all.

    Raises
    ------
    ValueError
        If an instance of the evidence has no header, the headers are of several studies, or a
        measurement has no code.
    """
    if when.tzinfo is None:
        raise ValueError("when must have a time zone")
    headers = _referenced(assessment, evidence_headers)
    source = _source(headers[0])
    moment = _local(when, source)
    report = sr.Comprehensive3DSR(
        evidence=[source, *(_reference(header) for header in headers[1:])],
        content=_content(assessment, headers, source, device),
        series_instance_uid=_uid("series", assessment, headers),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=_uid("instance", assessment, headers),
        instance_number=1,
        manufacturer=device.manufacturer,
        manufacturer_model_name=device.model_name,
        device_serial_number=device.serial_number,
        software_versions=device.software_version,
        institution_name=device.institution or None,
        is_complete=assessment.outcome != "abstained",
        is_final=False,
        is_verified=False,
        series_description=DESCRIPTION,
        series_date=moment.date(),
        series_time=moment.time(),
        content_date=moment.date(),
        content_time=moment.time(),
        specific_character_set="ISO_IR 192",
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=SCHEME,
                name="Spinecho private codes",
                responsible_organization="Spinecho",
            )
        ],
    )
    # highdicom stamps the present moment; a report made again must be the same
    report.InstanceCreationDate = DA(moment.date())
    report.InstanceCreationTime = TM(moment.time())
    for keyword in _NAMES:
        setattr(report, keyword, str(headers[0].get(keyword) or ""))
    for keyword in ("TimezoneOffsetFromUTC", "IssuerOfAccessionNumberSequence"):
        if keyword in source:
            report[keyword] = source[keyword]
    for equipment in report.ContributingEquipmentSequence:
        equipment.ContributionDateTime = DT(moment)
    return report


def _referenced(assessment: Assessment, headers: Sequence[Dataset]) -> list[Dataset]:
    """Headers of the evidence, in the order of their UIDs: the order of files is chance."""
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    if assessment.evidence:
        wanted = {e.sop_instance_uid for e in assessment.evidence}
        missing = len(wanted - by_uid.keys())
        if missing:
            raise ValueError(f"evidence_headers lacks {missing} instance(s) of the evidence")
    else:
        wanted = set(by_uid)
    if not wanted:
        raise ValueError("a report needs at least one instance as evidence")
    chosen = [by_uid[uid] for uid in sorted(wanted)]
    if len({str(header.StudyInstanceUID) for header in chosen}) > 1:
        raise ValueError("evidence_headers are of several studies")
    return chosen


def _uid(kind: str, assessment: Assessment, headers: Sequence[Dataset]) -> str:
    """Derive a UID below 2.25 (PS3.5 B.2) from what the report is about.

    An abstention has a name of its own: it may be followed by a result on the same instances.
    """
    inputs = hashlib.sha256("\n".join(str(h.SOPInstanceUID) for h in headers).encode())
    study = str(headers[0].StudyInstanceUID)
    outcome = "result" if assessment.outcome != "abstained" else f"abstained:{assessment.reason}"
    name = "\n".join((kind, assessment.model, study, inputs.hexdigest(), outcome))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def _tracking_uid(assessment: Assessment, study: str) -> str:
    """Name the finding, not the report: the same in a report by a later version of the model."""
    name = "\n".join(("tracking", assessment.model.partition("@")[0], study))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(reference, keyword, UID(str(header[keyword].value)))
    return reference


def _is_image(header: Dataset) -> bool:
    # an early abstention may have been offered reports and raw data, too
    return UID(str(header.SOPClassUID)).name.endswith("Image Storage")


def _source(header: Dataset) -> Dataset:
    """Copy patient and study; what the source lacks or garbles is left empty."""
    source = _reference(header)
    for keyword in _TEXTS:
        # as text, so that it is encoded anew: the report's character set is UTF-8
        setattr(source, keyword, str(header.get(keyword) or ""))
    for keyword in _NAMES:
        # highdicom warns about unusual names, naming them; they are set when it is done
        setattr(source, keyword, "")
    source.PatientBirthDate = _valid(DA, header.get("PatientBirthDate"))
    source.StudyDate = _valid(DA, header.get("StudyDate"))
    source.StudyTime = _valid(TM, header.get("StudyTime"))
    sex = header.get("PatientSex")
    source.PatientSex = sex if sex in ("M", "F", "O") else ""
    for keyword in ("IssuerOfPatientID", "StudyDescription"):
        if not source[keyword].value:
            del source[keyword]
    for keyword in ("TimezoneOffsetFromUTC", "IssuerOfAccessionNumberSequence"):
        if header.get(keyword):
            source[keyword] = header[keyword]
    return source


def _valid(kind: Any, value: Any) -> str:
    try:
        return str(kind(str(value or "")) or "")
    except ValueError:
        return ""


def _local(when: datetime, source: Dataset) -> datetime:
    """Bring the moment to the clock that the study's other times are on."""
    offset = str(source.get("TimezoneOffsetFromUTC") or "")
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdecimal():
        # the study does not say; the caller's zone is that of the house
        return when.replace(tzinfo=None)
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return when.astimezone(zone).replace(tzinfo=None)


def _content(
    assessment: Assessment, headers: Sequence[Dataset], source: Dataset, device: Device
) -> Dataset:
    name, _, version = assessment.model.partition("@")
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device.uid,
            name=device.name,
            manufacturer_name=device.manufacturer,
            model_name=device.model_name,
            serial_number=device.serial_number,
        ),
    )
    algorithm = sr.AlgorithmIdentification(
        name=name,
        version=version,
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=device.manufacturer,
    )
    done = assessment.outcome != "abstained"
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_tracking_uid(assessment, str(source.StudyInstanceUID)),
            identifier=f"{name} of the brain",
        ),
        finding_type=_ASYMMETRY if done else None,
        algorithm_id=algorithm,
        finding_sites=_sites(assessment) if done else None,
        measurements=[_measurement(m) for m in assessment.measurements] or None,
        qualitative_evaluations=_evaluations(assessment),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=str(header.SOPClassUID),
                referenced_sop_instance_uid=str(header.SOPInstanceUID),
            )
            for header in headers
            if _is_image(header)
        ]
        or None,
    )
    group[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value="; ".join((DESCRIPTION, *assessment.findings, assessment.reason)),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_procedure(headers[0]),
        imaging_measurements=[group],
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en", "RFC5646", "English")
        ),
    )
    return report[0]


def _procedure(header: Dataset) -> Code:
    for item in header.get("ProcedureCodeSequence") or ():
        parts = [str(item.get(k) or "") for k in ("CodeValue", "CodingSchemeDesignator")]
        if all(parts):
            return Code(parts[0], parts[1], str(item.get("CodeMeaning") or parts[0]))
    return Code("24590-2", "LN", "MR Brain")


def _sites(assessment: Assessment) -> list[Any]:
    sites = [sr.FindingSite(anatomic_location=_BRAIN)]
    if assessment.side:
        side = _LEFT if assessment.side == "left" else _RIGHT
        sites.append(sr.FindingSite(anatomic_location=_VENTRICLE, laterality=side))
    return sites


def _measurement(measurement: Measurement) -> Any:
    if measurement.name not in _CONCEPTS or measurement.unit not in _UNITS:
        raise ValueError(
            f"no code for the measurement {measurement.name!r} in {measurement.unit!r}"
        )
    concept, site, side = _CONCEPTS[measurement.name]
    return sr.Measurement(
        name=concept,
        value=round(measurement.value, 3),
        unit=_UNITS[measurement.unit],
        method=_ESTIMATED,
        finding_sites=[sr.FindingSite(anatomic_location=site, laterality=side)],
    )


def _evaluations(assessment: Assessment) -> list[Any]:
    """Say whether the analysis ran, and apart from it what it found (CID 6042, CID 7035)."""
    if assessment.outcome == "abstained":
        status = codes.DCM.Failed if assessment.failed else codes.DCM.NotAttempted
        return [sr.QualitativeEvaluation(name=codes.DCM.SummaryOfAnalyses, value=status)]
    found = assessment.outcome == "critical"
    evaluations = [
        sr.QualitativeEvaluation(name=codes.DCM.SummaryOfAnalyses, value=codes.DCM.Succeeded),
        sr.QualitativeEvaluation(
            name=codes.DCM.PresenceOfProperty, value=_PRESENT if found else _ABSENT
        ),
    ]
    if found:
        category = codes.cid7035.ACRCategory1ActionableFinding
        evaluations.append(sr.QualitativeEvaluation(name=_ACTIONABLE, value=category))
    return evaluations
