"""Searches among many studies: what PostgreSQL does for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from benchmarks.fhir import fill, patient_id
from services.database.store import Store
from services.fhir import patients, search, studies
from services.fhir.versions import R4

MANY = 20_000
LARGE = {"study", "series", "instance", "patient", "patient_identifier"}


@pytest.fixture
def filled(store: Store) -> Store:
    with store() as uow:
        fill(uow.connection, MANY)
    with store.engine.connect() as connection:
        for table in sorted(LARGE):
            connection.execute(text(f"ANALYZE {table}"))
        connection.commit()
    return store


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("ImagingStudy", [("patient", f"Patient/{patient_id(77)}")]),
        ("ImagingStudy", [("patient.identifier", "HOSP|0000077")]),
        ("ImagingStudy", [("patient.identifier", "0000077"), ("modality", "MR")]),
        ("ImagingStudy", [("patient", patient_id(77)), ("status", "available")]),
        ("ImagingStudy", [("identifier", "urn:dicom:uid|urn:oid:2.25.77")]),
        ("ImagingStudy", [("identifier", "A77")]),
        ("ImagingStudy", [("accession", "A77,A78")]),
        ("ImagingStudy", [("series", "2.25.77.1")]),
        ("ImagingStudy", [("instance", "2.25.77.1.1")]),
        ("ImagingStudy", [("started", "2020-01-01T00:01")]),
        ("ImagingStudy", [("_lastUpdated", "2020-01-01T00:01"), ("_sort", "_lastUpdated")]),
        ("ImagingStudy", [("_total", "none")]),
        ("ImagingStudy", [("_total", "none"), ("_sort", "-_lastUpdated"), ("_after", "")]),
        ("Patient", [("identifier", "HOSP|0000077")]),
        ("Patient", [("identifier", "0000077")]),
        ("Patient", [("_total", "none"), ("_sort", "_lastUpdated")]),
    ],
)
def test_an_index_is_used(filled: Store, kind: str, query: list[tuple[str, str]]) -> None:
    searched = {"ImagingStudy": studies.served(R4), "Patient": patients.served()}[kind].search
    plans: list[dict[str, Any]] = []

    def explain(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
        plans.extend(plan["Plan"] for plan in cursor.fetchone()[0])

    asked = search.parse(kind, searched, query, lenient=False)
    with filled() as uow:
        event.listen(uow.connection, "before_cursor_execute", explain)
        found = search.page(uow, searched, asked)
        if query[-1] == ("_after", ""):
            assert found.after is not None
            plans.clear()
            again = [*query[:-1], ("_after", found.after)]
            found = search.page(uow, searched, search.parse(kind, searched, again, lenient=False))
    assert found.ids
    assert plans
    for node in (node for plan in plans for node in _nodes(plan)):
        scanned = node.get("Relation Name") if node["Node Type"] == "Seq Scan" else None
        assert scanned not in LARGE, json.dumps(plans)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
