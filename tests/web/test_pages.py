from __future__ import annotations

import httpx
import pytest

from models.patient import Identifier, Patient, PersonName
from models.study import Study, new_id
from services.database.store import Store
from services.settings import Settings
from services.web.app import DICOMWEB, create_app
from services.web.rendering import age, person, span
from tests.web.department import CASES, morning
from tests.web.serving import serving

UID = CASES[0].study_uid
EVIL = '<script>alert("x")</script>'
FORM = {
    "status": "final",
    "findings": "Ventricles enlarged.",
    "impression": "Hydrocephalus.",
    "author": "Ruth Testreader",
    "expected_version": "0",
    "idempotency_key": "k",
}


@pytest.fixture
def study(store: Store) -> Study:
    return morning(store, CASES[:1])[CASES[0].accession]


@pytest.mark.parametrize("path", ["/", "/?all=1", "/desk", f"/studies/{UID}", "/studies/1.2.3"])
def test_every_page_is_sealed_against_foreign_script(
    http: httpx.Client, study: Study, path: str
) -> None:
    answer = http.get(path, headers={"Accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "<script>" not in answer.text
    assert " style=" not in answer.text
    assert " onclick=" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org", "")


def test_what_others_write_is_text(http: httpx.Client, store: Store, study: Study) -> None:
    with store() as uow:
        patient = Patient(
            id=new_id(),
            identifiers=(Identifier(value=EVIL, authority=EVIL),),
            name=PersonName(family=EVIL, given='"><img src=x>'),
        )
        uow.patients.save(patient)
        uow.studies.change(
            study.id, patient_id=patient.id, description=EVIL, triage_text=EVIL, order_id=None
        )
        uow.timeline.add(study.id, EVIL, EVIL, actor=EVIL, key=EVIL)
        uow.studies.to_desk(EVIL, EVIL, EVIL, study_id=study.id, evidence={EVIL: EVIL})
    http.post(f"/studies/{UID}/report", data=FORM | {"impression": EVIL, "author": EVIL})
    for path in ("/?all=1", f"/studies/{UID}", "/desk"):
        text = http.get(path).text
        assert "&lt;script&gt;" in text
        assert "<script>" not in text
        assert "<img src=x" not in text


def test_a_form_signs_and_leads_back_to_the_study(http: httpx.Client, study: Study) -> None:
    answer = http.post(f"/studies/{UID}/report", data=FORM)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{UID}?signed=1")
    # A reader who presses twice signs once.
    assert http.post(f"/studies/{UID}/report", data=FORM).headers["location"].endswith("=1")
    page = http.get(answer.headers["location"]).text
    assert "Version 1 is signed." in page
    assert "Correct this report" in page


def test_a_form_with_a_fault_comes_back_with_what_was_typed(
    http: httpx.Client, study: Study
) -> None:
    answer = http.post(f"/studies/{UID}/report", data=FORM | {"impression": " "})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "impression is missing or empty" in answer.text
    assert "Ventricles enlarged." in answer.text
    assert "Ruth Testreader" in answer.text


def test_a_conflict_shows_both_texts_and_can_be_signed_over_knowingly(
    http: httpx.Client, study: Study
) -> None:
    http.post(f"/studies/{UID}/report", data=FORM | {"status": "preliminary"})
    mine = FORM | {"impression": "My own view.", "idempotency_key": "k2"}
    answer = http.post(f"/studies/{UID}/report", data=mine)
    assert answer.status_code == 409
    assert "My own view." in answer.text
    assert "Hydrocephalus." in answer.text
    assert 'name="expected_version" value="1"' in answer.text


@pytest.mark.parametrize("number", ["x", "-1", "9" * 30, "1.5"])
def test_a_tampered_version_is_refused(http: httpx.Client, study: Study, number: str) -> None:
    answer = http.post(f"/studies/{UID}/report", data=FORM | {"expected_version": number})
    assert answer.status_code == 422


def test_acknowledging_names_the_person(http: httpx.Client, study: Study) -> None:
    assert http.post(f"/studies/{UID}/acknowledge", data={"by": " "}).status_code == 422
    answer = http.post(f"/studies/{UID}/acknowledge", data={"by": "TESTREADER^Ruth"})
    assert answer.status_code == 303
    page = http.get(f"/studies/{UID}").text
    assert "Acknowledged by <b>TESTREADER, Ruth</b>" in page


def test_a_study_is_found_by_its_accession_number(http: httpx.Client, study: Study) -> None:
    for path in (f"/studies/{CASES[0].accession}", f"/find?q=+{CASES[0].accession}+"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{UID}")
    for path in ("/find?q=nothing", "/find?q=", "/find?q=%00"):
        assert http.get(path, headers={"Accept": "text/html"}).status_code == 404


def test_the_picture_is_the_middle_of_the_longest_series(
    settings: Settings, store: Store, study: Study
) -> None:
    async def images(scope, receive, send):  # type: ignore[no-untyped-def]
        raise AssertionError

    with serving(create_app(settings, store, mounts={DICOMWEB: images})) as url:
        text = httpx.get(f"{url}/studies/{UID}").text
    with store() as uow:
        middle = [i for i in uow.studies.instances(study.id) if i.series_number == 2][88]
    assert middle.number == 89
    assert f'src="/dicom-web/studies/{UID}/series/{middle.series_uid}' in text
    assert f"/instances/{middle.sop_uid}/rendered" in text


def test_an_application_that_is_mounted_keeps_its_own_policy(
    settings: Settings, store: Store
) -> None:
    async def viewer(scope, receive, send):  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with serving(create_app(settings, store, mounts={"/viewer": viewer})) as url:
        answer = httpx.get(f"{url}/viewer/")
        foreign = httpx.post(f"{url}/viewer/", headers={"Origin": "https://evil.example"})
    assert "content-security-policy" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert foreign.status_code == 403


def test_assets_are_kept_by_the_browser_as_long_as_they_are_the_same(http: httpx.Client) -> None:
    page = http.get("/").text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    assert "immutable" in http.get(address).headers["cache-control"]
    assert http.get("/static/spinecho.css").headers["cache-control"] == "no-store"
    assert http.get("/static/../rendering.py").status_code == 404


@pytest.mark.parametrize(
    ("pn", "written"),
    [
        ("DOE^Jane^Q", "DOE, Jane Q"),
        ("DOE^Jane^^Dr", "DOE, Dr Jane"),
        ("DOE", "DOE"),
        ("^Jane", "Jane"),
        ("", "no name"),
        ("Yamada^Tarou=山田^太郎", "Yamada, Tarou"),
        ("A^B^C^D^E^F^G", "A, D B C E"),
    ],
)
def test_a_name_is_written_as_people_write_it(pn: str, written: str) -> None:
    assert person(pn) == written


def test_spans_and_ages() -> None:
    assert [span(s) for s in (-5, 59, 60, 7560, 200_000)] == [
        "0 min",
        "0 min",
        "1 min",
        "2 h 06 min",
        "2 d 7 h",
    ]
    assert [span(s, fine=True) for s in (5, 425, 7265)] == ["0:05", "7:05", "2:01:05"]
    assert age("") == age(None) == ""
