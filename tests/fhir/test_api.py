from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.patient import Patient as FhirPatient

from models.lifecycle import StudyState
from models.report import Report
from models.study import Study
from services.database.store import Store
from services.fhir.api import fhir_app
from services.settings import Settings
from services.web.app import DICOMWEB, FHIR_R4, create_app
from services.workflow.identity import merge
from services.workflow.reporting import sign_report
from tests.web.department import CASES, morning
from tests.web.serving import serving

CASE = CASES[0]


@pytest.fixture
def study(store: Store) -> Study:
    """A critical one, with the others of the morning around it."""
    return morning(store)[CASE.accession]


@pytest.fixture
def fhir(settings: Settings, store: Store) -> Iterator[httpx.Client]:
    mounts = {FHIR_R4: fhir_app(store, settings=settings, dicomweb=DICOMWEB)}
    with (
        serving(create_app(settings, store, mounts=mounts)) as url,
        httpx.Client(base_url=f"{url}{FHIR_R4}", timeout=60) as client,
    ):
        yield client


def sign(store: Store, uid: str = CASE.study_uid, status: str = "final", **changes: Any) -> Report:
    fields = {
        "findings": "Ventricles <enlarged>.\nShift & mass.",
        "impression": "Hydrocephalus.",
        "author": "TESTREADER^RUTH",
    }
    return sign_report(store, uid, status=status, **(fields | changes))


def matches(answer: httpx.Response) -> list[str]:
    """The ids that a search found; its Bundle is valid and says how many there are."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/fhir+json")
    body = answer.json()
    Bundle.model_validate(body)
    assert body["type"] == "searchset"
    assert body["link"][0]["relation"] == "self"
    return [entry["resource"]["id"] for entry in body.get("entry", [])]


def test_a_report_has_every_field_that_its_reader_needs(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    report = sign(store)
    answer = fhir.get(f"/DiagnosticReport/{study.id}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/fhir+json")
    assert answer.headers["etag"] == 'W/"1"'
    told = answer.json()
    DiagnosticReport.model_validate(told)
    assert told["status"] == "final"
    assert told["category"][0]["coding"][0] == {
        "system": "http://terminology.hl7.org/CodeSystem/v2-0074",
        "code": "RAD",
        "display": "Radiology",
    }
    assert told["code"]["coding"][0]["system"] == "http://loinc.org"
    assert told["code"]["coding"][0]["code"] == "18748-4"
    accession = told["identifier"][0]
    assert accession["value"] == CASE.accession
    assert accession["type"]["coding"][0]["code"] == "ACSN"
    assert told["basedOn"][0]["identifier"]["value"] == "P0107"
    assert told["subject"]["reference"] == f"Patient/{study.patient_id}"
    assert datetime.fromisoformat(told["effectiveDateTime"]) <= datetime.now(UTC)
    assert abs((datetime.fromisoformat(told["issued"]) - report.signed_at).total_seconds()) < 0.01
    assert told["resultsInterpreter"][0]["display"] == "RUTH TESTREADER"
    assert told["imagingStudy"] == [{"reference": f"ImagingStudy/{study.id}"}]
    assert told["conclusion"] == "Hydrocephalus."
    assert "Ventricles &lt;enlarged&gt;.<br/>Shift &amp; mass." in told["text"]["div"]
    form = told["presentedForm"][0]
    text = b64decode(form["data"])
    assert len(text) == form["size"]
    assert "Ventricles <enlarged>.\nShift & mass." in text.decode()


def test_every_reference_of_a_report_leads_somewhere(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    sign(store)
    told = fhir.get(f"/DiagnosticReport/{study.id}").json()
    for reference in (told["subject"], *told["imagingStudy"], *told["basedOn"]):
        kind, _, identity = reference["reference"].partition("/")
        found = fhir.get(f"/{kind}/{identity}")
        assert (found.status_code, found.json()["resourceType"]) == (200, kind)
    contained = {inner["id"]: inner for inner in told["contained"]}
    assert [r["reference"] for r in told["result"]] == ["#finding-1"]
    assert contained["finding-1"]["device"]["reference"].removeprefix("#") in contained


def test_the_models_finding_is_flagged_until_the_study_is_read(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    def finding() -> dict[str, Any]:
        told = fhir.get(f"/DiagnosticReport/{study.id}").json()
        return next(c for c in told["contained"] if c["resourceType"] == "Observation")

    sign(store, status="preliminary")
    unread = finding()
    assert unread["status"] == "preliminary"
    assert unread["interpretation"][0]["coding"][0]["code"] == "AA"
    assert unread["category"][1]["coding"][0]["code"] == "RID49480"
    assert unread["valueCodeableConcept"]["text"] == CASE.text
    assert unread["component"][2]["valueQuantity"] == {
        "value": 6.4,
        "unit": "mm",
        "system": "http://unitsofmeasure.org",
        "code": "mm",
    }
    assert "not a diagnosis" in unread["note"][0]["text"]
    sign(store, status="final")
    read = finding()
    # The person has spoken; the model's word stays what it was: unverified.
    assert read["status"] == "preliminary"
    assert "interpretation" not in read


def test_an_abstention_says_why_there_is_no_value(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    spine = next(c for c in CASES if c.accession == "S2600000096")
    sign(store, spine.study_uid)
    (identity,) = matches(fhir.get("/DiagnosticReport", params={"accession": spine.accession}))
    told = fhir.get(f"/DiagnosticReport/{identity}").json()
    finding = next(c for c in told["contained"] if c["resourceType"] == "Observation")
    assert finding["dataAbsentReason"]["text"] == "not a head study"
    assert "valueCodeableConcept" not in finding


def test_a_correction_is_the_next_version_of_the_same_resource(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    first = sign(store)
    second = sign(store, status="corrected", impression="Other.")
    for identity in (study.id, first.id, second.id):
        answer = fhir.get(f"/DiagnosticReport/{identity}")
        assert answer.json()["id"] == study.id
        assert answer.json()["meta"]["versionId"] == "2"
        assert answer.headers["etag"] == 'W/"2"'
        assert answer.headers["content-location"].endswith(
            f"/DiagnosticReport/{study.id}/_history/2"
        )
    assert answer.json()["status"] == "corrected"
    assert answer.json()["conclusion"] == "Other."


def test_reports_are_found_by_number_patient_and_status(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    sign(store)
    sign(store, CASES[2].study_uid, status="preliminary")
    for query in (
        {"identifier": CASE.accession},
        {"identifier": f"|{CASE.accession}"},
        {"identifier": "F0107"},
        {"identifier": f"nothing,{CASE.accession}"},
        {"accession": CASE.accession},
        {"patient": str(study.patient_id)},
        {"patient": f"Patient/{study.patient_id}"},
        {"subject": f"{fhir.base_url}Patient/{study.patient_id}"},
        {"patient.identifier": f"HOSP|{CASE.mrn}"},
        {"subject:Patient.identifier": CASE.mrn},
        {"status": "final"},
        {"status": "final,corrected", "accession": CASE.accession},
        {"_id": study.id, "_format": "json", "_sort": "-issued"},
    ):
        assert matches(fhir.get("/DiagnosticReport", params=query)) == [study.id], query
    for query in (
        {"identifier": f"urn:oid:1.2.3|{CASE.accession}"},
        {"status": "preliminary", "accession": CASE.accession},
        {"status": "bogus"},
        {"patient": f"Group/{study.patient_id}"},
        {"patient.identifier": f"OTHER|{CASE.mrn}"},
        {"accession": ""},
        {"accession": "' OR 1=1 --"},
    ):
        assert matches(fhir.get("/DiagnosticReport", params=query)) == [], query
    assert len(matches(fhir.get("/DiagnosticReport"))) == 2


def test_pages_of_a_search_are_linked(fhir: httpx.Client, store: Store, study: Study) -> None:
    acquired = [c for c in CASES if c.state is StudyState.ACQUIRED][:5]
    for case in acquired:
        sign(store, case.study_uid)
    found: list[str] = []
    address = f"{fhir.base_url}DiagnosticReport?status=final&_count=2"
    pages = 0
    while address:
        answer = fhir.get(address)
        found += matches(answer)
        pages += 1
        assert answer.json()["total"] == 5
        links = {link["relation"]: link["url"] for link in answer.json()["link"]}
        assert "status=final" in links["self"]
        address = links.get("next", "")
    assert pages == 3
    assert len(set(found)) == 5
    # Newest first.
    newest = fhir.get("/DiagnosticReport?_count=1").json()["entry"][0]
    assert newest["resource"]["identifier"][0]["value"] == acquired[-1].accession
    assert newest["fullUrl"].endswith(f"/fhir/r4/DiagnosticReport/{newest['resource']['id']}")
    assert newest["search"] == {"mode": "match"}
    assert matches(fhir.get("/DiagnosticReport?_count=0")) == []


def test_a_patient_is_read_with_its_numbers(fhir: httpx.Client, store: Store, study: Study) -> None:
    told = fhir.get(f"/Patient/{study.patient_id}").json()
    FhirPatient.model_validate(told)
    (number,) = told["identifier"]
    # Leading zeros are part of a number.
    assert (number["value"], number["assigner"]["display"]) == ("0012345", "HOSP")
    assert number["type"]["coding"][0]["code"] == "MR"
    assert told["name"][0]["family"] == "ZZTEST-ALDERBOURNE"
    assert (told["gender"], told["birthDate"], told["active"]) == ("female", "1951-03-09", True)
    found = fhir.get("/Patient", params={"identifier": "HOSP|0012345"})
    assert matches(found) == [study.patient_id]
    assert matches(fhir.get("/Patient", params={"identifier": "12345"})) == []


def test_a_merged_patient_points_to_the_survivor(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    with store() as uow:
        other = uow.studies.find(CASES[1].study_uid)
        assert other is not None
        assert other.patient_id is not None
        assert study.patient_id is not None
        merge(uow, study.patient_id, other.patient_id, by="chief", why="one person")
    told = fhir.get(f"/Patient/{other.patient_id}").json()
    assert told["active"] is False
    assert told["link"] == [
        {"other": {"reference": f"Patient/{study.patient_id}"}, "type": "replaced-by"}
    ]


def test_a_study_carries_both_forms_of_its_uid(
    fhir: httpx.Client, store: Store, study: Study
) -> None:
    told = fhir.get(f"/ImagingStudy/{study.id}").json()
    ImagingStudy.model_validate(told)
    assert told["identifier"][0] == {
        "use": "official",
        "system": "urn:dicom:uid",
        "value": f"urn:oid:{CASE.study_uid}",
    }
    assert told["identifier"][1]["value"] == CASE.accession
    assert told["status"] == "available"
    assert told["modality"][0]["code"] == "MR"
    assert (told["numberOfSeries"], told["numberOfInstances"]) == (5, 321)
    assert [s["numberOfInstances"] for s in told["series"]] == [9, 176, 34, 34, 68]
    assert not told["series"][0]["uid"].startswith("urn:")
    assert told["basedOn"][0]["identifier"]["value"] == "P0107"
    assert told["endpoint"] == [{"reference": "Endpoint/dicomweb"}]
    endpoint = fhir.get("/Endpoint/dicomweb").json()
    assert endpoint["address"].endswith("/dicom-web")
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    for value in (
        f"urn:dicom:uid|urn:oid:{CASE.study_uid}",
        f"urn:oid:{CASE.study_uid}",
        CASE.study_uid,
        CASE.accession,
    ):
        assert matches(fhir.get("/ImagingStudy", params={"identifier": value})) == [study.id]
    scheduled = fhir.get("/ImagingStudy", params={"accession": "S2600000112"}).json()
    assert scheduled["entry"][0]["resource"]["status"] == "registered"


def test_images_without_a_patient_name_the_one_they_claim(fhir: httpx.Client, store: Store) -> None:
    with store() as uow:
        study = uow.studies.ensure("1.2.3", state=StudyState.ACQUIRED)
        uow.studies.change(study.id, dicom_patient_name="ZZTEST^UNKNOWN", dicom_patient_id="T77")
    sign(store, "1.2.3")
    told = fhir.get(f"/DiagnosticReport/{study.id}").json()
    DiagnosticReport.model_validate(told)
    assert told["subject"] == {"reference": "#patient"}
    assert told["contained"][0]["name"][0]["family"] == "ZZTEST"
    assert "identifier" not in told
    assert fhir.get(f"/ImagingStudy/{study.id}").json()["subject"] == {"reference": "#patient"}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/DiagnosticReport/unknown", 404, "not-found"),
        ("/DiagnosticReport/%00", 404, "not-found"),
        ("/Patient/unknown", 404, "not-found"),
        ("/ImagingStudy/a%01b", 404, "not-found"),
        ("/Medication", 404, "not-found"),
        ("/DiagnosticReport?colour=red", 400, "not-supported"),
        ("/DiagnosticReport?accession=%00", 400, "value"),
        ("/DiagnosticReport?_count=many", 400, "value"),
        ("/DiagnosticReport?_count=-1", 400, "value"),
        ("/Patient?phone=0", 400, "not-supported"),
        ("/Patient?name:phonetic=ZZTEST", 400, "not-supported"),
        ("/Patient?birthdate=1951-02-30", 400, "value"),
        ("/Patient?birthdate=ap1951", 400, "value"),
        ("/Patient?birthdate=1951-03-09T10:00Z", 400, "value"),
        ("/ImagingStudy?_sort=modality", 400, "value"),
        ("/ImagingStudy?_include=ImagingStudy:interpreter", 400, "value"),
        ("/ImagingStudy?_summary=text", 400, "value"),
        ("/ImagingStudy?_after=bogus", 400, "value"),
        ("/ImagingStudy?accession=" + ",".join("x" * 201), 400, "value"),
        ("/Endpoint/other", 404, "not-found"),
        ("/metadata?_format=xml", 406, "not-supported"),
    ],
)
def test_every_error_is_an_operation_outcome(
    fhir: httpx.Client, store: Store, path: str, status: int, code: str
) -> None:
    answer = fhir.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/fhir+json")
    OperationOutcome.model_validate(answer.json())
    (issue,) = answer.json()["issue"]
    assert (issue["severity"], issue["code"]) == ("error", code)


def test_a_study_that_nobody_has_reported_has_no_report(fhir: httpx.Client, study: Study) -> None:
    assert fhir.get(f"/DiagnosticReport/{study.id}").status_code == 404
    assert matches(fhir.get("/DiagnosticReport")) == []


def test_what_is_not_served_is_refused_as_fhir(fhir: httpx.Client) -> None:
    for answer, status in (
        (fhir.post("/DiagnosticReport", json={}), 405),
        (fhir.delete("/Patient/x"), 405),
        (fhir.get("/metadata", headers={"Accept": "application/fhir+xml"}), 406),
    ):
        assert answer.status_code == status
        OperationOutcome.model_validate(answer.json())
    for accept in ("application/fhir+json; fhirVersion=4.0", "text/html, */*;q=0.1"):
        assert fhir.get("/metadata", headers={"Accept": accept}).status_code == 200
    assert fhir.get("/metadata?_format=application/fhir+json").status_code == 200


def test_a_database_that_is_down_is_told_as_transient(settings: Settings) -> None:
    broken = Store(settings.model_copy(update={"database_url": "postgresql:///x?host=/nowhere"}))
    mounts = {FHIR_R4: fhir_app(broken)}
    with serving(create_app(settings, broken, mounts=mounts)) as url:
        answer = httpx.get(f"{url}{FHIR_R4}/Patient/x")
    broken.close()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["issue"][0]["code"] == "transient"


def test_the_sender_of_an_oid_is_a_system(fhir: httpx.Client, store: Store, study: Study) -> None:
    with store() as uow:
        assert study.patient_id is not None
        patient = uow.patients.get(study.patient_id)
        number = replace(patient.identifiers[0], value="9", authority="1.2.3.4")
        uow.patients.save(replace(patient, identifiers=(*patient.identifiers, number)))
    told = fhir.get(f"/Patient/{study.patient_id}").json()
    assert told["identifier"][1]["system"] == "urn:oid:1.2.3.4"
    found = fhir.get("/Patient", params={"identifier": "urn:oid:1.2.3.4|9"})
    assert matches(found) == [study.patient_id]
