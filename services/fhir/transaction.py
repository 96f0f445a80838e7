"""A transaction Bundle, or one request as a transaction of one entry, before it is applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from services.fhir.incoming import checked
from services.fhir.refusal import refusal

Resource = dict[str, Any]

KEPT: Final = (
    *("Practitioner", "PractitionerRole", "Organization", "Location", "Encounter", "Device"),
    *("Condition", "AllergyIntolerance", "Observation", "Flag"),
)
"""What an order refers to: kept as it came, so that references to it lead somewhere."""
TAKEN: Final = ("Patient", "ServiceRequest", "Task", *KEPT)
MOST_ENTRIES: Final = 1000
_URL: Final = re.compile(r"([A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.+))?")


@dataclass(slots=True, kw_only=True)
class Entry:
    """One resource to create or to update.

    Attributes
    ----------
    where : str
        FHIRPath of the resource, for errors.
    identity : str, optional
        The id that the URL names.
    condition : str, optional
        The query of a conditional create or update.
    """

    where: str
    method: str
    kind: str
    resource: Resource
    full_url: str = ""
    identity: str | None = None
    condition: str | None = None
    if_match: str | None = None
    # What became of it.
    made: str = ""
    status: int = 0
    version: int = 0
    tasks: list[Entry] = field(default_factory=list)


def entries_of(bundle: Resource, release: str) -> list[Entry]:
    """Return the entries of a transaction, in its order.

    Raises
    ------
    Refusal
        If it is no transaction, or an entry asks for what is not served.
    """
    if bundle.get("type") != "transaction":
        raise refusal(
            "not-supported",
            "a Bundle is taken whole or not at all: type transaction",
            "Bundle.type",
        )
    listed = bundle.get("entry", [])
    if len(listed) > MOST_ENTRIES:
        raise refusal("too-costly", f"more than {MOST_ENTRIES} entries", "Bundle.entry", status=413)
    found = [_entry(one, number, release) for number, one in enumerate(listed)]
    urls = [entry.full_url for entry in found if entry.full_url]
    if len(set(urls)) < len(urls):
        raise refusal("invariant", "bdl-7: the same fullUrl twice", "Bundle.entry.fullUrl")
    return found


def _entry(listed: Resource, number: int, release: str) -> Entry:
    where = f"Bundle.entry[{number}]"
    request, resource = listed.get("request", {}), listed.get("resource")
    method = request.get("method")
    if method not in {"POST", "PUT"}:
        raise refusal(
            "not-supported",
            "only POST and PUT are done in a transaction",
            f"{where}.request.method",
        )
    match = _URL.fullmatch(request.get("url", ""))
    if resource is None or match is None or match[1] != resource.get("resourceType"):
        raise refusal(
            "value", "the URL does not fit the resource of the entry", f"{where}.request.url"
        )
    kind, identity, query = match.groups()
    if kind not in TAKEN:
        raise refusal("not-supported", f"a {kind} is not taken here", f"{where}.resource")
    if (method == "POST") is bool(identity or query) or (identity and query):
        raise refusal("value", "POST has a type, PUT an id or a query", f"{where}.request.url")
    checked(resource, release, f"{where}.resource")
    return Entry(
        where=f"{where}.resource",
        method=method,
        kind=kind,
        resource=resource,
        full_url=listed.get("fullUrl", ""),
        identity=identity,
        condition=query or request.get("ifNoneExist"),
        if_match=request.get("ifMatch"),
    )


def searched_identifier(query: str, where: str) -> tuple[str | None, str]:
    """Return the identifier, (system, value), that a condition searches by.

    Raises
    ------
    Refusal
        400, if it asks for anything else: what is not understood cannot be a condition.
    """
    asked = parse_qsl(query.lstrip("?"), keep_blank_values=True)
    if len(asked) != 1 or asked[0][0] != "identifier" or not asked[0][1]:
        raise refusal("not-supported", "a condition is identifier=system|value", where, status=400)
    system, bar, value = asked[0][1].rpartition("|")
    if not value or "," in value:
        raise refusal("value", "a condition is identifier=system|value", where, status=400)
    return (system if bar else None), value


def references(value: Any, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Iterate over every Reference inside a resource, with its place."""
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value, path
        for name, inner in value.items():
            yield from references(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from references(inner, f"{path}[{number}]")


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy in which every Reference.reference is changed."""
    if isinstance(value, list):
        return [rewritten(inner, change) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: change(inner)
        if name == "reference" and isinstance(inner, str)
        else rewritten(inner, change)
        for name, inner in value.items()
    }
