"""The desk in the JSON API: one row with its candidates, decisions, and the way back."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from models.errors import InvalidValue
from services.database.store import Store
from services.settings import Settings
from services.web.api import require_json
from services.workflow.desk import (
    Action,
    decide,
    decision_as_json,
    proposal_as_json,
    propose,
    undo,
)


class DecisionIn(BaseModel):
    """A decision about a row of the desk."""

    model_config = ConfigDict(extra="forbid", strict=True)

    action: str
    patient: str | None = None
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

    @routes.get("/{number}")
    def get_row(number: int) -> JSONResponse:
        with store() as uow:
            return JSONResponse(proposal_as_json(propose(uow, number, settings)))

    @routes.post("/{number}/decisions", status_code=201, dependencies=[Depends(require_json)])
    def post_decision(number: int, body: DecisionIn) -> JSONResponse:
        if body.action not in {a.value for a in Action}:
            raise InvalidValue("an action is file or leave", location="action")
        with store() as uow:
            decision = decide(
                uow,
                number,
                Action(body.action),
                patient_id=body.patient,
                by=body.by,
                why=body.why,
                settings=settings,
            )
            told = decision_as_json(decision)
        return JSONResponse(told, status_code=201)

    @routes.post("/decisions/{decision}/undo", dependencies=[Depends(require_json)])
    def post_undoing(decision: int, body: UndoingIn) -> JSONResponse:
        with store() as uow:
            told = decision_as_json(undo(uow, decision, by=body.by, why=body.why))
        return JSONResponse(told)

    return routes
