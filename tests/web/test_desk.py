"""The desk in the JSON API and on its pages."""

from __future__ import annotations

import httpx

from services.database.store import Store


def test_a_row_is_shown_decided_and_undone(
    http: httpx.Client, study_on_desk: str, store: Store
) -> None:
    shown = http.get("/api/desk/1").json()
    assert [c["patient"] for c in shown["candidates"]] == ["jane"]
    assert shown["candidates"][0]["evidence"][0]["field"] == "family"
    wish = {"action": "file", "patient": "jane", "by": "rita", "why": "same number"}
    answer = http.post("/api/desk/1/decisions", json=wish)
    assert (answer.status_code, answer.json()["done"]) == (201, True)
    with store() as uow:
        assert uow.studies.get(study_on_desk).patient_id == "jane"
    assert http.get("/api/desk").json()["desk"] == []
    number = answer.json()["decision"]
    undone = http.post(f"/api/desk/decisions/{number}/undo", json={"by": "max", "why": "wrong"})
    assert (undone.status_code, undone.json()["undone_by"]) == (200, "max")
    with store() as uow:
        assert uow.studies.get(study_on_desk).patient_id is None
    decisions = http.get("/api/desk/1").json()["decisions"]
    assert [(d["by"], d["why"], d["undone_why"]) for d in decisions] == [
        ("rita", "same number", "wrong")
    ]


def test_what_cannot_be_decided_is_refused(http: httpx.Client, study_on_desk: str) -> None:
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


def test_a_long_desk_comes_in_pages(http: httpx.Client, store: Store) -> None:
    with store() as uow:
        for number in range(450):
            uow.studies.to_desk("unreadable", f"{number:03d}", "not a DICOM file")
    told = http.get("/api/desk", params={"limit": 3, "offset": 400}).json()
    assert ([row["subject"] for row in told["desk"]], told["total"]) == (["400", "401", "402"], 450)
    assert http.get("/api/desk", params={"limit": 0}).status_code == 422
    page = http.get("/desk", params={"offset": 400}).text
    assert "<b>450</b> waiting" in page
    assert ('href="/desk?offset=200"' in page, 'offset=600"' in page) == (True, False)


def test_the_page_decides_and_keeps_what_was_typed(
    http: httpx.Client, study_on_desk: str, store: Store
) -> None:
    shown = http.get("/desk/1").text
    assert shown.count("Quillfeather, Ottoline") == 1
    assert "the same but for zeros" in shown
    # Nothing is chosen for whoever decides: an exam filed by a slip takes a step off the worklist.
    assert (shown.count('type="radio"') >= 2, " checked" in shown) == (True, False)
    assert "Quilfeather, Ottoline" in http.get("/desk").text
    wish = {"choice": "file patient:jane", "by": "rita", "why": "<same> number"}
    refused = http.post("/desk/1/decisions", data=wish | {"by": " "})
    assert (refused.status_code, "&lt;same&gt; number" in refused.text) == (422, True)
    assert http.post("/desk/1/decisions", data=wish | {"choice": "burn"}).status_code == 422
    assert http.post("/desk/9/decisions", data=wish).status_code == 404
    answer = http.post("/desk/1/decisions", data=wish)
    assert (answer.status_code, answer.headers["location"]) == (303, "/desk/1")
    with store() as uow:
        assert uow.studies.get(study_on_desk).patient_id == "jane"
    after = http.get("/desk/1").text
    assert ("&lt;same&gt; number" in after, "Decide" in after) == (True, False)
