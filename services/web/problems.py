"""Errors as the web tells them: problem details (RFC 9457) for programs, a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from models.errors import (
    InvalidValue,
    Malformed,
    MissingField,
    OurError,
    SpinechoError,
    Unavailable,
    answer_to,
)
from services.web.rendering import render

log = structlog.get_logger(__name__)

RETRY_AFTER_S: Final = 5
MEDIA_TYPE: Final = "application/problem+json"


def problem(
    status: int, detail: str, *, code: str = "http", field: str | None = None
) -> JSONResponse:
    """Return a problem body; `field` names the field that has to change."""
    body: dict[str, Any] = {
        "type": f"urn:spinecho:error:{code}",
        "title": _phrase(status),
        "status": status,
        "code": code,
        "detail": detail,
    }
    if field is not None:
        body["field"] = field
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let `app` answer every error in one of the two forms."""

    @app.exception_handler(SpinechoError)
    def _ours(request: Request, error: SpinechoError) -> Response:
        if isinstance(error, OurError):
            # Its text is written for an operator and free of patient data; see models.errors.
            log.error("request failed", code=error.code, reason=str(error))
        return _tell(
            request, answer_to(error).http, str(error), code=error.code, field=error.location
        )

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _ours(request, from_validation(error))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        answer = _tell(request, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def _database(request: Request, error: Exception) -> Response:
        log.error("database failed", kind=type(error).__name__)
        return _ours(request, Unavailable("the database does not answer; try again"))

    @app.exception_handler(Exception)
    def _unforeseen(request: Request, error: Exception) -> Response:
        # The traceback is logged by the server; the address is not, it may name a patient.
        log.error("unforeseen error", kind=type(error).__name__)
        return _tell(request, 500, "an error that was not foreseen; it has been logged")


def from_validation(error: RequestValidationError) -> SpinechoError:
    """Return the first complaint about a request as an error of ours, without its value."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"][1:]) or "body"
    kind = str(first["type"])
    if kind == "json_invalid":
        return Malformed("the body is not JSON", location="body")
    if kind == "missing":
        return MissingField(f"{path} is missing", location=path)
    return InvalidValue(f"{path}: {first['msg']}", location=path)


def _tell(
    request: Request, status: int, detail: str, *, code: str = "http", field: str | None = None
) -> Response:
    wants_page = "text/html" in request.headers.get("accept", "")
    if wants_page and not request.url.path.startswith("/api/"):
        page = render("error.html", status=status, phrase=_phrase(status), detail=detail)
        return HTMLResponse(page, status)
    return problem(status, detail, code=code, field=field)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
