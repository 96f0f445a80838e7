"""Orders over FHIR: the same order as over HL7, written back, and bad input that leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from models.lifecycle import StudyEvent
from services.database.messages import Wanted
from services.database.store import Store
from services.fhir.api import fhir_app
from services.fhir.versions import R4, VERSIONS, Version
from services.settings import Settings
from services.web.app import create_app
from services.workflow.messages import receive_message
from services.workflow.reapplying import apply_again, repeatable, reseal
from tests.conftest import CORPORA
from tests.fhir.orders import (
    FHIR_JSON,
    PATIENT,
    PLACER,
    SYSTEMS,
    entry,
    full,
    in_r5,
    number,
    order,
    transaction,
)
from tests.fhir.test_validator import problems
from tests.hl7.orders import orm
from tests.web.serving import serving


@pytest.fixture
def at_home(settings: Settings) -> Settings:
    """Settings of a site that has told what its systems are called."""
    return settings.model_copy(update={"fhir_systems": SYSTEMS, "fhir_max_bytes": 1024 * 1024})


@pytest.fixture
def served(at_home: Settings, store: Store) -> Iterator[str]:
    mounts = {v.path: fhir_app(store, settings=at_home, version=v) for v in VERSIONS}
    with serving(create_app(at_home, store, mounts=mounts)) as url:
        yield url


@pytest.fixture
def fhir(served: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served + R4.path, timeout=60, headers=FHIR_JSON) as client:
        yield client


@pytest.fixture
def known(fhir: httpx.Client) -> str:
    """The id of a patient who is known."""
    answer = fhir.post("/Patient", json=PATIENT)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def worklist(store: Store) -> list[dict[str, Any]]:
    with store() as uow:
        return [row._asdict() for row in uow.orders.worklist()]


def counted(store: Store) -> dict[str, int]:
    """Rows of everything that a request may write but the message log."""
    tables = ("patient", "imaging_order", "scheduled_step", "study", "fhir_resource", "outbox")
    with store.engine.connect() as connection:
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in tables
        }


def refused(answer: httpx.Response, status: int, code: str, expression: str | None = None) -> None:
    """It is an OperationOutcome that says what and where, and an independent validator takes it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/fhir+json")
    told = answer.json()
    assert told["resourceType"] == "OperationOutcome"
    assert code in [issue["code"] for issue in told["issue"]], told
    assert all(issue["diagnostics"] for issue in told["issue"])
    if expression is not None:
        assert expression in [e for i in told["issue"] for e in i.get("expression", [])], told
    assert problems(answer.text) == []


def test_an_order_of_a_known_patient_is_on_the_worklist(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    answer = fhir.post("/ServiceRequest", json=order(subject={"reference": f"Patient/{known}"}))
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert problems(answer.text) == []
    (item,) = worklist(store)
    assert item["imaging_order_id"] == told["id"]
    assert item["imaging_order_placer_number"] == "P100"
    assert item["imaging_order_reason"] == "Acute severe headache"
    assert item["patient_family"] == "DOE"
    assert answer.headers["location"].endswith(f"/ServiceRequest/{told['id']}/_history/1")
    assert answer.headers["etag"] == 'W/"1"'
    given = {i["type"]["coding"][0]["code"]: i["value"] for i in told["identifier"] if "type" in i}
    assert given["ACSN"] == item["imaging_order_accession"]
    assert fhir.get(answer.headers["location"]).json() == told


def test_the_same_order_again_has_no_second_effect(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    first = fhir.post("/ServiceRequest", json=order())
    assert first.status_code == 201
    before = counted(store)
    again = fhir.post("/ServiceRequest", json=order())
    assert (again.status_code, again.json()) == (200, first.json())
    assert counted(store) == before
    other = fhir.post("/ServiceRequest", json=order(priority="routine"))
    refused(other, 409, "duplicate", "ServiceRequest.identifier")
    assert counted(store) == before


def test_two_who_send_the_same_at_once_make_one_order(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(fhir.post, "/ServiceRequest", json=order()) for _ in range(8)]
        answers = [one.result() for one in sent]
    assert sorted(a.status_code for a in answers) == [200] * 7 + [201]
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(worklist(store)) == 1


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
def test_hl7_and_fhir_make_the_same_order(
    served: str, store: Store, at_home: Settings, version: Version
) -> None:
    bundle = full() if version is R4 else in_r5(full())
    answer = httpx.post(f"{served}{version.path}/", json=bundle, headers=FHIR_JSON, timeout=60)
    assert answer.status_code == 200, answer.text
    by_fhir = worklist(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE patient, imaging_order, study, message_log CASCADE")
    raw = orm().replace(b"|||WALK|", b"||||")  # FHIR has no element for it
    assert receive_message(store, raw, peer="test", settings=at_home).code == "AA"
    by_hl7 = worklist(store)
    ours = {"imaging_order_id", "imaging_order_patient_id", "patient_id", "scheduled_step_order_id"}
    times = {"imaging_order_placed_at", "patient_updated_at", "imaging_order_sender"}
    differing = {
        (name, str(a[name]), str(b[name]))
        for a, b in zip(by_fhir, by_hl7, strict=True)
        for name in a
        if a[name] != b[name] and name not in ours | times
    }
    assert differing == set()


def test_a_transaction_is_kept_with_its_references_resolved(
    fhir: httpx.Client, store: Store
) -> None:
    answer = fhir.post("/", json=full())
    assert answer.status_code == 200, answer.text
    assert problems(answer.text) == []
    told = answer.json()["entry"]
    assert [e["response"]["status"] for e in told] == ["201 Created"] * len(full()["entry"])
    for one, sent in zip(told, full()["entry"], strict=True):
        location = one["response"]["location"].partition("/_history")[0]
        found = fhir.get(f"/{location}")
        assert found.status_code == 200, location
        assert problems(found.text) == [], location
        assert "urn:uuid" not in found.text
        if sent["resource"]["resourceType"] in {"Practitioner", "Location", "Encounter"}:
            assert _said(found.json()).keys() == _said(sent["resource"]).keys()
    request = fhir.get("/ServiceRequest?identifier=P100").json()["entry"][0]["resource"]
    for reference in (request["subject"], request["encounter"], request["requester"]):
        assert fhir.get(f"/{reference['reference']}").status_code == 200
    (task,) = fhir.get(f"/Task?focus=ServiceRequest/{request['id']}").json()["entry"]
    assert task["resource"]["status"] == "accepted"
    before = counted(store)
    again = fhir.post("/", json=full())
    assert again.status_code == 200, again.text
    statuses = {e["response"]["status"] for e in again.json()["entry"]}
    assert counted(store)["imaging_order"] == before["imaging_order"]
    assert statuses == {"200 OK"}
    assert counted(store) == before


def _said(resource: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in resource.items() if k not in {"id", "meta"}}


def test_nothing_of_a_transaction_stays_when_one_entry_is_wrong(
    fhir: httpx.Client, store: Store
) -> None:
    before = counted(store)
    bundle = full()
    bundle["entry"][1]["resource"]["identifier"][2]["value"] = "A" * 17
    refused(fhir.post("/", json=bundle), 422, "too-long", "Bundle.entry[1].resource.identifier")
    assert counted(store) == before
    bundle = full()
    bundle["entry"].append(entry(order(subject={"reference": "urn:uuid:nobody"})))
    refused(fhir.post("/", json=bundle), 422, "not-found", "Bundle.entry[13].resource.subject")
    assert counted(store) == before
    with store() as uow:
        kept = uow.messages.opened(Wanted(protocol="fhir"))
    assert [(m.state, m.direction, m.type) for m in kept] == [("refused", "in", "POST Bundle")] * 2
    assert kept[0].raw.startswith(b"POST http")
    assert json.loads(kept[0].raw.partition(b"\r\n\r\n")[2]) == bundle
    assert kept[0].ack_code == "422"


def test_what_came_is_sealed_and_found_by_its_numbers(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    fhir.post("/ServiceRequest", json=order())
    with store() as uow:
        (message, *_) = uow.messages.opened(Wanted(references=[("mrn", "0012345")]))
        raw = store.engine.connect()
        with raw:
            sealed = raw.execute(
                text("SELECT raw FROM message_log WHERE id = :i"), {"i": message.id}
            ).scalar_one()
    assert b"MRBRWO" in message.raw
    assert b"MRBRWO" not in bytes(sealed)
    assert message.study_id == worklist(store)[0]["imaging_order_id"] or message.study_id


def test_a_refused_request_is_applied_again_once_what_barred_it_is_gone(
    fhir: httpx.Client, store: Store, at_home: Settings
) -> None:
    refused(fhir.post("/ServiceRequest", json=order()), 422, "not-found", "ServiceRequest.subject")
    assert fhir.post("/Patient", json=PATIENT).status_code == 201
    (row,) = repeatable(store, Wanted(states=["refused"]), 10)
    again = apply_again(store, row.id, settings=at_home)
    assert again.code == "201"
    assert len(worklist(store)) == 1
    with store() as uow:
        assert uow.messages.get(again.message_id).attempt_of == row.id
    assert repeatable(store, Wanted(states=["refused"]), 10) == []


def test_a_request_is_found_by_the_same_numbers_under_a_new_key(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    fhir.post("/ServiceRequest", json=order(subject={"reference": f"Patient/{known}"}))
    (item,) = worklist(store)
    wanted = [("mrn", "0012345"), ("accession", item["imaging_order_accession"])]

    def found() -> list[int]:
        with store() as uow:
            return [row.id for row in uow.messages.search(Wanted(references=wanted))]

    before = found()
    assert len(before) == 1
    store.keys.rotate()
    assert reseal(store) > 0
    assert found() == before


def test_the_base_is_asked_with_a_slash_and_without(served: str, store: Store) -> None:
    for base in (f"{served}{R4.path}", f"{served}{R4.path}/"):
        answer = httpx.post(base, json=transaction(entry(PATIENT)), headers=FHIR_JSON)
        assert answer.status_code == 200, answer.text


def test_a_condition_creates_once(fhir: httpx.Client, store: Store, known: str) -> None:
    condition = {"If-None-Exist": f"identifier={PLACER}|P100"}
    first = fhir.post("/ServiceRequest", json=order(), headers=condition)
    assert first.status_code == 201, first.text
    # Whatever it says: one that is there is enough.
    again = fhir.post("/ServiceRequest", json=order(priority="routine"), headers=condition)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert again.json()["priority"] == "stat"
    fhir.post(
        "/ServiceRequest",
        json=order(
            identifier=[
                number("PLAC", "P100", PLACER),
                {"type": {"text": "Requested Procedure ID"}, "value": "RP2"},
            ]
        ),
    )
    assert len(worklist(store)) == 2
    refused(fhir.post("/ServiceRequest", json=order(), headers=condition), 412, "multiple-matches")
    odd = {"If-None-Exist": "status=active"}
    refused(fhir.post("/ServiceRequest", json=order(), headers=odd), 400, "not-supported")


def test_an_update_changes_holds_releases_and_cancels(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    told = fhir.post("/ServiceRequest", json=order()).json()
    url, accession = f"/ServiceRequest/{told['id']}", worklist(store)[0]["imaging_order_accession"]

    def put(tag: str, **changes: Any) -> httpx.Response:
        return fhir.put(url, json=order(id=told["id"], **changes), headers={"If-Match": tag})

    changed = put('W/"1"', priority="routine", reasonCode=None)
    assert changed.status_code == 200, changed.text
    assert changed.headers["etag"] == 'W/"2"'
    (item,) = worklist(store)
    assert (item["imaging_order_accession"], item["imaging_order_reason"]) == (accession, "")
    refused(put('W/"1"', status="revoked"), 412, "conflict")
    assert put('W/"2"', status="on-hold", priority="routine", reasonCode=None).status_code == 200
    assert worklist(store) == []
    assert fhir.get(url).json()["status"] == "on-hold"
    held = fhir.get(url).headers["etag"]
    assert put(held, priority="routine", reasonCode=None).status_code == 200
    assert len(worklist(store)) == 1
    now = fhir.get(url).headers["etag"]
    assert put(now, status="revoked", priority="routine", reasonCode=None).status_code == 200
    assert worklist(store) == []
    ended = fhir.get(url)
    assert ended.json()["status"] == "revoked"
    refused(put(ended.headers["etag"], priority="stat"), 409, "business-rule")
    refused(put("*", status="draft"), 412, "conflict")


def test_what_becomes_of_an_order_is_written_back(
    fhir: httpx.Client, store: Store, known: str
) -> None:
    told = fhir.post("/ServiceRequest", json=order()).json()
    url = f"/ServiceRequest/{told['id']}"
    assert fhir.get(url).headers["etag"] == 'W/"1"'
    with store() as uow:
        study = uow.studies.find(uow.orders.get(told["id"]).study_uid, lock=True)
        assert study is not None
        uow.studies.move(study, StudyEvent.CANCELLED)
    now = fhir.get(url)
    assert (now.json()["status"], now.headers["etag"]) == ("revoked", 'W/"2"')
    unchanged = fhir.get(url, headers={"If-None-Match": 'W/"2"'})
    assert unchanged.status_code == 304


def test_an_order_that_came_over_hl7_is_shown_too(
    fhir: httpx.Client, store: Store, at_home: Settings, served: str
) -> None:
    receive_message(store, orm(), peer="test", settings=at_home)
    for version in VERSIONS:
        with httpx.Client(base_url=served + version.path) as client:
            (found,) = client.get("/ServiceRequest?identifier=P100").json()["entry"]
            told = client.get(f"/ServiceRequest/{found['resource']['id']}").text
            assert problems(told, version) == []
            (task,) = client.get("/Task?identifier=SPS1").json()["entry"]
    assert found["resource"]["code"]["concept"]["coding"][0]["code"] == "MRBRWO"
    assert task["resource"]["focus"]["reference"].endswith(found["resource"]["id"])


DCM_CT = [{"coding": [{"system": "http://snomed.info/sct", "code": "108252007"}]}]


@pytest.mark.parametrize(
    ("changes", "status", "code", "expression"),
    [
        ({"status": "bogus"}, 422, "code-invalid", "ServiceRequest.status"),
        ({"status": None}, 422, "required", "ServiceRequest.status"),
        ({"priority": "now"}, 422, "code-invalid", "ServiceRequest.priority"),
        ({"subject": "Patient/1"}, 422, "value", "ServiceRequest.subject"),
        ({"colour": "blue"}, 422, "structure", "ServiceRequest.colour"),
        ({"subject": None}, 422, "required", "ServiceRequest.subject"),
        ({"occurrenceDateTime": "tomorrow"}, 422, "value", "ServiceRequest.occurrenceDateTime"),
        ({"subject": {"reference": "Patient/x"}}, 422, "not-found", "ServiceRequest.subject"),
        ({"subject": {"display": "Jane"}}, 422, "not-found", "ServiceRequest.subject"),
        ({"requester": {"reference": "Practitioner/x"}}, 422, "not-found", None),
        ({"requester": {"reference": "#x"}}, 422, "not-found", "ServiceRequest.requester"),
        ({"identifier": None}, 422, "required", "ServiceRequest.identifier"),
        ({"code": None}, 422, "required", "ServiceRequest.code"),
        ({"status": "draft"}, 422, "business-rule", "ServiceRequest.status"),
        ({"status": "completed"}, 422, "business-rule", "ServiceRequest.status"),
        ({"intent": "plan"}, 422, "business-rule", "ServiceRequest.intent"),
        ({"doNotPerform": True}, 422, "business-rule", "ServiceRequest.doNotPerform"),
        ({"category": DCM_CT}, 422, "not-supported", "ServiceRequest.category"),
        ({"code": {"text": "a\x00b"}}, 400, "structure", None),
        ({"code": {"text": "\ud800"}}, 400, "structure", None),
        ({"resourceType": "Patient"}, 400, "value", None),
    ],
)
def test_a_wrong_order_is_refused_with_its_place(
    fhir: httpx.Client,
    store: Store,
    known: str,
    changes: dict[str, Any],
    status: int,
    code: str,
    expression: str | None,
) -> None:
    before = counted(store)
    body = json.dumps(order(**changes))
    refused(fhir.post("/ServiceRequest", content=body), status, code, expression)
    assert counted(store) == before


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/fhir+json", 400, "structure"),
        (b"", "application/fhir+json", 400, "structure"),
        (b"[]", "application/fhir+json", 400, "structure"),
        (b'{"a": NaN}', "application/fhir+json", 400, "structure"),
        (b'{"a": 1, "a": 2}', "application/fhir+json", 400, "structure"),
        (b"[" * 100_000, "application/fhir+json", 400, "structure"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "application/fhir+json", 400, "structure"),
        (b"\xff\xfe", "application/fhir+json", 400, "structure"),
        (b"<ServiceRequest/>", "application/fhir+xml", 415, "not-supported"),
        (b"{}", "application/fhir+json; fhirVersion=5.0", 415, "not-supported"),
        (b" " * (1024 * 1024 + 1), "application/fhir+json", 413, "too-long"),
    ],
)
def test_what_is_no_resource_is_refused(
    fhir: httpx.Client, store: Store, body: bytes, kind: str, status: int, code: str
) -> None:
    before = counted(store)
    answer = fhir.post("/ServiceRequest", content=body, headers={"Content-Type": kind})
    refused(answer, status, code)
    assert counted(store) == before


@pytest.mark.parametrize(
    ("bundle", "status", "code"),
    [
        ({"resourceType": "Bundle", "type": "batch"}, 422, "not-supported"),
        ({"resourceType": "Bundle"}, 422, "required"),
        ({"resourceType": "Bundle", "type": "transaction", "entry": {}}, 422, "value"),
        ({"resourceType": "Bundle", "type": "transaction", "entry": [1]}, 422, "value"),
        (transaction(entry(PATIENT, method="DELETE")), 422, "not-supported"),
        (transaction(entry(PATIENT, url="Observation")), 422, "value"),
        (
            transaction(entry({"resourceType": "Basic", "code": {"text": "x"}})),
            422,
            "not-supported",
        ),
        (transaction(*[entry(PATIENT, "urn:uuid:1")] * 2), 422, "invariant"),
        (
            transaction(
                entry(
                    {
                        "resourceType": "Task",
                        "status": "requested",
                        "intent": "order",
                        "focus": {"reference": "ServiceRequest/lipid"},
                    }
                )
            ),
            422,
            "not-found",
        ),
    ],
)
def test_a_wrong_bundle_is_refused_whole(
    fhir: httpx.Client, store: Store, bundle: dict[str, Any], status: int, code: str
) -> None:
    before = counted(store)
    refused(fhir.post("/", json=bundle), status, code)
    assert counted(store) == before


def test_a_resource_that_is_not_there_is_not_updated(fhir: httpx.Client, known: str) -> None:
    refused(fhir.put("/ServiceRequest/none", json=order(id="none")), 405, "not-supported")
    refused(fhir.put("/ServiceRequest/a", json=order(id="b")), 400, "value")
    assert fhir.get("/ServiceRequest/none").status_code == 404
    assert fhir.get("/Task/none").status_code == 404
    assert fhir.get("/ServiceRequest?colour=blue").status_code == 400
    lenient = fhir.get("/ServiceRequest?colour=blue", headers={"Prefer": "handling=lenient"})
    assert lenient.status_code == 200


EXAMPLES = sorted((CORPORA / "fhir").glob("R*/*.json"))


@pytest.mark.skipif(not EXAMPLES, reason="the corpora are not beside this checkout")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_public_example_is_stored_or_refused_with_a_reason(
    served: str, store: Store, path: Path
) -> None:
    resource = json.loads(path.read_text())
    version = next(v for v in VERSIONS if v.name == path.parent.name)
    before = counted(store)
    url = f"{served}{version.path}/{resource['resourceType']}"
    answer = httpx.post(url, json=resource, headers=FHIR_JSON, timeout=60)
    if answer.status_code >= 400:
        issues = answer.json()["issue"]
        assert all(issue["diagnostics"] for issue in issues)
        assert counted(store) == before
        return
    assert answer.status_code == 201, answer.text
    assert problems(answer.text, version) == []
    told = answer.json()
    for name in set(resource) - {"id", "meta", "text", "status", "identifier"}:
        assert told[name] == resource[name], name
