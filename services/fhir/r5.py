"""What changed between R4 and R5 in the resources that we speak (STANDARDS §5.4).

Everything here is built as R4. This is the last step on the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Resource = dict[str, Any]


def as_r5(resource: Resource) -> Resource:
    """Return an R4 resource, and all that it contains, as R5."""
    told = dict(resource)
    change = _CHANGES.get(str(resource.get("resourceType")))
    if change is not None:
        change(told)
    if "contained" in told:
        told["contained"] = [as_r5(inner) for inner in told["contained"]]
    return told


def _imaging_study(told: Resource) -> None:
    _replace(told, "modality", "modality", _each(_concept))
    _to_references(told, "procedure", "procedureCode", "procedureReference")
    _to_references(told, "reason", "reasonCode", "reasonReference")
    if "series" in told:
        told["series"] = [_series(series) for series in told["series"]]


def _series(series: Resource) -> Resource:
    told = dict(series)
    for name in ("modality", "laterality"):
        _replace(told, name, name, _concept)
    _replace(told, "bodySite", "bodySite", lambda coding: {"concept": _concept(coding)})
    return told


def _diagnostic_report(told: Resource) -> None:
    _replace(told, "imagingStudy", "study", lambda studies: studies)


def _endpoint(told: Resource) -> None:
    _replace(told, "connectionType", "connectionType", lambda coding: [_concept(coding)])
    payload = {"type": told.pop("payloadType", None), "mimeType": told.pop("payloadMimeType", None)}
    told["payload"] = [{name: value for name, value in payload.items() if value is not None}]


def _device(told: Resource) -> None:
    _replace(
        told,
        "deviceName",
        "name",
        # No code of R5 says "model name"; this is the one for what people call it.
        _each(lambda name: {"value": name["name"], "type": "user-friendly-name"}),
    )
    _replace(told, "type", "type", lambda concept: [concept])


def _to_references(told: Resource, name: str, code: str, reference: str) -> None:
    found = [{"concept": concept} for concept in told.pop(code, [])]
    found += [{"reference": target} for target in told.pop(reference, [])]
    if found:
        told[name] = found


def _concept(coding: Resource) -> Resource:
    return {"coding": [coding]}


def _each(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [change(value) for value in values]


def _replace(told: Resource, before: str, after: str, change: Callable[[Any], Any]) -> None:
    if before in told:
        told[after] = change(told.pop(before))


_CHANGES: Final[dict[str, Callable[[Resource], None]]] = {
    "ImagingStudy": _imaging_study,
    "DiagnosticReport": _diagnostic_report,
    "Endpoint": _endpoint,
    "Device": _device,
}
