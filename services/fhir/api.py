"""The FHIR interface: one application for each version, routed by the rows of what is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from models.errors import Malformed
from services.database.store import Store, UnitOfWork
from services.fhir import (
    endpoints,
    match,
    orders,
    patients,
    pix,
    provenances,
    reports,
    search,
    studies,
)
from services.fhir.bundle import searchset
from services.fhir.capability import capability_statement
from services.fhir.identifiers import Systems
from services.fhir.incoming import checked, read_json
from services.fhir.negotiation import conditional, is_lenient, negotiate
from services.fhir.orders_api import route_orders
from services.fhir.outcome import MEDIA_TYPE, Refused, answer, install
from services.fhir.served import Call, Operation, Resource, Served
from services.fhir.versions import R4, Version
from services.identity.index import PatientIndex
from services.settings import Settings

LARGEST_FORM: Final = 64 * 1024
"""Bytes of a search that is sent as a form."""

LARGEST_PERSON: Final = 256 * 1024
"""Bytes of a description of a person to be looked for."""

Handler = Callable[[Request, bytes], Response]


def fhir_app(
    store: Store,
    *,
    settings: Settings | None = None,
    dicomweb: str | None = None,
    version: Version = R4,
) -> FastAPI:
    """Return the application, to be mounted at the version's path.

    Parameters
    ----------
    settings : Settings, optional
        How orders are taken and persons are matched; by default as an installation without
        settings does.
    dicomweb : str, optional
        Path on the same host where the images of an ImagingStudy are found.
    version : Version
    """
    app = FastAPI(
        title=f"Spinecho FHIR {version.name}", docs_url=None, redoc_url=None, openapi_url=None
    )
    install(app)
    settings = settings or Settings()
    systems = Systems(settings.fhir_systems, settings.default_authority)
    index = PatientIndex(automatic=settings.match_auto, desk=settings.match_desk)
    route_orders(app, store, settings, version)
    table = (
        reports.served(),
        studies.served(version),
        patients.served((match.operation(index, systems, patients.told), pix.operation())),
        endpoints.served(exists=dicomweb is not None),
        *orders.served(systems),
        provenances.served(),
    )
    interface = _Interface(store, table, version, dicomweb)
    interface.route(app)
    return app


class _Interface:
    """The interactions, each over one unit of work."""

    def __init__(
        self, store: Store, table: tuple[Served, ...], version: Version, dicomweb: str | None
    ) -> None:
        self._store = store
        self._table = table
        self._version = version
        self._dicomweb = dicomweb
        self._readers = {row.kind: row.read for row in table}

    def route(self, app: FastAPI) -> None:
        """Add the routes of every row."""
        _route(app, "/metadata", {"GET": self._metadata})
        for row in self._table:
            kind = f"/{row.kind}"
            _route(app, kind, {"GET": self._searching(row)})
            _route(app, f"{kind}/_search", {"POST": self._searching(row)}, LARGEST_FORM)
            for operation in row.operations:
                path = f"{kind}/${operation.name}"
                method = "GET" if operation.reads else "POST"
                _route(app, path, {method: self._operating(operation)}, LARGEST_PERSON)
            _route(app, f"{kind}/{{identity}}", {"GET": self._reading(row)})
            if row.vread is not None:
                path = f"{kind}/{{identity}}/_history/{{number}}"
                _route(app, path, {"GET": self._reading(row)})

    def _metadata(self, request: Request, _body: bytes) -> Response:
        negotiate(request, self._version)
        return conditional(
            request, capability_statement(self._table, _base(request), self._version)
        )

    def _reading(self, row: Served) -> Handler:
        def read(request: Request, _body: bytes) -> Response:
            negotiate(request, self._version)
            identity, number = (request.path_params.get(n) for n in ("identity", "number"))
            with self._store() as uow:
                call = self._call(uow, request)
                if number is not None and row.vread is not None:
                    resource = row.vread(call, str(identity), number)
                else:
                    resource = row.read(call, str(identity))
            told = conditional(request, resource)
            told.headers["Content-Location"] = _location(call, resource)
            return told

        return read

    def _searching(self, row: Served) -> Handler:
        def find(request: Request, body: bytes) -> Response:
            negotiate(request, self._version)
            items = [*request.query_params.multi_items(), *_form(request, body)]
            query = search.parse(row.kind, row.search, items, lenient=is_lenient(request) is True)
            with self._store() as uow:
                call = self._call(uow, request)
                page = search.page(uow, row.search, query)
                return answer(searchset(call, row.kind, row.search, query, page, self._readers))

        return find

    def _operating(self, operation: Operation) -> Handler:
        def operate(request: Request, body: bytes) -> Response:
            negotiate(request, self._version)
            if operation.reads:
                asked: Any = request.query_params.multi_items()
            else:
                asked = _resource(request, body, self._version)
            with self._store() as uow:
                return answer(operation.perform(self._call(uow, request), asked))

        return operate

    def _call(self, uow: UnitOfWork, request: Request) -> Call:
        root = None
        if self._dicomweb is not None:
            root = f"{request.url.scheme}://{request.url.netloc}{self._dicomweb}"
        return Call(uow=uow, version=self._version, base=_base(request), wado_root=root)


def _route(app: FastAPI, path: str, handlers: Mapping[str, Handler], limit: int = 0) -> None:
    methods = [*handlers, *(["HEAD"] if "GET" in handlers else [])]
    app.add_route(path, _endpoint(handlers, limit), methods=methods, include_in_schema=False)


def _endpoint(
    handlers: Mapping[str, Handler], limit: int
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        handler = handlers["GET" if request.method == "HEAD" else request.method]
        body = await _body(request, limit) if request.method == "POST" else b""
        return await run_in_threadpool(handler, request, body)

    return endpoint


async def _body(request: Request, limit: int) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise Refused(413, "too-long", f"a body has at most {limit} bytes here")
    return body


def _resource(request: Request, body: bytes, version: Version) -> Resource:
    if _content_type(request) not in {MEDIA_TYPE, "application/json"}:
        raise Refused(415, "not-supported", f"a resource is sent as {MEDIA_TYPE}")
    return checked(read_json(body), version.name)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _form(request: Request, body: bytes) -> list[tuple[str, str]]:
    if not body:
        return []
    if _content_type(request) != "application/x-www-form-urlencoded":
        raise Refused(415, "not-supported", "a search is sent as application/x-www-form-urlencoded")
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise Malformed("the body is no form in UTF-8") from error


def _location(call: Call, resource: Resource) -> str:
    path = f"{call.base}/{resource['resourceType']}/{resource['id']}"
    number = resource.get("meta", {}).get("versionId")
    return path if number is None else f"{path}/_history/{number}"


def _base(request: Request) -> str:
    # Not request.base_url: that is the base of the application in which this one is mounted.
    root = str(request.scope.get("root_path", ""))
    return f"{request.url.scheme}://{request.url.netloc}{root}".rstrip("/")
