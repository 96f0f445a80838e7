"""MPPS over a real association, and the verdict on completeness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import Association

from models.lifecycle import StepState, StudyState
from models.study import Study, new_uid
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.sop import MPPS
from services.workflow.acquisition import (
    judge_completeness,
    receive_instance,
    store_derived,
    studies_to_judge,
)
from services.workflow.completeness import ABANDONED_S
from tests.dicom.conftest import Listener
from tests.dicom.department import (
    JOHN,
    associated,
    begun,
    ended,
    image,
    place,
    write,
)


@pytest.fixture
def scu(listener: Listener) -> Iterator[Association]:
    with associated(listener.port, MPPS, MRImageStorage) as assoc:
        yield assoc


def create(scu: Association, ds: Dataset, uid: str) -> int:
    return int(scu.send_n_create(ds, MPPS, uid)[0].Status)


def change(scu: Association, ds: Dataset, uid: str) -> Dataset:
    return scu.send_n_set(ds, MPPS, uid)[0]


def kinds(store: Store) -> list[str]:
    with store() as uow:
        return sorted(row.kind for row in uow.studies.desk())


def announced(store: Store, study: Study) -> list[tuple[str, str]]:
    with store() as uow:
        return [(row.topic, row.version) for row in uow.outbox.of_study(study.id)]


def step_states(store: Store, study: Study) -> list[str]:
    with store() as uow:
        order = uow.orders.find_by_study_uid(study.study_uid)
        assert order is not None
        return [step.status for step in order.steps]


def test_an_exam_from_begin_to_verdict(listener: Listener, scu: Association) -> None:
    store = listener.store
    _, study = place(store)
    uid = new_uid()
    assert create(scu, begun(study.study_uid), uid) == 0x0000
    assert step_states(store, study) == ["IN PROGRESS"]
    with store() as uow:
        assert uow.orders.worklist() == []
        assert uow.studies.get(study.id).state is StudyState.ACQUIRING
    images = [image(study.study_uid, number=n) for n in (1, 2)]
    for ds in images:
        assert scu.send_c_store(ds).Status == 0x0000
    verdict = judge_completeness(store, study.id, settings=listener.settings)
    assert (verdict.complete, verdict.reason) == (False, "the exam is in progress (MPPS)")
    final = ended("COMPLETED", *(ds.SOPInstanceUID for ds in images))
    assert change(scu, final, uid).Status == 0x0000
    assert ("study.received", f"mpps-{uid}") in announced(store, study)
    assert step_states(store, study) == ["COMPLETED"]
    for turn in range(2):  # judged twice, decided once
        verdict = judge_completeness(store, study.id, settings=listener.settings)
        assert (verdict.complete, verdict.version, verdict.changed) == (True, 1, turn == 0)
    assert announced(store, study).count(("study.acquired", "1")) == 1
    with store() as uow:
        found = uow.studies.get(study.id)
        assert (found.state, found.version) == (StudyState.ACQUIRED, 1)
        assert found.acquired_at is not None
        assert found.ended_at is not None
        assert "all 2 instances" in uow.studies.row(study.id).completeness
    assert kinds(store) == []


def test_only_in_progress_is_created(listener: Listener, scu: Association) -> None:
    ds = begun(new_uid())
    ds.PerformedProcedureStepStatus = "COMPLETED"
    assert create(scu, ds, new_uid()) == 0x0106


@pytest.mark.parametrize(
    ("keyword", "value", "status"),
    [
        ("ScheduledStepAttributesSequence", None, 0x0120),
        ("ScheduledStepAttributesSequence", [], 0x0121),
        ("PerformedProcedureStepID", None, 0x0120),
        ("PerformedProcedureStepStatus", None, 0x0120),
        ("Modality", "", 0x0121),
        ("PerformedProcedureStepStartDate", "", 0x0121),
    ],
)
def test_what_is_missing_is_named(
    listener: Listener, scu: Association, keyword: str, value: object, status: int
) -> None:
    ds = begun(new_uid())
    delattr(ds, keyword)
    if value is not None:
        setattr(ds, keyword, value)
    answer, _ = scu.send_n_create(ds, MPPS, new_uid())
    assert answer.Status == status
    assert keyword in answer.ErrorComment


def test_duplicate_unknown_and_final(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    uid = new_uid()
    assert create(scu, begun(study.study_uid), uid) == 0x0000
    assert create(scu, begun(study.study_uid), uid) == 0x0111
    assert change(scu, ended("COMPLETED"), new_uid()).Status == 0x0112
    assert change(scu, ended("COMPLETED"), uid).Status == 0x0000
    for status in ("COMPLETED", "DISCONTINUED", "IN PROGRESS"):
        answer = change(scu, ended(status), uid)
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)


def test_what_an_n_set_may_not_do(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    uid = new_uid()
    assert create(scu, begun(study.study_uid), uid) == 0x0000
    wrong = Dataset()
    wrong.PerformedProcedureStepStatus = "PAUSED"
    assert change(scu, wrong, uid).Status == 0x0106
    steps = Dataset()
    steps.ScheduledStepAttributesSequence = begun(study.study_uid).ScheduledStepAttributesSequence
    assert change(scu, steps, uid).Status == 0x0106
    other = Dataset()
    other.PatientID = "7"
    assert change(scu, other, uid).Status == 0x0106
    same = Dataset()
    same.PatientID, same.Modality = "0012345", "MR"
    assert change(scu, same, uid).Status == 0x0000
    early = ended("COMPLETED")
    del early.PerformedProcedureStepEndTime
    assert change(scu, early, uid).Status == 0x0121
    nothing = ended("COMPLETED")
    nothing.PerformedSeriesSequence = []
    assert change(scu, nothing, uid).Status == 0x0121
    unnamed = ended("COMPLETED")
    del unnamed.PerformedSeriesSequence[0].ProtocolName
    assert change(scu, unnamed, uid).Status == 0x0120
    with listener.store() as uow:
        row = uow.studies.find_mpps(uid)
        assert row is not None
        assert row.state == "IN PROGRESS"


def test_an_unscheduled_exam_is_accepted_and_on_the_desk(
    listener: Listener, scu: Association
) -> None:
    study_uid = new_uid()
    ds = begun(study_uid, "")
    ds.ScheduledStepAttributesSequence[0].AccessionNumber = ""
    assert create(scu, ds, new_uid()) == 0x0000
    assert scu.send_c_store(image(study_uid)).Status == 0x0000
    assert kinds(listener.store) == ["no-order"]


def test_an_unknown_step_is_accepted_and_on_the_desk(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    assert create(scu, begun(study.study_uid, "SPS9"), new_uid()) == 0x0000
    assert kinds(listener.store) == ["unknown-step"]
    assert step_states(listener.store, study) == ["SCHEDULED"]


def test_another_patient_moves_neither_step_nor_study(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    assert create(scu, begun(study.study_uid, patient=JOHN), new_uid()) == 0x0000
    assert kinds(listener.store) == ["wrong-patient"]
    assert step_states(listener.store, study) == ["SCHEDULED"]
    with listener.store() as uow:
        assert uow.studies.get(study.id).state is StudyState.SCHEDULED


def test_another_patients_exam_neither_completes_nor_holds_up_a_study(
    listener: Listener, scu: Association
) -> None:
    _, study = place(listener.store)
    mine, other = new_uid(), new_uid()
    assert create(scu, begun(study.study_uid), mine) == 0x0000
    assert create(scu, begun(study.study_uid, patient=JOHN), other) == 0x0000
    made = image(study.study_uid)
    assert scu.send_c_store(made).Status == 0x0000
    assert change(scu, ended("COMPLETED", made.SOPInstanceUID), mine).Status == 0x0000
    # The other one is still in progress, and its end lists what will never come here.
    verdict = judge_completeness(listener.store, study.id, settings=listener.settings)
    assert (verdict.complete, verdict.missing) == (True, 0)
    with listener.store() as uow:
        ended_at = uow.studies.row(study.id).ended_at
    assert change(scu, ended("DISCONTINUED", new_uid()), other).Status == 0x0000
    assert step_states(listener.store, study) == ["COMPLETED"]
    with listener.store() as uow:
        assert uow.studies.row(study.id).ended_at == ended_at
        row = uow.studies.find_mpps(other)
        assert row is not None
        assert row.state == "DISCONTINUED"


def test_an_exam_of_a_cancelled_order_is_accepted(listener: Listener, scu: Association) -> None:
    order, study = place(listener.store)
    with listener.store() as uow:
        uow.studies.change(study.id, state=StudyState.CANCELLED.value)
        uow.orders.set_step_status(order.id, StepState.CANCELED)
    assert create(scu, begun(study.study_uid), new_uid()) == 0x0000
    with listener.store() as uow:
        assert uow.studies.get(study.id).state is StudyState.ACQUIRING
    assert step_states(listener.store, study) == ["CANCELED"]


def test_group_and_append_case(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store, sps=("S1", "S2"))
    first, second = new_uid(), new_uid()
    assert create(scu, begun(study.study_uid, "S1", "S2"), first) == 0x0000
    assert step_states(listener.store, study) == ["IN PROGRESS", "IN PROGRESS"]
    assert change(scu, ended("COMPLETED"), first).Status == 0x0000
    assert create(scu, begun(study.study_uid, "S2"), second) == 0x0000
    assert step_states(listener.store, study) == ["COMPLETED", "COMPLETED"]
    assert change(scu, ended("COMPLETED"), second).Status == 0x0000


def test_a_wrong_worklist_entry_is_told(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    uid = new_uid()
    assert create(scu, begun(study.study_uid), uid) == 0x0000
    assert change(scu, ended("DISCONTINUED", reason="110514"), uid).Status == 0x0000
    assert kinds(listener.store) == ["wrong-worklist-entry"]
    assert step_states(listener.store, study) == ["DISCONTINUED"]


def test_discontinued_without_images_ends_the_study(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    uid = new_uid()
    create(scu, begun(study.study_uid), uid)
    bare = Dataset()
    bare.PerformedProcedureStepStatus = "DISCONTINUED"
    assert change(scu, bare, uid).Status == 0x0000
    verdict = judge_completeness(listener.store, study.id, settings=listener.settings)
    assert (verdict.complete, verdict.changed, verdict.version) == (False, True, 0)
    with listener.store() as uow:
        assert uow.studies.get(study.id).state is StudyState.DISCONTINUED
    # images that come after all are read, too
    assert scu.send_c_store(image(study.study_uid)).Status == 0x0000
    later = _later(listener.store, listener.settings.quiet_s + 1)
    assert judge_completeness(
        listener.store, study.id, settings=listener.settings, now=later
    ).complete
    with listener.store() as uow:
        assert uow.studies.get(study.id).state is StudyState.ACQUIRED


def test_an_mpps_without_instance_uid_gets_one(listener: Listener, scu: Association) -> None:
    _, study = place(listener.store)
    status, _ = scu.send_n_create(begun(study.study_uid), MPPS, None)
    assert status.Status == 0x0000
    with listener.store() as uow:
        assert len(uow.studies.mpps_of(study.id)) == 1


# --- the verdict without the network


@pytest.fixture
def received(store: Store, tiers: Tiers) -> Callable[..., list[str]]:
    """Receive images of a study, as from the scanner."""

    def receive(study_uid: str, *numbers: int, source_ae: str = "MR1") -> list[str]:
        made = [image(study_uid, number=n, sop_uid=f"{study_uid}.9.{n}") for n in numbers]
        for ds in made:
            path = write(ds, tiers.incoming("test") / f"{ds.SOPInstanceUID}.dcm")
            receive_instance(store, tiers, path, source_ae=source_ae)
        return [ds.SOPInstanceUID for ds in made]

    return receive


def _later(store: Store, seconds: float) -> object:
    return store.clock() + timedelta(seconds=seconds)


def test_without_mpps_only_silence_decides(store: Store, tiers: Tiers, received) -> None:
    settings = tiers.settings
    _, study = place(store)
    received(study.study_uid, 1, 2)
    assert not judge_completeness(store, study.id, settings=settings).complete
    later = _later(store, settings.quiet_s + 1)
    assert studies_to_judge(store, settings=settings) == []
    assert studies_to_judge(store, settings=settings, now=later) == [study.id]
    verdict = judge_completeness(store, study.id, settings=settings, now=later)
    assert (verdict.complete, verdict.version) == (True, 1)
    assert "there is no MPPS" in verdict.reason
    assert studies_to_judge(store, settings=settings, now=later) == []


@pytest.mark.parametrize("state", [StudyState.ACQUIRED, StudyState.FINAL, StudyState.DELIVERED])
def test_late_images_reopen_the_verdict_and_keep_the_report(
    store: Store, tiers: Tiers, received, state: StudyState
) -> None:
    settings = tiers.settings
    _, study = place(store)
    received(study.study_uid, 1)
    later = _later(store, settings.quiet_s + 1)
    judge_completeness(store, study.id, settings=settings, now=later)
    with store() as uow:
        uow.studies.change(study.id, state=state.value)
    received(study.study_uid, 2)
    with store() as uow:
        reopened = uow.studies.get(study.id).state
    assert reopened is (StudyState.ACQUIRING if state is StudyState.ACQUIRED else state)
    later = _later(store, settings.quiet_s + 1)
    assert studies_to_judge(store, settings=settings, now=later) == [study.id]
    verdict = judge_completeness(store, study.id, settings=settings, now=later)
    assert (verdict.version, verdict.changed) == (2, True)
    assert ("study.acquired", "2") in announced(store, study)


def test_our_own_objects_reopen_nothing(store: Store, tiers: Tiers, received) -> None:
    settings = tiers.settings
    _, study = place(store)
    received(study.study_uid, 1)
    later = _later(store, settings.quiet_s + 1)
    judge_completeness(store, study.id, settings=settings, now=later)
    ours = image(study.study_uid, number=7, series_uid=new_uid())
    assert store_derived(store, tiers, ours, study.id)
    assert not store_derived(store, tiers, ours, study.id)
    received(study.study_uid, 8, source_ae=settings.ae_title)
    assert studies_to_judge(store, settings=settings, now=_later(store, 1000)) == []
    verdict = judge_completeness(store, study.id, settings=settings, now=_later(store, 1000))
    assert (verdict.version, verdict.changed) == (1, False)
    with store() as uow:
        assert uow.studies.get(study.id).state is StudyState.ACQUIRED
        assert len(uow.studies.instances(study.id)) == 3


def test_listed_instances_that_never_come_go_to_the_desk(
    listener: Listener, scu: Association
) -> None:
    store, settings = listener.store, listener.settings
    _, study = place(store)
    uid = new_uid()
    create(scu, begun(study.study_uid), uid)
    ds = image(study.study_uid)
    scu.send_c_store(ds)
    change(scu, ended("COMPLETED", ds.SOPInstanceUID, "1.2.99"), uid)
    verdict = judge_completeness(
        store, study.id, settings=settings, now=_later(store, settings.quiet_s + 1)
    )
    assert (verdict.complete, verdict.missing) == (False, 1)
    verdict = judge_completeness(
        store, study.id, settings=settings, now=_later(store, settings.quiet_s * 6)
    )
    assert (verdict.complete, verdict.missing) == (True, 1)
    assert kinds(store) == ["missing-instances"]


def test_an_mpps_that_nobody_ends_holds_a_study_for_an_hour(
    listener: Listener, scu: Association
) -> None:
    store, settings = listener.store, listener.settings
    _, study = place(store)
    create(scu, begun(study.study_uid), new_uid())
    scu.send_c_store(image(study.study_uid))
    for seconds, complete in ((600.0, False), (ABANDONED_S + 60, True)):
        verdict = judge_completeness(store, study.id, settings=settings, now=_later(store, seconds))
        assert verdict.complete is complete


def test_a_further_step_that_brings_nothing_makes_no_version(
    listener: Listener, scu: Association
) -> None:
    store, settings = listener.store, listener.settings
    _, study = place(store)
    scu.send_c_store(image(study.study_uid))
    judge_completeness(store, study.id, settings=settings, now=_later(store, 1000))
    uid = new_uid()
    create(scu, begun(study.study_uid), uid)
    change(scu, ended("COMPLETED"), uid)
    verdict = judge_completeness(store, study.id, settings=settings, now=_later(store, 1000))
    assert (verdict.complete, verdict.version, verdict.changed) == (True, 1, False)
    with store() as uow:
        assert uow.studies.get(study.id).state is StudyState.ACQUIRED
