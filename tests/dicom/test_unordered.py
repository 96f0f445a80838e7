"""Images without an order, sent by C-STORE: placed where rules leave no doubt, else on the desk."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from models.errors import IllegalMove, InvalidValue
from models.lifecycle import StepState, StudyState
from models.order import Order
from models.patient import Identifier, Patient, PersonName
from models.study import Study, new_uid
from services.database.store import Store, UnitOfWork
from services.workflow.acquisition import begin_exam, change_exam, judge_completeness
from services.workflow.automatic_filing import place_study, place_waiting
from services.workflow.desk import RULES, Action, decide, propose, undo
from services.workflow.identity import merge
from tests.dicom.conftest import Listener
from tests.dicom.department import associated, begun, ended, image, place

ANNA = Patient(
    id="anna",
    identifiers=(Identifier(value="0004711", authority="HOSP"),),
    name=PersonName(family="QUILLFEATHER", given="OTTOLINE"),
    birth_date=date(1980, 2, 14),
    sex="F",
)
BERT = Patient(
    id="bert",
    identifiers=(Identifier(value="0008822", authority="HOSP"),),
    name=PersonName(family="VANDERSLOOT", given="HIERONYMUS"),
    birth_date=date(1951, 7, 1),
    sex="M",
)
TWIN = replace(
    ANNA,
    id="twin",
    identifiers=(Identifier(value="0004712", authority="HOSP"),),
    name=PersonName(family="QUILLFEATHER", given="OTTILIE"),
)
DOE = replace(
    ANNA,
    id="doe",
    identifiers=(Identifier(value="T77", authority="HOSP"),),
    name=PersonName(family="DOE", given="JANE"),
    birth_date=None,
)
BABY = replace(
    ANNA,
    id="baby",
    identifiers=(Identifier(value="N5", authority="HOSP"),),
    name=PersonName(family="QUILLFEATHER", given="BABY GIRL A"),
    birth_date=date(2026, 2, 14),
)
ELSEWHERE = replace(
    ANNA, id="elsewhere", identifiers=(Identifier(value="0004711", authority="CLINIC"),)
)


def ordered(store: Store, patient: Patient = ANNA, **values: Any) -> tuple[Order, Study]:
    values = {"accession": "S26001234", "start": datetime.now(UTC), "station": "MR1"} | values
    return place(store, patient=patient, **values)


def received(listener: Listener, patient: Patient = ANNA, **changes: str) -> str:
    """Send one image under a Study UID that nobody ordered; return its study's id."""
    ds = image(new_uid(), patient=patient)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000
    with listener.store() as uow:
        study = uow.studies.find(ds.StudyInstanceUID)
        assert study is not None
        return study.id


def proposal(listener: Listener, number: int = 1) -> Any:
    with listener.store() as uow:
        return propose(uow, number, listener.settings)


def joined(listener: Listener, study_id: str) -> str | None:
    place_study(listener.store, study_id, settings=listener.settings)
    with listener.store() as uow:
        return uow.studies.get(study_id).order_id


def told(uow: UnitOfWork, study_id: str) -> dict[str, Any]:
    """Everything that a study's row says but when it was last written."""
    row = uow.studies.row(study_id)._asdict()
    return {name: value for name, value in row.items() if name != "updated_at"}


@pytest.mark.parametrize(
    "said", ["S26001234", "s26001234", "S-2600-1234"], ids=["same", "case", "separators"]
)
def test_the_accession_number_and_the_patients_number_file_images_by_themselves(
    listener: Listener, said: str
) -> None:
    order, own = ordered(listener.store)
    study_id = received(listener, AccessionNumber=said)
    assert joined(listener, study_id) == order.id
    with listener.store() as uow:
        study = uow.studies.get(study_id)
        assert (study.patient_id, study.accession) == ("anna", "S26001234")
        assert study.state is StudyState.ACQUIRING
        after = uow.orders.get(order.id)
        assert after.study_uid == study.study_uid
        assert [s.status for s in after.steps] == [StepState.COMPLETED.value]
        assert uow.studies.desk() == []
        (entry,) = [e for e in uow.timeline.of_study(study_id) if e.kind == "desk.file"]
        assert "by rules" in entry.summary
        assert uow.studies.get(own.id).state is StudyState.CANCELLED
        assert [s.id for s in uow.studies.find_by_accession("S26001234")] == [study_id]
    (decision,) = proposal(listener).decisions
    assert decision.by == RULES
    assert decision.why == "the patient's number and the accession number agree"
    # Again, nothing is there to be done.
    assert not place_study(listener.store, study_id, settings=listener.settings)


def test_an_accession_number_without_its_zeros_is_the_same(listener: Listener) -> None:
    order, _ = ordered(listener.store, accession="00071234")
    assert joined(listener, received(listener, AccessionNumber="71234")) == order.id


def test_an_undoing_puts_everything_back_and_rules_do_not_decide_again(listener: Listener) -> None:
    order, own = ordered(listener.store)
    study_id = received(listener, AccessionNumber="S26001234")
    with listener.store() as uow:
        before = (told(uow, study_id), told(uow, own.id), uow.orders.get(order.id))
    assert joined(listener, study_id) == order.id
    with listener.store() as uow:
        undo(uow, 1, by="rita", why="another exam of hers")
    with listener.store() as uow:
        after = (told(uow, study_id), told(uow, own.id), uow.orders.get(order.id))
        assert after == before
        assert len(uow.studies.desk()) == 1
    assert joined(listener, study_id) is None


def test_images_under_the_orders_own_uid_come_to_it_again_after_an_undoing(
    listener: Listener,
) -> None:
    _, own = ordered(listener.store)
    study_id = received(listener, AccessionNumber="S26001234")
    joined(listener, study_id)
    with listener.store() as uow:
        undo(uow, 1, by="rita", why="another exam of hers")
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(image(own.study_uid, patient=ANNA)).Status == 0x0000
    with listener.store() as uow:
        assert len(uow.studies.instances(own.id)) == 1


@dataclass(frozen=True)
class Case:
    """Who is known, who is ordered, what the images say, and why they wait on the desk."""

    name: str
    why: str
    known: tuple[Patient, ...] = (ANNA, BERT)
    order_of: Patient = ANNA
    says: Patient = ANNA
    changes: tuple[tuple[str, str], ...] = ()
    order: tuple[tuple[str, Any], ...] = ()


ACC = ("AccessionNumber", "S26001234")
CASES = [
    Case("right accession, wrong patient", "too little agrees", says=BERT, changes=(ACC,)),
    Case(
        "right patient, wrong accession",
        "the images say another accession number",
        changes=(("AccessionNumber", "X99"),),
    ),
    Case("right patient, no accession", "the patient is certain, the order is not named"),
    Case(
        "another prefix",
        "the patient is certain, the order is not named",
        changes=(("AccessionNumber", "T26001234"),),
    ),
    Case(
        "another issuer",
        "not enough to be certain",
        changes=(ACC, ("IssuerOfPatientID", "CLINIC")),
    ),
    Case(
        "a number that two authorities gave",
        "another authority has given this number, and the images say none",
        known=(ANNA, ELSEWHERE),
        changes=(ACC,),
    ),
    Case(
        "the twin's number",
        "given name",
        known=(ANNA, TWIN),
        says=replace(TWIN, identifiers=ANNA.identifiers),
        changes=(ACC,),
    ),
    Case(
        "a trauma patient",
        "a placeholder instead of a name",
        known=(DOE,),
        order_of=DOE,
        says=DOE,
        changes=(ACC,),
    ),
    Case("a newborn", "newborn", known=(BABY,), order_of=BABY, says=BABY, changes=(ACC,)),
    Case(
        "another spelling",
        "not the same name",
        says=replace(ANNA, name=PersonName(family="QUILFEATHER", given="OTTOLINE")),
        changes=(ACC,),
    ),
    Case("a day apart", "not the same birth-date", changes=(ACC, ("PatientBirthDate", "19800215"))),
    Case("no number", "not enough to be certain", changes=(ACC, ("PatientID", ""))),
    Case("a cancelled order", "cancelled", changes=(ACC,), order=(("status", "CA"),)),
    Case("several steps", "several steps", changes=(ACC,), order=(("sps", ("A", "B")),)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_not_certain_waits_on_the_desk_and_stays_readable(
    listener: Listener, case: Case
) -> None:
    with listener.store() as uow:
        for patient in case.known:
            uow.patients.save(patient)
    wish = dict(case.order)
    status = wish.pop("status", None)
    order, _ = ordered(listener.store, case.order_of, **wish)
    if status:
        with listener.store() as uow:
            uow.orders.change(order.id, status=status)
    study_id = received(listener, case.says, **dict(case.changes))
    assert joined(listener, study_id) is None
    with listener.store() as uow:
        study = uow.studies.get(study_id)
        assert study.patient_id is None
        assert study.state is StudyState.ACQUIRING
        assert [row.kind for row in uow.studies.desk()] == ["no-order"]
    found = proposal(listener).candidates
    of_order = [m for m in found if m.order is not None and m.order.id == order.id]
    assert [case.why in m.rule for m in of_order] == [True], [m.rule for m in found]
    assert not any(m.certain for m in found)


def test_nobody_alike_leaves_the_desk_without_a_proposal(listener: Listener) -> None:
    ordered(listener.store, BERT, start=datetime(2020, 1, 1, tzinfo=UTC))
    study_id = received(listener, AccessionNumber="Z1")
    assert joined(listener, study_id) is None
    told = proposal(listener)
    assert (told.candidates, told.action) == ((), None)


def test_two_orders_that_are_as_alike_are_shown_side_by_side(listener: Listener) -> None:
    one, _ = ordered(listener.store, accession="0071234")
    two, _ = ordered(listener.store, accession="00071234")
    study_id = received(listener, AccessionNumber="71234")
    assert joined(listener, study_id) is None
    told = proposal(listener)
    assert {m.order.id for m in told.candidates} == {one.id, two.id}
    assert {m.rule for m in told.candidates} == {"another order is named, too"}
    assert told.action is None


def test_what_the_station_was_to_do_is_evidence_but_not_certain(listener: Listener) -> None:
    order, _ = ordered(listener.store)
    study_id = received(listener, PatientName="QUILLFEATHER^OTTOLINE", PatientID="4711")
    assert joined(listener, study_id) is None
    (match,) = proposal(listener).candidates
    assert match.order.id == order.id
    assert {e.field: e.how for e in match.evidence}["slot"] == (
        "scheduled at this station at the time"
    )


def test_likeness_alone_places_nothing_however_low_the_threshold_is(listener: Listener) -> None:
    ordered(listener.store)
    study_id = received(listener, PatientID="", AccessionNumber="S26001234")
    low = listener.settings.model_copy(update={"match_auto": -50.0})
    assert not place_study(listener.store, study_id, settings=low)
    with listener.store() as uow:
        (match,) = propose(uow, 1, low).candidates
    assert match.rule == "no number agrees, and what is said of a person is not enough"


def test_images_under_another_uid_that_the_scanner_lists_join_the_step(listener: Listener) -> None:
    order, own = ordered(listener.store)
    sop_uid, mpps_uid = new_uid(), new_uid()
    begin_exam(listener.store, mpps_uid, begun(own.study_uid, patient=ANNA), source_ae="MR1")
    study_id = received(listener, SOPInstanceUID=sop_uid)
    change_exam(listener.store, mpps_uid, ended("COMPLETED", sop_uid), source_ae="MR1")
    assert joined(listener, study_id) == order.id
    verdict = judge_completeness(listener.store, study_id, settings=listener.settings)
    assert (verdict.complete, verdict.missing) == (True, 0)
    with listener.store() as uow:
        assert [step.sop_uid for step in uow.studies.mpps_of(study_id)] == [mpps_uid]
        assert uow.studies.get(own.id).state is StudyState.DISCONTINUED
        undo(uow, 1, by="rita", why="another exam of hers")
    with listener.store() as uow:
        assert [step.sop_uid for step in uow.studies.mpps_of(own.id)] == [mpps_uid]
        assert uow.studies.get(own.id).order_id == order.id


def test_a_certain_patient_without_an_order_is_shown_and_waits_for_it(listener: Listener) -> None:
    with listener.store() as uow:
        uow.patients.save(ANNA)
    study_id = received(listener, AccessionNumber="S26001234")
    assert place_study(listener.store, study_id, settings=listener.settings)
    assert not place_study(listener.store, study_id, settings=listener.settings)
    with listener.store() as uow:
        assert uow.studies.get(study_id).patient_id == "anna"
        assert len(uow.studies.desk()) == 1
        kinds = [e.kind for e in uow.timeline.of_study(study_id)]
    assert kinds.count("desk.identified") == 1
    order, _ = ordered(listener.store)
    assert place_waiting(listener.store, listener.settings) == 1
    with listener.store() as uow:
        assert uow.studies.get(study_id).order_id == order.id
        assert uow.studies.desk() == []


def test_images_under_a_merged_number_are_the_survivors_and_join_its_order(
    listener: Listener,
) -> None:
    order, _ = ordered(listener.store)
    old = replace(ANNA, id="old", identifiers=(Identifier(value="TEMP9", authority="HOSP"),))
    with listener.store() as uow:
        uow.patients.save(old)
        merge(uow, "anna", "old", by="chief", why="one person")
    study_id = received(listener, old, AccessionNumber="S26001234")
    assert joined(listener, study_id) == order.id


def test_a_person_files_under_an_order_with_the_reason_kept(listener: Listener) -> None:
    order, _ = ordered(listener.store)
    study_id = received(listener)
    assert joined(listener, study_id) is None
    with listener.store() as uow:
        decide(
            *(uow, 1, Action.FILE),
            order_id=order.id,
            **{"by": "rita", "why": "the only exam of hers today"},
            settings=listener.settings,
        )
    with listener.store() as uow:
        assert uow.studies.get(study_id).order_id == order.id
        (decision,) = propose(uow, 1, listener.settings).decisions
        assert (decision.by, decision.why) == ("rita", "the only exam of hers today")
        joined_at = [e for e in uow.timeline.of_study(study_id) if e.kind == "order.joined"]
        assert "the only exam of hers today" in joined_at[0].summary


def test_nobody_decides_in_the_name_of_the_rules(listener: Listener) -> None:
    order, _ = ordered(listener.store)
    received(listener)
    with pytest.raises(InvalidValue, match="nobody decides as"), listener.store() as uow:
        decide(
            *(uow, 1, Action.FILE),
            order_id=order.id,
            **{"by": RULES, "why": "so"},
            settings=listener.settings,
        )


def test_an_order_gets_one_exam_however_many_decide_at_once(listener: Listener) -> None:
    order, _ = ordered(listener.store)
    studies = [received(listener), received(listener)]
    with listener.store() as uow:
        rows = [row.id for row in uow.studies.desk()]
    told: list[str] = []
    barrier = threading.Barrier(4)

    def file(number: int, by: str) -> None:
        barrier.wait(10)
        try:
            with listener.store() as uow:
                decide(
                    *(uow, number, Action.FILE),
                    order_id=order.id,
                    **{"by": by, "why": "hers"},
                    settings=listener.settings,
                )
            told.append("filed")
        except IllegalMove:
            told.append("refused")

    people = [
        threading.Thread(target=file, args=(number, by))
        for number in rows
        for by in ("rita", "max")
    ]
    for person in people:
        person.start()
    for person in people:
        person.join(30)
    assert sorted(told) == ["filed", "refused", "refused", "refused"]
    with listener.store() as uow:
        assert [uow.studies.get(s).order_id for s in studies].count(order.id) == 1
        assert len(uow.studies.desk()) == 1
