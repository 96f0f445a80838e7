"""Orders and their scheduled steps."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    Connection,
    Row,
    Table,
    Text,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from models.lifecycle import ON_WORKLIST, StepState
from models.order import Code, Order, Safety, ScheduledStep
from models.patient import PersonName
from models.priority import Priority
from services.database.details import pack, unpack
from services.database.direct import Call, Direct, Prepared
from services.database.tables import (
    ACCESSION_CORE,
    accession_number,
    imaging_order,
    patient,
    scheduled_step,
)
from services.identity.normalise import core

_DETAILS = (
    *("placer_issuer", "filler_issuer", "accession_issuer", "admission_issuer", "issued_on"),
    *("entered_by", "institution", "department", "visit_reason", "patient_state", "special_needs"),
    "reason_code",
)
_WAITING = (StepState.SCHEDULED, StepState.ARRIVED, StepState.ON_HOLD, StepState.UNBOOKED)
_PLACERS = 7332
"""Keeps these locks apart from others that are taken by a hash."""
_ORDER = select(imaging_order)
_GET = Prepared(_ORDER.where(imaging_order.c.id == bindparam("order")))
_BY_PLACER = Prepared(
    _ORDER.where(
        imaging_order.c.placer_number == bindparam("number"),
        imaging_order.c.placer_authority == bindparam("authority"),
    ).order_by(imaging_order.c.placed_at, imaging_order.c.requested_procedure_id)
)
_CLAIM = Prepared(
    select(
        func.pg_advisory_xact_lock(
            func.hashtextextended(bindparam("placer", type_=Text), literal(_PLACERS))
        )
    )
)
_BY_ACCESSION = Prepared(_ORDER.where(imaging_order.c.accession == bindparam("accession")))
_BY_STUDY_UID = Prepared(_ORDER.where(imaging_order.c.study_uid == bindparam("study_uid")))
_STEPS = Prepared(
    select(scheduled_step)
    .where(scheduled_step.c.order_id == bindparam("order"))
    .order_by(scheduled_step.c.start_at, scheduled_step.c.sps_id)
)
_NEXT_ACCESSION = Prepared(select(accession_number.next_value().label("number")))


def _upsert(table: Table, keys: tuple[str, ...], once: tuple[str, ...] = ()) -> Prepared:
    names = [column.name for column in table.c]
    new = insert(table)
    kept = {n: new.excluded[n] for n in names if n not in (*keys, *once)}
    return Prepared(new.on_conflict_do_update(index_elements=keys, set_=kept), names)


_SAVE = _upsert(imaging_order, ("id",), once=("placed_at",))
_SAVE_STEP = _upsert(scheduled_step, ("order_id", "sps_id"))


class Orders:
    """Repository of `Order` and `ScheduledStep`."""

    def __init__(self, connection: Connection, now: datetime, direct: Direct) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct

    def get(self, order_id: str) -> Order:
        """Return the order with this internal id, with its steps."""
        found = self.find(order_id)
        if found is None:
            raise LookupError("there is no order with this id")
        return found

    def find(self, order_id: str) -> Order | None:
        """Return the order with this internal id, with its steps, or None."""
        return self._first(_GET(order=order_id))

    def find_by_placer(self, number: str, authority: str) -> Order | None:
        """Return the first order that its placer calls `number`, or None."""
        return next(iter(self.placed_under(number, authority)), None)

    def placed_under(self, number: str, authority: str) -> list[Order]:
        """Return what its placer calls `number`: an order for each procedure that it asks for."""
        asked = _BY_PLACER(number=number, authority=authority)
        return [self._load(row) for row in self._direct.fetch(asked)]

    def claim(self, number: str, authority: str) -> None:
        """Wait until nobody else is placing what its placer calls `number`.

        A number that stands for several procedures can be in no unique index.
        """
        self._direct.fetch(self.claiming(number, authority))

    def claiming(self, number: str, authority: str) -> Call:
        """Return what `claim` asks."""
        return _CLAIM(placer=f"{authority}|{number}")

    def find_by_filler(self, number: str) -> list[Order]:
        """Return the orders to which a filler gave this number."""
        query = select(imaging_order).where(imaging_order.c.filler_number == number)
        return [self._load(row) for row in self._connection.execute(query).all()]

    def open_of(self, patient_id: str) -> list[Order]:
        """Return the patient's orders that have a step which no exam has begun."""
        waiting = select(scheduled_step.c.order_id).where(
            scheduled_step.c.status.in_([state.value for state in _WAITING])
        )
        query = select(imaging_order).where(
            imaging_order.c.patient_id == patient_id, imaging_order.c.id.in_(waiting)
        )
        return [self._load(row) for row in self._connection.execute(query).all()]

    def change(self, order_id: str, **changes: Any) -> None:
        """Set columns of an order's row."""
        self._connection.execute(
            update(imaging_order).where(imaging_order.c.id == order_id).values(**changes)
        )

    def find_by_accession(self, accession: str) -> Order | None:
        """Return the order with this accession number, or None."""
        return self._first(_BY_ACCESSION(accession=accession))

    def like_accession(self, accession: str, limit: int) -> list[Order]:
        """Return the orders whose accession number is this, or has the same digits."""
        digits = core(accession)
        alike = imaging_order.c.accession == accession
        if digits:
            alike |= literal_column(ACCESSION_CORE) == digits
        query = select(imaging_order).where(alike)
        ranked = query.order_by(imaging_order.c.accession != accession, imaging_order.c.id)
        return [self._load(row) for row in self._connection.execute(ranked.limit(limit)).all()]

    def scheduled_at(
        self, stations: Iterable[str], begin: datetime, end: datetime, limit: int
    ) -> list[Order]:
        """Return the orders with a step at one of these AE titles that begins in this time."""
        steps = select(scheduled_step.c.order_id).where(
            scheduled_step.c.station_aet.in_(sorted(stations)),
            scheduled_step.c.start_at.between(begin, end),
        )
        query = select(imaging_order).where(imaging_order.c.id.in_(steps))
        ranked = query.order_by(imaging_order.c.placed_at.desc()).limit(limit)
        return [self._load(row) for row in self._connection.execute(ranked).all()]

    def find_by_study_uid(self, study_uid: str) -> Order | None:
        """Return the order that reserved this Study Instance UID, or None."""
        return self._first(_BY_STUDY_UID(study_uid=study_uid))

    def finding(
        self, number: str, authority: str, accession: str | None, study_uid: str | None
    ) -> list[Call]:
        """Return the questions that a new order asks of the others."""
        asked = [_BY_PLACER(number=number, authority=authority)]
        asked.append(_BY_ACCESSION(accession=accession) if accession else _NEXT_ACCESSION())
        if study_uid:
            asked.append(_BY_STUDY_UID(study_uid=study_uid))
        return asked

    def next_accession(self, now: datetime) -> str:
        """Return an accession number that was never given: year and a running number."""
        (row,) = self._direct.draw(_NEXT_ACCESSION())
        return f"S{now:%y}{row.number:08d}"

    def save(self, order: Order) -> None:
        """Insert or update an order and its steps."""
        self._direct.later(_SAVE(id=order.id, placed_at=self._now, **_to_row(order)))
        for step in order.steps:
            self._direct.later(
                _SAVE_STEP(order_id=order.id, sps_id=step.sps_id, **_step_to_row(step))
            )

    def set_step_status(
        self, order_id: str, state: StepState, sps_ids: Iterable[str] | None = None
    ) -> None:
        """Move all, or the named, steps of an order to `state`."""
        query = update(scheduled_step).where(scheduled_step.c.order_id == order_id)
        if sps_ids is not None:
            query = query.where(scheduled_step.c.sps_id.in_(list(sps_ids)))
        self._connection.execute(query.values(status=state.value))

    def change_step(self, order_id: str, sps_id: str, **changes: Any) -> None:
        """Set columns of one step."""
        self._connection.execute(
            update(scheduled_step)
            .where(scheduled_step.c.order_id == order_id, scheduled_step.c.sps_id == sps_id)
            .values(**changes)
        )

    def worklist(self, conditions: Iterable[Any] = ()) -> list[Row[Any]]:
        """Return order, patient and step side by side for every scheduled step.

        Columns are labelled ``table_column``; `conditions` narrow the query in SQL.
        """
        query = (
            select(imaging_order, patient, scheduled_step)
            .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
            .join_from(scheduled_step, imaging_order)
            .join(patient, patient.c.id == imaging_order.c.patient_id)
            .where(
                scheduled_step.c.status.in_([state.value for state in ON_WORKLIST]),
                *conditions,
            )
            .order_by(imaging_order.c.priority, scheduled_step.c.start_at)
        )
        return list(self._connection.execute(query))

    def _first(self, call: Call) -> Order | None:
        row = self._direct.first(call)
        return None if row is None else self._load(row)

    def _load(self, row: Any) -> Order:
        steps = self._direct.fetch(_STEPS(order=row.id))
        return Order(
            id=row.id,
            patient_id=row.patient_id,
            placer_number=row.placer_number,
            placer_authority=row.placer_authority,
            filler_number=row.filler_number,
            accession=row.accession,
            study_uid=row.study_uid,
            requested_procedure_id=row.requested_procedure_id,
            procedure=Code(
                value=row.procedure_code,
                meaning=row.procedure_meaning,
                scheme=row.procedure_scheme,
            ),
            priority=Priority(row.priority),
            reason=row.reason,
            referring=PersonName.parse(row.referring),
            requesting=PersonName.parse(row.requesting),
            patient_class=row.patient_class,
            location=row.location,
            admission_id=row.admission_id,
            transport=row.transport,
            confidentiality=row.confidentiality,
            safety=Safety(
                medical_alerts=row.medical_alerts,
                allergies=row.allergies,
                pregnancy_status=row.pregnancy_status,
                weight_kg=row.weight_kg,
                height_m=row.height_m,
            ),
            sender=row.sender,
            status=row.status,
            replaced_by=row.replaced_by,
            parent_id=row.parent_id,
            **unpack(row.details),
            steps=tuple(_step_from_row(step) for step in steps),
        )


def _to_row(order: Order) -> dict[str, Any]:
    return {
        "patient_id": order.patient_id,
        "placer_number": order.placer_number,
        "placer_authority": order.placer_authority,
        "filler_number": order.filler_number,
        "accession": order.accession,
        "study_uid": order.study_uid,
        "requested_procedure_id": order.requested_procedure_id,
        "procedure_code": order.procedure.value,
        "procedure_meaning": order.procedure.meaning,
        "procedure_scheme": order.procedure.scheme,
        "priority": int(order.priority),
        "reason": order.reason,
        "referring": str(order.referring),
        "requesting": str(order.requesting),
        "patient_class": order.patient_class,
        "location": order.location,
        "admission_id": order.admission_id,
        "transport": order.transport,
        "confidentiality": order.confidentiality,
        "medical_alerts": order.safety.medical_alerts,
        "allergies": order.safety.allergies,
        "pregnancy_status": order.safety.pregnancy_status,
        "weight_kg": order.safety.weight_kg,
        "height_m": order.safety.height_m,
        "sender": order.sender,
        "status": order.status,
        "details": pack(order, _DETAILS),
        "replaced_by": order.replaced_by,
        "parent_id": order.parent_id,
    }


def _step_to_row(step: ScheduledStep) -> dict[str, Any]:
    protocol = step.protocol or Code(value="", scheme="")
    return {
        "start_at": step.start_at,
        "modality": step.modality,
        "station_aet": step.station_aet,
        "station_name": step.station_name,
        "location": step.location,
        "description": step.description,
        "performing": str(step.performing),
        "protocol_code": protocol.value,
        "protocol_meaning": protocol.meaning,
        "protocol_scheme": protocol.scheme,
        "status": step.status,
    }


def _step_from_row(row: Row[Any]) -> ScheduledStep:
    protocol = (
        Code(value=row.protocol_code, meaning=row.protocol_meaning, scheme=row.protocol_scheme)
        if row.protocol_code
        else None
    )
    return ScheduledStep(
        sps_id=row.sps_id,
        start_at=row.start_at,
        modality=row.modality,
        station_aet=row.station_aet,
        station_name=row.station_name,
        location=row.location,
        description=row.description,
        performing=PersonName.parse(row.performing),
        protocol=protocol,
        status=row.status,
    )
