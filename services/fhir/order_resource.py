"""An order and its steps as ServiceRequest and Task: what came, with what has become of it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from models.lifecycle import StepState, StudyState
from models.order import Order, ScheduledStep
from models.patient import Issuer
from models.priority import Priority
from models.study import Study
from services.fhir import codes
from services.fhir.identifiers import of_type, study_uid
from services.fhir.order_mapping import RP_ID, SPS_ID
from services.fhir.order_r5 import order_as_r5
from services.fhir.report import procedure_coding, readable_name

Resource = dict[str, Any]

_IMAGING: Final = {"system": codes.SNOMED, "code": "363679005", "display": "Imaging"}
_S = StudyState
ORDER_STATUS: Final = {
    _S.SCHEDULED: "active",
    _S.ACQUIRING: "active",
    _S.ACQUIRED: "active",
    _S.PRELIMINARY: "active",
    _S.FINAL: "completed",
    _S.DELIVERED: "completed",
    _S.CANCELLED: "revoked",
    _S.DISCONTINUED: "revoked",
}
"""Study state → RequestStatus; an order is completed by its final report."""

STEP_STATUS: Final = {
    StepState.UNBOOKED: "received",
    StepState.SCHEDULED: "accepted",
    StepState.ARRIVED: "ready",
    StepState.ON_HOLD: "on-hold",
    StepState.IN_PROGRESS: "in-progress",
    StepState.COMPLETED: "completed",
    StepState.DISCONTINUED: "failed",
    StepState.CANCELED: "cancelled",
}
"""Step state → TaskStatus."""

_PRIORITY: Final = {
    Priority.CRITICAL: "stat",
    Priority.STAT: "stat",
    Priority.HIGH: "asap",
    Priority.MEDIUM: "urgent",
    Priority.ROUTINE: "routine",
    Priority.LOW: "routine",
}


def order_status(order: Order, study: Study) -> str:
    """Return the RequestStatus that an order has."""
    if order.status == "HD" and study.state is StudyState.SCHEDULED:
        return "on-hold"
    return ORDER_STATUS[study.state]


def task_id(order: Order, step: ScheduledStep) -> str:
    """Return the id of a step's Task: always the same, and an id of FHIR whatever the SPS ID is."""
    return f"{order.id}-{sha256(step.sps_id.encode()).hexdigest()[:12]}"


def service_request(order: Order, study: Study, came: Resource | None, release: str) -> Resource:
    """Return the order as a ServiceRequest, without a version.

    Parameters
    ----------
    came : dict, optional
        The resource that asked for it, in this release; all of it but its status is kept.
    """
    resource = dict(came) if came is not None else _made(order, release)
    resource["id"] = order.id
    status = order_status(order, study)
    if not (status == "revoked" and resource.get("status") == "entered-in-error"):
        resource["status"] = status
    told = list(resource.get("identifier", []))
    if study_uid(told) is None:
        told.append({"system": codes.DICOM_UID, "value": f"urn:oid:{order.study_uid}"})
    for kind, value in ((codes.ACCESSION, order.accession), ("FILL", order.filler_number)):
        if value and not any(of_type(told, kind)):
            told.append(identifier(kind, value))
    resource["identifier"] = told
    return resource


def task(order: Order, step: ScheduledStep, came: Resource | None) -> Resource:
    """Return a step as a Task, without a version; it is the same in R4 and R5."""
    resource = dict(came) if came is not None else _made_task(order, step)
    resource["id"] = task_id(order, step)
    resource["status"] = STEP_STATUS[StepState(step.status)]
    resource["focus"] = {"reference": f"ServiceRequest/{order.id}"}
    return resource


def identifier(kind: str, value: str, issuer: Issuer = Issuer()) -> Resource:  # noqa: B008 (frozen)
    """Return an identifier of a type of HL70203."""
    told: Resource = {
        "type": {
            "coding": [
                {
                    "system": codes.V2_0203,
                    "code": kind,
                    "display": codes.IDENTIFIER_TYPES[kind],
                }
            ]
        },
        "value": value,
    }
    prefix = {"ISO": "urn:oid:", "UUID": "urn:uuid:", "URI": ""}.get(issuer.universal_type)
    if prefix is not None and issuer.universal_id:
        told["system"] = prefix + issuer.universal_id
    if issuer.namespace:
        told["assigner"] = {"display": issuer.namespace}
    return told


def _made(order: Order, release: str) -> Resource:
    issuer = order.placer_issuer
    if issuer == Issuer() and order.placer_authority:
        issuer = Issuer(order.placer_authority)
    resource: Resource = {
        "resourceType": "ServiceRequest",
        "identifier": [identifier("PLAC", order.placer_number, issuer)],
        "intent": "order",
        "category": [{"coding": [_IMAGING]}],
        "priority": _PRIORITY[order.priority],
        "code": _concept(order),
        "subject": {"reference": f"Patient/{order.patient_id}"},
    }
    if order.requested_procedure_id != order.accession:
        resource["identifier"].append(
            {"type": {"text": RP_ID}, "value": order.requested_procedure_id}
        )
    if order.steps:
        resource["occurrenceDateTime"] = order.steps[0].start_at.isoformat(timespec="seconds")
    if order.issued_on is not None:
        resource["authoredOn"] = order.issued_on.isoformat()
    if readable_name(order.requesting) != "unknown":
        resource["requester"] = {"display": readable_name(order.requesting)}
    if order.reason:
        resource["reasonCode"] = [{"text": order.reason}]
    return order_as_r5(resource) if release == "R5" else resource


def _concept(order: Order) -> Resource:
    procedure = order.procedure
    told = {"text": procedure.meaning or procedure.value}
    return {"coding": [procedure_coding(procedure)], **told} if procedure.value else told


def _made_task(order: Order, step: ScheduledStep) -> Resource:
    resource: Resource = {
        "resourceType": "Task",
        "identifier": [{"type": {"text": SPS_ID}, "value": step.sps_id}],
        "intent": "order",
        "for": {"reference": f"Patient/{order.patient_id}"},
    }
    if step.description:
        resource["description"] = step.description
    if step.status in {StepState.SCHEDULED.value, StepState.ARRIVED.value}:
        start = step.start_at.isoformat(timespec="seconds")
        resource["restriction"] = {"period": {"start": start}}
    return resource
