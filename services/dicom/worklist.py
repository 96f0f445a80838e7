"""Modality Worklist (PS3.4 Annex K): a scheduled step as C-FIND answer, and who asked for it.

The store keeps UTC; DA and TM are local time of this machine, with no offset (rule 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, time, timedelta, tzinfo
from typing import Any, Final

from pydicom import Dataset, charset
from sqlalchemy import any_, exists, func, literal

from models.errors import InvalidValue
from models.patient import Code, Identifier, Issuer, PersonName
from models.priority import Priority
from services.database.details import unpack
from services.database.store import Store
from services.database.tables import imaging_order, patient_identifier, scheduled_step
from services.dicom.matching import bounds, matches, project, values_of

PENDING: Final = 0xFF00
PENDING_UNKNOWN_KEYS: Final = 0xFF01
"""PS3.4 Table K.4-1: pending; some optional keys are not supported."""

_STEP: Final = "ScheduledProcedureStepSequence"


def find(
    store: Store, query: Dataset, *, zone: tzinfo | None = None
) -> Iterator[tuple[int, Dataset]]:
    """Answer one Modality Worklist query: yield (status, identifier), most urgent first.

    Parameters
    ----------
    query : Dataset
        The identifier of the C-FIND request.
    zone : tzinfo, optional
        Local time; by default that of this machine.

    Raises
    ------
    InvalidValue
        If the Scheduled Procedure Step Sequence has more than one item (PS3.4 C.2.2.2.6).
    """
    if len(query.get(_STEP) or []) > 1:
        raise InvalidValue("a sequence key has one item", location=_STEP)
    with store() as uow:
        rows = uow.orders.worklist(narrowing(query, zone))
        identifiers = uow.patients.identifiers(row.patient_id for row in rows)
    for row in rows:
        item = worklist_item(row, identifiers.get(row.patient_id, []), zone, asked=query)
        if not matches(query, item):
            continue
        answer, unknown = project(query, item)
        set_charset(answer, query)
        yield (PENDING_UNKNOWN_KEYS if unknown else PENDING), answer


def narrowing(query: Dataset, zone: tzinfo | None = None) -> list[Any]:
    """Return SQL conditions that every match fulfils; `matches` decides afterwards.

    Only keys whose meaning in SQL is beyond doubt are used; dates are widened by a day on both
    sides, so that no change of clocks can hide a patient.
    """
    conditions: list[Any] = []
    items = query.get(_STEP) or []
    step = items[0] if items else Dataset()
    day = timedelta(days=1)
    for start_date in _single(step, "ScheduledProcedureStepStartDate"):
        try:
            low, high = bounds("DA", start_date)
            if low:
                conditions.append(scheduled_step.c.start_at >= _midnight(low, zone) - day)
            if high[0].isdigit():
                conditions.append(scheduled_step.c.start_at < _midnight(high, zone) + 2 * day)
        except (ValueError, OverflowError):
            continue
    for title in _single(step, "ScheduledStationAETitle"):
        if title != "*":
            titles = func.string_to_array(scheduled_step.c.station_aet, "\\")
            conditions.append(literal(title) == any_(titles))
    for modality in _single(step, "Modality"):
        if modality != "*":
            conditions.append(scheduled_step.c.modality == modality)
    for keyword, column in (
        ("AccessionNumber", imaging_order.c.accession),
        ("StudyInstanceUID", imaging_order.c.study_uid),
    ):
        conditions += [column == value for value in _single(query, keyword) if _plain(value)]
    for value in _single(query, "PatientID"):
        if _plain(value):
            conditions.append(
                exists().where(
                    patient_identifier.c.patient_id == imaging_order.c.patient_id,
                    patient_identifier.c.value == value,
                )
            )
    return conditions


def _single(dataset: Dataset, keyword: str) -> list[str]:
    values = values_of(dataset[keyword]) if keyword in dataset else []
    return values if len(values) == 1 else []


def _plain(value: str) -> bool:
    return "*" not in value and "?" not in value


def _midnight(digits: str, zone: tzinfo | None) -> datetime:
    day = datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007 (a date in local time)
    return datetime.combine(day, time(0), zone).astimezone()


def worklist_item(
    row: Any,
    identifiers: Sequence[Identifier],
    zone: tzinfo | None = None,
    *,
    asked: Dataset | None = None,
) -> Dataset:
    """Build everything that we can say about one scheduled step (IHE RAD TF-2 App. B).

    Parameters
    ----------
    row : Row
        Of `Orders.worklist`, columns labelled ``table_column``.
    identifiers : sequence of Identifier
        The patient's, the one for Patient ID first.
    asked : Dataset, optional
        A query; of what is seldom asked for, only what it names is built.
    """
    item = Dataset()
    _patient(item, row, identifiers)
    item.AccessionNumber = row.imaging_order_accession
    item.ReferringPhysicianName = row.imaging_order_referring
    item.RequestingPhysician = row.imaging_order_requesting
    item.StudyInstanceUID = row.imaging_order_study_uid
    item.ReferencedStudySequence = []
    item.ReferencedPatientSequence = []
    item.RequestedProcedureID = row.imaging_order_requested_procedure_id
    item.RequestedProcedureDescription = row.imaging_order_procedure_meaning[:64]
    item.RequestedProcedureCodeSequence = _code(
        row.imaging_order_procedure_code,
        row.imaging_order_procedure_scheme,
        row.imaging_order_procedure_meaning,
    )
    item.RequestedProcedurePriority = Priority(row.imaging_order_priority).dicom
    item.ReasonForTheRequestedProcedure = row.imaging_order_reason[:64]
    item.PatientTransportArrangements = row.imaging_order_transport[:64]
    item.ConfidentialityConstraintOnPatientDataDescription = row.imaging_order_confidentiality[:64]
    item.AdmissionID = row.imaging_order_admission_id[:64]
    item.CurrentPatientLocation = row.imaging_order_location[:64]
    item.PlacerOrderNumberImagingServiceRequest = row.imaging_order_placer_number[:64]
    item.FillerOrderNumberImagingServiceRequest = row.imaging_order_filler_number[:64]
    item.ScheduledProcedureStepSequence = [_step(row, zone)]
    order = unpack(row.imaging_order_details)
    patient = unpack(row.patient_details)
    for keyword, build in _SELDOM.items():
        if asked is None or keyword in asked:
            setattr(item, keyword, build(row, order, patient))
    return item


def _issuer(issuer: Issuer | None) -> list[Dataset]:
    """Return an HL7 HD as DICOM's HL7v2 Hierarchic Designator macro (PS3.3 Table 10-17)."""
    if issuer is None or not issuer.name:
        return []
    item = Dataset()
    if issuer.namespace:
        item.LocalNamespaceEntityID = issuer.namespace
    if issuer.universal_id:
        item.UniversalEntityID = issuer.universal_id
        item.UniversalEntityIDType = issuer.universal_type[:16]
    return [item]


def _coded(code: Code | None) -> list[Dataset]:
    return [] if code is None else _code(code.value, code.scheme, code.meaning)


_Build = Callable[[Any, dict[str, Any], dict[str, Any]], Any]
_SELDOM: Final[dict[str, _Build]] = {
    "IssuerOfAccessionNumberSequence": lambda r, o, p: _issuer(o.get("accession_issuer")),
    "OrderPlacerIdentifierSequence": lambda r, o, p: _issuer(o.get("placer_issuer")),
    "OrderFillerIdentifierSequence": lambda r, o, p: _issuer(o.get("filler_issuer")),
    "IssuerOfAdmissionIDSequence": lambda r, o, p: _issuer(o.get("admission_issuer")),
    "IssueDateOfImagingServiceRequest": lambda r, o, p: (
        o["issued_on"].strftime("%Y%m%d") if "issued_on" in o else ""
    ),
    "OrderEnteredBy": lambda r, o, p: str(o.get("entered_by", "")),
    "InstitutionName": lambda r, o, p: o.get("institution", "")[:64],
    "InstitutionalDepartmentName": lambda r, o, p: o.get("department", "")[:64],
    "ReasonForVisit": lambda r, o, p: o.get("visit_reason", ""),
    "ReasonForRequestedProcedureCodeSequence": lambda r, o, p: _coded(o.get("reason_code")),
    "PatientState": lambda r, o, p: o.get("patient_state", "")[:64],
    "SpecialNeeds": lambda r, o, p: o.get("special_needs", "")[:64],
    "RouteOfAdmissions": lambda r, o, p: r.imaging_order_patient_class[:64],
    "PatientMotherBirthName": lambda r, o, p: str(p.get("mother_name", "")),
    "PatientAddress": lambda r, o, p: p.get("address", "")[:64],
    "PatientPrimaryLanguageCodeSequence": lambda r, o, p: _coded(p.get("language")),
    "PatientComments": lambda r, o, p: p.get("comments", ""),
}
"""What few consoles ask for, by keyword: row, details of the order and of the patient → value."""


def _patient(item: Dataset, row: Any, identifiers: Sequence[Identifier]) -> None:
    name = PersonName(
        family=row.patient_family,
        given=row.patient_given,
        middle=row.patient_middle,
        prefix=row.patient_prefix,
        suffix=row.patient_suffix,
    )
    ordered = sorted(identifiers, key=lambda i: i.type != "MR")  # stable: the first MR number
    first = ordered[0] if ordered else None
    item.PatientName = str(name)
    item.PatientID = first.value if first else ""
    item.IssuerOfPatientID = first.authority if first else ""
    item.IssuerOfPatientIDQualifiersSequence = _qualifiers(first)
    item.OtherPatientIDsSequence = [_other(i) for i in ordered[1:]]
    birth_date = row.patient_birth_date
    item.PatientBirthDate = "" if birth_date is None else birth_date.strftime("%Y%m%d")
    # (0010,0040) has no U; a sex that nobody told is empty (PS3.3 C.7.1.1)
    item.PatientSex = row.patient_sex if row.patient_sex in ("M", "F", "O") else ""
    weight, height = row.imaging_order_weight_kg, row.imaging_order_height_m
    item.PatientWeight = None if weight is None else f"{weight:.6g}"
    item.PatientSize = None if height is None else f"{height:.6g}"
    item.PregnancyStatus = row.imaging_order_pregnancy_status
    item.MedicalAlerts = row.imaging_order_medical_alerts[:64]
    item.Allergies = row.imaging_order_allergies[:64]


def _other(identifier: Identifier) -> Dataset:
    item = Dataset()
    item.PatientID = identifier.value
    item.IssuerOfPatientID = identifier.authority
    item.TypeOfPatientID = "TEXT"
    if identifier.universal_id:
        item.IssuerOfPatientIDQualifiersSequence = _qualifiers(identifier)
    return item


def _qualifiers(identifier: Identifier | None) -> list[Dataset]:
    if identifier is None or not identifier.universal_id:
        return []
    item = Dataset()
    item.UniversalEntityID = identifier.universal_id
    item.UniversalEntityIDType = identifier.universal_type[:16]
    return [item]


def _step(row: Any, zone: tzinfo | None) -> Dataset:
    start = row.scheduled_step_start_at.astimezone(zone)
    step = Dataset()
    step.ScheduledStationAETitle = row.scheduled_step_station_aet
    step.ScheduledProcedureStepStartDate = start.strftime("%Y%m%d")
    step.ScheduledProcedureStepStartTime = start.strftime("%H%M%S")
    step.Modality = row.scheduled_step_modality
    step.ScheduledPerformingPhysicianName = row.scheduled_step_performing
    description = row.scheduled_step_description or row.imaging_order_procedure_meaning
    step.ScheduledProcedureStepDescription = description[:64]
    step.ScheduledProtocolCodeSequence = _code(
        row.scheduled_step_protocol_code,
        row.scheduled_step_protocol_scheme,
        row.scheduled_step_protocol_meaning,
    )
    step.ScheduledProcedureStepID = row.scheduled_step_sps_id
    step.ScheduledStationName = row.scheduled_step_station_name[:16]
    step.ScheduledProcedureStepLocation = row.scheduled_step_location[:16]
    step.ScheduledProcedureStepStatus = row.scheduled_step_status
    step.PreMedication = ""
    step.RequestedContrastAgent = ""
    return step


def _code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    if not value:
        return []
    code = Dataset()
    code.CodeValue = value[:16]
    code.CodingSchemeDesignator = (scheme or "L")[:16]
    code.CodeMeaning = (meaning or value)[:64]
    return [code]


def set_charset(answer: Dataset, query: Dataset) -> None:
    """Choose (0008,0005) of an answer.

    None for ASCII. The set that the query is written in, if it is a single-byte one that can write
    the answer: many consoles can read nothing else. UTF-8 otherwise.
    """
    text = "".join(_texts(answer))
    if text.isascii():
        return
    wanted = query.get("SpecificCharacterSet") or ""
    codec = charset.python_encoding.get(wanted) if isinstance(wanted, str) and wanted else None
    if codec is not None and wanted.startswith("ISO_IR"):
        try:
            text.encode(codec)
        except (UnicodeEncodeError, LookupError):
            pass
        else:
            answer.SpecificCharacterSet = wanted
            return
    answer.SpecificCharacterSet = "ISO_IR 192"


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in ("LO", "LT", "PN", "SH", "ST", "UC", "UT"):
            yield str(element.value or "")
