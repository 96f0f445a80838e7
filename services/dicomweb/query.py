"""QIDO-RS (PS3.18 §10.6): a search as one SQL statement, its rows as DICOM JSON.

Every level answers from the database; no file is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from sqlalchemy import ColumnElement, Row, Select, and_, case, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import TEXT

from models.errors import InvalidValue
from models.tier import Tier
from services.database.tables import instance, patient, patient_identifier, series, study
from services.dicom.matching import RANGE_VRS, bounds

MOST: Final = 5000
"""Answers sent at most; beyond them a Warning says so."""
_NOT_KEYS: Final = {"limit", "offset", "includefield", "fuzzymatching", "accept"}
_NOT_KEYS_NEWER: Final = {"emptyvaluematching", "multiplevaluematching", "charset"}


def _mrn(column: ColumnElement[str]) -> ColumnElement[str]:
    return (
        select(column)
        .where(patient_identifier.c.patient_id == study.c.patient_id)
        .order_by(patient_identifier.c.type != "MR", patient_identifier.c.position)
        .limit(1)
        .scalar_subquery()
    )


_name = case(
    (
        patient.c.id.is_not(None),
        func.rtrim(
            func.concat_ws(
                literal("^"),
                *(patient.c[n] for n in ("family", "given", "middle", "prefix", "suffix")),
            ),
            "^",
        ),
    ),
    else_=study.c.dicom_patient_name,
)
_patient_id = case(
    (patient.c.id.is_not(None), _mrn(patient_identifier.c.value)), else_=study.c.dicom_patient_id
)


def _said(table: Any, keyword: str, *path: str) -> ColumnElement[str]:
    """Return what the objects say in an attribute, as text; PN needs its group in `path`."""
    tag = f"{tag_for_keyword(keyword):08X}"
    return cast(func.jsonb_extract_path_text(table.c.attributes, tag, "Value", "0", *path), TEXT)


def _number(table: Any) -> ColumnElement[str]:
    return cast(table.c.number, TEXT)


def _modalities(value: str) -> ColumnElement[bool]:
    other = series.alias()
    return (
        select(other.c.series_uid)
        .where(other.c.study_id == study.c.id, _compare("CS", other.c.modality, value))
        .exists()
    )


_STUDY: Final[dict[str, ColumnElement[Any]]] = {
    "StudyInstanceUID": study.c.study_uid,
    "PatientName": _name,
    "PatientID": _patient_id,
    "AccessionNumber": study.c.accession,
    "StudyDescription": study.c.description,
    **{k: _said(study, k) for k in ("StudyDate", "StudyTime", "StudyID", "PatientSex")},
    "PatientBirthDate": func.coalesce(
        func.to_char(patient.c.birth_date, "YYYYMMDD"), _said(study, "PatientBirthDate")
    ),
    "ReferringPhysicianName": _said(study, "ReferringPhysicianName", "Alphabetic"),
}
_SERIES: Final[dict[str, ColumnElement[Any]]] = {
    "SeriesInstanceUID": series.c.series_uid,
    "Modality": series.c.modality,
    "SeriesDescription": series.c.description,
    "SeriesNumber": _number(series),
    **{
        k: _said(series, k)
        for k in (
            *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
            *("BodyPartExamined", "ProtocolName"),
        )
    },
}
_INSTANCE: Final[dict[str, ColumnElement[Any]]] = {
    "SOPInstanceUID": instance.c.sop_uid,
    "SOPClassUID": instance.c.sop_class,
    "InstanceNumber": _number(instance),
}
_SPECIAL: Final[dict[str, Callable[[str], ColumnElement[bool]]]] = {
    "ModalitiesInStudy": _modalities
}


@dataclass(slots=True, kw_only=True)
class Search:
    """A parsed query string."""

    conditions: list[ColumnElement[bool]] = field(default_factory=list)
    limit: int = MOST
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def parse(level: str, parameters: list[tuple[str, str]]) -> Search:
    """Read the parameters of a search.

    Parameters
    ----------
    level : str
        ``studies``, ``series`` or ``instances``: which keys there are.

    Raises
    ------
    InvalidValue
        If a key is no attribute, or a value cannot be one.
    """
    search = Search()
    known = dict(_STUDY)
    if level != "studies":
        known |= _SERIES
    if level == "instances":
        known |= _INSTANCE
    for name, value in parameters:
        lower = name.lower()
        if lower == "fuzzymatching" and value.lower() == "true":
            search.warnings.append("fuzzy matching is not supported; matched literally")
        elif lower in ("limit", "offset"):
            _set_number(search, lower, value)
        elif lower not in _NOT_KEYS | _NOT_KEYS_NEWER:
            _add(search, known, name, value)
    return search


def _set_number(search: Search, name: str, value: str) -> None:
    if not value.isascii() or not value.isdigit():
        raise InvalidValue(f"{name} is no whole number", location=name)
    number = min(int(value), 1 << 31)
    setattr(search, name, min(number, MOST) if name == "limit" else number)


def _add(search: Search, known: dict[str, ColumnElement[Any]], name: str, value: str) -> None:
    keyword = _keyword(name)
    value = value.replace("\0", "").strip()
    if value in ("", "*"):  # universal matching
        return
    if keyword in _SPECIAL:
        search.conditions.append(_SPECIAL[keyword](value))
    elif keyword in known:
        vr = dictionary_VR(keyword)
        if keyword == "PatientID":
            search.conditions.append(_any_identifier(value))
        else:
            search.conditions.append(_compare(vr, known[keyword], value))
    else:
        search.warnings.append(f"{keyword} is not a matching key here; it was ignored")


def _keyword(name: str) -> str:
    """Return the keyword of an attribute given as keyword or as eight hexadecimal digits."""
    parts = []
    for part in name.split("."):
        try:
            keyword = keyword_for_tag(int(part, 16)) if len(part) == 8 and _is_hex(part) else part
        except ValueError:
            keyword = ""
        if not keyword or tag_for_keyword(keyword) is None:
            raise InvalidValue("a query parameter names no DICOM attribute", location=name[:64])
        parts.append(keyword)
    return ".".join(parts)


def _is_hex(part: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in part)


def _any_identifier(value: str) -> ColumnElement[bool]:
    """Match any number that the patient is known under, the retired ones too."""
    owned = select(patient_identifier.c.value).where(
        patient_identifier.c.patient_id == study.c.patient_id,
        _compare("LO", patient_identifier.c.value, value),
    )
    return or_(
        owned.exists(),
        and_(study.c.patient_id.is_(None), _compare("LO", study.c.dicom_patient_id, value)),
    )


def _compare(vr: str, column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    if vr == "UI":
        return column.in_([part for part in value.replace("\\", ",").split(",") if part])
    if vr in RANGE_VRS:
        return _range(vr, column, value)
    if vr == "IS":
        return column == value.lstrip("+").lstrip("0") if value.strip("0+") else column == "0"
    if "*" in value or "?" in value:
        pattern = "".join({"*": "%", "?": "_"}.get(c, _escaped(c)) for c in value)
        return column.ilike(pattern, escape="/") if vr == "PN" else column.like(pattern, escape="/")
    if vr == "PN":
        return func.lower(column) == value.lower().rstrip("^")
    return column == value


def _escaped(char: str) -> str:
    return f"/{char}" if char in "%_/" else char


def _range(vr: str, column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    try:
        low, high = bounds(vr, value)
    except ValueError:
        raise InvalidValue(f"a {vr} is no value or range of this VR", location=vr) from None
    if vr == "DA":
        held: ColumnElement[Any] = func.replace(column, ".", "")
    else:
        # pad what is stored to HHMMSS.FFFFFF, so that text order is time order
        held = func.rpad(column, 6, "0") if vr == "TM" else column
        low, high = low[:6] if low else low, high
    conditions = [held >= low] if low else []
    if high[0].isdigit():
        conditions.append(held <= high)
    return and_(*conditions) if conditions else column.is_not(None)


def statement(level: str, search: Search) -> Select[Any]:
    """Build the query of one level; every row carries what its levels above say, too."""
    of_study = [
        *(c.label(f"study_{c.name}") for c in study.c),
        _name.label("patient_name"),
        _patient_id.label("shown_patient_id"),
        _mrn(patient_identifier.c.authority).label("issuer"),
        patient.c.birth_date,
        patient.c.sex,
    ]
    counted = instance.alias()
    images = select(func.count()).where(counted.c.study_id == study.c.id).scalar_subquery()
    of_series = [c.label(f"series_{c.name}") for c in series.c]
    of_instance = [c.label(f"instance_{c.name}") for c in instance.c]
    has_images = select(counted.c.sop_uid).where(counted.c.study_id == study.c.id).exists()
    query: Select[Any]
    if level == "studies":
        owned = series.alias()
        query = (
            select(
                *of_study,
                images.label("images"),
                select(func.count())
                .where(owned.c.study_id == study.c.id)
                .scalar_subquery()
                .label("series"),
                select(func.array_agg(owned.c.modality.distinct()))
                .where(owned.c.study_id == study.c.id)
                .scalar_subquery()
                .label("modalities"),
            )
            .where(has_images)
            .order_by(study.c.created_at.desc(), study.c.study_uid)
        )
        source = study.outerjoin(patient, patient.c.id == study.c.patient_id)
    else:
        source = series.join(study, study.c.id == series.c.study_id).outerjoin(
            patient, patient.c.id == study.c.patient_id
        )
        of_one = select(func.count()).where(counted.c.series_uid == series.c.series_uid)
        order = (study.c.created_at.desc(), series.c.number, series.c.series_uid)
        if level == "series":
            query = select(*of_study, *of_series, of_one.scalar_subquery().label("images"))
            query = query.order_by(*order)
        else:
            source = source.join(instance, instance.c.series_uid == series.c.series_uid)
            query = select(*of_study, *of_series, *of_instance).order_by(
                *order, instance.c.number, instance.c.sop_uid
            )
    return (
        query.select_from(source)
        .where(*search.conditions)
        .limit(search.limit + 1)
        .offset(search.offset)
    )


def answer(level: str, row: Row[Any], base: str) -> dict[str, Any]:
    """Return one row as DICOM JSON (PS3.18 F.2), with everything we hold on its level."""
    record = _study_record(row)
    url = f"{base}/studies/{row.study_study_uid}"
    tier = Tier(row.instance_tier if level == "instances" else row.study_tier)
    _put(record, "InstanceAvailability", tier.availability)
    if level == "studies":
        _put(record, "ModalitiesInStudy", *[m for m in row.modalities or [] if m])
        _put(record, "NumberOfStudyRelatedSeries", row.series)
        _put(record, "NumberOfStudyRelatedInstances", row.images)
    else:
        url += f"/series/{row.series_series_uid}"
        record |= row.series_attributes
        _put(record, "SeriesInstanceUID", row.series_series_uid)
        _put(record, "Modality", row.series_modality)
        _put(record, "SeriesDescription", row.series_description)
        _put(record, "SeriesNumber", row.series_number)
    if level == "series":
        _put(record, "NumberOfSeriesRelatedInstances", row.images)
    if level == "instances":
        url += f"/instances/{row.instance_sop_uid}"
        record |= row.instance_attributes
        _put(record, "SOPClassUID", row.instance_sop_class)
        _put(record, "SOPInstanceUID", row.instance_sop_uid)
        _put(record, "InstanceNumber", row.instance_number)
        _put(record, "NumberOfFrames", row.instance_frames)
        _put(record, "AvailableTransferSyntaxUID", row.instance_transfer_syntax)
    _put(record, "RetrieveURL", url)
    return dict(sorted(record.items()))


def _study_record(row: Row[Any]) -> dict[str, Any]:
    record: dict[str, Any] = dict(row.study_attributes)
    _put(record, "SpecificCharacterSet", "ISO_IR 192")
    _put(record, "StudyInstanceUID", row.study_study_uid)
    _put(record, "PatientName", row.patient_name)
    _put(record, "PatientID", row.shown_patient_id)
    _put(record, "AccessionNumber", row.study_accession)
    _put(record, "StudyDescription", row.study_description)
    # The order's patient wins over what the console wrote; without one the objects speak.
    if row.birth_date is not None:
        _put(record, "PatientBirthDate", row.birth_date.strftime("%Y%m%d"))
    if row.sex:
        _put(record, "PatientSex", row.sex)
    # A number is shown with the authority that gave it, never with another number's.
    if row.issuer is not None:
        _put(record, "IssuerOfPatientID", row.issuer)
    return record


def _put(record: dict[str, Any], keyword: str, *values: Any) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise LookupError(keyword)
    vr = dictionary_VR(tag)
    kept = [v for v in values if v not in (None, "")]
    if vr == "PN":
        kept = [
            dict(zip(("Alphabetic", "Ideographic", "Phonetic"), str(v).split("="), strict=False))
            for v in kept
        ]
    record[f"{tag:08X}"] = {"vr": vr, "Value": kept} if kept else {"vr": vr}
