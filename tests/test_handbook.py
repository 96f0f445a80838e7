"""The pages that are made of tables are the ones that the tables make today."""

from __future__ import annotations

import pytest

from deployments.handbook import DOCS, PAGES
from services.dicom.worklist import worklist_item
from services.hl7.mapping import ORDER, PATIENT, STEP


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_table_makes(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run python -m deployments.handbook"


def test_every_mapped_attribute_is_answered() -> None:
    from types import SimpleNamespace

    class Blank(SimpleNamespace):
        def __getattr__(self, name: str) -> object:
            return {"imaging_order_details": {}, "patient_details": {}}.get(name, "")

    from datetime import UTC, datetime

    row = Blank(
        imaging_order_priority=4,
        imaging_order_pregnancy_status=None,
        imaging_order_weight_kg=None,
        imaging_order_height_m=None,
        patient_birth_date=None,
        scheduled_step_start_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    item = worklist_item(row, [])
    assert {r.keyword for r in (*PATIENT, *ORDER)} <= {e.keyword for e in item}
    step = item.ScheduledProcedureStepSequence[0]
    assert {r.keyword for r in STEP} <= {e.keyword for e in step}


def test_every_event_that_is_served_stands_on_its_page() -> None:
    import re

    from services.workflow.dispatch import USE_CASES

    page = (DOCS / "hl7-events.md").read_text(encoding="utf-8")
    served = {key.split("^")[1] for key in USE_CASES if key.split("^")[0] in {"ADT", "SIU"}}
    assert served - set(re.findall(r"\b[AS]\d\d\b", page)) == set()
