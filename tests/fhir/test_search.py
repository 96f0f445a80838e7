"""Searching, paging and conditional reading, in R4 and R5."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text

from models.errors import InvalidValue
from models.finding import Finding, Outcome
from models.lifecycle import StudyState
from models.study import Study, uid_from
from services.database.store import Store
from services.fhir.parameters import Token, alternatives, read_date
from services.fhir.versions import R4, R5, Version
from services.workflow.reporting import sign_report
from tests.fhir.conftest import merge_patients
from tests.fhir.orders import FHIR_JSON, everything_taken
from tests.web.department import CASES

CASE = CASES[0]
HARMLESS = {
    "_id": "x",
    "token": "x",
    "string": "zz",
    "reference": "x",
    "date": "2001-02-03",
    "_count": "1",
    "_sort": "_id",
    "_summary": "count",
    "_elements": "id",
    "_total": "none",
}

OPERATIONS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "match": lambda client: client.post("/Patient/$match", json={"resourceType": "Patient"}),
    "ihe-pix": lambda client: client.get(
        "/Patient/$ihe-pix", params={"sourceIdentifier": f"HOSP|{CASE.mrn}"}
    ),
}


def sign(store: Store, status: str = "final", uid: str = CASE.study_uid) -> None:
    sign_report(store, uid, status=status, findings="", impression=status, author="TESTREADER^RUTH")


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["resource"]["id"] for entry in answer.json().get("entry", [])]


def links(answer: httpx.Response) -> dict[str, str]:
    return {link["relation"]: link["url"] for link in answer.json()["link"]}


def test_everything_that_the_capability_statement_claims_is_served(
    both: httpx.Client, store: Store, studies: dict[str, Study], version: Version
) -> None:
    sign(store)
    sign(store, "corrected")
    sent = both.post("/", json=everything_taken(version), headers=FHIR_JSON)
    assert sent.status_code == 200, sent.text
    merge_patients(store, *(str(studies[c.accession].patient_id) for c in CASES[1:3]))
    told = both.get("/metadata").json()
    package = import_module(f"{version.models}.capabilitystatement")
    package.CapabilityStatement.model_validate(told)
    assert told["fhirVersion"] == version.number
    assert told["implementation"]["url"] == str(both.base_url).rstrip("/")
    rest = told["rest"][0]
    assert rest["interaction"] == [{"code": "transaction"}]
    called = []
    for row in rest["resource"]:
        kind = row["type"]
        found = both.get(f"/{kind}")
        assert found.json()["entry"], kind
        identity = found.json()["entry"][0]["resource"]["id"]
        for interaction in row["interaction"]:
            called.append(interaction["code"])
            if interaction["code"] in {"create", "update"}:
                # Whatever is missing in it: it is answered by what the interaction does.
                send = both.post if interaction["code"] == "create" else both.put
                path = f"/{kind}" if interaction["code"] == "create" else f"/{kind}/{identity}"
                body = {"resourceType": kind, "id": identity}
                assert send(path, json=body, headers=FHIR_JSON).status_code == 422
                continue
            path = {
                "read": f"/{kind}/{identity}",
                "vread": f"/{kind}/{identity}/_history/1",
                "search-type": f"/{kind}",
            }[interaction["code"]]
            assert both.get(path).status_code == 200, path
            if interaction["code"] == "search-type":
                assert both.post(f"{path}/_search").status_code == 200
        for parameter in [*row["searchParam"], *rest["searchParam"]]:
            name = parameter["name"]
            if name == "_include":
                continue
            value = HARMLESS.get(name, HARMLESS.get(parameter["type"]))
            for form in [name, *_other_forms(parameter)]:
                answer = both.get(f"/{kind}", params={form: value})
                assert answer.status_code == 200, (kind, form, answer.text)
                assert form in parse_qs(urlsplit(links(answer)["self"]).query), form
        for include in row.get("searchInclude", []):
            assert both.get(f"/{kind}", params={"_include": include}).status_code == 200
        for operation in row.get("operation", []):
            called.append(operation["name"])
            answer = OPERATIONS[operation["name"]](both)
            assert answer.status_code == 200, answer.text
    assert {"read", "vread", "search-type", "create", "update", *OPERATIONS} == set(called)


def _other_forms(parameter: dict[str, Any]) -> list[str]:
    _, _, listed = parameter.get("documentation", "").partition("Also ")
    return listed.rstrip(".").split(", ") if listed else []


def test_pages_are_stable_while_studies_arrive(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    everything = ids(both.get("/ImagingStudy"))
    assert len(everything) == len(studies)
    for sort in ("-started", "started", "_lastUpdated", "-_lastUpdated", "_id", "-_id"):
        found: list[str] = []
        answer = both.get("/ImagingStudy", params={"_count": 3, "_sort": sort})
        total = answer.json()["total"]
        while True:
            found += ids(answer)
            with store() as uow:
                uow.studies.ensure(uid_from(sort, str(len(found))), state=StudyState.SCHEDULED)
            if "next" not in links(answer):
                break
            answer = both.get(links(answer)["next"])
        before = [identity for identity in found if identity in everything]
        assert sorted(before) == sorted(everything), sort
        assert len(set(found)) == len(found)
        everything = ids(both.get("/ImagingStudy", params={"_count": 200}))
        assert total < len(everything)


def test_a_page_begun_in_one_order_does_not_go_on_in_another(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    begun = both.get("/ImagingStudy?_count=2&_sort=_id")
    url = links(begun)["next"].replace("_sort=_id", "_sort=-_id")
    assert both.get(url).status_code == 400


def test_studies_are_found_by_what_an_integrator_knows(
    both: httpx.Client, studies: dict[str, Study], store: Store, version: Version
) -> None:
    study = studies[CASE.accession]
    based_on = "basedon" if version is R4 else "based-on"
    with store() as uow:
        series, instance = uow.connection.execute(
            text("SELECT series_uid, sop_uid FROM instance WHERE study_id = :id LIMIT 1"),
            {"id": study.id},
        ).one()
    assert study.started_at is not None
    for name, value in (
        ("_id", study.id),
        (based_on, f"ServiceRequest/{study.order_id}"),
        (f"{based_on}:identifier", "P0107"),
        ("series", series),
        ("series", f"urn:dicom:uid|urn:oid:{series}"),
        ("instance", instance),
        ("identifier", f"urn:dicom:uid|urn:oid:{CASE.study_uid},nothing"),
        ("identifier", f"|{CASE.accession}"),
        ("patient", f"Patient/{study.patient_id}"),
        ("subject:Patient", str(study.patient_id)),
        ("patient.identifier", f"HOSP|{CASE.mrn}"),
        ("patient.identifier", f"|{CASE.mrn}"),
        ("started", study.started_at.isoformat()),
    ):
        assert ids(both.get("/ImagingStudy", params={name: value})) == [study.id], (name, value)
    for name, value in (
        ("modality", "CT"),
        ("modality", "urn:other|MR"),
        ("status", "entered-in-error"),
        ("endpoint", "Endpoint/other"),
        ("started", "lt2001"),
        ("started", "gt2100-01-01T00:00:00Z"),
        ("patient.identifier", f"urn:oid:1.2|{CASE.mrn}"),
    ):
        assert ids(both.get("/ImagingStudy", params={name: value})) == [], (name, value)
    available = ids(both.get("/ImagingStudy?status=available"))
    assert study.id in available
    assert sorted(ids(both.get("/ImagingStudy?modality=MR"))) == sorted(available)
    assert sorted(ids(both.get("/ImagingStudy?endpoint=Endpoint/dicomweb"))) == sorted(available)
    registered = ids(both.get("/ImagingStudy?status=registered,cancelled"))
    assert len(available) + len(registered) == len(studies)


def test_a_range_is_two_dates(both: httpx.Client, studies: dict[str, Study]) -> None:
    began = sorted(s.started_at for s in studies.values() if s.started_at is not None)
    low, high = began[1], began[-2]
    found = both.get(
        "/ImagingStudy",
        params=[("started", f"ge{low.isoformat()}"), ("started", f"le{high.isoformat()}")],
    )
    assert len(ids(found)) == len(began) - 2


def test_what_changed_since_is_asked_by_last_updated(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    everything = both.get("/ImagingStudy?_sort=-_lastUpdated").json()["entry"]
    newest = everything[0]["resource"]["meta"]["lastUpdated"]
    # What is told has milliseconds: what happened within the last one may be asked for again.
    since = (datetime.fromisoformat(newest) + timedelta(milliseconds=1)).isoformat()
    assert ids(both.get("/ImagingStudy", params={"_lastUpdated": f"ge{since}"})) == []
    sign(store)
    changed = both.get("/ImagingStudy", params={"_lastUpdated": f"ge{since}"})
    assert ids(changed) == [studies[CASE.accession].id]
    reported = both.get("/DiagnosticReport", params={"_lastUpdated": f"ge{since}"})
    assert ids(reported) == [studies[CASE.accession].id]


def test_include_brings_what_is_referred_to_once(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    study = studies[CASE.accession]
    answer = both.get(
        "/ImagingStudy",
        params=[
            ("status", "available"),
            ("_include", "ImagingStudy:subject"),
            ("_include", "ImagingStudy:endpoint"),
        ],
    ).json()
    included = [e["resource"] for e in answer["entry"] if e["search"]["mode"] == "include"]
    kinds = [resource["resourceType"] for resource in included]
    assert kinds.count("Endpoint") == 1
    assert study.patient_id in {resource["id"] for resource in included}
    assert answer["total"] == len(answer["entry"]) - len(included)


def test_an_answer_may_be_shortened(both: httpx.Client, studies: dict[str, Study]) -> None:
    counted = both.get("/ImagingStudy?_summary=count").json()
    assert counted["total"] == len(studies)
    assert "entry" not in counted
    assert "total" not in both.get("/ImagingStudy?_total=none").json()
    (entry, *_) = both.get("/ImagingStudy?_elements=started&status=available").json()["entry"]
    told = entry["resource"]
    assert {"id", "status", "subject", "started"} <= told.keys()
    assert "series" not in told
    assert told["meta"]["tag"][0]["code"] == "SUBSETTED"


def test_a_form_is_searched_like_a_query(both: httpx.Client, studies: dict[str, Study]) -> None:
    study = studies[CASE.accession]
    asked = {"accession": CASE.accession}
    assert ids(both.post("/ImagingStudy/_search", data=asked)) == [study.id]
    assert ids(both.post("/ImagingStudy/_search?_id=x", data=asked)) == []
    assert both.post("/ImagingStudy/_search", json=asked).status_code == 415
    assert both.post("/ImagingStudy/_search", data={"_id": "x" * 70_000}).status_code == 413
    assert both.get("/ImagingStudy/_search").status_code == 404


def test_what_is_unknown_is_refused_or_ignored_as_the_client_prefers(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    asked = {"accession": CASE.accession, "colour": "red"}
    for headers in ({}, {"Prefer": "handling=strict"}):
        answer = both.get("/ImagingStudy", params=asked, headers=headers)
        assert answer.status_code == 400
        (issue,) = answer.json()["issue"]
        assert (issue["code"], issue["expression"]) == ("not-supported", ["colour"])
    lenient = {"Prefer": "respond-async, handling=lenient"}
    answer = both.get("/ImagingStudy", params=asked, headers=lenient)
    assert ids(answer) == [studies[CASE.accession].id]
    assert "colour" not in links(answer)["self"]
    assert f"accession={CASE.accession}" in links(answer)["self"]
    # A modifier turns a condition into another one: it is never ignored.
    answer = both.get("/ImagingStudy?accession:not=x", headers=lenient)
    assert answer.status_code == 400


def test_what_the_client_has_is_not_sent_again(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    sign(store)
    study = studies[CASE.accession]
    for path in (
        "/metadata",
        f"/Patient/{study.patient_id}",
        f"/ImagingStudy/{study.id}",
        f"/DiagnosticReport/{study.id}",
        "/Endpoint/dicomweb",
    ):
        whole = both.get(path)
        tag = whole.headers["etag"]
        again = both.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert both.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
        head = both.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == tag
        if "last-modified" in whole.headers:
            since = {"If-Modified-Since": whole.headers["last-modified"]}
            assert both.get(path, headers=since).status_code == 304
            since = {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}
            assert both.get(path, headers=since).status_code == 200
        assert both.get(path, headers={"If-Modified-Since": "yesterday"}).status_code == 200


def test_every_version_of_a_report_can_be_read(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    study, other = studies[CASE.accession], studies[CASES[1].accession]
    path = f"/DiagnosticReport/{study.id}"
    sign(store, "preliminary")
    sign(store)
    seen = both.get(path).headers["etag"]
    with store() as uow:
        late = Finding(
            study_id=study.id, version=2, model="late@1", outcome=Outcome.NORMAL, text="normal"
        )
        uow.studies.add_finding(late)
    told = [both.get(f"{path}/_history/{number}").json() for number in (1, 2, 3)]
    assert [t["status"] for t in told] == ["preliminary", "final", "final"]
    assert [t["meta"]["versionId"] for t in told] == ["1", "2", "3"]
    assert [len(t["result"]) for t in told] == [1, 1, 2]
    assert told[2] == both.get(path).json()
    # The patient's record goes to another: whoever has the report must not be told it is the same.
    assert study.patient_id is not None
    assert other.patient_id is not None
    merge_patients(store, study.patient_id, other.patient_id)
    now = both.get(path, headers={"If-None-Match": seen})
    assert (now.status_code, now.headers["etag"]) == (200, 'W/"4"')
    assert now.json()["subject"]["reference"] == f"Patient/{other.patient_id}"
    for number in ("0", "5", "x", "1.0"):
        assert both.get(f"{path}/_history/{number}").status_code == 404


def test_a_retired_record_finds_what_its_survivor_has(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    study, other = studies[CASE.accession], studies[CASES[1].accession]
    assert study.patient_id is not None
    assert other.patient_id is not None
    merge_patients(store, study.patient_id, other.patient_id)
    for query in (
        {"patient": study.patient_id},
        {"patient": other.patient_id},
        {"patient.identifier": CASE.mrn},
        {"patient.identifier": CASES[1].mrn},
    ):
        assert set(ids(both.get("/ImagingStudy", params=query))) == {study.id, other.id}, query
    survivor = both.get(f"/Patient/{other.patient_id}").json()
    assert survivor["link"] == [
        {"other": {"reference": f"Patient/{study.patient_id}"}, "type": "replaces"}
    ]
    assert ids(both.get("/Patient?active=false")) == [study.patient_id]


def test_patients_are_found_by_their_demographics(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    patient_id = studies[CASE.accession].patient_id
    for query in (
        {"family": "zztest alder"},
        {"given": "WILHEL"},
        {"name": "Wilhélmina"},
        {"birthdate": "1951-03-09"},
        {"birthdate": "1951"},
        {"family": "ZZTEST-ALDERBOURNE", "gender": "female", "birthdate": "lt1960"},
        {"identifier": f"HOSP|{CASE.mrn}", "active": "true"},
    ):
        assert ids(both.get("/Patient", params=query)) == [patient_id], query
    for query in ({"family": "%"}, {"family": "alder_"}, {"gender": "urn:x|female"}):
        assert ids(both.get("/Patient", params=query)) == [], query


def test_r5_says_what_it_renamed(
    both: httpx.Client, store: Store, studies: dict[str, Study], version: Version
) -> None:
    study = studies[CASE.accession]
    sign(store)
    told = both.get(f"/ImagingStudy/{study.id}").json()
    report = both.get(f"/DiagnosticReport/{study.id}").json()
    endpoint = both.get("/Endpoint/dicomweb").json()
    if version is R5:
        assert told["modality"][0]["coding"][0]["code"] == "MR"
        assert told["procedure"][0]["concept"]["coding"][0]["display"] == CASE.exam
        assert told["reason"][0]["concept"]["text"] == CASE.why
        assert told["series"][0]["modality"]["coding"][0]["code"] == "MR"
        assert report["study"] == [{"reference": f"ImagingStudy/{study.id}"}]
        assert endpoint["connectionType"][0]["coding"][0]["code"] == "dicom-wado-rs"
        assert endpoint["payload"][0]["mimeType"] == ["application/dicom"]
    else:
        assert told["modality"][0]["code"] == "MR"
        assert report["imagingStudy"] == [{"reference": f"ImagingStudy/{study.id}"}]


def test_another_version_than_that_of_the_path_is_not_acceptable(
    both: httpx.Client, version: Version
) -> None:
    other = "5.0" if version is R4 else "4.0"
    answer = both.get(
        "/metadata", headers={"Accept": f"application/fhir+json; fhirVersion={other}"}
    )
    assert answer.status_code == 406
    wanted = f"application/fhir+json; fhirVersion={version.number[:3]}"
    assert both.get("/metadata", headers={"Accept": wanted}).status_code == 200


@pytest.mark.parametrize(
    ("written", "prefix", "low", "seconds"),
    [
        ("2024", "eq", "2024-01-01T00:00:00", 366 * 86400),
        ("ge2024-02", "ge", "2024-02-01T00:00:00", 29 * 86400),
        ("lt2024-12", "lt", "2024-12-01T00:00:00", 31 * 86400),
        ("2024-02-29", "eq", "2024-02-29T00:00:00", 86400),
        ("gt2024-02-29T23:59", "gt", "2024-02-29T23:59:00", 60),
        ("sa2024-02-29T23:59:58+02:00", "sa", "2024-02-29T21:59:58", 1),
        # A plus that was not escaped arrives as a space.
        ("2024-02-29T23:59:58 02:00", "eq", "2024-02-29T21:59:58", 1),
        ("2024-02-29T23:59:58.5Z", "eq", "2024-02-29T23:59:58.5", 0.1),
        ("2024-02-29T23:59:58.123456789Z", "eq", "2024-02-29T23:59:58.123456", 1e-6),
    ],
)
def test_a_date_is_as_long_as_it_is_written(
    written: str, prefix: str, low: str, seconds: float
) -> None:
    read = read_date(written)
    begins = datetime.fromisoformat(low).replace(tzinfo=UTC)
    assert read == (prefix, begins, begins + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "written",
    ["", "20240229", "2024-2-9", "2023-02-29", "9999-12-31", "ge", "2024-01-01T25:00", "0000"],
)
def test_a_date_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(InvalidValue):
        read_date(written)


def test_a_token_says_whether_it_has_a_system() -> None:
    assert Token.read("a") == Token(None, "a")
    assert Token.read("|a") == Token("", "a")
    assert Token.read("urn:x|a") == Token("urn:x", "a")
    assert Token.read("urn:x|") == Token("urn:x", "")
    assert Token.read(r"a\|b\\") == Token(None, "a|b\\")
    assert alternatives(r"a,b\,c,") == ["a", r"b\,c", ""]
