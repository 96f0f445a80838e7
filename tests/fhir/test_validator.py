"""Every resource that we emit, held against FHIR by validators that share no code with ours.

`fhirkit` knows the structure of R4: elements, cardinalities, types, primitives. It knows no R5;
there the models of `fhir.resources` are asked. The invariants that touch what we build are checked
here, by their key in the specification.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import fhirkit
import httpx
import pytest
from pydantic import ValidationError

from models.study import Study
from services.database.store import Store
from services.fhir.versions import R4, R5, Version
from services.workflow.reporting import sign_report, signable
from tests.fhir.conftest import merge_patients
from tests.fhir.orders import FHIR_JSON, everything_taken
from tests.web.department import CASES

PEERS = Path(__file__).parents[1] / "peers"

_XHTML = '<div xmlns="http://www.w3.org/1999/xhtml">'


def parts(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk over every element that has elements."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from parts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from parts(inner, f"{path}[{number}]")


def problems(body: str, version: Version = R4) -> list[str]:
    """Return everything that is wrong with a resource and with what it carries."""
    if version is R4:
        found = [f"{issue.path}: {issue.message}" for issue in fhirkit.validate(body)]
    else:
        found = list(broken_structure(json.loads(body), version))
    for path, part in parts(json.loads(body)):
        if "resourceType" in part:
            is_contained = ".contained[" in path
            broken = broken_invariants(part, is_contained=is_contained)
            found += [f"{path}: {problem}" for problem in broken]
        if "code" in part and "value" in part and "unit" in part and "system" not in part:
            found.append(f"{path}: qty-3, a code without a system")
        if not part:
            found.append(f"{path}: ele-1, an element without content")
        if any(value == "" for value in part.values()):
            found.append(f"{path}: an empty string is no value")
    return found


def broken_structure(resource: dict[str, Any], version: Version) -> Iterator[str]:
    for path, part in parts(resource):
        if "resourceType" in part:
            kind = part["resourceType"]
            model = getattr(import_module(f"{version.models}.{kind.lower()}"), kind)
            try:
                model.model_validate(part)
            except ValidationError as error:
                yield f"{path}: {error}"


def broken_invariants(resource: dict[str, Any], *, is_contained: bool) -> Iterator[str]:
    kind, contained = resource["resourceType"], resource.get("contained", [])
    if not re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", resource.get("id", "none")):
        yield "id has a character that an id may not have"
    inside = {f"#{inner['id']}" for inner in contained}
    # In R5 the element of this name may be a whole Reference.
    said = (part.get("reference") for _, part in parts(resource))
    references = {reference for reference in said if isinstance(reference, str)}
    nowhere = {r for r in references if r.startswith("#")} - inside
    if nowhere and not is_contained and kind != "Bundle":
        yield f"ref-1, nothing is contained for {nowhere}"
    if inside - references:
        yield f"dom-3, contained and never referred to: {inside - references}"
    if is_contained and ("contained" in resource or "versionId" in resource.get("meta", {})):
        yield "dom-2 or dom-4, a contained resource contains nothing and has no version"
    narrative = resource.get("text", {}).get("div", _XHTML)
    if not narrative.startswith(_XHTML) or "<script" in narrative:
        yield "txt-1, the narrative is no plain XHTML"
    if kind == "Observation" and "dataAbsentReason" in resource:
        yield from (f"obs-6, an absent {key}" for key in resource if key.startswith("value"))
    urls = [entry["fullUrl"] for entry in resource.get("entry", []) if "fullUrl" in entry]
    if kind == "Bundle" and len(set(urls)) < len(urls):
        yield "bdl-7, the same fullUrl twice"


@pytest.mark.parametrize(
    "broken",
    [
        {"resourceType": "DiagnosticReport", "code": {"text": "no status"}},
        {"resourceType": "Patient", "birthDate": "19800214"},
        {"resourceType": "Patient", "surname": "DOE"},
        {"resourceType": "Patient", "name": {"family": "DOE"}},
        {"resourceType": "Patient", "id": "a b"},
        {"resourceType": "Patient", "contained": [{"resourceType": "Device", "id": "d"}]},
        {"resourceType": "Patient", "name": [{"family": ""}]},
        {"resourceType": "Patient", "generalPractitioner": [{"reference": "#nobody"}]},
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "x"},
            "valueString": "x",
            "dataAbsentReason": {"text": "x"},
        },
    ],
)
def test_what_is_wrong_is_found(broken: dict[str, Any]) -> None:
    assert problems(json.dumps(broken))


@pytest.fixture
def emitted(
    both: httpx.Client, store: Store, studies: dict[str, Study], version: Version
) -> list[str]:
    """Everything that is served, in every form, as it is sent."""
    with store() as uow:
        uow.studies.ensure("1.2.3.4.5", state=next(iter(studies.values())).state)  # of nobody
    for number, study in enumerate(studies.values()):
        for status in ("preliminary", "final", "corrected")[: number % 3 + 1]:
            if status in fhir_may_sign(store, study):
                sign_report(
                    store,
                    study.study_uid,
                    status=status,
                    findings="Ventricles <enlarged> & more.\n\nSecond." if number % 2 else "",
                    impression="Hydrocephalus.",
                    author="TESTREADER^RUTH" if number % 2 else "Ruth Testreader",
                )
    first, second = (str(studies[c.accession].patient_id) for c in CASES[:2])
    merge_patients(store, first, second)
    sent = both.post("/", json=everything_taken(version), headers=FHIR_JSON)
    assert sent.status_code == 200, sent.text
    told = [sent.text]
    for url in ("/metadata", "/Nothing", "/Patient/absent", "/Patient?bogus=1"):
        told.append(both.get(url).text)
    for row in both.get("/metadata").json()["rest"][0]["resource"]:
        kind = row["type"]
        found = both.get(f"/{kind}?_count=100")
        assert found.json()["entry"], kind
        told += [both.get(f"/{kind}?{q}").text for q in ("_elements=id", "_summary=data")]
        told += [found.text, *(both.get(f"/{kind}?_count={n}").text for n in (0, 1))]
        for entry in found.json()["entry"]:
            told.append(both.get(f"/{kind}/{entry['resource']['id']}").text)
    patient = both.get(f"/Patient/{second}").json()
    told.append(both.post("/Patient/$match", json=patient).text)
    pix = {"sourceIdentifier": f"HOSP|{CASES[0].mrn}"}
    told.append(both.get("/Patient/$ihe-pix", params=pix).text)
    return told


def test_everything_that_is_served_is_valid(emitted: list[str], version: Version) -> None:
    for text in emitted:
        assert problems(text, version) == [], text[:300]


@pytest.mark.parametrize("version", [R4], indirect=True, ids=["R4"])
def test_everything_is_valid_for_the_fhir_package_of_npm(emitted: list[str]) -> None:
    if not (PEERS / "node_modules" / "fhir").is_dir():
        pytest.skip("npm's fhir is not installed: make test asks npm for it")
    broken = {"resourceType": "Patient", "gender": "none", "surname": "DOE"}
    asked = [broken, *(json.loads(text) for text in emitted)]
    ran = subprocess.run(
        [Path(sys.executable).with_name("node"), PEERS / "validate.mjs"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    of_broken, *found = json.loads(ran.stdout)
    assert len(of_broken) == 2
    for text, wrong in zip(emitted, found, strict=True):
        assert wrong == [], text[:300]


@pytest.mark.parametrize("version", [R5], indirect=True, ids=["R5"])
def test_everything_is_valid_for_the_types_of_fhirpy(emitted: list[str]) -> None:
    types = pytest.importorskip("fhirpy_types_r5")
    with pytest.raises(ValidationError):
        types.Patient.model_validate({"resourceType": "Patient", "surname": "DOE"})
    for text in emitted:
        for _, part in parts(json.loads(text)):
            if "resourceType" in part:
                # Each by its own type, for a list of any resources is not looked into.
                bare = {k: v for k, v in part.items() if k not in {"contained", "entry"}}
                getattr(types, part["resourceType"]).model_validate(bare)


def fhir_may_sign(store: Store, study: Study) -> list[str]:
    with store() as uow:
        reports = uow.reports.of_study(study.id)
        state = uow.studies.get(study.id).state
    return [s.value for s in signable(state, reports[-1].status if reports else None)]
