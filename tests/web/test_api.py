from __future__ import annotations

import json

import httpx
import pytest

from models.external_result import ExternalResult
from models.lifecycle import StudyState
from models.order_status import STATUS
from models.study import Study
from services.database.store import Store
from services.settings import Settings
from services.web.app import create_app
from tests.web.department import CASES, READING_ORDER, morning
from tests.web.serving import serving

REPORT = {
    "status": "final",
    "findings": "Ventricles enlarged.",
    "impression": "Hydrocephalus.",
    "author": "TESTREADER^RUTH",
}


@pytest.fixture
def studies(store: Store) -> dict[str, Study]:
    return morning(store)


def order_of(answer: httpx.Response) -> tuple[str, ...]:
    assert answer.status_code == 200, answer.text
    return tuple(line["accession"] for line in answer.json()["studies"])


def test_the_list_is_in_reading_order(http: httpx.Client, studies: dict[str, Study]) -> None:
    answer = http.get("/api/reading-list")
    assert order_of(answer) == READING_ORDER
    line = answer.json()["studies"][1]
    case = CASES[0]
    assert (
        line
        | {
            "study_uid": case.study_uid,
            "priority": "CRITICAL",
            "order_priority": "ROUTINE",
            "state": "acquired",
            "patient_name": case.name,
            "patient_id": "0012345",
            "birth_date": "1951-03-09",
            "description": case.exam,
            "critical": True,
            "finding": case.text,
            "triage": "critical",
            "instances": 321,
            "series": 5,
            "modality": "MR",
            "identified": True,
            "acknowledged_by": None,
            "report": None,
        }
        == line
    )


def test_pages_of_the_list_join_without_gap(http: httpx.Client, studies: dict[str, Study]) -> None:
    pages = [http.get("/api/reading-list", params={"limit": 4, "offset": n}) for n in (0, 4, 8, 12)]
    assert sum((order_of(page) for page in pages), ()) == READING_ORDER
    assert {page.json()["total"] for page in pages} == {9}
    assert http.get("/api/reading-list", params={"limit": 0}).json()["field"] == "limit"


def test_all_adds_what_is_scheduled_and_done(http: httpx.Client, studies: dict[str, Study]) -> None:
    everything = order_of(http.get("/api/reading-list?all=1"))
    assert everything[:10] == (*READING_ORDER, "S2600000112")
    assert set(everything[10:]) == {"S2600000090", "S2600000091"}


def test_an_exam_without_images_cannot_be_read_yet(http: httpx.Client, store: Store) -> None:
    with store() as uow:
        uow.studies.ensure("1.2.3", state=StudyState.ACQUIRING)
    assert order_of(http.get("/api/reading-list")) == ()


def test_images_of_an_unmatched_patient_are_listed_by_what_they_say(
    http: httpx.Client, store: Store
) -> None:
    with store() as uow:
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        uow.studies.change(study.id, dicom_patient_name="ZZTEST^UNKNOWN", dicom_patient_id="T77")
    (line,) = http.get("/api/reading-list").json()["studies"]
    assert (line["patient_name"], line["patient_id"]) == ("ZZTEST^UNKNOWN", "T77")
    assert not line["identified"]
    assert http.get("/api/studies/1.2.3").json()["patient"]["name"] == "ZZTEST^UNKNOWN"


def test_a_report_is_signed_once_however_often_it_is_sent(
    http: httpx.Client, studies: dict[str, Study]
) -> None:
    url = f"/api/studies/{CASES[0].study_uid}/reports"
    answers = [http.post(url, json=REPORT, headers={"Idempotency-Key": "123"}) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["version"] == 1
    assert answers[0].json()["status"] == "final"
    assert CASES[0].accession not in order_of(http.get("/api/reading-list"))


def test_a_signed_critical_result_stays_in_view_until_somebody_acknowledges(
    http: httpx.Client, studies: dict[str, Study]
) -> None:
    uid = CASES[0].study_uid
    http.post(f"/api/studies/{uid}/reports", json=REPORT)
    (line,) = http.get("/api/reading-list").json()["unacknowledged"]
    assert line["study_uid"] == uid
    answer = http.post(f"/api/studies/{uid}/acknowledgement", json={"by": "TESTREADER^RUTH"})
    assert answer.status_code == 200
    assert answer.json()["acknowledged_by"] == "TESTREADER^RUTH"
    assert answer.json()["read_back"] == CASES[0].text
    assert http.get("/api/reading-list").json()["unacknowledged"] == []


def test_a_preliminary_critical_report_that_was_acknowledged_no_longer_comes_first(
    http: httpx.Client, studies: dict[str, Study]
) -> None:
    first, second = READING_ORDER[0], READING_ORDER[1]
    uid = studies[first].study_uid
    http.post(f"/api/studies/{uid}/reports", json=REPORT | {"status": "preliminary"})
    assert order_of(http.get("/api/reading-list"))[0] == first
    http.post(f"/api/studies/{uid}/acknowledgement", json={"by": "TESTREADER^RUTH"})
    order = order_of(http.get("/api/reading-list"))
    assert order[0] == second
    assert first in order[1:4]


@pytest.mark.parametrize("key", [CASES[0].study_uid, CASES[0].accession])
def test_a_study_tells_its_whole_story(
    http: httpx.Client, studies: dict[str, Study], store: Store, key: str
) -> None:
    uid = CASES[0].study_uid
    report = http.post(f"/api/studies/{uid}/reports", json=REPORT).json()
    ack = b"MSH|^~\\&|EMR|HOSP|ENGINE|RAD|20260301||ACK|1|P|2.5.1\rMSA|AA|C1\r"
    with store() as uow:
        message = uow.messages.add(
            direction="out", protocol="hl7", peer="emr", raw=b"MSH", state="accepted"
        )
        uow.messages.answer(message, ack=ack, ack_code="AA")
        uow.deliveries.plan(report["report_id"], "emr", "C1")
        uow.deliveries.change(
            report["report_id"], "emr", state="accepted", ack_code="AA", message_id=message
        )
        uow.studies.to_desk("test", "x", "a reason", study_id=studies[CASES[0].accession].id)
    told = http.get(f"/api/studies/{key}").json()
    assert told["study"]["state"] == "final"
    assert told["order"]["steps"][0]["sps_id"] == "SPS0107"
    assert told["order"]["safety"]["allergies"] == "Gadolinium: rash"
    assert [s["instances"] for s in told["series"]] == [9, 176, 34, 34, 68]
    assert told["findings"][0]["measurements"][2] == {
        "name": "midline shift",
        "value": 6.4,
        "unit": "mm",
    }
    assert told["reports"][0]["impression"] == "Hydrocephalus."
    assert told["may_sign"] == ["corrected"]
    (delivery,) = told["deliveries"]
    assert (delivery["ack_code"], "MSA|AA|C1" in delivery["ack"]) == ("AA", True)
    assert [e["kind"] for e in told["timeline"]][-1] == "report.signed"
    assert [s["flow"] for s in told["stages"]] == ["report_delivery"]
    assert told["desk"][0]["reason"] == "a reason"
    assert told["critical"]["acknowledged_by"] is None
    assert len(http.get("/api/desk").json()["desk"]) == 1


def test_two_studies_under_one_accession_are_told_apart(http: httpx.Client, store: Store) -> None:
    with store() as uow:
        for uid in ("1.2.3", "1.2.4"):
            uow.studies.ensure(uid, state=StudyState.ACQUIRED, accession="A1")
    assert http.get("/api/studies/A1").status_code == 409


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"impression": None}, 422, "impression"),
        ({"impression": "  "}, 422, "impression"),
        ({"author": None}, 422, "author"),
        ({"status": "done"}, 422, "status"),
        ({"status": "corrected"}, 409, "status"),
        ({"expected_version": 3}, 409, "expected_version"),
        ({"expected_version": "0"}, 422, "expected_version"),
        ({"impression": 5}, 422, "impression"),
        ({"findings": "a\u0000b"}, 422, "findings"),
        ({"findings": "\ud800"}, 422, "findings"),
        ({"expected_versoin": 0}, 422, "expected_versoin"),
    ],
)
def test_a_bad_report_is_refused_with_the_name_of_the_field(
    http: httpx.Client,
    studies: dict[str, Study],
    changes: dict[str, object],
    status: int,
    field: str,
) -> None:
    body = {k: v for k, v in (REPORT | changes).items() if v is not None}
    answer = http.post(
        f"/api/studies/{CASES[0].study_uid}/reports",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["field"]) == (status, field)
    assert problem["type"].startswith("urn:spinecho:error:")
    assert http.get(f"/api/studies/{CASES[0].study_uid}").json()["reports"] == []


@pytest.mark.parametrize("uid", ["1.2.3.999", "%00", "%ff", "a%0Ab", "../x"])
def test_an_unknown_study_is_not_found(http: httpx.Client, uid: str) -> None:
    for answer in (
        http.get(f"/api/studies/{uid}"),
        http.post(f"/api/studies/{uid}/reports", json=REPORT),
        http.post(f"/api/studies/{uid}/acknowledgement", json={"by": "x"}),
        http.get(f"/studies/{uid}", headers={"Accept": "text/html"}),
    ):
        assert answer.status_code == 404
    assert http.get("/nowhere").json()["status"] == 404


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"status=final", "application/x-www-form-urlencoded", 415),
        (json.dumps(REPORT).encode(), "text/plain", 415),
        (b"<a/>", "application/xml", 415),
        (b'"' + b"x" * 2_000_000 + b'"', "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
    ],
)
def test_what_is_no_report_is_refused(
    http: httpx.Client, studies: dict[str, Study], content: bytes, kind: str, status: int
) -> None:
    url = f"/api/studies/{CASES[0].study_uid}/reports"
    answer = http.post(url, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_huge_body_without_a_length_is_refused(http: httpx.Client) -> None:
    def endless():  # type: ignore[no-untyped-def]
        for _ in range(64):
            yield b" " * 65536

    answer = http.post(
        "/api/studies/1/reports", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_cannot_write(
    http: httpx.Client, studies: dict[str, Study], headers: dict[str, str]
) -> None:
    url = f"/api/studies/{CASES[0].study_uid}/reports"
    assert http.post(url, json=REPORT, headers=headers).status_code == 403
    form = http.post(f"/studies/{CASES[0].study_uid}/report", data=REPORT, headers=headers)
    assert form.status_code == 403


def test_a_name_that_was_rebound_to_loopback_is_not_served(http: httpx.Client) -> None:
    assert http.get("/api/reading-list", headers={"Host": "evil.example:80"}).status_code == 421
    assert http.get("/api/reading-list", headers={"Host": "localhost:8080"}).status_code == 200


def test_the_story_has_what_the_placer_was_told_and_answered(
    settings: Settings, store: Store
) -> None:
    telling = Store(settings.model_copy(update={"status_destination": "mllp://127.0.0.1:1"}))
    try:
        study = morning(store, CASES[:1])[CASES[0].accession]
        with telling() as uow:
            uow.notices.tell(study.id, STATUS[StudyState.SCHEDULED])
            (notice,) = uow.notices.of_study(study.id)
            message = uow.messages.add(
                direction="out", protocol="hl7", peer="p", raw=b"MSH", state="refused"
            )
            uow.messages.answer(message, ack=b"MSH|^~\\&\rMSA|AR|C1|<b>locked</b>\r", ack_code="AR")
            uow.notices.change(
                notice.id, state="refused", ack_code="AR", message_id=message, error="<b>locked</b>"
            )
    finally:
        telling.close()
    with (
        serving(create_app(settings, store)) as url,
        httpx.Client(base_url=url, timeout=10) as http,
    ):
        (told,) = http.get(f"/api/studies/{CASES[0].study_uid}").json()["notices"]
        page = http.get(f"/studies/{CASES[0].study_uid}", headers={"Accept": "text/html"}).text
    assert (told["order_status"], told["ack_code"]) == ("SC", "AR")
    assert "MSA|AR|C1" in told["ack"]
    assert "Told to the placer" in page
    assert "&lt;b&gt;locked" in page
    assert "<b>locked" not in page


def test_the_story_has_what_other_systems_reported(http: httpx.Client, store: Store) -> None:
    study = morning(store, CASES[:1])[CASES[0].accession]
    results = (
        ExternalResult(sender="RIS|X", status="P", procedure="<i>MRI</i>", critical=True),
        ExternalResult(sender="RIS|X", status="F", procedure="<i>MRI</i>", author="SAMPLE^ANN"),
    )
    with store() as uow:
        for number, result in enumerate(results, 7):
            uow.external.add(result, study_id=study.id, message_id=number, position=1)
    told = http.get(f"/api/studies/{study.study_uid}").json()["external_results"]
    assert [(one["words"], one["critical"], one["message_id"]) for one in told] == [
        *(("preliminary", True, 7), ("final", False, 8))
    ]
    page = http.get(f"/studies/{study.study_uid}", headers={"Accept": "text/html"}).text
    shown = page.split('id="external-title"')[1].split("</section>")[0]
    # The newest stands first, in the reader's words.
    assert shown.index("SAMPLE, ANN") < shown.index("sent as critical")
    assert "&lt;i&gt;MRI" in shown
    assert "<i>MRI" not in shown


def test_without_results_from_elsewhere_the_page_has_no_place_for_them(
    http: httpx.Client, studies: dict[str, Study]
) -> None:
    page = http.get(f"/studies/{CASES[0].study_uid}", headers={"Accept": "text/html"}).text
    assert "Results from elsewhere" not in page
