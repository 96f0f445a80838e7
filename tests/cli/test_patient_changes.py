"""What was done to patient records, told and undone at the command line."""

from __future__ import annotations

import pytest

from services.database.store import Store
from services.workflow.identity import merge
from tests.cli.conftest import Terminal
from tests.dicom.department import JANE, JOHN, place


@pytest.fixture
def merged(store: Store) -> str:
    """The id of a study that a merge gave from John's record to Jane's."""
    _, study = place(store, patient=JOHN)
    with store() as uow:
        uow.patients.save(JANE)
        merge(uow, JANE.id, JOHN.id, by="EMR|HOSP", why="ADT^A40")
    return study.id


def test_a_change_says_who_when_why_and_what_and_is_undone(
    installed: Terminal, store: Store, merged: str
) -> None:
    for number in (JANE.mrn.value, JOHN.mrn.value):
        (told,) = installed.json("patients", "changes", number)
        assert (told["kind"], told["by"], told["why"]) == ("merge", "EMR|HOSP", "ADT^A40")
        assert told["moved"] == {"imaging_order": 1, "study": 1}
        assert (told["was"], told["kept_as"], told["undone_at"]) == (JOHN.id, JANE.id, None)
        assert told["at"]
    said = ("--by", "chief", "--why", "two persons")
    undone = installed.json("patients", "undo", str(told["change"]), *said)
    assert (undone["undone_by"], undone["undone_why"]) == ("chief", "two persons")
    assert installed.json("patients", "undo", str(told["change"]), *said) == undone
    with store() as uow:
        assert uow.studies.get(merged).patient_id == JOHN.id
        entries = uow.timeline.of_study(merged)
    assert [(e.kind, e.actor, e.evidence["why"]) for e in entries] == [
        ("patient.merged", "EMR|HOSP", "ADT^A40"),
        ("patient.merge-undone", "chief", "two persons"),
    ]
    assert {e.evidence["was"] for e in entries} == {JOHN.id}
    assert installed.json("patients", "changes", "NOBODY") == []
