"""Orders, their steps and what came with them, as FHIR shows them now, with their versions."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from models.order import Order, ScheduledStep
from services.database.store import UnitOfWork
from services.fhir.order_resource import service_request, task, task_id
from services.fhir.report import instant

Resource = dict[str, Any]


def shown_order(uow: UnitOfWork, order: Order, release: str) -> tuple[Resource, int]:
    """Return the order's ServiceRequest as it is now, with its version."""
    study = uow.studies.find(order.study_uid)
    if study is None:
        raise LookupError("an order has a study from its first moment")
    came = _came(uow, "ServiceRequest", order.id, release)
    return _versioned(uow, service_request(order, study, came, release), order, study.state)


def shown_task(
    uow: UnitOfWork, order: Order, step: ScheduledStep, release: str
) -> tuple[Resource, int]:
    """Return a step's Task as it is now, with its version."""
    came = _came(uow, "Task", task_id(order, step), release)
    return _versioned(uow, task(order, step, came), step)


def shown_kept(uow: UnitOfWork, kind: str, identity: str, release: str) -> Resource | None:
    """Return a resource that was kept as it came, or None."""
    came = _came(uow, kind, identity, release)
    return None if came is None else _versioned(uow, {**came, "id": identity})[0]


def _came(uow: UnitOfWork, kind: str, identity: str, release: str) -> Resource | None:
    row = uow.resources.find(kind, identity)
    if row is None or row.content is None or row.release != release:
        return None
    content: Resource = json.loads(row.content)
    return content


def _versioned(uow: UnitOfWork, resource: Resource, *made_of: object) -> tuple[Resource, int]:
    """Give a resource its version: it counts changes of what it is made of, whoever made them."""
    kind, identity = resource["resourceType"], resource["id"]
    row = uow.resources.find(kind, identity)
    state = repr((None if row is None else row.digest, *made_of))
    version, since = uow.resources.version(kind, identity, digest_of(state))
    meta = {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": instant(since)}
    return {**resource, "meta": meta}, version


def digest_of(text: str) -> bytes:
    """Return what tells one content from another."""
    return sha256(text.encode()).digest()
