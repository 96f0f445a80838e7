"""Results from other systems: linked to the study that they name, or shown on the desk."""

from __future__ import annotations

import pytest

from models.errors import IllegalMove
from services.database.store import Store
from services.settings import Settings
from services.workflow.desk import Action, decide, propose, undo
from services.workflow.reapplying import apply_decided
from tests.hl7.orders import omi
from tests.workflow.sender import PID, Sender, message

UID = "1.2.3.4.5.6.7"


@pytest.fixture
def send(store: Store, settings: Settings) -> Sender:
    return Sender(store, settings)


def oru(
    *,
    uid: str = "",
    placer: str = "",
    filler: str = "",
    accession: str = "",
    status: str = "F",
    flag: str = "N",
    pid: str = PID,
) -> bytes:
    obr = [""] * 33
    obr[0:5] = ["OBR", "1", placer, filler, "MRBRWO^MRI brain^L"]
    obr[18], obr[22], obr[25], obr[32] = accession, "20260301120000", status, "12&READER&RITA"
    observed = [f"OBX|1|TX|GDT^Impression^L||Haemorrhage.|||{flag}^flag^HL70078|||P"]
    if uid:
        observed.insert(0, f"OBX|0|ST|113014^Study Instance UID^DCM||{uid}||||||F")
    return message("ORU^R01^ORU_R01", pid, "|".join(obr), *observed)


@pytest.mark.parametrize(
    "named",
    [
        {"uid": UID},
        {"accession": "A2026000123"},
        {"filler": "A2026000123^RIS"},
        {"placer": "P100^EMR"},
    ],
    ids=lambda n: next(iter(n)),
)
def test_a_result_finds_its_study(send: Sender, store: Store, named: dict[str, str]) -> None:
    send(omi())
    assert send(oru(**named, flag="AA")) == "AA"
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        (result,) = uow.external.of_study(study.id)
        assert (result.status, result.critical, result.author) == ("F", True, "READER^RITA")
        assert result.procedure == "MRI brain"
        entry = uow.timeline.of_study(study.id)[-1]
    assert entry.summary == "result from EMR: final, marked critical"


def test_the_status_is_that_of_the_observation_where_obr_25_is_empty(
    send: Sender, store: Store
) -> None:
    send(omi())
    send(oru(uid="", accession="A2026000123", status=""))
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        (result,) = uow.external.of_study(study.id)
    assert (result.status, result.critical) == ("P", False)


@pytest.mark.parametrize(
    "raw",
    [
        oru(uid="1.2.3.999"),
        oru(),
        oru(uid=UID, pid=PID.replace("0012345", "777")),
        oru(uid=UID, pid=PID.replace("DOE^JANE", "ROE^RICHARD")),
    ],
)
def test_what_cannot_be_placed_is_kept_and_shown(send: Sender, store: Store, raw: bytes) -> None:
    send(omi())
    assert send(raw) == "AA"
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        assert uow.external.of_study(study.id) == []
        assert [row.kind for row in uow.studies.desk()] == ["unlinked-result"]


def test_kidney_values_and_laboratory_results_are_not_exams(send: Sender, store: Store) -> None:
    egfr = message(
        "ORU^R01",
        PID,
        "OBR|1||L1^LAB|24362-6^Renal panel^LN",
        "OBX|1|NM|33914-3^eGFR^LN||58|mL/min||L|||F",
        "OBX|2|NM|2160-0^Creatinine^LN||1.2|mg/dL|||||F",
    )
    assert send(egfr) == "AA"
    with store() as uow:
        assert uow.messages.get(1).state == "ignored"
        assert uow.studies.desk() == []


def test_a_result_without_its_parts_is_refused(send: Sender) -> None:
    assert send(message("ORU^R01", PID)) == "AE 101"


def test_a_result_from_before_its_order_is_applied_again_by_a_decision_and_once(
    send: Sender, store: Store, settings: Settings
) -> None:
    send(oru(uid=UID, flag="AA"))
    send(omi())
    with store() as uow:
        assert propose(uow, 1, settings).action is Action.REAPPLY
        decide(uow, 1, Action.REAPPLY, by="rita", why="the order came", settings=settings)
    assert apply_decided(store, settings=settings) == [1]
    assert apply_decided(store, settings=settings) == []
    with store() as uow:
        study = uow.studies.find(UID)
        assert study is not None
        assert len(uow.external.of_study(study.id)) == 1
        assert uow.studies.desk() == []
    with pytest.raises(IllegalMove, match="cannot be taken back"), store() as uow:
        undo(uow, 1, by="max", why="no")
