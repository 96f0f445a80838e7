"""An order's status for its placer: ORM^O01 (v2.3.1) or OMG^O19 (v2.5.1), with ORC-1 SC.

IHE RAD-3 in its two options (STANDARDS §1.1, §1.7).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from models.order import Order
from models.order_status import OrderStatus
from models.patient import Patient
from models.priority import Priority
from models.study import Study
from services.hl7.er7 import NULL, escape
from services.hl7.segments import (
    filler_number,
    header,
    joined,
    ordering_provider,
    pid,
    placer_number,
    segment,
    time_stamp,
)

Kind = Literal["ORM^O01", "OMG^O19"]
_FORMS: dict[Kind, tuple[str, str]] = {
    "ORM^O01": ("ORM^O01^ORM_O01", "2.3.1"),
    "OMG^O19": ("OMG^O19^OMG_O19", "2.5.1"),
}
"""MSH-9 and MSH-12."""
_PRIORITIES = {Priority.STAT: "S", Priority.HIGH: "A"}
"""HL70485 of ORC-7.6 and TQ1-9; every other is R."""


def build_notice(
    kind: Kind,
    status: OrderStatus,
    order: Order,
    study: Study,
    patient: Patient,
    *,
    control_id: str,
    changed_at: datetime,
    start_at: datetime | None,
) -> bytes:
    """Return the message that tells a placer where its order stands.

    Parameters
    ----------
    kind : {"ORM^O01", "OMG^O19"}
    status : OrderStatus
    order, study, patient : Order, Study, Patient
    control_id : str
        MSH-10; the same for every attempt, so that a receiver can tell a repetition.
    changed_at : datetime
        When the status changed: MSH-7, ORC-9 and OBR-22.
    start_at : datetime or None
        When the exam was to begin as of this change: ORC-7 or TQ1-7, and OBR-36. None when the
        order waits for a slot: the time that was told before is deleted (``""``, §2.5.3.5).

    Returns
    -------
    bytes
        UTF-8, segments ending in CR. ORC-1 is SC always: NA, "number assigned", is what a placer
        answers to a filler's SN; the numbers that a new order was given are in ORC-3 and OBR-18.
    """
    form, version = _FORMS[kind]
    start = time_stamp(start_at) if start_at else NULL
    urgency = _PRIORITIES.get(order.priority, "R")
    code = order.procedure
    orc = {
        1: "SC",
        2: placer_number(order),
        3: filler_number(order),
        5: status.order,
        9: time_stamp(changed_at),
        12: ordering_provider(order),
    }
    obr = {
        1: "1",
        2: orc[2],
        3: orc[3],
        4: joined(code.value, code.meaning, code.scheme),
        7: time_stamp(study.started_at) if study.started_at else "",
        16: orc[12],
        18: escape(order.accession),
        19: escape(order.requested_procedure_id),
        20: escape(order.steps[0].sps_id) if order.steps else "",
        22: orc[9],
        24: order.steps[0].modality if order.steps else "MR",
        25: status.result,
        36: start,
    }
    segments = [
        header(
            form, control_id=control_id, receiver=order.sender, version=version, written=changed_at
        ),
        pid(patient),
    ]
    if order.patient_class:
        segments.append(segment("PV1", {1: "1", 2: escape(order.patient_class)}))
    if kind == "ORM^O01":
        # TQ: component 4 is the start, component 6 the priority.
        orc[7] = f"1^^^{start}^^{urgency}"
        segments.append(segment("ORC", orc))
    else:
        segments.append(segment("ORC", orc))
        segments.append(segment("TQ1", {1: "1", 7: start, 9: urgency}))
    segments += [segment("OBR", obr), f"ZDS|{escape(study.study_uid)}^100^Application^DICOM"]
    return ("\r".join(segments) + "\r").encode()
