"""The desk in the JSON API."""

from __future__ import annotations

from datetime import date

import httpx
import pytest

from models.lifecycle import StudyState
from models.patient import Identifier, Patient, PersonName
from services.database.store import Store


@pytest.fixture
def study_id(store: Store) -> str:
    with store() as uow:
        uow.patients.save(
            Patient(
                id="jane",
                identifiers=(Identifier(value="0012345", authority="HOSP"),),
                name=PersonName(family="Quillfeather", given="Ottoline"),
                birth_date=date(1980, 2, 14),
                sex="F",
            )
        )
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        claimed = {"name": "Quillfeather^Ottoline", "patient_id": "12345", "birth_date": None}
        uow.studies.to_desk(
            *("no-order", "1.2.3", "no order has this Study Instance UID"),
            study_id=study.id,
            evidence={"claimed": claimed},
        )
    return study.id


def test_a_row_is_shown_decided_and_undone(http: httpx.Client, study_id: str, store: Store) -> None:
    shown = http.get("/api/desk/1").json()
    assert [c["patient"] for c in shown["candidates"]] == ["jane"]
    assert shown["candidates"][0]["evidence"][0]["field"] == "family"
    wish = {"action": "file", "patient": "jane", "by": "rita", "why": "same number"}
    answer = http.post("/api/desk/1/decisions", json=wish)
    assert (answer.status_code, answer.json()["done"]) == (201, True)
    with store() as uow:
        assert uow.studies.get(study_id).patient_id == "jane"
    assert http.get("/api/desk").json()["desk"] == []
    number = answer.json()["decision"]
    undone = http.post(f"/api/desk/decisions/{number}/undo", json={"by": "max", "why": "wrong"})
    assert (undone.status_code, undone.json()["undone_by"]) == (200, "max")
    with store() as uow:
        assert uow.studies.get(study_id).patient_id is None
    decisions = http.get("/api/desk/1").json()["decisions"]
    assert [(d["by"], d["why"], d["undone_why"]) for d in decisions] == [
        ("rita", "same number", "wrong")
    ]


def test_what_cannot_be_decided_is_refused(http: httpx.Client, study_id: str) -> None:
    wish = {"action": "file", "patient": "jane", "by": "rita", "why": "same number"}
    for number, changed, status in (
        (9, {}, 404),
        (1, {"patient": "nobody"}, 404),
        (1, {"patient": None}, 422),
        (1, {"action": "burn"}, 422),
        (1, {"why": ""}, 422),
        (1, {"unknown": 1}, 422),
    ):
        answer = http.post(f"/api/desk/{number}/decisions", json=wish | changed)
        assert answer.status_code == status, answer.text
    assert http.post("/api/desk/1/decisions", data=wish).status_code == 415
    again = {"by": "max", "why": "wrong"}
    assert http.post("/api/desk/decisions/7/undo", json=again).status_code == 404
    assert http.get("/api/desk/9").status_code == 404
