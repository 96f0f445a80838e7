"""ServiceRequest, Task and what orders refer to: read and searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, any_, func, or_, select

from models.errors import UnknownKey
from services.database.store import UnitOfWork
from services.database.tables import fhir_resource, imaging_order, scheduled_step
from services.fhir import codes
from services.fhir.identifiers import Systems
from services.fhir.order_resource import task_id
from services.fhir.owners import patient_parameter
from services.fhir.parameters import Condition, Parameter, Token, is_date, reference
from services.fhir.served import Call, Order, Resource, Searched, Served
from services.fhir.transaction import KEPT
from services.fhir.versions import Version
from services.workflow.fhir_shown import shown_kept, shown_order, shown_task

_ORDER, _STEP, _CAME = imaging_order.c, scheduled_step.c, fhir_resource.c
_TASK_ID = func.concat(
    _STEP.order_id,
    "-",
    func.left(func.encode(func.sha256(func.convert_to(_STEP.sps_id, "UTF8")), "hex"), 12),
)


def served(systems: Systems) -> tuple[Served, ...]:
    """Return the rows of what is taken with an order.

    Parameters
    ----------
    systems : Systems
        What the site calls the issuers of numbers.
    """
    return (_requests(systems), _tasks(), *(_kept(kind) for kind in KEPT))


def _requests(systems: Systems) -> Served:
    return Served(
        kind="ServiceRequest",
        read=_reading(_order),
        vread=_newest(_order),
        search=Searched(
            source=select(_ORDER.id),
            key=_ORDER.id,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: _ORDER.id == v),
                "identifier": Parameter(type="token", condition=_identified(systems)),
                "patient": patient_parameter(_ORDER.patient_id),
                "subject": patient_parameter(_ORDER.patient_id),
            },
            orders={
                "_id": Order(by=_ORDER.id, read=str),
                "_lastUpdated": Order(by=_ORDER.placed_at, read=datetime.fromisoformat),
            },
            default="-_lastUpdated",
            load=_loading(_order),
        ),
        writes=("create", "update"),
        documentation=(
            "An imaging order, whether it came over HL7 v2 or FHIR: as it came, with its status "
            "here and the numbers that were given to it. Of its versions the newest is kept."
        ),
    )


def _tasks() -> Served:
    return Served(
        kind="Task",
        read=_reading(_task),
        vread=_newest(_task),
        search=Searched(
            source=select(_TASK_ID).select_from(
                scheduled_step.join(imaging_order, _ORDER.id == _STEP.order_id)
            ),
            key=_TASK_ID,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: _TASK_ID.in_([v])),
                "focus": Parameter(
                    type="reference",
                    condition=lambda v: _STEP.order_id == (reference(v, "ServiceRequest") or ""),
                ),
                "identifier": Parameter(
                    type="token", condition=lambda v: _STEP.sps_id == Token.read(v).value
                ),
                "patient": patient_parameter(_ORDER.patient_id),
            },
            orders={"_id": Order(by=_TASK_ID, read=str)},
            default="_id",
            load=_loading(_task),
        ),
        documentation=(
            "A scheduled step of an order. It is taken in a transaction with the ServiceRequest "
            "that is its focus, and its status is that of the exam."
        ),
    )


def _kept(kind: str) -> Served:
    def shown(uow: UnitOfWork, identity: str, version: Version) -> Resource | None:
        return shown_kept(uow, kind, identity, version.name)

    return Served(
        kind=kind,
        read=_reading(shown),
        vread=_newest(shown),
        search=Searched(
            source=select(_CAME.id).where(_CAME.kind == kind, _CAME.content.is_not(None)),
            key=_CAME.id,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: _CAME.id == v),
                "_lastUpdated": Parameter(type="date", condition=is_date(_CAME.updated_at)),
                "identifier": Parameter(type="token", condition=_token),
            },
            orders={"_id": Order(by=_CAME.id, read=str)},
            default="_id",
            load=_loading(shown),
        ),
        documentation="As it came in a transaction with an order.",
    )


Shown = Callable[[UnitOfWork, str, Version], Resource | None]


def _reading(shown: Shown) -> Callable[[Call, str], Resource]:
    def read(call: Call, identity: str) -> Resource:
        found = shown(call.uow, identity, call.version) if identity.isprintable() else None
        if found is None:
            raise UnknownKey("no resource has this id")
        return found

    return read


def _newest(shown: Shown) -> Callable[[Call, str, str], Resource]:
    read = _reading(shown)

    def vread(call: Call, identity: str, number: str) -> Resource:
        found = read(call, identity)
        if found["meta"]["versionId"] != number:
            raise UnknownKey("only the newest version is kept")
        return found

    return vread


def _loading(shown: Shown) -> Callable[[Call, Sequence[str]], list[Resource]]:
    read = _reading(shown)
    return lambda call, ids: [read(call, identity) for identity in ids]


def _order(uow: UnitOfWork, identity: str, version: Version) -> Resource | None:
    order = uow.orders.find(identity)
    return None if order is None else shown_order(uow, order, version.name)[0]


def _task(uow: UnitOfWork, identity: str, version: Version) -> Resource | None:
    order = uow.orders.find(identity.partition("-")[0])
    if order is None:
        return None
    step = next((step for step in order.steps if task_id(order, step) == identity), None)
    return None if step is None else shown_task(uow, order, step, version.name)[0]


def _identified(systems: Systems) -> Condition:
    def condition(text: str) -> ColumnElement[bool]:
        token = Token.read(text)
        value = token.value
        if token.system == codes.DICOM_UID:
            return _ORDER.study_uid == value.removeprefix("urn:oid:")
        if token.system is None:
            return or_(
                _ORDER.placer_number == value,
                _ORDER.filler_number == value,
                _ORDER.accession == value,
                _ORDER.study_uid == value.removeprefix("urn:oid:"),
            )
        authority = systems.of_system(token.system)
        came = select(_CAME.id).where(_CAME.kind == "ServiceRequest", _token(text))
        placed = (_ORDER.placer_number == value) & (_ORDER.placer_authority == authority)
        return or_(placed, _ORDER.id == any_(func.array(came.scalar_subquery())))

    return condition


def _token(text: str) -> ColumnElement[bool]:
    token = Token.read(text)
    if token.system is None:
        ends: Any = func.unnest(_CAME.identifiers).column_valued("one")
        return (
            select(ends).where(func.right(ends, len(token.value) + 1) == f"|{token.value}").exists()
        )
    return _CAME.identifiers.contains([f"{token.system}|{token.value}"])
