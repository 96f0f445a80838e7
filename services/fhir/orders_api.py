"""The interactions that change something: orders and transactions that are sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from services.database.store import Store
from services.fhir.negotiation import negotiate
from services.fhir.outcome import MEDIA_TYPE, Refused, answer
from services.fhir.versions import Version
from services.settings import Settings
from services.workflow.fhir_requests import ALONE, HEADERS, FhirRequest, receive_request

_JSON: Final = frozenset({MEDIA_TYPE, "application/json"})


def route_orders(app: FastAPI, store: Store, settings: Settings, version: Version) -> None:
    """Add the routes by which orders come: each type that is taken alone, and transactions."""

    def endpoint(kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def change(request: Request) -> Response:
            negotiate(request, version)
            body = await _body(request, settings.fhir_max_bytes, version)
            identity = request.path_params.get("identity")
            sent = FhirRequest(
                method=request.method,
                path=f"{kind}/{identity}" if identity else kind,
                query=request.url.query if request.method == "PUT" else "",
                headers={n: request.headers[n] for n in HEADERS if n in request.headers},
                body=body,
                release=version.name,
                base=_base(request),
                peer="" if request.client is None else request.client.host,
            )
            told = await run_in_threadpool(receive_request, store, sent, settings=settings)
            if told.status < 300 and "return=minimal" in request.headers.get("prefer", ""):
                return Response(None, told.status, {"Cache-Control": "no-store", **told.headers})
            return answer(told.body, told.headers, told.status)

        return change

    app.add_route("/", endpoint(""), methods=["POST"])
    for kind in ALONE:
        app.add_route(f"/{kind}", endpoint(kind), methods=["POST", "PUT"])
        app.add_route(f"/{kind}/{{identity}}", endpoint(kind), methods=["PUT"])


async def _body(request: Request, most: int, version: Version) -> bytes:
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    if kind.strip() not in _JSON:
        raise Refused(415, "not-supported", f"only {MEDIA_TYPE} is read here")
    asked = dict(p.strip().split("=", 1) for p in parameters if "=" in p)
    if not version.number.startswith(asked.get("fhirversion", "").strip('"')):
        raise Refused(415, "not-supported", f"FHIR {version.number} is read here")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise Refused(413, "too-long", f"a request has at most {most} bytes")
    return bytes(body)


def _base(request: Request) -> str:
    # Not request.base_url: that is the base of the application in which this one is mounted.
    root = str(request.scope.get("root_path", ""))
    return f"{request.url.scheme}://{request.url.netloc}{root}".rstrip("/")
