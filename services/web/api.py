"""The JSON API: reading list, reports, acknowledgements and stories."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from models.errors import InvalidValue, Unsupported
from services.database.store import Store
from services.web.reading_list import MOST, reading_list
from services.web.story import story
from services.workflow.reporting import acknowledge_critical, sign_report


class ReportIn(BaseModel):
    """A report as a client signs it."""

    # An unknown field may be a misspelt expected_version: silence would drop a safeguard.
    model_config = ConfigDict(extra="forbid", strict=True)

    status: str
    findings: str = ""
    impression: str
    author: str
    idempotency_key: str | None = None
    expected_version: int | None = None


class AcknowledgementIn(BaseModel):
    """Who takes note of a critical result."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: str


def router(store: Store) -> APIRouter:
    """Return the routes below ``/api``."""
    routes = APIRouter(prefix="/api", tags=["api"])

    @routes.get("/reading-list")
    def get_reading_list(
        everything: Annotated[bool, Query(alias="all")] = False,
        limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> JSONResponse:
        with store() as uow:
            page = reading_list(uow, everything=everything, limit=limit, offset=offset)
        return JSONResponse(
            {
                "studies": page.studies,
                "total": page.total,
                "limit": limit,
                "offset": offset,
                "unacknowledged": page.unacknowledged,
            }
        )

    @routes.post(
        "/studies/{study_uid}/reports", status_code=201, dependencies=[Depends(require_json)]
    )
    def post_report(
        study_uid: str,
        body: ReportIn,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> JSONResponse:
        if idempotency_key and body.idempotency_key not in (None, idempotency_key):
            raise InvalidValue(
                "header and body name different idempotency keys", location="idempotency_key"
            )
        report = sign_report(
            store,
            study_uid,
            status=body.status,
            findings=body.findings,
            impression=body.impression,
            author=body.author,
            expected_version=body.expected_version,
            idempotency_key=idempotency_key or body.idempotency_key,
        )
        answer = {
            "report_id": report.id,
            "version": report.version,
            "status": report.status.value,
            "signed_at": report.signed_at.isoformat(),
        }
        return JSONResponse(answer, 201, {"Location": f"/api/studies/{study_uid}"})

    @routes.post("/studies/{study_uid}/acknowledgement", dependencies=[Depends(require_json)])
    def post_acknowledgement(study_uid: str, body: AcknowledgementIn) -> JSONResponse:
        done = acknowledge_critical(store, study_uid, body.by)
        return JSONResponse(
            {
                "study_uid": done.study_uid,
                "accession": done.accession,
                "acknowledged_by": done.by,
                "acknowledged_at": done.at.isoformat(),
                "found_at": done.found_at.isoformat(),
                "read_back": done.statement,
            }
        )

    @routes.get("/studies/{key}")
    def get_study(key: str) -> JSONResponse:
        with store() as uow:
            told: dict[str, Any] = story(uow, key)
        return JSONResponse(told)

    return routes


def require_json(request: Request) -> None:
    """Refuse a body that is not JSON."""
    # A form of another site can send any text but not this media type.
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Unsupported("the body has to be application/json", location="Content-Type")
