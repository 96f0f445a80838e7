"""The DICOMweb application: which path calls what, and how errors are told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from pydicom import config
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from models.errors import (
    InvalidValue,
    MissingField,
    OurError,
    PeerError,
    SpinechoError,
    UnknownKey,
    answer_to,
)
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicomweb import query, rendering, retrieve
from services.dicomweb.media import Accepted, Multipart, accepted, choose
from services.dicomweb.retrieve import FRAME_TYPES, Stored

_DICOM = "application/dicom"
_JSON = "application/dicom+json"
_OCTETS = "application/octet-stream"


def dicomweb_app(store: Store, tiers: Tiers) -> FastAPI:
    """Return the application; it is mounted below any path and writes its URLs accordingly.

    Handlers are synchronous, so that each runs in a thread: they read files.
    """
    # Stored values are served as they are; the library need not warn of them on every request.
    config.settings.reading_validation_mode = config.IGNORE
    app = FastAPI(title="Spinecho DICOMweb", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(SpinechoError, _problem)
    _add_searches(app, store)
    _add_retrievals(app, store, tiers)
    return app


def _problem(_request: Request, error: Exception) -> Response:
    status = answer_to(error).http
    if isinstance(error, InvalidValue | MissingField):
        status = 400
    elif isinstance(error, UnknownKey):
        status = 404
    body = {
        "code": error.code if isinstance(error, PeerError | OurError) else "internal",
        "message": str(error),
        "location": getattr(error, "location", None),
    }
    return JSONResponse(body, status)


def _base(request: Request) -> str:
    url = request.url
    return f"{url.scheme}://{url.netloc}{request.scope.get('root_path', '')}"


def _ranges(request: Request) -> list[Accepted]:
    return accepted(request.headers.get("accept"), request.query_params.get("accept"))


# --- searches


def _add_searches(app: FastAPI, store: Store) -> None:
    def search(
        request: Request, level: str, *, of_study: str | None = None, of_series: str | None = None
    ) -> Response:
        _require_json(request)
        parameters = list(request.query_params.multi_items())
        for keyword, uid in (("StudyInstanceUID", of_study), ("SeriesInstanceUID", of_series)):
            if uid is not None:
                parameters.append((keyword, uid))
        wanted = query.parse(level, parameters)
        with store() as uow:
            rows = uow.studies.select(query.statement(level, wanted))
        if len(rows) > wanted.limit:
            rows = rows[: wanted.limit]
            wanted.warnings.append("there are more results; ask with limit and offset")
        base = _base(request)
        response = Response(
            json.dumps([query.answer(level, row, base) for row in rows], ensure_ascii=False),
            media_type=_JSON,
        )
        for warning in wanted.warnings:
            # RFC 7234 §5.5; PS3.18 §8.3.4.1
            response.headers.append("Warning", f'299 {base} "{warning}"')
        return response

    @app.get("/studies")
    def studies(request: Request) -> Response:
        return search(request, "studies")

    @app.get("/series")
    def all_series(request: Request) -> Response:
        return search(request, "series")

    @app.get("/instances")
    def all_instances(request: Request) -> Response:
        return search(request, "instances")

    @app.get("/studies/{study}/series")
    def series_of_study(request: Request, study: str) -> Response:
        return search(request, "series", of_study=study)

    @app.get("/studies/{study}/instances")
    def instances_of_study(request: Request, study: str) -> Response:
        return search(request, "instances", of_study=study)

    @app.get("/studies/{study}/series/{series}/instances")
    def instances_of_series(request: Request, study: str, series: str) -> Response:
        return search(request, "instances", of_study=study, of_series=series)


def _require_json(request: Request) -> None:
    choose(_ranges(request), (_JSON, "application/json"), single=True)


# --- retrievals


def _add_retrievals(app: FastAPI, store: Store, tiers: Tiers) -> None:
    one = "/studies/{study}/series/{series}/instances/{sop}"

    def send(request: Request, found: list[Stored]) -> Response:
        wanted = choose(_ranges(request), (_DICOM,), single=len(found) == 1)
        plan = [(s, retrieve.syntax_for(s, wanted)) for s in found]
        if not wanted.multipart:
            ((stored, syntax),) = plan
            return StreamingResponse(
                retrieve.whole(tiers, stored, syntax),
                media_type=f"{_DICOM}; transfer-syntax={syntax}",
            )
        parts = (
            (f"{_DICOM}; transfer-syntax={syntax}", retrieve.whole(tiers, stored, syntax))
            for stored, syntax in plan
        )
        return _multipart(_DICOM, parts)

    def describe(request: Request, found: list[Stored]) -> Response:
        _require_json(request)
        records = retrieve.metadata(tiers, found, _base(request))
        return StreamingResponse(_array(records), media_type=_JSON)

    def picture(request: Request, stored: Stored, number: int, **fixed: str) -> Response:
        wanted = choose(_ranges(request), tuple(rendering.TYPES), single=True)
        parameters = {**fixed, **request.query_params}
        body = rendering.render(tiers, stored, number, wanted.type, parameters)
        return Response(body, media_type=wanted.type)

    @app.get("/studies/{study}")
    def study_(request: Request, study: str) -> Response:
        return send(request, retrieve.find(store, study))

    @app.get("/studies/{study}/series/{series}")
    def series_(request: Request, study: str, series: str) -> Response:
        return send(request, retrieve.find(store, study, series))

    @app.get(one)
    def instance_(request: Request, study: str, series: str, sop: str) -> Response:
        return send(request, retrieve.find(store, study, series, sop))

    @app.get("/studies/{study}/metadata")
    def study_metadata(request: Request, study: str) -> Response:
        return describe(request, retrieve.find(store, study))

    @app.get("/studies/{study}/series/{series}/metadata")
    def series_metadata(request: Request, study: str, series: str) -> Response:
        return describe(request, retrieve.find(store, study, series))

    @app.get(one + "/metadata")
    def instance_metadata(request: Request, study: str, series: str, sop: str) -> Response:
        return describe(request, retrieve.find(store, study, series, sop))

    @app.get(one + "/frames/{frames}")
    def frames_(request: Request, study: str, series: str, sop: str, frames: str) -> Response:
        (stored,) = retrieve.find(store, study, series, sop)
        numbers = retrieve.frame_numbers(frames, stored)
        kind, compressed = _frame_type(_ranges(request), stored)
        pieces = retrieve.frames(tiers, stored, numbers, compressed=compressed)
        # The first one before the status: it finds out whether there are pixels and a decoder.
        first = next(pieces)
        label = f"{kind}; transfer-syntax={stored.syntax}" if compressed else kind
        return _multipart(kind, ((label, (piece,)) for piece in _chain(first, pieces)))

    @app.get(one + "/bulkdata/{tag}")
    def bulk_(request: Request, study: str, series: str, sop: str, tag: str) -> Response:
        wanted = choose(_ranges(request), (_OCTETS,), single=True)
        (stored,) = retrieve.find(store, study, series, sop)
        body = retrieve.bulk(tiers, stored, tag)
        if not wanted.multipart:
            return Response(body, media_type=_OCTETS)
        return _multipart(_OCTETS, [(_OCTETS, (body,))])

    @app.get(one + "/rendered")
    def rendered(request: Request, study: str, series: str, sop: str) -> Response:
        (stored,) = retrieve.find(store, study, series, sop)
        return picture(request, stored, 1)

    @app.get(one + "/thumbnail")
    def thumbnail(request: Request, study: str, series: str, sop: str) -> Response:
        (stored,) = retrieve.find(store, study, series, sop)
        return picture(request, stored, stored.frames // 2 + 1, viewport="128,128")

    @app.get(one + "/frames/{frame}/rendered")
    def rendered_frame(request: Request, study: str, series: str, sop: str, frame: str) -> Response:
        (stored,) = retrieve.find(store, study, series, sop)
        numbers = retrieve.frame_numbers(frame, stored)
        if len(numbers) != 1:
            raise InvalidValue("one frame is rendered at a time", location="frames")
        return picture(request, stored, numbers[0])


def _frame_type(ranges: Iterable[Accepted], stored: Stored) -> tuple[str, bool]:
    """Return the media type of the frames, and whether they are sent as they are compressed."""
    own = FRAME_TYPES.get(str(stored.syntax))
    if own is None:
        choose(ranges, (_OCTETS,))
        return _OCTETS, False
    wanted = choose(ranges, (own, _OCTETS))
    if wanted.type == own:
        return own, True
    if wanted.transfer_syntax in ("*", stored.syntax):
        return own, True
    return _OCTETS, False


def _multipart(kind: str, parts: Iterable[tuple[str, Iterable[bytes]]]) -> Response:
    writer = Multipart(kind)
    return StreamingResponse(writer.body(parts), headers={"Content-Type": writer.content_type})


def _array(records: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for number, record in enumerate(records):
        yield ("," if number else "") + json.dumps(record, ensure_ascii=False)
    yield "]"


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
