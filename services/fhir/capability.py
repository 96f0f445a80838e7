"""The CapabilityStatement, made from the rows that the router is made from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from services.fhir.codes import validated
from services.fhir.parameters import Parameter
from services.fhir.search import RESULT_PARAMETERS
from services.fhir.served import Operation, Resource, Served
from services.fhir.versions import Version

_OF_EVERY_TYPE: Final = {
    "_count": "number",
    "_sort": "string",
    "_include": "string",
    "_summary": "token",
    "_elements": "string",
    "_total": "token",
}
"""Those of `RESULT_PARAMETERS` that are listed with their types; the others shape the text."""

_DATE: Final = "2026-11-24"


def capability_statement(table: Sequence[Served], base: str, spoken: Version) -> Resource:
    """Return what this interface can do."""
    return validated(
        {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": _DATE,
            "kind": "instance",
            "software": {"name": "Spinecho", "version": _version()},
            "implementation": {"description": "Spinecho", "url": base},
            "fhirVersion": spoken.number,
            "format": ["json"],
            "rest": [
                {
                    "mode": "server",
                    "documentation": (
                        "A search parameter that is not served is an error unless the client "
                        "prefers handling=lenient. Searches are also taken as POST to _search. "
                        "Served with each of them: " + ", ".join(RESULT_PARAMETERS) + "."
                    ),
                    "resource": [_resource(row) for row in table],
                    "interaction": [{"code": "transaction"}],
                    "searchParam": [
                        {"name": name, "type": kind} for name, kind in _OF_EVERY_TYPE.items()
                    ],
                }
            ],
        },
        spoken,
    )


def _resource(row: Served) -> dict[str, Any]:
    interactions = ["read", *(["vread"] if row.vread else []), *row.writes, "search-type"]
    told: dict[str, Any] = {
        "type": row.kind,
        "interaction": [{"code": code} for code in interactions],
        "versioning": "versioned" if row.vread else "no-version",
        "conditionalRead": "full-support",
        "searchParam": [_parameter(name, p) for name, p in row.search.parameters.items()],
    }
    if row.writes:
        told |= {"conditionalCreate": True, "conditionalUpdate": True}
    if row.documentation:
        told["documentation"] = row.documentation
    if row.search.includes:
        told["searchInclude"] = [f"{row.kind}:{name}" for name in row.search.includes]
    if row.operations:
        told["operation"] = [_operation(operation) for operation in row.operations]
    return told


def _parameter(name: str, parameter: Parameter) -> dict[str, Any]:
    told = {"name": name, "type": parameter.type}
    sayings = ["Not one of the specification."] if parameter.own else []
    others = [form for form in parameter.forms(name) if form != name]
    if others:
        sayings.append(f"Also {', '.join(others)}.")
    if sayings:
        told["documentation"] = " ".join(sayings)
    return told


def _operation(operation: Operation) -> dict[str, Any]:
    return {"name": operation.name, "definition": operation.definition}


def _version() -> str:
    try:
        return version("spinecho")
    except PackageNotFoundError:
        return "0"
