"""Resources that come in: read as JSON, then held against their version and its required codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from services.fhir.refusal import Issue, Refusal, refusal

MODELS: Final = {"R4": "fhir.resources.R4B", "R5": "fhir.resources"}
"""Release → the library's package; R4B is its name for R4 (STANDARDS §5.4)."""
_MOST_ISSUES: Final = 20
_DEEPEST: Final = 64
_TASK: Final = frozenset(
    {"draft", "requested", "received", "accepted", "rejected", "ready", "cancelled"}
    | {"in-progress", "on-hold", "failed", "completed", "entered-in-error"}
)
_ENCOUNTER: Final = frozenset(
    {"planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled"}
    | {"entered-in-error", "unknown"}
)
_OBSERVATION: Final = frozenset(
    {"registered", "preliminary", "final", "amended", "corrected", "cancelled"}
    | {"entered-in-error", "unknown"}
)
_INTENT: Final = frozenset(
    {"proposal", "plan", "directive", "order", "original-order", "reflex-order"}
    | {"filler-order", "instance-order", "option"}
)
_OPEN_ENDED: Final = {
    "Task.status": _TASK,
    "Encounter.status": _ENCOUNTER,
    "EncounterStatusHistory.status": _ENCOUNTER,
    "Observation.status": _OBSERVATION,
    "ServiceRequest.intent": _INTENT,
}
"""Required value sets of both versions where the library's own list ends with "and more"."""
_TYPES: Final = {"missing": "required", "extra_forbidden": "structure"}


def read_json(body: bytes) -> dict[str, Any]:
    """Read a body as a JSON object.

    Raises
    ------
    Refusal
        400, if it is no JSON object, is nested absurdly deep, has a name twice, or a character
        that no FHIR string may have.
    """
    try:
        parsed = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_constant
        )
        wrong = _unusable(parsed)
    except RecursionError:
        wrong = "it is nested too deeply"
    except (ValueError, UnicodeDecodeError) as error:
        # The reason of a decoder quotes nothing of the text, only its place.
        wrong = str(error) if isinstance(error, json.JSONDecodeError) else str(error)[:100]
    if wrong:
        raise refusal("structure", f"the body is no usable JSON object: {wrong}", status=400)
    resource: dict[str, Any] = parsed
    return resource


def checked(resource: dict[str, Any], release: str, expression: str = "") -> dict[str, Any]:
    """Return a resource that is what its type says.

    Parameters
    ----------
    expression : str
        Where it stands in a Bundle; empty for a resource of its own.

    Raises
    ------
    Refusal
        400 if it has no known type, 422 with every issue found otherwise.
    """
    kind = resource.get("resourceType")
    model = _model(kind, release)
    root = expression or str(kind)
    if model is None:
        raise refusal(
            "structure", "there is no such resource type", f"{root}.resourceType", status=400
        )
    try:
        parsed = model.model_validate(resource)
    except ValidationError as error:
        raise Refusal(422, list(_issues(error, root))) from None
    wrong = list(_wrong_codes(parsed, root))
    if wrong:
        raise Refusal(422, wrong[:_MOST_ISSUES])
    return resource


def _model(kind: Any, release: str) -> type[BaseModel] | None:
    if not (isinstance(kind, str) and kind.isascii() and kind.isalpha()):
        return None
    try:
        module = import_module(f"{MODELS[release]}.{kind.lower()}")
    except ImportError:
        return None
    found = getattr(module, kind, None)
    is_model = isinstance(found, type) and issubclass(found, BaseModel)
    return found if is_model and hasattr(found, "get_resource_type") else None


def _issues(error: ValidationError, root: str) -> Iterator[Issue]:
    for wrong in error.errors(include_url=False, include_input=False)[:_MOST_ISSUES]:
        code = _TYPES.get(wrong["type"].rpartition(".")[2], "value")
        text = {"required": "it is required", "structure": "there is no such element"}.get(
            code, _plain(wrong["msg"])
        )
        yield Issue(code=code, text=text, expression=root + _path(wrong["loc"]))


def _path(location: tuple[int | str, ...]) -> str:
    # The library names the class that it tried, too.
    parts = [part for part in location if part != "root"]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _plain(message: str) -> str:
    # The library explains at length and may quote the value.
    first = message.partition("\n")[0].partition("[")[0].strip()
    return first[:200] if "'" not in first else "the value is not of the element's type"


def _wrong_codes(value: Any, path: str) -> Iterator[Issue]:
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _wrong_codes(inner, f"{path}[{number}]")
        return
    if not isinstance(value, BaseModel):
        return
    for name, field in type(value).model_fields.items():
        inner = getattr(value, name)
        if inner is None:
            continue
        allowed = _allowed(type(value).__name__, name, field.json_schema_extra)
        given = inner if isinstance(inner, list) else [inner]
        if allowed is not None and not all(code in allowed for code in given):
            text = f"the code is not one of {', '.join(sorted(allowed))}"
            yield Issue(code="code-invalid", text=text, expression=f"{path}.{name}")
        yield from _wrong_codes(inner, f"{path}.{name}")


def _allowed(kind: str, name: str, extra: Any) -> frozenset[str] | None:
    element = f"{kind}.{name}"
    listed = extra.get("enum_values") if isinstance(extra, dict) else None
    if not isinstance(listed, list):
        return None
    # Of a list that is not complete nothing is refused, unless it is known here.
    return _OPEN_ENDED.get(element) if "+" in listed else frozenset(listed)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(_text: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON numbers")


def _unusable(value: Any, depth: int = 0) -> str:
    if depth == 0 and not isinstance(value, dict):
        return "it is something else"
    if depth > _DEEPEST:
        return "it is nested too deeply"
    if isinstance(value, str):
        bad = "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        return "a string has a character that no string may have" if bad else ""
    inner = list(value.values()) + list(value) if isinstance(value, dict) else value
    if isinstance(inner, list):
        return next((found for one in inner if (found := _unusable(one, depth + 1))), "")
    return ""
