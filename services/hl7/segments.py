"""Segments written out of values: what every message that Spinecho sends has in common."""

from __future__ import annotations

from datetime import datetime

from models.order import Order
from models.patient import Patient
from services.hl7.er7 import escape

SENDING: tuple[str, str] = ("SPINECHO", "RAD")
"""MSH-3 and MSH-4."""


def segment(name: str, values: dict[int, str]) -> str:
    """Return a segment of fields that are encoded already; empty ones at its end are left out."""
    last = max((n for n, v in values.items() if v), default=0)
    return "|".join([name, *(values.get(n, "") for n in range(1, last + 1))])


def header(kind: str, *, control_id: str, receiver: str, version: str, written: datetime) -> str:
    """Return MSH for a message of `kind`, such as ``ORU^R01^ORU_R01``, in UTF-8."""
    msh = {
        2: "^~\\&",
        3: SENDING[0],
        4: SENDING[1],
        5: escape(receiver),
        7: time_stamp(written),
        9: kind,
        10: control_id,
        11: "P",
        12: version,
        18: "UNICODE UTF-8",
    }
    # MSH-1 is the separator itself, so the header is joined one field later.
    return "MSH" + segment("", msh)[1:]


def pid(patient: Patient | None, reference_id: tuple[str, str] = ("", "")) -> str:
    """Return PID; for an unknown patient, what the images say: Patient ID and PN."""
    if patient is None:
        number, pn = reference_id
        unknown = joined(number, "", "", "UNKNOWN", "PI")
        return segment("PID", {1: "1", 3: unknown, 5: person(pn)})
    identifiers = "~".join(
        joined(i.value, "", "", i.authority, i.type) for i in patient.identifiers
    )
    return segment(
        "PID",
        {
            1: "1",
            3: identifiers,
            5: person(str(patient.name)),
            7: f"{patient.birth_date:%Y%m%d}" if patient.birth_date else "",
            8: patient.sex,
        },
    )


def placer_number(order: Order) -> str:
    """Return ORC-2 and OBR-2: the placer's number and its authority."""
    return joined(order.placer_number, order.placer_authority)


def filler_number(order: Order) -> str:
    """Return ORC-3 and OBR-3: the filler's number, which is the accession where nobody gave one."""
    return joined(order.filler_number or order.accession, SENDING[0])


def ordering_provider(order: Order) -> str:
    """Return OBR-16: who asked for the exam, as XCN, whose first component is a number."""
    name = person(str(order.requesting))
    return f"^{name}" if name else ""


def joined(*parts: str) -> str:
    """Return components, escaped; empty ones at the end are left out."""
    return "^".join(escape(part) for part in parts).rstrip("^")


def person(pn: str) -> str:
    """Return a DICOM PN as XPN.

    They share family, given and middle; suffix and prefix change places.
    """
    family, given, middle, prefix, suffix, *_ = [*pn.split("^"), *[""] * 5]
    return joined(family, given, middle, suffix, prefix)


def time_stamp(moment: datetime) -> str:
    """Return local time with its offset from UTC."""
    return moment.astimezone().strftime("%Y%m%d%H%M%S%z")
