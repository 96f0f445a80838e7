"""A page of a search as a Bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlencode

from models.errors import UnknownKey
from services.fhir.codes import mandatory
from services.fhir.search import Page, Query
from services.fhir.served import Call, Resource, Searched
from services.fhir.versions import Version

_SUBSETTED: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "SUBSETTED",
    "display": "subsetted",
}
_ALWAYS: Final = ("resourceType", "id", "meta")
Reader = Callable[[Call, str], Resource]


def searchset(
    call: Call, kind: str, searched: Searched, query: Query, page: Page, readers: dict[str, Reader]
) -> Resource:
    """Return the Bundle of a page.

    Parameters
    ----------
    readers : dict of str to callable
        By type: how a resource that is to be included is read.
    """
    found = searched.load(call, page.ids)
    included = _included(call, searched, query, found, readers)
    entries = [_entry(call, shortened(r, query, call.version), "match") for r in found]
    entries += [_entry(call, shortened(r, query, call.version), "include") for r in included]
    bundle: Resource = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": _links(call, kind, query, page),
    }
    if page.total is not None:
        bundle["total"] = page.total
    if entries:
        bundle["entry"] = entries
    return bundle


def shortened(resource: Resource, query: Query, version: Version) -> Resource:
    """Return what ``_elements`` or ``_summary`` leave of a resource, marked as incomplete.

    What a resource cannot be without is never left out.
    """
    if query.elements:
        kept = {*_ALWAYS, *mandatory(resource["resourceType"], version), *query.elements}
        # A reference into itself must lead somewhere, and the other way round (dom-3).
        if _refers_inside({k: v for k, v in resource.items() if k in kept}):
            kept |= {"contained", "result"}
        told = {name: value for name, value in resource.items() if name in kept}
    elif query.summary == "data":
        told = {name: value for name, value in resource.items() if name != "text"}
    else:
        return resource
    return {**told, "meta": {**told.get("meta", {}), "tag": [_SUBSETTED]}}


def _refers_inside(value: Any) -> bool:
    if isinstance(value, dict):
        named = value.get("reference")
        if isinstance(named, str) and named.startswith("#"):
            return True
        return any(_refers_inside(inner) for inner in value.values())
    return isinstance(value, list) and any(_refers_inside(inner) for inner in value)


def _included(
    call: Call,
    searched: Searched,
    query: Query,
    found: list[Resource],
    readers: dict[str, Reader],
) -> Iterator[Resource]:
    seen = set()
    for name in query.includes:
        for resource in found:
            for target in searched.includes[name](resource):
                kind, _, identity = target.partition("/")
                if target in seen or kind not in readers:
                    continue
                seen.add(target)
                try:
                    yield readers[kind](call, identity)
                except UnknownKey:  # a reference may outlive what it leads to
                    continue


def _links(call: Call, kind: str, query: Query, page: Page) -> list[dict[str, str]]:
    asked = [*query.used, ("_count", str(query.count))]

    def link(relation: str, *more: tuple[str, str]) -> dict[str, str]:
        return {
            "relation": relation,
            "url": f"{call.base}/{kind}?{urlencode([*asked, *more])}",
        }

    here = [("_after", query.here)] if query.here else []
    links = [link("self", *here), link("first")]
    if page.after is not None:
        links.append(link("next", ("_after", page.after)))
    return links


def _entry(call: Call, resource: Resource, mode: str) -> dict[str, Any]:
    return {
        "fullUrl": f"{call.base}/{resource['resourceType']}/{resource['id']}",
        "resource": resource,
        "search": {"mode": mode},
    }
