"""Every resource that we emit, held against FHIR by validators that share no code with ours.

`fhirkit` knows the structure of R4: elements, cardinalities, types, primitives. It knows no R5;
there the models of `fhir.resources` are asked. The invariants that touch what we build are checked
here, by their key in the specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import fhirkit
import httpx
import pytest
from pydantic import ValidationError

from models.study import Study
from services.database.store import Store
from services.fhir.versions import R4, Version
from services.workflow.reporting import sign_report, signable
from tests.fhir.conftest import merge_patients
from tests.web.department import CASES

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
    references = {part["reference"] for _, part in parts(resource) if "reference" in part}
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


def test_everything_that_is_served_is_valid(
    both: httpx.Client, store: Store, studies: dict[str, Study], version: Version
) -> None:
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
    first, second = (studies[c.accession].patient_id for c in CASES[:2])
    merge_patients(store, str(first), str(second))
    asked = ["/metadata", "/Nothing", "/Patient/absent", "/Patient?bogus=1"]
    seen: dict[str, int] = {}
    for kind in ("DiagnosticReport", "ImagingStudy", "Patient", "Endpoint", "Provenance"):
        found = both.get(f"/{kind}?_count=100")
        assert found.status_code == 200
        entries = found.json()["entry"]
        asked += [f"/{kind}?_elements=id", f"/{kind}?_summary=data"]
        asked += [f"/{kind}?_count=100", f"/{kind}?_count=1", f"/{kind}?_count=0"]
        asked += [f"/{kind}/{entry['resource']['id']}" for entry in entries]
        seen[kind] = len(entries)
    assert all(seen.values()), seen
    for url in asked:
        answer = both.get(url)
        assert problems(answer.text, version) == [], url


def fhir_may_sign(store: Store, study: Study) -> list[str]:
    with store() as uow:
        reports = uow.reports.of_study(study.id)
        state = uow.studies.get(study.id).state
    return [s.value for s in signable(state, reports[-1].status if reports else None)]
