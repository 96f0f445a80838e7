"""docs/fhir-orders.md, made of the tables that intake over FHIR follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.fhir.order_mapping import (
    CLASSES,
    NOT_CARRIED,
    ORDER,
    PATIENT,
    PRIORITIES,
    STEP,
    Kind,
    Row,
)
from services.fhir.order_resource import ORDER_STATUS, STEP_STATUS
from services.fhir.transaction import KEPT, MOST_ENTRIES

_HEAD: Final = """# FHIR orders and the worklist

Made by `python -m deployments.handbook` from the tables that intake follows \
(`services/fhir/order_mapping.py`, `services/fhir/order_resource.py`); do not edit it by hand.

A ServiceRequest in R4 (`/fhir/r4`) or R5 (`/fhir/r5`) makes the order that an HL7 message makes, \
by the same intake. What is sent is kept, sealed, in the message store (`spinecho messages list`).

## Sending

- `POST /ServiceRequest`: a new order. `status` is `active`, or `on-hold`; `intent` is `order` or \
one of its kinds. The same order again (same placer number and content) is answered 200 with what \
is there and has no second effect; the same number with other content is refused (409).
- `PUT /ServiceRequest/[id]`, with `If-Match` of the version that was read: `active` changes the \
order or releases it (XO, RL), `on-hold` holds it (HD), `revoked` and `entered-in-error` cancel it \
(CA) if its exam has not begun (else 409). What was said and is not said any more is deleted. \
Placer number and patient stay. An id that is not here is not created (405).
- `POST` with `If-None-Exist: identifier=system|value`, and `PUT /ServiceRequest?identifier=…`: \
several matches are 412.
- `POST /` with a Bundle of type `transaction`: all of it, or nothing. Entries are POST and PUT of \
Patient, ServiceRequest, Task, {kept}; references by `fullUrl`, and conditional ones, are \
resolved. A Task whose focus is a ServiceRequest of the Bundle is one scheduled step; without one \
the ServiceRequest is its only step. At most {most} entries, and `SPINECHO_FHIR_MAX_BYTES` (413).
- `replaces` cancels the orders that it names in favour of this one (RP, RO).
- The subject is a Patient who is known here, by id or `identifier`; or one who is contained, or \
comes in the same Bundle, and is then created or refreshed as PID does.
- A reference that leads to nothing here is refused (422), one to another server is not followed: \
its `display` is used. A category that says another discipline, or a specimen, is refused.
- Every refusal is an OperationOutcome with the place (`expression`) and the reason.

## Systems

The issuer of a number is what `SPINECHO_FHIR_SYSTEMS` calls its system, else its `assigner`, else \
the system itself: give it each system that your HL7 messages name otherwise, such as \
`SPINECHO_FHIR_SYSTEMS='{{"urn:oid:1.2.3.4": "HOSP", "http://emr.example/orders": "EMR"}}'`, or a \
patient has two records. The same table names coding systems; one that it does not name is `L`.
"""


def orders_page() -> str:
    """Return docs/fhir-orders.md."""
    lines = [_HEAD.format(kept=", ".join(KEPT), most=MOST_ENTRIES), "## Attributes", ""]
    for title, rows in (("Patient", PATIENT), ("Order", ORDER), ("Scheduled step", STEP)):
        lines += [f"### {title}", "", *_attributes(rows), ""]
    lines += ["### Not carried", "", *(f"- {k}: {why}." for k, why in NOT_CARRIED.items()), ""]
    lines += ["## Priority", "", "| priority | (0040,1003) |", "|---|---|"]
    lines += [f"| {code} | {priority.dicom} |" for code, priority in PRIORITIES.items()]
    lines += ["", "## Class", "", "| Encounter.class | (0038,0016) |", "|---|---|"]
    lines += [f"| {code} | {word} |" for code, word in CLASSES.items()]
    lines += ["", "## Status", "", _STATUS, "", "| study | ServiceRequest.status |", "|---|---|"]
    lines += [f"| {state.value} | {status} |" for state, status in ORDER_STATUS.items()]
    lines += ["", "| step | Task.status |", "|---|---|"]
    lines += [f"| {state.value} | {status} |" for state, status in STEP_STATUS.items()]
    return "\n".join([*lines, ""])


_STATUS: Final = (
    "`GET /ServiceRequest/[id]` returns what was sent, with the accession number and the Study "
    "Instance UID that were given to it and the status here; an order that came over HL7 is told "
    "from what it said. An order on hold is `on-hold`. The version counts changes, whoever made "
    "them; of a resource only the newest version is kept. Below the other version's base an order "
    "is told from what was understood of it."
)


def _attributes(rows: Iterable[Row]) -> Iterable[str]:
    yield "| attribute | R4 | R5, where it differs | read as |"
    yield "|---|---|---|---|"
    for row in rows:
        how = row.note if row.kind is Kind.COMPUTED else row.kind.value
        if row.note and row.kind is not Kind.COMPUTED:
            how += f"; {row.note}"
        paths = ", ".join(path.replace("_", " ") for path in row.paths)
        yield f"| {row.keyword} | {paths or '—'} | {row.r5 or '—'} | {how} |"
