"""FHIR search: parameters as conditions, and the rows that fulfil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, exists, false, func, or_, select

from models.errors import InvalidValue, Unsupported
from models.lifecycle import ReportStatus
from services.database.store import UnitOfWork
from services.database.tables import imaging_order, patient_identifier, report, study
from services.fhir.codes import DICOM_UID

DEFAULT_COUNT: Final = 50
MOST: Final = 200

# These shape the answer and choose nothing; leaving them out gives more, never something else.
_IGNORED: Final = frozenset({"_format", "_pretty", "_summary", "_elements", "_total", "_sort"})

Condition = Callable[[str], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search.

    Attributes
    ----------
    used : list of (name, value)
        The parameters that were followed, for the self link.
    """

    conditions: list[ColumnElement[bool]] = field(default_factory=list)
    used: list[tuple[str, str]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    offset: int = 0


def parse(items: Sequence[tuple[str, str]], known: dict[str, Condition]) -> Search:
    """Return the search that a query string asks for.

    A repeated parameter narrows (and), a comma widens (or).

    Raises
    ------
    Unsupported
        If a parameter is not served: to ignore it would return other people's records.
    InvalidValue
        If a value cannot be read.
    """
    conditions: list[ColumnElement[bool]] = []
    used: list[tuple[str, str]] = []
    count, offset = DEFAULT_COUNT, 0
    for name, value in items:
        if name in _IGNORED:
            continue
        if not value.isprintable():
            raise InvalidValue(f"{name} has characters that no identifier has", location=name)
        if name == "_count":
            count = min(_whole(name, value), MOST)
        elif name == "_offset":
            offset = _whole(name, value)
        elif name in known:
            conditions.append(or_(false(), *(known[name](v) for v in value.split(","))))
            used.append((name, value))
        else:
            raise Unsupported(f"search parameter {name} is not served", location=name)
    return Search(conditions, used, count, offset)


def reports(uow: UnitOfWork, search: Search) -> tuple[list[str], int]:
    """Return the ids of one page of reported studies, newest report first, and how many match."""
    signed = select(func.max(report.c.signed_at)).where(report.c.study_id == study.c.id)
    return _page(
        uow,
        search,
        exists().where(report.c.study_id == study.c.id),
        signed.scalar_subquery().desc(),
    )


def studies(uow: UnitOfWork, search: Search) -> tuple[list[str], int]:
    """Return the ids of one page of studies, newest first, and how many match."""
    return _page(uow, search, None, func.coalesce(study.c.started_at, study.c.created_at).desc())


def report_parameters() -> dict[str, Condition]:
    """Return what DiagnosticReport can be searched by."""
    return {
        "_id": lambda v: study.c.id == v,
        "identifier": _report_identifier,
        "accession": lambda v: study.c.accession == v,
        "status": _report_status,
        "based-on:identifier": lambda v: imaging_order.c.placer_number == _token(v)[1],
        **_patient_parameters(),
    }


def study_parameters() -> dict[str, Condition]:
    """Return what ImagingStudy can be searched by."""
    return {
        "_id": lambda v: study.c.id == v,
        "identifier": _study_identifier,
        "accession": lambda v: study.c.accession == v,
        **_patient_parameters(),
    }


def patient_parameters() -> dict[str, Condition]:
    """Return what Patient can be searched by; conditions on `patient_identifier`."""
    return {"_id": lambda v: patient_identifier.c.patient_id == v, "identifier": _owner}


def patients(uow: UnitOfWork, search: Search) -> tuple[list[str], int]:
    """Return the ids of one page of patients, and how many match."""
    query = select(patient_identifier.c.patient_id).where(*search.conditions).distinct()
    rows = uow.studies.select(query.order_by(patient_identifier.c.patient_id))
    ids = [str(row.patient_id) for row in rows]
    return ids[search.offset : search.offset + search.count], len(ids)


def _page(
    uow: UnitOfWork,
    search: Search,
    base: ColumnElement[bool] | None,
    order: ColumnElement[Any],
) -> tuple[list[str], int]:
    def narrowed(query: Select[Any]) -> Select[Any]:
        query = query.select_from(study).outerjoin(
            imaging_order, imaging_order.c.id == study.c.order_id
        )
        return query.where(*search.conditions, *([] if base is None else [base]))

    total = int(uow.studies.select(narrowed(select(func.count().label("n"))))[0].n)
    rows = uow.studies.select(
        narrowed(select(study.c.id))
        .order_by(order, study.c.id)
        .limit(search.count)
        .offset(search.offset)
    )
    return [str(row.id) for row in rows], total


def _patient_parameters() -> dict[str, Condition]:
    return {
        "patient": _patient,
        "subject": _patient,
        "patient.identifier": _patient_by_identifier,
        "subject.identifier": _patient_by_identifier,
        "subject:Patient.identifier": _patient_by_identifier,
        "patient:identifier": _patient_by_identifier,
    }


def _patient(value: str) -> ColumnElement[bool]:
    kind, slash, identity = value.rpartition("/")
    if slash and kind.rpartition("/")[2] != "Patient":
        return false()
    return study.c.patient_id == identity


def _patient_by_identifier(value: str) -> ColumnElement[bool]:
    return study.c.patient_id.in_(select(patient_identifier.c.patient_id).where(_owner(value)))


def _owner(value: str) -> ColumnElement[bool]:
    system, number = _token(value)
    owned = patient_identifier.c.value == number
    if system is None:
        return owned
    # The authority is told as a system only where it is an OID; by its name it is found too.
    return owned & (patient_identifier.c.authority == system.removeprefix("urn:oid:"))


def _report_identifier(value: str) -> ColumnElement[bool]:
    system, number = _token(value)
    if system:
        return false()
    return or_(study.c.accession == number, imaging_order.c.filler_number == number)


def _study_identifier(value: str) -> ColumnElement[bool]:
    system, number = _token(value)
    uid = study.c.study_uid == number.removeprefix("urn:oid:")
    if system == DICOM_UID:
        return uid
    if system:
        return false()
    return or_(uid, study.c.accession == number)


def _report_status(value: str) -> ColumnElement[bool]:
    _, code = _token(value)
    try:
        status = ReportStatus(code)
    except ValueError:
        # A status of the value set that no report of ours ever has matches nothing.
        return false()
    newest = (
        select(report.c.status)
        .where(report.c.study_id == study.c.id)
        .order_by(report.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    return newest == status.value


def _token(value: str) -> tuple[str | None, str]:
    system, bar, code = value.rpartition("|")
    return (system if bar else None), code


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidValue(f"{name} is not a whole number", location=name)
    return int(value)
