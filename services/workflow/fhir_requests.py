"""What happens to a FHIR request that changes something: recorded, applied, answered, at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from models.errors import InvalidValue, PeerError, SpinechoError, UnknownKey, answer_to
from services.database.store import Store, UnitOfWork
from services.fhir.identifiers import Systems
from services.fhir.incoming import checked, read_json
from services.fhir.references import references
from services.fhir.refusal import Issue, Refusal, outcome, refusal
from services.fhir.report import instant
from services.fhir.transaction import Entry, entries_of
from services.hl7.references import ACCESSION, MRN
from services.settings import Settings
from services.workflow.fhir_orders import (
    Done,
    Transaction,
    sender_of,
)
from services.workflow.fhir_shown import shown_kept, shown_order

log = structlog.get_logger()

Resource = dict[str, Any]

ALONE: Final = ("ServiceRequest", "Patient")
"""What may be created and updated outside a transaction."""
_ISSUES: Final = {
    "missing-field": "required",
    "missing-value": "required",
    "invalid-value": "value",
    "unknown-key": "not-found",
    "duplicate-key": "duplicate",
    "illegal-move": "business-rule",
    "conflict": "conflict",
}
_PLACES: Final = {
    "ORC^1^1": "ServiceRequest.status",
    "ORC^1^2": "ServiceRequest.identifier",
    "OBR^1^18": "ServiceRequest.identifier",
    "ZDS^1^1": "ServiceRequest.identifier",
    "IPC^2^4": "Task.identifier",
    "PID^1^3": "Patient.identifier",
}
"""Where intake, which speaks HL7 v2, finds fault → the element of FHIR."""
_RELEASE: Final = "FHIR-Release"
_FIRST: Final = re.compile(
    r"(?P<method>POST|PUT) (?P<base>\S+/fhir/\w+)/(?P<path>[^?\s]*)(?:\?(?P<query>\S*))? HTTP/1\.1"
)
HEADERS: Final = ("Content-Type", "If-None-Exist", "If-Match", "Prefer")
"""What of a request's head its effect depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirRequest:
    """A POST or PUT as it came.

    Attributes
    ----------
    path : str
        Below the base: ``ServiceRequest``, ``ServiceRequest/id``; empty for a Bundle.
    headers : mapping of str to str
        Those of `HEADERS` that were sent.
    base : str
        Our absolute base URL, without a slash at its end.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    release: str
    base: str
    peer: str = ""

    @classmethod
    def stored(cls, raw: bytes, *, peer: str) -> FhirRequest:
        """Return the request that was kept as an HTTP message.

        Raises
        ------
        InvalidValue
            If it is none.
        """
        head, parted, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("utf-8", "replace").split("\r\n")
        match = _FIRST.fullmatch(first)
        if not parted or match is None:
            raise InvalidValue("what was kept is no FHIR request")
        headers = dict(line.split(": ", 1) for line in lines)
        release = headers.pop(_RELEASE)
        said = match.groupdict(default="")
        return cls(**said, headers=headers, body=body, release=release, peer=peer)

    def raw(self) -> bytes:
        """Return the request as an HTTP message, as it is kept."""
        target = self.path + (f"?{self.query}" if self.query else "")
        lines = [f"{self.method} {self.base}/{target} HTTP/1.1", f"{_RELEASE}: {self.release}"]
        lines += [f"{name}: {self.headers[name]}" for name in HEADERS if name in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirAnswer:
    """What is answered."""

    message_id: int = 0
    status: int
    headers: dict[str, str]
    body: Resource

    def raw(self) -> bytes:
        """Return the answer as an HTTP message, as it is kept."""
        lines = [f"HTTP/1.1 {self.status}", *(f"{k}: {v}" for k, v in self.headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        return head + json.dumps(self.body, ensure_ascii=False).encode()


def receive_request(
    store: Store, request: FhirRequest, *, settings: Settings, attempt_of: int | None = None
) -> FhirAnswer:
    """Record and apply one request; whatever it is, its bytes are kept.

    Returns only after the commit (rule 1). The same order again, by its placer number and
    content, is answered with what is there and has no second effect (rule 2).

    Parameters
    ----------
    attempt_of : int, optional
        The recorded request that is applied again.

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If the database is away: nothing is kept and nothing may be answered but that.
    """
    for last in (False, False, False, True):
        try:
            return _receive(store, request, settings, attempt_of)
        except DBAPIError as error:
            if last or not _is_of_the_moment(error):
                raise
    raise AssertionError("unreachable")


def _receive(
    store: Store, request: FhirRequest, settings: Settings, attempt_of: int | None
) -> FhirAnswer:
    with store() as uow:
        number = uow.messages.number()
        state, error, done, entries = "processed", None, Done(), list[Entry]()
        try:
            with uow.direct.attempt():
                entries = _entries(request)
                systems = Systems(settings.fhir_systems, settings.default_authority)
                done = Transaction(
                    uow,
                    systems,
                    entries,
                    base=request.base,
                    release=request.release,
                    message_id=number,
                ).apply()
                uow.direct.flush()
                answer = _answer(uow, request, entries)
        except PeerError as failure:
            told = f"{failure.code} at {failure.location}: {failure}"
            state, error, answer = "refused", told[:2000], _refused(failure)
        except DBAPIError as failure:
            if not _is_of_the_message(failure):
                raise
            state, error = "refused", "invalid-value"
            answer = _refused(refusal("value", "a value is too large to be stored"))
        except Exception:
            log.exception("fhir.failed", message=number)
            state, error = "failed", "internal"
            issue = Issue(code="exception", text="internal error; send the same again later")
            answer = FhirAnswer(status=500, headers={}, body=outcome([issue]))
        uow.messages.add(
            direction="in",
            protocol="fhir",
            peer=request.peer,
            raw=request.raw(),
            number=number,
            sender=_sender(entries),
            type=f"{request.method} {request.path.partition('/')[0] or 'Bundle'}",
            state=state,
            error=error,
            attempt_of=attempt_of,
            references=[
                *references(request.body),
                *((MRN, value) for value in done.patients),
                *((ACCESSION, value) for value in done.accessions),
            ],
            ack=answer.raw(),
            ack_code=str(answer.status),
            study_id=done.study_id,
        )
    log.info("fhir.answered", message=number, status=answer.status, state=state)
    return replace(answer, message_id=number)


def _entries(request: FhirRequest) -> list[Entry]:
    resource = read_json(request.body)
    kind, _, identity = request.path.partition("/")
    said = resource.get("resourceType")
    if said != (kind or "Bundle"):
        raise refusal(
            "value",
            f"the body is no {kind or 'Bundle'}, which the URL asks for",
            "resourceType",
            status=400,
        )
    if not kind:
        checked(_frame(resource), request.release)
        return entries_of(resource, request.release)
    checked(resource, request.release)
    if request.method == "PUT" and identity and resource.get("id") != identity:
        raise refusal("value", "the id is not that of the URL", f"{kind}.id", status=400)
    condition = request.query if request.method == "PUT" else request.headers.get("If-None-Exist")
    return [
        Entry(
            where=kind,
            method=request.method,
            kind=kind,
            resource=resource,
            identity=identity or None,
            condition=condition or None,
            if_match=request.headers.get("If-Match"),
        )
    ]


def _frame(bundle: Resource) -> Resource:
    """Return a Bundle without its resources, which are checked one by one, each in its place."""
    entries = bundle.get("entry")
    if not isinstance(entries, list):
        return bundle
    bare = [
        {k: v for k, v in e.items() if k != "resource"} if isinstance(e, dict) else e
        for e in entries
    ]
    return {**bundle, "entry": bare}


def _answer(uow: UnitOfWork, request: FhirRequest, entries: list[Entry]) -> FhirAnswer:
    if request.path:
        (entry,) = entries
        shown = _shown(uow, entry, request.release)
        headers = {"Location": f"{request.base}/{entry.kind}/{entry.made}"}
        if entry.version:
            headers["ETag"] = f'W/"{entry.version}"'
            headers["Location"] += f"/_history/{entry.version}"
        return FhirAnswer(status=entry.status, headers=headers, body=shown)
    told = [_response(uow, entry) for entry in entries]
    body = {"resourceType": "Bundle", "type": "transaction-response"}
    return FhirAnswer(status=200, headers={}, body={**body, **({"entry": told} if told else {})})


def _shown(uow: UnitOfWork, entry: Entry, release: str) -> Resource:
    if entry.kind == "ServiceRequest":
        return shown_order(uow, uow.orders.get(entry.made), release)[0]
    kept = shown_kept(uow, entry.kind, entry.made, release)
    return kept or {**entry.resource, "id": entry.made}


def _response(uow: UnitOfWork, entry: Entry) -> Resource:
    status = {200: "200 OK", 201: "201 Created"}[entry.status]
    told = {"status": status, "location": f"{entry.kind}/{entry.made}"}
    if entry.version:
        told["location"] += f"/_history/{entry.version}"
        told["etag"] = f'W/"{entry.version}"'
        told["lastModified"] = instant(uow.now)
    return {"response": told}


def _refused(error: SpinechoError) -> FhirAnswer:
    if isinstance(error, Refusal):
        return FhirAnswer(status=error.status, headers={}, body=outcome(error.issues))
    # A reference to what is not here is the fault of the body, not of the URL.
    status = 422 if isinstance(error, UnknownKey) else answer_to(error).http
    issue = Issue(
        code=_ISSUES.get(error.code, "processing"),
        text=str(error).replace("change it with XO", "change it by PUT"),
        expression=_PLACES.get(error.location or "", ""),
    )
    return FhirAnswer(status=status, headers={}, body=outcome([issue]))


def _sender(entries: list[Entry]) -> str:
    orders = [entry.resource for entry in entries if entry.kind == "ServiceRequest"]
    return sender_of(orders[0]) if orders else "FHIR"


def _is_of_the_moment(error: DBAPIError) -> bool:
    """Whether somebody else was faster with the same patient or order: look again."""
    return isinstance(error, IntegrityError) or _sqlstate(error)[:2] == "40"


def _is_of_the_message(error: DBAPIError) -> bool:
    """Whether the values are at fault: SQLSTATE classes 22 (data) and 54 (limits)."""
    return isinstance(error, DataError) or _sqlstate(error)[:2] in {"22", "54"}


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
