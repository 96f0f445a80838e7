"""Who a person may be ($match), under which numbers ($ihe-pix), and what became of records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from models.patient import Identifier
from models.study import Study
from services.database.store import Store
from services.workflow.reporting import sign_report
from tests.fhir.conftest import merge_patients
from tests.web.department import CASES

CASE = CASES[0]
GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"
SITE = "urn:oid:2.16.840.1.113883.3.999"


def person(**changes: Any) -> dict[str, Any]:
    described = {
        "resourceType": "Patient",
        "name": [{"family": "ZZTEST-ALDERBOURNE", "given": ["Wilhelmina"]}],
        "birthDate": "1951-03-09",
        "gender": "female",
        "identifier": [{"value": CASE.mrn, "assigner": {"display": "HOSP"}}],
    }
    told = {**described, **changes}
    return {name: value for name, value in told.items() if value is not None}


def match(client: httpx.Client, patient: dict[str, Any], **more: Any) -> httpx.Response:
    parameters = [{"name": "resource", "resource": patient}]
    parameters += [{"name": name, **value} for name, value in more.items()]
    asked = {"resourceType": "Parameters", "parameter": parameters}
    return client.post("/Patient/$match", json=asked)


def graded(answer: httpx.Response) -> list[tuple[str, str, float]]:
    assert answer.status_code == 200, answer.text
    assert answer.json()["type"] == "searchset"
    return [
        (
            entry["resource"]["id"],
            next(e["valueCode"] for e in entry["search"]["extension"] if e["url"] == GRADE),
            entry["search"]["score"],
        )
        for entry in answer.json().get("entry", [])
    ]


def test_a_person_with_their_number_is_certain(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    ((found, grade, score),) = graded(match(both, person()))
    assert (found, grade) == (studies[CASE.accession].patient_id, "certain")
    assert 0.9 < score <= 1
    assert graded(both.post("/Patient/$match", json=person())) == [(found, grade, score)]


def test_a_person_who_may_be_another_is_never_certain(
    both: httpx.Client, studies: dict[str, Study]
) -> None:
    patient_id = studies[CASE.accession].patient_id
    # The same number, and nothing else that agrees: somebody has to look.
    stranger = person(
        name=[{"family": "ZZTEST-OTHER", "given": ["Someone"]}], birthDate="1999-01-02"
    )
    ((found, grade, _),) = graded(match(both, stranger))
    assert (found, grade in {"probable", "possible"}) == (patient_id, True)
    certain = {"valueBoolean": True}
    assert graded(match(both, stranger, onlyCertainMatches=certain)) == []
    assert len(graded(match(both, person(), onlyCertainMatches=certain))) == 1
    assert graded(match(both, person(), count={"valueInteger": 1}))[0][0] == patient_id
    nobody = person(identifier=None, name=[{"family": "ZZTEST-NOBODY"}], birthDate="1900-05")
    assert graded(match(both, nobody)) == []


def test_a_retired_record_matches_as_its_survivor(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    survivor = str(studies[CASES[1].accession].patient_id)
    merge_patients(store, str(studies[CASE.accession].patient_id), survivor)
    assert [found for found, _, _ in graded(match(both, person()))] == [survivor]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"<Patient/>", "application/fhir+xml", 415, "not-supported"),
        (b"{", "application/fhir+json", 400, "structure"),
        (b"[" * 100_000, "application/fhir+json", 400, "structure"),
        (b"\xff", "application/fhir+json", 400, "structure"),
        (b"[]", "application/fhir+json", 400, "structure"),
        (b'{"resourceType": "Nothing"}', "application/fhir+json", 400, "structure"),
        (b'{"resourceType": "Observation"}', "application/fhir+json", 422, "required"),
        (b'{"resourceType": "Basic", "code": {"text": "x"}}', "application/json", 400, "value"),
        (b'{"resourceType": "Parameters"}', "application/json", 422, "required"),
        (b'{"resourceType": "Patient", "birthDate": "x"}', "application/json", 422, "value"),
        (b" " * 300_000, "application/fhir+json", 413, "too-long"),
    ],
)
def test_what_describes_no_person_is_refused(
    both: httpx.Client,
    studies: dict[str, Study],
    body: bytes,
    content_type: str,
    status: int,
    code: str,
) -> None:
    answer = both.post("/Patient/$match", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


def test_an_operation_has_its_method(both: httpx.Client, studies: dict[str, Study]) -> None:
    answer = both.post("/Patient/$ihe-pix")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (405, "not-supported")
    assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))
    assert "POST" not in answer.headers["allow"]


@pytest.fixture
def known(store: Store, studies: dict[str, Study]) -> str:
    """A patient with a number of another authority beside the hospital's."""
    patient_id = str(studies[CASE.accession].patient_id)
    with store() as uow:
        patient = uow.patients.get(patient_id)
        number = Identifier(
            value="R-77",
            authority="REGION",
            type="PI",
            universal_id=SITE.removeprefix("urn:oid:"),
            universal_type="ISO",
        )
        uow.patients.save(replace(patient, identifiers=(*patient.identifiers, number)))
    return patient_id


def pix(client: httpx.Client, source: str, *targets: str) -> httpx.Response:
    items = [("sourceIdentifier", source), *(("targetSystem", t) for t in targets)]
    return client.get("/Patient/$ihe-pix", params=items)


def told(answer: httpx.Response, name: str) -> list[Any]:
    assert answer.status_code == 200, answer.text
    found = [p for p in answer.json().get("parameter", []) if p["name"] == name]
    return [next(value for key, value in p.items() if key != "name") for p in found]


def test_the_other_numbers_of_a_patient_are_told(
    both: httpx.Client, known: str, store: Store, studies: dict[str, Study]
) -> None:
    answer = pix(both, f"HOSP|{CASE.mrn}", SITE)
    (identifier,) = told(answer, "targetIdentifier")
    assert (identifier["system"], identifier["value"]) == (SITE, "R-77")
    assert told(answer, "targetId") == [{"reference": f"Patient/{known}"}]
    back = pix(both, f"{SITE}|R-77")
    assert [i["value"] for i in told(back, "targetIdentifier")] == [CASE.mrn]
    # The domain is known, and this patient has no number in it.
    empty = pix(both, f"HOSP|{CASES[1].mrn}", SITE)
    assert told(empty, "targetIdentifier") == told(empty, "targetId") == []
    # After a merge the retired number leads to the survivor and its numbers.
    other = str(studies[CASES[1].accession].patient_id)
    merge_patients(store, other, known)
    merged = pix(both, f"HOSP|{CASES[1].mrn}", SITE)
    assert told(merged, "targetId") == [{"reference": f"Patient/{known}"}]


def test_what_no_number_is_known_of_is_told_as_pixm_says(both: httpx.Client, known: str) -> None:
    for answer, status, code in (
        (pix(both, "urn:oid:1.2.3|1"), 400, "code-invalid"),
        (pix(both, f"HOSP|{CASE.mrn}", "urn:oid:1.2.3"), 403, "code-invalid"),
        (pix(both, "HOSP|404"), 404, "not-found"),
        (pix(both, CASE.mrn), 400, "value"),
        (pix(both, "HOSP|"), 400, "value"),
        (pix(both, "HOSP|\x00"), 400, "value"),
        (both.get("/Patient/$ihe-pix"), 422, "required"),
    ):
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


def test_who_signed_and_who_merged_is_told(
    both: httpx.Client, store: Store, studies: dict[str, Study]
) -> None:
    study, other = studies[CASE.accession], studies[CASES[1].accession]
    for status in ("preliminary", "final"):
        sign_report(
            store,
            CASE.study_uid,
            status=status,
            findings="",
            impression=status,
            author="TESTREADER^RUTH",
        )
    found = both.get(
        "/Provenance", params={"target": f"DiagnosticReport/{study.id}", "_sort": "recorded"}
    ).json()
    first, second = (entry["resource"] for entry in found["entry"])
    assert first["target"][0]["reference"] == f"DiagnosticReport/{study.id}/_history/1"
    assert first["activity"]["coding"][0]["code"] == "CREATE"
    assert second["target"][0]["reference"] == f"DiagnosticReport/{study.id}/_history/2"
    assert second["activity"]["coding"][0]["code"] == "UPDATE"
    assert second["agent"][0]["who"]["display"] == "RUTH TESTREADER"
    target = both.get(f"/{second['target'][0]['reference']}").json()
    assert (target["status"], target["issued"]) == ("final", second["recorded"])

    change = merge_patients(store, str(study.patient_id), str(other.patient_id))
    (entry,) = both.get("/Provenance", params={"target": f"Patient/{study.patient_id}"}).json()[
        "entry"
    ]
    merge = entry["resource"]
    assert merge == both.get(f"/Provenance/merge-{change}").json()
    assert [t["reference"] for t in merge["target"]] == [
        f"Patient/{other.patient_id}",
        f"Patient/{study.patient_id}",
    ]
    assert merge["activity"]["coding"][0]["code"] == "merge"
    assert merge["agent"][0]["who"]["display"] == "EMR|HOSP"
    for absent in ("unmerge-1", "merge-0", "merge-x", "report-x", "x", "merge-" + "9" * 30):
        assert both.get(f"/Provenance/{absent}").status_code == 404, absent
