"""What a request is found by: the patients' and the orders' numbers that its body names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from services.fhir.codes import ACCESSION as ACCESSION_TYPE
from services.fhir.identifiers import of_type
from services.hl7.references import ACCESSION, MRN, Reference

_MOST: Final = 32
"""More numbers than any real request names; a hostile one must not fill the index."""


def references(body: bytes) -> list[Reference]:
    """Return the numbers of every Patient, subject and order in a body, without repetition."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return list(dict.fromkeys(_named(parsed, 0)))[:_MOST]


def _named(value: Any, depth: int) -> Iterator[Reference]:
    if depth > 64:
        return
    if isinstance(value, list):
        for inner in value:
            yield from _named(inner, depth + 1)
    elif isinstance(value, dict):
        if value.get("resourceType") == "Patient":
            yield from ((MRN, number) for number in _numbers(value.get("identifier")))
        elif value.get("resourceType") == "ServiceRequest":
            subject = value.get("subject")
            if isinstance(subject, dict):
                yield from ((MRN, number) for number in _numbers([subject.get("identifier")]))
            yield from ((ACCESSION, number) for number in _accessions(value.get("identifier")))
        for inner in value.values():
            yield from _named(inner, depth + 1)


def _numbers(identifiers: Any) -> Iterator[str]:
    for one in identifiers if isinstance(identifiers, list) else []:
        if isinstance(one, dict) and isinstance(one.get("value"), str):
            yield one["value"]


def _accessions(identifiers: Any) -> list[str]:
    try:
        return [str(one["value"]) for one in of_type(identifiers, ACCESSION_TYPE)]
    except (AttributeError, TypeError, KeyError):
        return []  # of what was refused anything may be wrong
