"""The FHIR R4 interface: reports, patients and studies to read and to search."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from models.errors import (
    OurError,
    SpinechoError,
    Unavailable,
    UnknownKey,
    Unsupported,
    answer_to,
)
from services.database.store import Store, UnitOfWork
from services.database.tables import instance, patient, report, series, study
from services.fhir import search
from services.fhir.codes import validated
from services.fhir.imaging_study import imaging_study
from services.fhir.report import Record, diagnostic_report, patient_resource

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/fhir+json"
FHIR_VERSION: Final = "4.0.1"

_ISSUES: Final = {
    "malformed": "structure",
    "unsupported": "not-supported",
    "missing-field": "required",
    "missing-value": "required",
    "invalid-value": "value",
    "unknown-key": "not-found",
    "duplicate-key": "duplicate",
    "illegal-move": "business-rule",
    "conflict": "conflict",
    "out-of-resources": "no-store",
    "unavailable": "transient",
}
"""Our error codes → IssueType, a required value set."""

_HTTP_ISSUES: Final = {404: "not-found", 405: "not-supported", 406: "not-supported"}
_JSON_TYPES: Final = frozenset(
    {"*/*", "application/*", MEDIA_TYPE, "application/json", "text/json"}
)
_JSON_FORMATS: Final = frozenset({"json", *_JSON_TYPES})


def fhir_app(store: Store, *, dicomweb: str | None = None) -> FastAPI:
    """Return the application, to be mounted at ``/fhir/r4``.

    Parameters
    ----------
    dicomweb : str, optional
        Path on the same host where the images of an ImagingStudy are found.
    """
    app = FastAPI(title="Spinecho FHIR R4", docs_url=None, redoc_url=None, openapi_url=None)
    _install_errors(app)

    def study_resource(uow: UnitOfWork, study_id: str, request: Request) -> dict[str, Any]:
        root = None
        if dicomweb is not None:
            root = f"{request.url.scheme}://{request.url.netloc}{dicomweb}"
        return imaging_study(_record(uow, study_id), _series(uow, study_id), wado_root=root)

    @app.get("/metadata")
    def metadata(request: Request) -> Response:
        _negotiate(request)
        return _answer(capability_statement(_base(request)))

    @app.get("/DiagnosticReport/{identity}")
    def read_report(identity: str, request: Request) -> Response:
        _negotiate(request)
        with store() as uow:
            resource = _report(uow, _reported(uow, identity), request)
        location = f"{_base(request)}/DiagnosticReport/{resource['id']}"
        return _answer(resource, {"Content-Location": location})

    @app.get("/DiagnosticReport")
    def search_reports(request: Request) -> Response:
        asked = _asked(request, search.report_parameters())
        with store() as uow:
            ids, total = search.reports(uow, asked)
            found = [_report(uow, i, request) for i in ids]
        return _answer(_bundle(request, asked, found, total))

    @app.get("/ImagingStudy/{identity}")
    def read_study(identity: str, request: Request) -> Response:
        _negotiate(request)
        with store() as uow:
            _require(uow, study.c.id, identity)
            resource = study_resource(uow, identity, request)
        return _answer(resource)

    @app.get("/ImagingStudy")
    def search_studies(request: Request) -> Response:
        asked = _asked(request, search.study_parameters())
        with store() as uow:
            ids, total = search.studies(uow, asked)
            found = [study_resource(uow, i, request) for i in ids]
        return _answer(_bundle(request, asked, found, total))

    @app.get("/Patient/{identity}")
    def read_patient(identity: str, request: Request) -> Response:
        _negotiate(request)
        with store() as uow:
            _require(uow, patient.c.id, identity)
            resource = _patient(uow, identity, request)
        return _answer(resource)

    @app.get("/Patient")
    def search_patients(request: Request) -> Response:
        asked = _asked(request, search.patient_parameters())
        with store() as uow:
            ids, total = search.patients(uow, asked)
            found = [_patient(uow, i, request) for i in ids]
        return _answer(_bundle(request, asked, found, total))

    return app


def capability_statement(base: str) -> dict[str, Any]:
    """Return what this interface can do."""
    served = {
        "DiagnosticReport": (
            search.report_parameters(),
            {"identifier": "token", "status": "token", "_id": "token"},
        ),
        "ImagingStudy": (search.study_parameters(), {"identifier": "token", "_id": "token"}),
        "Patient": (search.patient_parameters(), {"identifier": "token", "_id": "token"}),
    }
    return validated(
        {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-11-24",
            "kind": "instance",
            "software": {"name": "Spinecho", "version": _version()},
            "implementation": {"description": "Spinecho", "url": base},
            "fhirVersion": FHIR_VERSION,
            "format": ["json"],
            "rest": [
                {
                    "mode": "server",
                    "resource": [
                        {
                            "type": kind,
                            "versioning": "versioned"
                            if kind == "DiagnosticReport"
                            else "no-version",
                            "interaction": [{"code": "read"}, {"code": "search-type"}],
                            "searchParam": [
                                {
                                    "name": name,
                                    "type": types.get(
                                        name,
                                        "reference" if name in {"patient", "subject"} else "token",
                                    ),
                                }
                                for name in parameters
                                # Modifiers and chains belong to the parameters they refine.
                                if ":" not in name and "." not in name
                            ],
                        }
                        for kind, (parameters, types) in served.items()
                    ],
                }
            ],
        }
    )


def operation_outcome(issue: str, text: str, location: str | None = None) -> dict[str, Any]:
    """Return an OperationOutcome with one error."""
    told: dict[str, Any] = {"severity": "error", "code": issue, "diagnostics": text}
    if location is not None:
        told["expression"] = [location]
    return validated({"resourceType": "OperationOutcome", "issue": [told]})


def _record(uow: UnitOfWork, study_id: str) -> Record:
    found = uow.studies.get(study_id)
    row = uow.studies.row(study_id)
    return Record(
        study=found,
        patient=None if found.patient_id is None else uow.patients.get(found.patient_id),
        order=None if found.order_id is None else uow.orders.get(found.order_id),
        reports=tuple(uow.reports.of_study(study_id)),
        findings=tuple(f._asdict() for f in uow.studies.findings(study_id)),
        dicom_name=row.dicom_patient_name,
        dicom_id=row.dicom_patient_id,
    )


def _report(uow: UnitOfWork, study_id: str, _request: Request) -> dict[str, Any]:
    return diagnostic_report(_record(uow, study_id))


def _reported(uow: UnitOfWork, identity: str) -> str:
    # A client may know the report by the id that signing returned; every version's id leads here.
    if identity.isprintable():
        rows = uow.studies.select(
            select(report.c.study_id)
            .where((report.c.study_id == identity) | (report.c.id == identity))
            .limit(1)
        )
        if rows:
            return str(rows[0].study_id)
    raise UnknownKey("no report has this id")


def _patient(uow: UnitOfWork, patient_id: str, _request: Request) -> dict[str, Any]:
    merged = uow.studies.select(select(patient.c.merged_into).where(patient.c.id == patient_id))
    return patient_resource(uow.patients.get(patient_id), merged_into=merged[0].merged_into)


def _series(uow: UnitOfWork, study_id: str) -> list[dict[str, Any]]:
    rows = uow.studies.select(
        select(
            series.c.series_uid,
            series.c.number,
            series.c.modality,
            series.c.description,
            func.count(instance.c.sop_uid).label("instances"),
        )
        .outerjoin(instance, instance.c.series_uid == series.c.series_uid)
        .where(series.c.study_id == study_id)
        .group_by(series.c.series_uid)
        .order_by(series.c.number, series.c.series_uid)
    )
    return [row._asdict() for row in rows]


def _require(uow: UnitOfWork, column: Any, identity: str) -> None:
    if not identity.isprintable() or not uow.studies.select(
        select(column).where(column == identity)
    ):
        raise UnknownKey("no resource has this id")


def _asked(request: Request, known: dict[str, search.Condition]) -> search.Search:
    _negotiate(request)
    return search.parse(request.query_params.multi_items(), known)


def _negotiate(request: Request) -> None:
    """Refuse a request that wants anything but JSON; ``_format`` wins over Accept."""
    wanted = request.query_params.get("_format")
    if wanted is not None:
        # "+" in a query is a space: application/fhir+json is often sent unescaped.
        if wanted.split(";")[0].strip().replace(" ", "+") not in _JSON_FORMATS:
            raise HTTPException(406, "only JSON is served")
        return
    accepted = request.headers.get("accept", "*/*")
    kinds = {part.split(";")[0].strip().lower() for part in accepted.split(",")}
    if not kinds & _JSON_TYPES:
        raise HTTPException(406, "only application/fhir+json is served")


def _bundle(
    request: Request, asked: search.Search, found: list[dict[str, Any]], total: int
) -> dict[str, Any]:
    kind = request.url.path.rpartition("/")[2]
    base = _base(request)

    def link(relation: str, offset: int) -> dict[str, str]:
        query = [*asked.used, ("_count", str(asked.count))]
        if offset:
            query.append(("_offset", str(offset)))
        return {"relation": relation, "url": f"{base}/{kind}?{urlencode(query)}"}

    links = [link("self", asked.offset)]
    if asked.count and asked.offset + asked.count < total:
        links.append(link("next", asked.offset + asked.count))
    if asked.count and asked.offset:
        links.append(link("previous", max(0, asked.offset - asked.count)))
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": total,
        "link": links,
        # Every entry was checked when it was built.
        **(
            {
                "entry": [
                    {
                        "fullUrl": f"{base}/{resource['resourceType']}/{resource['id']}",
                        "resource": resource,
                        "search": {"mode": "match"},
                    }
                    for resource in found
                ]
            }
            if found
            else {}
        ),
    }


def _answer(
    resource: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200
) -> Response:
    told = {"Cache-Control": "no-store", **(headers or {})}
    meta = resource.get("meta", {})
    if "versionId" in meta:
        told["ETag"] = f'W/"{meta["versionId"]}"'
    body = json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, told, f"{MEDIA_TYPE}; charset=utf-8")


def _install_errors(app: FastAPI) -> None:
    @app.exception_handler(SpinechoError)
    def _ours(_request: Request, error: SpinechoError) -> Response:
        if isinstance(error, OurError):
            log.error("FHIR request failed", code=error.code, reason=str(error))
        # A search parameter that is not served is a bad request, not a media type.
        status = 400 if isinstance(error, Unsupported) else answer_to(error).http
        if error.code == "invalid-value":
            status = 400
        issue = _ISSUES.get(error.code, "exception")
        return _answer(operation_outcome(issue, str(error), error.location), status=status)

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> Response:
        issue = _HTTP_ISSUES.get(error.status_code, "processing")
        answer = _answer(operation_outcome(issue, str(error.detail)), status=error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def _database(request: Request, error: Exception) -> Response:
        log.error("database failed", kind=type(error).__name__)
        answer = _ours(request, Unavailable("the database does not answer; try again"))
        answer.headers["Retry-After"] = "5"
        return answer

    @app.exception_handler(Exception)
    def _unforeseen(_request: Request, error: Exception) -> Response:
        log.error("unforeseen error", kind=type(error).__name__)
        outcome = operation_outcome("exception", "an error that was not foreseen was logged")
        return _answer(outcome, status=500)


def _base(request: Request) -> str:
    # Not request.base_url: that is the base of the application in which this one is mounted.
    root = str(request.scope.get("root_path", ""))
    return f"{request.url.scheme}://{request.url.netloc}{root}".rstrip("/")


def _version() -> str:
    try:
        return version("spinecho")
    except PackageNotFoundError:
        return "0"
