"""The reading room's pages, rendered on the server; they work without script, only less lively."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from models.errors import InvalidValue, PeerError, UnknownKey, answer_to
from services.database.store import Store
from services.web.reading_list import next_unread, reading_list
from services.web.rendering import render
from services.web.story import find_study, middle_image, story
from services.workflow.reporting import acknowledge_critical, sign_report

_PAGE: Final = 200
_EMPTY: Final = {"status": "", "findings": "", "impression": "", "author": ""}

_Text = Annotated[str, Form()]


def router(store: Store, *, dicomweb: str | None) -> APIRouter:
    """Return the routes of the pages.

    Parameters
    ----------
    dicomweb : str, optional
        Path of the DICOMweb service, where a study's picture comes from.
    """
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def index(
        everything: Annotated[bool, Query(alias="all")] = False,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> HTMLResponse:
        with store() as uow:
            page = reading_list(uow, everything=everything, limit=_PAGE, offset=offset)
            waiting = uow.studies.on_desk()
        return HTMLResponse(
            render(
                "list.html",
                page=page,
                everything=everything,
                offset=offset,
                size=_PAGE,
                desk_size=waiting,
            )
        )

    @routes.get("/find")
    def find(q: str = "") -> Response:
        with store() as uow:
            study = find_study(uow, q.strip())
        return RedirectResponse(f"/studies/{study.study_uid}", 303)

    @routes.get("/studies/{key}")
    def study(key: str, signed: int | None = None) -> Response:
        with store() as uow:
            found = find_study(uow, key)
        if found.study_uid != key:
            return RedirectResponse(f"/studies/{found.study_uid}", 303)
        return HTMLResponse(_study_page(store, key, dicomweb, signed=signed))

    @routes.post("/studies/{study_uid}/report")
    def report(
        study_uid: str,
        status: _Text = "",
        findings: _Text = "",
        impression: _Text = "",
        author: _Text = "",
        expected_version: _Text = "",
        idempotency_key: _Text = "",
    ) -> Response:
        typed = {
            "status": status,
            "findings": findings,
            "impression": impression,
            "author": author,
        }
        try:
            done = sign_report(
                store,
                study_uid,
                status=status,
                findings=findings,
                impression=impression,
                author=author,
                expected_version=_number(expected_version),
                idempotency_key=idempotency_key or None,
            )
        except UnknownKey:
            raise
        except PeerError as error:
            # What was typed is never lost: the same page comes back with it and the reason.
            page = _study_page(
                store, study_uid, dicomweb, typed=typed, error=error, expected=expected_version
            )
            return HTMLResponse(page, answer_to(error).http)
        return RedirectResponse(f"/studies/{study_uid}?signed={done.version}", 303)

    @routes.post("/studies/{study_uid}/acknowledge")
    def acknowledge(study_uid: str, by: _Text = "") -> Response:
        try:
            acknowledge_critical(store, study_uid, by)
        except UnknownKey:
            raise
        except PeerError as error:
            return HTMLResponse(
                _study_page(store, study_uid, dicomweb, error=error), answer_to(error).http
            )
        return RedirectResponse(f"/studies/{study_uid}", 303)

    return routes


def _study_page(
    store: Store,
    study_uid: str,
    dicomweb: str | None,
    *,
    typed: dict[str, str] | None = None,
    error: PeerError | None = None,
    signed: int | None = None,
    expected: str | None = None,
) -> str:
    with store() as uow:
        told = story(uow, study_uid)
        study_id = str(told["study"]["id"])
        following = next_unread(uow, study_id)
        image = None if dicomweb is None else middle_image(uow, study_id)
        waiting = uow.studies.on_desk()
    picture = None
    if image is not None:
        frame = f"/frames/{image.frames // 2 + 1}" if image.frames > 1 else ""
        picture = (
            f"{dicomweb}/studies/{study_uid}/series/{image.series_uid}"
            f"/instances/{image.sop_uid}{frame}/rendered"
        )
    version = told["reports"][-1]["version"] if told["reports"] else 0
    return render(
        "study.html",
        **told,
        typed=typed or _draft(told),
        error=error,
        signed=signed,
        following=following,
        picture=picture,
        version=version,
        # After a conflict the author has seen the newer version on this very page.
        expected=version if error is None or error.code == "conflict" else expected or version,
        key=uuid4().hex,
        desk_size=waiting,
    )


def _draft(told: dict[str, Any]) -> dict[str, str]:
    # A further version starts from the last one: nobody types a report twice.
    if not told["reports"]:
        return dict(_EMPTY)
    last = told["reports"][-1]
    return {**_EMPTY, "findings": last["findings"], "impression": last["impression"]}


def _number(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidValue("expected_version is not a number", location="expected_version")
    return int(text)
