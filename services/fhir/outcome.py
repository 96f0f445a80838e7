"""Every error as an OperationOutcome, and what an answer looks like on the wire."""

from __future__ import annotations

import json
from typing import Any, Final

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from models.errors import OurError, SpinechoError, Unavailable, Unsupported, answer_to
from services.fhir.codes import validated
from services.fhir.refusal import Refusal, outcome

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/fhir+json"

_ISSUES: Final = {
    "malformed": "structure",
    "unsupported": "not-supported",
    "not-acceptable": "not-supported",
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

_HTTP_ISSUES: Final = {
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    413: "too-long",
    415: "not-supported",
}


class Refused(HTTPException):
    """A refusal whose HTTP status and IssueType a specification prescribes."""

    def __init__(self, status: int, issue: str, text: str, *, expression: str | None = None):
        super().__init__(status, text)
        self.issue = issue
        self.expression = expression


def operation_outcome(issue: str, text: str, location: str | None = None) -> dict[str, Any]:
    """Return an OperationOutcome with one error; it is the same in R4 and R5."""
    told: dict[str, Any] = {"severity": "error", "code": issue, "diagnostics": text}
    if location is not None:
        told["expression"] = [location]
    return validated({"resourceType": "OperationOutcome", "issue": [told]})


def answer(
    resource: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200
) -> Response:
    """Return a resource as a response; nothing here may be kept by a cache on the way."""
    body = json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()
    told = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body, status, told, f"{MEDIA_TYPE}; charset=utf-8")


def install(app: Starlette) -> None:
    """Let `app` answer every error with an OperationOutcome that holds no patient's data."""
    app.add_exception_handler(SpinechoError, _ours)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(PoolTimeout, _database)
    app.add_exception_handler(Exception, _unforeseen)


def _refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        return _ours(request, error)
    return answer(outcome(error.issues), status=error.status)


def _ours(_request: Request, error: Exception) -> Response:
    code, location = (getattr(error, name, None) for name in ("code", "location"))
    if isinstance(error, OurError):
        log.error("FHIR request failed", code=code, reason=str(error))
    # A search parameter that is not served is a bad request, not a media type.
    status = 400 if type(error) is Unsupported else answer_to(error).http
    if code == "invalid-value":
        status = 400
    issue = _ISSUES.get(str(code), "exception")
    return answer(operation_outcome(issue, str(error), location), status=status)


def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    issue = _HTTP_ISSUES.get(error.status_code, "processing")
    expression = None
    if isinstance(error, Refused):
        issue, expression = error.issue, error.expression
    told = operation_outcome(issue, str(error.detail), expression)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_allowed(request)))
    return answer(told, headers, error.status_code)


def _allowed(request: Request) -> set[str]:
    # The router names the methods of one of the routes that have this path.
    return {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def _database(request: Request, error: Exception) -> Response:
    log.error("database failed", kind=type(error).__name__)
    told = _ours(request, Unavailable("the database does not answer; try again"))
    told.headers["Retry-After"] = "5"
    return told


def _unforeseen(_request: Request, error: Exception) -> Response:
    log.error("unforeseen error", kind=type(error).__name__)
    told = operation_outcome("exception", "an error that was not foreseen was logged")
    return answer(told, status=500)
