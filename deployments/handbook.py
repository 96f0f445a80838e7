"""Pages of the documentation that are made of the tables the program follows.

``python -m deployments.handbook`` writes them; a test compares them with what stands in ``docs/``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from deployments.handbook_fhir import orders_page
from models.external_result import CRITICAL
from models.lifecycle import StepState, move
from models.order_control import RULES
from models.priority import HL7_PRIORITY
from models.visit import VisitState
from services.hl7.mapping import ORDER, PATIENT, SECTIONS, STEP, Kind, Row
from services.workflow.encounters import VISIT_EVENTS
from services.workflow.scheduling import EVENTS

DOCS: Final = Path(__file__).parents[1] / "docs"

_HEAD: Final = """# HL7 orders and the worklist

Made by `python -m deployments.handbook` from the tables that the readers follow \
(`services/hl7/mapping.py`, `models/order_control.py`); do not edit it by hand.

An order arrives as ORM^O01, OMI^O23 or OMG^O19 in any version from 2.3 to 2.8. Both options of \
IHE RAD are read, and a mixture too: the v2.5.1 place first, then the one of v2.3.1, then the \
others. An order that is told in either option makes the same worklist item. An empty field leaves \
what is stored as it is; two quotes (`""`) delete it. A sender that puts values elsewhere gets a \
profile.

- Several IPC segments are several scheduled steps. So are several ORC/OBR pairs with the same \
placer number, accession number and requested procedure ID.
- Pairs with one placer number and different requested procedures are orders of their own, each \
with its accession number and Study Instance UID.
- An accession number that is longer than 16 characters is refused (104), never cut. Another \
number that is too long is left out, with a warning on the timeline; text is cut when it is sent.
- An order that says nothing of a visit (no PV1, no PID-18) gets number, location and class of \
the patient's open visit, as ADT told of it, where there is exactly one.
- Times without an offset are local time of this machine.
"""


def mapping_page() -> str:
    """Return docs/hl7-mapping.md."""
    lines = [_HEAD, "## Attributes", ""]
    for title, rows in (("Patient", PATIENT), ("Order", ORDER), ("Scheduled step", STEP)):
        lines += [f"### {title}", "", *_attributes(rows), ""]
    lines += ["## Priority", "", "| TQ1-9, ORC-7.6 (HL70485) | (0040,1003) |", "|---|---|"]
    lines += [f"| {code} | {priority.dicom} |" for code, priority in HL7_PRIORITY.items()]
    lines += ["", "Any other code is ROUTINE, with a warning on the timeline.", ""]
    lines += ["## Modality", "", "| OBR-24 (HL70074) | (0008,0060) |", "|---|---|"]
    lines += [f"| {section} | {modality} |" for section, modality in SECTIONS.items()]
    lines += ["", _MODALITY, ""]
    lines += ["## Order control", "", *_controls(), ""]
    return "\n".join(lines)


_MODALITY: Final = (
    "Any other word is taken as it stands; a sender that has words of its own gets a profile. "
    "An order for a modality that is not one of `SPINECHO_MODALITIES` is accepted, and marked on "
    "its timeline (`order.elsewhere`) and page. It is answered to a query that its modality "
    "matches, and to one that leaves the modality open; a console that asks for MR never sees it."
)


def _attributes(rows: Iterable[Row]) -> Iterable[str]:
    yield "| attribute | tag | VR | v2.3.1 | v2.5.1 | else | read as |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        tag = tag_for_keyword(row.keyword)
        if tag is None:
            raise ValueError(f"{row.keyword} is no attribute of DICOM")
        how = row.note if row.kind is Kind.COMPUTED else row.kind.value
        if row.note and row.kind is not Kind.COMPUTED:
            how += f"; {row.note}"
        yield (
            f"| {row.keyword} | ({tag >> 16:04X},{tag & 0xFFFF:04X}) | {dictionary_VR(tag)} "
            f"| {row.v231 or '—'} | {row.v251} | {row.also.replace(' ', ', ') or '—'} | {how} |"
        )


def _controls() -> Iterable[str]:
    yield (
        "ORC-1 and ORC-5 decide together. A pair that is not here is refused (103). An order that "
        "was never placed is refused (204), and so is what comes too late for its exam (206)."
    )
    yield ""
    yield "| ORC-1 | ORC-5 | what is done | says |"
    yield "|---|---|---|---|"
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for (control, status), rule in RULES.items():
        key = (control, rule.action.value, rule.source)
        grouped.setdefault(key, []).append(status or "empty")
    for (control, action, source), statuses in grouped.items():
        yield f"| {control} | {', '.join(statuses)} | {action} | {source} |"


_EVENTS: Final = """# HL7 events: patients, visits, appointments, results

Made by `python -m deployments.handbook` from the tables that the program follows; do not edit it \
by hand. An event that is not here is rejected (AR, 201). Orders are in `hl7-mapping.md`.

- An empty field leaves what is stored as it is; two quotes (`""`) delete it.
- Two identifiers are the same number where value and assigning authority agree. Where CX.4 is \
empty, the authority is `SPINECHO_DEFAULT_AUTHORITY`.
- A message that names its patient by an identifier that retired in a merge is refused (204). \
Images under it are accepted and filed under the survivor.
- What changes for an order whose exam has not begun stands on the timeline of its study.
"""

_RECORDS: Final = {
    "A28": "A person is added; one that is there is not overwritten.",
    "A31": "A person's demographics change.",
    "A40": "Each MRG-1 retires into the PID-3 before it, with its orders, studies, visits and "
    "appointments. A survivor that is not there is made; one message may hold several merges, and "
    "they happen together or not at all. Both the same, or merged the other way round before: "
    "205. One that retired before: 204.",
    "A47": "PID-3 takes the place of MRG-1. A PID-3 that exists already: 205.",
    "A43, A44, A45": "The visits of MRG-5 (else PV1-19), or those of the account in MRG-3, go to "
    "the patient in PID with their orders and studies; nothing else moves. Nothing listed: 101.",
    "A41": "The visits of the account in MRG-3 get that of PID-18.",
    "A42": "The visit of MRG-5 gets the number in PV1-19, and so do its orders.",
    "A24, A37": "Two records are linked as perhaps one person, or the link is taken back; neither "
    "retires.",
    "A60": "The allergies in IAM-3 (AL1-3) reach every open order.",
}


def events_page() -> str:
    """Return docs/hl7-events.md."""
    lines = [_EVENTS, "## Visits (ADT)", "", "| event | visit | beside it |", "|---|---|---|"]
    for event, effect in VISIT_EVENTS.items():
        state = "as it is" if effect.state is None else effect.state.value
        beside = "location, class and AL1 reach the open orders of the visit"
        if effect.state is VisitState.CANCELLED:
            beside = "its open orders go to the desk and stay on the worklist"
        if effect.arrives:
            beside += "; steps of today are ARRIVED"
        lines.append(f"| {event} | {state} | {beside} |")
    lines += ["", "## Patient records (ADT)", "", "| event | what is done |", "|---|---|"]
    lines += [f"| {event} | {what} |" for event, what in _RECORDS.items()]
    lines += [
        "",
        "## Appointments (SIU)",
        "",
        "A slot is known by SCH-2 with its issuer, else SCH-1. It joins the order that SCH-26 or "
        "SCH-27 names (else ORC-2, OBR-2, ORC-3, OBR-3) if that is the same patient's; one that "
        "comes before its order waits for it. The time is AIS-4, else SCH-11.4 or AIG-8. A step "
        "without a slot is off the worklist and its order stays open. An exam that has begun is "
        "not moved (206). S23 and S24 have no patient and are ignored.",
        "",
        "| event | slot | step |",
        "|---|---|---|",
    ]
    for event, (appointment, step) in EVENTS.items():
        after = move(StepState.SCHEDULED, step).value
        lines.append(f"| {event} | {appointment.value} | {after} |")
    lines += [
        "",
        "## Results from other systems (ORU^R01)",
        "",
        "Each OBR is a result. It is linked to the study that the first of these names: the Study "
        "Instance UID in the OBX with code 113014, the accession number in OBR-18, that in OBR-3, "
        "the placer order number in OBR-2. Its status is OBR-25, else OBX-11; it is critical "
        "where an OBX-8 is " + ", ".join(sorted(CRITICAL)) + ". A result that names no study "
        "here, or the study of another patient, is kept and shown on the desk, and answered AA. "
        "Laboratory results are ignored. The text stays in the message store.",
        "",
    ]
    return "\n".join(lines)


PAGES: Final = {
    "hl7-mapping.md": mapping_page,
    "hl7-events.md": events_page,
    "fhir-orders.md": orders_page,
}
"""File below docs/ → what makes it."""


def write(folder: Path = DOCS) -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
