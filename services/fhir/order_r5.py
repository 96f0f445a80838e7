"""What an order has elsewhere in R5 than in R4, moved there and back (STANDARDS §5.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Resource = dict[str, Any]


def as_r4(resource: Resource) -> Resource:
    """Return an R5 resource, and all that it contains, as one of R4 for `order_reading`.

    Only what an order is read from is moved; the rest stays as it is.
    """
    told = dict(resource)
    change = _TO_R4.get(str(resource.get("resourceType")))
    if change is not None:
        change(told)
    if "contained" in told:
        told["contained"] = [as_r4(inner) for inner in told["contained"]]
    return told


def order_as_r5(resource: Resource) -> Resource:
    """Return a ServiceRequest or Task that we made as R5."""
    told = dict(resource)
    if told["resourceType"] == "ServiceRequest":
        told["code"] = {"concept": told["code"]}
        if "reasonCode" in told:
            told["reason"] = [{"concept": concept} for concept in told.pop("reasonCode")]
    return told


def _service_request(told: Resource) -> None:
    if "code" in told:
        told["code"] = told["code"].get("concept", {})
    _split(told, "reason", "reasonCode", "reasonReference")
    _split(told, "location", "locationCode", "locationReference")
    _split(told, "supportingInfo", "", "supportingInfo")
    details = [
        parameter["valueCodeableConcept"]
        for detail in told.pop("orderDetail", [])
        for parameter in detail.get("parameter", [])
        if "valueCodeableConcept" in parameter
    ]
    if details:
        told["orderDetail"] = details


def _encounter(told: Resource) -> None:
    classes = [coding for concept in told.pop("class", []) for coding in concept.get("coding", [])]
    if classes:
        told["class"] = classes[0]
    told["participant"] = [
        {**one, **({"individual": one["actor"]} if "actor" in one else {})}
        for one in told.get("participant", [])
    ]
    reasons = [value for reason in told.pop("reason", []) for value in reason.get("value", [])]
    told["reasonCode"] = [value["concept"] for value in reasons if "concept" in value]
    if "specialArrangement" in told:
        told["hospitalization"] = {"specialArrangement": told.pop("specialArrangement")}


def _split(told: Resource, name: str, concept: str, reference: str) -> None:
    found = told.pop(name, [])
    for target, part in ((concept, "concept"), (reference, "reference")):
        values = [one[part] for one in found if part in one]
        if values and target:
            told[target] = values


_TO_R4: Final[dict[str, Callable[[Resource], None]]] = {
    "ServiceRequest": _service_request,
    "Encounter": _encounter,
}
