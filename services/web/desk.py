"""The desk as JSON and as pages: its rows, one with its candidates, decisions, the way back."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Query
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict

from models.errors import InvalidValue, PeerError, UnknownKey, answer_to
from services.database.store import Store
from services.hl7.profiles import Profiles
from services.settings import Settings
from services.web.api import require_json
from services.web.rendering import render
from services.web.story import desk_rows
from services.workflow.desk import (
    Action,
    decide,
    decision_as_json,
    proposal_as_json,
    propose,
    undo,
)
from services.workflow.reapplying import apply_decided

_PAGE: Final = 200
_Text = Annotated[str, Form()]
_Offset = Annotated[int, Query(ge=0, le=10**9)]


class DecisionIn(BaseModel):
    """A decision about a row of the desk."""

    model_config = ConfigDict(extra="forbid", strict=True)

    action: str
    patient: str | None = None
    order: str | None = None
    by: str
    why: str


class UndoingIn(BaseModel):
    """Who takes a decision back, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: str
    why: str


def router(store: Store, settings: Settings) -> APIRouter:
    """Return the routes below ``/api/desk``."""
    routes = APIRouter(prefix="/api/desk", tags=["desk"])

    @routes.get("")
    def get_rows(
        limit: Annotated[int, Query(ge=1, le=1000)] = _PAGE, offset: _Offset = 0
    ) -> JSONResponse:
        with store() as uow:
            rows = desk_rows(uow, limit=limit, offset=offset)
            return JSONResponse({"desk": rows, "total": uow.studies.on_desk()})

    @routes.get("/{number}")
    def get_row(number: int) -> JSONResponse:
        with store() as uow:
            return JSONResponse(proposal_as_json(propose(uow, number, settings)))

    @routes.post("/{number}/decisions", status_code=201, dependencies=[Depends(require_json)])
    def post_decision(number: int, body: DecisionIn) -> JSONResponse:
        with store() as uow:
            decision = decide(
                uow,
                number,
                _action(body.action),
                patient_id=body.patient,
                order_id=body.order,
                by=body.by,
                why=body.why,
                settings=settings,
            )
            told = decision_as_json(decision)
        _reapply(store, settings, told)
        return JSONResponse(told, status_code=201)

    @routes.post("/decisions/{decision}/undo", dependencies=[Depends(require_json)])
    def post_undoing(decision: int, body: UndoingIn) -> JSONResponse:
        with store() as uow:
            told = decision_as_json(undo(uow, decision, by=body.by, why=body.why))
        return JSONResponse(told)

    return routes


def pages(store: Store, settings: Settings) -> APIRouter:
    """Return the routes of the desk's pages; they work without script."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/desk")
    def rows(offset: _Offset = 0) -> HTMLResponse:
        with store() as uow:
            found = desk_rows(uow, limit=_PAGE, offset=offset)
            waiting = uow.studies.on_desk()
        return HTMLResponse(
            render("desk.html", rows=found, desk_size=waiting, offset=offset, size=_PAGE)
        )

    @routes.get("/desk/{number}")
    def row(number: int) -> HTMLResponse:
        return HTMLResponse(_row_page(store, settings, number))

    @routes.post("/desk/{number}/decisions")
    def decision(number: int, choice: _Text = "", by: _Text = "", why: _Text = "") -> Response:
        action, _, chosen = choice.partition(" ")
        kind, _, key = chosen.partition(":")
        try:
            with store() as uow:
                done = decide(
                    uow,
                    number,
                    _action(action),
                    patient_id=key if kind == "patient" else None,
                    order_id=key if kind == "order" else None,
                    by=by,
                    why=why,
                    settings=settings,
                )
                told = decision_as_json(done)
            _reapply(store, settings, told)
        except UnknownKey:
            raise
        except PeerError as error:
            # What was typed comes back with the reason.
            page = _row_page(store, settings, number, error=error, by=by, why=why)
            return HTMLResponse(page, answer_to(error).http)
        return RedirectResponse(f"/desk/{number}", 303)

    return routes


def _reapply(store: Store, settings: Settings, decision: dict[str, Any]) -> None:
    if decision["done"] and decision["action"] == Action.REAPPLY.value:
        profiles = Profiles(settings.profile_root, good=settings.last_good_profiles)
        apply_decided(store, settings=settings, profiles=profiles)


def _row_page(
    store: Store,
    settings: Settings,
    number: int,
    *,
    error: PeerError | None = None,
    by: str = "",
    why: str = "",
) -> str:
    with store() as uow:
        proposal = propose(uow, number, settings)
        told: dict[str, Any] = proposal_as_json(proposal)
        waiting = uow.studies.on_desk()
        study = owner = None
        if proposal.row.study_id is not None:
            study = uow.studies.get(proposal.row.study_id)
            owner = None if study.patient_id is None else uow.patients.get(study.patient_id)
    return render(
        "desk_row.html",
        row=told,
        study=study,
        owner=owner,
        fields=_fields(told),
        actions=[action.value for action in proposal.actions],
        error=error,
        by=by,
        why=why,
        desk_size=waiting,
    )


def _fields(told: dict[str, Any]) -> list[str]:
    """Return what any candidate was compared in, in the order of the first that has it."""
    return list(dict.fromkeys(e["field"] for c in told["candidates"] for e in c["evidence"]))


def _action(name: str) -> Action:
    if name not in {a.value for a in Action}:
        known = ", ".join(a.value for a in Action)
        raise InvalidValue(f"an action is one of {known}", location="action")
    return Action(name)
