"""Pages of the documentation that are made of the tables the program follows.

``python -m deployments.handbook`` writes them; a test compares them with what stands in ``docs/``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from models.order_control import RULES
from models.priority import HL7_PRIORITY
from services.hl7.mapping import ORDER, PATIENT, STEP, Kind, Row

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
    lines += ["## Order control", "", *_controls(), ""]
    return "\n".join(lines)


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


PAGES: Final = {"hl7-mapping.md": mapping_page}
"""File below docs/ → what makes it."""


def write(folder: Path = DOCS) -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
