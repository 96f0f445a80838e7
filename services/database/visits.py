"""Visits, links between patients, and appointments."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.lifecycle import StepState
from models.study import new_id
from models.visit import VisitState
from services.database.direct import Call, Direct, Prepared
from services.database.tables import (
    appointment,
    imaging_order,
    patient_link,
    scheduled_step,
    study,
    visit,
)

_WAITING = tuple(
    state.value
    for state in (*(StepState.SCHEDULED, StepState.ARRIVED, StepState.ON_HOLD, StepState.UNBOOKED),)
)
_UNJOINED = Prepared(
    select(appointment)
    .where(appointment.c.order_placer == bindparam("placer"), appointment.c.order_id.is_(None))
    .order_by(appointment.c.updated_at)
)
_OPEN = Prepared(
    select(visit).where(
        visit.c.patient_id == bindparam("patient"), visit.c.state == VisitState.OPEN.value
    )
)


class Visits:
    """Repository of visits, of what a visit says on open orders, and of slots."""

    def __init__(self, connection: Connection, now: datetime, direct: Direct) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct

    def save(
        self,
        patient_id: str,
        number: str,
        authority: str,
        state: VisitState | None,
        **said: Any,
    ) -> None:
        """Insert a visit or change what is said of it; without a state it keeps its own."""
        changes = {**said, "updated_at": self._now}
        if state is not None:
            changes["state"] = state.value
        self._connection.execute(
            insert(visit)
            .values(
                id=new_id(),
                patient_id=patient_id,
                number=number,
                authority=authority,
                **{"state": VisitState.OPEN.value, **changes},
            )
            .on_conflict_do_update(
                index_elements=["patient_id", "authority", "number"], set_=changes
            )
        )

    def of_patient(self, patient_id: str) -> list[Row[Any]]:
        """Return the patient's visits, the one that was told of last first."""
        query = select(visit).where(visit.c.patient_id == patient_id)
        return list(self._connection.execute(query.order_by(visit.c.updated_at.desc())))

    def open_of(self, patient_id: str) -> list[Any]:
        """Return the patient's visits that have begun and not ended."""
        return self._direct.fetch(_OPEN(patient=patient_id))

    def holder(self, number: str, account: str) -> str | None:
        """Return the patient who alone has the visit, or else the account, of this number."""
        column, value = (visit.c.number, number) if number else (visit.c.account, account)
        query = select(visit.c.patient_id).where(column == value).distinct().limit(2)
        found = self._connection.scalars(query).all()
        return found[0] if len(found) == 1 else None

    def change(self, visit_ids: list[str], **changes: Any) -> None:
        """Set columns of visits."""
        self._connection.execute(
            update(visit).where(visit.c.id.in_(visit_ids)).values(**changes, updated_at=self._now)
        )

    def open_orders(
        self, patient_id: str, number: str = "", **changes: Any
    ) -> list[tuple[str, str]]:
        """Set columns of the patient's open orders of one visit; return (order id, study id).

        An order that names no visit, and a visit that has no number, mean each other.
        """
        waiting = select(scheduled_step.c.order_id).where(scheduled_step.c.status.in_(_WAITING))
        mine = [imaging_order.c.patient_id == patient_id, imaging_order.c.id.in_(waiting)]
        if number:
            mine.append(imaging_order.c.admission_id.in_(["", number]))
        if changes:
            # Only what is told something new: a repeated event leaves no trace.
            new = or_(*(imaging_order.c[k] != v for k, v in changes.items()))
            touched = (
                update(imaging_order)
                .where(*mine, new)
                .values(**changes)
                .returning(imaging_order.c.id)
                .cte()
            )
            query = select(touched.c.id, study.c.id).join(study, study.c.order_id == touched.c.id)
        else:
            query = (
                select(imaging_order.c.id, study.c.id)
                .join(study, study.c.order_id == imaging_order.c.id)
                .where(*mine)
            )
        return [(row[0], row[1]) for row in self._connection.execute(query)]

    def arrive(self, patient_id: str, since: datetime, until: datetime) -> list[str]:
        """Mark the patient's scheduled steps between two times as arrived; return their orders."""
        mine = select(imaging_order.c.id).where(imaging_order.c.patient_id == patient_id)
        rows = self._connection.execute(
            update(scheduled_step)
            .where(
                scheduled_step.c.order_id.in_(mine),
                scheduled_step.c.status == StepState.SCHEDULED.value,
                scheduled_step.c.start_at >= since,
                scheduled_step.c.start_at < until,
            )
            .values(status=StepState.ARRIVED.value)
            .returning(scheduled_step.c.order_id)
        )
        return sorted({row.order_id for row in rows})

    # --- links

    def link(self, first_id: str, second_id: str) -> None:
        """Say that two records may be one person."""
        low, high = sorted((first_id, second_id))
        self._connection.execute(
            insert(patient_link)
            .values(patient_id=low, other_id=high, at=self._now)
            .on_conflict_do_nothing()
        )

    def unlink(self, first_id: str, second_id: str) -> None:
        """Take that back."""
        low, high = sorted((first_id, second_id))
        self._connection.execute(
            patient_link.delete().where(
                patient_link.c.patient_id == low, patient_link.c.other_id == high
            )
        )

    def links(self, patient_id: str) -> list[str]:
        """Return the records that this one is linked to."""
        rows = self._connection.execute(
            select(patient_link).where(
                or_(patient_link.c.patient_id == patient_id, patient_link.c.other_id == patient_id)
            )
        )
        return sorted(r.other_id if r.patient_id == patient_id else r.patient_id for r in rows)

    # --- appointments

    def find_appointment(self, key: str) -> Row[Any] | None:
        """Return the slot with this name, locked, or None."""
        return self._connection.execute(
            select(appointment).where(appointment.c.key == key).with_for_update()
        ).one_or_none()

    def add_appointment(self, **values: Any) -> str:
        """Record a slot and return its id."""
        appointment_id = new_id()
        self._connection.execute(
            insert(appointment).values(id=appointment_id, updated_at=self._now, **values)
        )
        return appointment_id

    def change_appointment(self, appointment_id: str, **changes: Any) -> None:
        """Set columns of a slot."""
        self._connection.execute(
            update(appointment)
            .where(appointment.c.id == appointment_id)
            .values(**changes, updated_at=self._now)
        )

    def unjoined(self, order_placer: str) -> list[Any]:
        """Return the slots that wait for the order with this placer number."""
        return self._direct.fetch(self.waiting(order_placer))

    def waiting(self, order_placer: str) -> Call:
        """Return the question that `unjoined` asks."""
        return _UNJOINED(placer=order_placer)

    def appointments_of(self, order_id: str) -> list[Row[Any]]:
        """Return the slots of an order."""
        return list(
            self._connection.execute(select(appointment).where(appointment.c.order_id == order_id))
        )
