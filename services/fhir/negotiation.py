"""What a request wants in which form: media type, version, strictness, and what it has already."""

from __future__ import annotations

import json
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from models.errors import NotAcceptable
from services.fhir.outcome import MEDIA_TYPE, answer
from services.fhir.versions import Version

_JSON_TYPES: Final = frozenset(
    {"*/*", "application/*", MEDIA_TYPE, "application/json", "text/json"}
)
_JSON_FORMATS: Final = frozenset({"json", *_JSON_TYPES})


def negotiate(request: Request, version: Version) -> None:
    """Refuse a request for anything but JSON of this version; ``_format`` wins over Accept.

    Raises
    ------
    NotAcceptable
        If XML, Turtle or another version of FHIR is wanted.
    """
    wanted = request.query_params.get("_format")
    if wanted is not None:
        # "+" in a query is a space: application/fhir+json is often sent unescaped.
        kinds = [wanted.replace(" ", "+")]
        allowed = _JSON_FORMATS
    else:
        kinds = request.headers.get("accept", "*/*").split(",")
        allowed = _JSON_TYPES
    if not any(_is_served(kind, allowed, version) for kind in kinds):
        raise NotAcceptable(
            f"only {MEDIA_TYPE} of FHIR {version.number} is served here",
            location="Accept" if wanted is None else "_format",
        )


def _is_served(kind: str, allowed: frozenset[str], version: Version) -> bool:
    media_type, *parameters = (part.strip().lower() for part in kind.split(";"))
    asked = dict(p.split("=", 1) for p in parameters if "=" in p)
    number = asked.get("fhirversion", version.number).strip('"')
    return media_type in allowed and version.number.startswith(number) and asked.get("q") != "0"


def is_lenient(request: Request) -> bool | None:
    """Return what ``Prefer: handling=`` asks for; None if it does not say."""
    for header in request.headers.getlist("prefer"):
        for part in header.replace(";", ",").split(","):
            name, _, value = part.strip().lower().partition("=")
            if name == "handling" and value in {"lenient", "strict"}:
                return value == "lenient"
    return None


def conditional(request: Request, resource: dict[str, Any]) -> Response:
    """Return a resource that was read, or 304 if the client has it (R4 http.html §3.1.0.5).

    The ETag is the version where a resource has versions, and stands for the content otherwise.
    """
    meta = resource.get("meta", {})
    tag = f'W/"{meta.get("versionId") or _digest(resource)}"'
    headers = {"ETag": tag}
    changed = None
    if "lastUpdated" in meta:
        changed = datetime.fromisoformat(meta["lastUpdated"]).replace(microsecond=0)
        headers["Last-Modified"] = format_datetime(changed, usegmt=True)
    if _is_known(request, tag, changed):
        return Response(None, 304, {**headers, "Cache-Control": "no-store"})
    return answer(resource, headers)


def _is_known(request: Request, tag: str, changed: datetime | None) -> bool:
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = {part.strip().removeprefix("W/") for part in known.split(",")}
        return "*" in tags or tag.removeprefix("W/") in tags
    since = request.headers.get("if-modified-since")
    if since is None or changed is None:
        return False
    try:
        return changed <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        # A date that cannot be read is no condition (RFC 9110 §13.1.3).
        return False


def _digest(resource: dict[str, Any]) -> str:
    return sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()[:16]
