"""Files that were kept apart: filed, made a study of their own, or rejected by the desk."""

from __future__ import annotations

import hashlib
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage
from sqlalchemy import Row

from models.errors import IllegalMove
from models.lifecycle import StudyState
from models.study import Study, new_uid
from models.tier import Tier
from services.archive.part10 import digest_of
from services.dicomweb.retrieve import find, whole
from services.workflow.automatic_filing import place_study
from services.workflow.desk import Action, decide, propose, undo
from tests.dicom.conftest import Listener
from tests.dicom.department import associated, image
from tests.dicom.test_unordered import ANNA, BERT, ordered

WHO = {"by": "rita", "why": "I asked the technologist"}


def send(listener: Listener, *objects: Dataset) -> list[int]:
    with associated(listener.port, MRImageStorage) as assoc:
        return [assoc.send_c_store(ds).Status for ds in objects]


def changed(ds: Any, **values: str) -> Any:
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def decided(listener: Listener, number: int, action: Action, **values: Any) -> Row[Any]:
    with listener.store() as uow:
        return decide(uow, number, action, **{**WHO, **values}, settings=listener.settings)


def kept(listener: Listener) -> dict[str, str]:
    """Every file of the quarantine with the hash of its bytes."""
    return {
        str(path.relative_to(listener.tiers.quarantine_root)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in listener.tiers.quarantine_root.rglob("*")
        if path.is_file()
    }


def instances(listener: Listener, study_id: str) -> list[Row[Any]]:
    with listener.store() as uow:
        return uow.studies.instances(study_id)


def study_of(listener: Listener, sop_uid: str) -> Study:
    with listener.store() as uow:
        row = uow.studies.find_instance(sop_uid)
        assert row is not None
        return uow.studies.get(row.study_id)


def left(listener: Listener, study: Study) -> list[Dataset]:
    """The study's objects as DICOMweb gives them out."""
    return [
        dcmread(BytesIO(b"".join(whole(listener.tiers, stored, stored.syntax))))
        for stored in find(listener.store, study.study_uid)
    ]


def open_rows(listener: Listener) -> list[str]:
    with listener.store() as uow:
        return [row.kind for row in uow.studies.desk()]


def test_files_of_the_studys_own_patient_come_into_it_and_later_ones_follow(
    listener: Listener,
) -> None:
    _, study = ordered(listener.store)
    first, second = (
        changed(image(study.study_uid, patient=ANNA, number=n), PatientID="4711") for n in (1, 2)
    )
    assert send(listener, first) == [0x0000]
    before = kept(listener)
    with listener.store() as uow:
        told = propose(uow, 1, listener.settings)
    assert (told.action, told.candidates[0].patient.id) == (Action.FILE, "anna")
    decision = decided(listener, 1, Action.FILE, patient_id="anna")
    assert decision.done_at is not None
    assert kept(listener) == before
    (row,) = instances(listener, study.id)
    with listener.tiers.open(Tier(row.tier), row.path) as stream:
        assert digest_of(stream) == row.digest
    assert (row.sop_uid, row.apart_at) == (first.SOPInstanceUID, None)
    assert send(listener, second, first, second) == [0x0000] * 3
    assert len(instances(listener, study.id)) == 2
    assert open_rows(listener) == []
    assert {ds.PatientID for ds in left(listener, study)} == {"0004711"}
    with listener.store() as uow:
        entries = {e.kind: e for e in uow.timeline.of_study(study.id)}
    assert entries["desk.file"].evidence["why"] == WHO["why"]
    assert entries["desk.file"].actor == "rita"


def test_an_undoing_takes_them_out_again_and_they_can_be_filed_again(listener: Listener) -> None:
    _, study = ordered(listener.store)
    send(listener, changed(image(study.study_uid, patient=ANNA), PatientID="4711"))
    for _ in range(2):
        decision = decided(listener, 1, Action.FILE, patient_id="anna")
        assert len(instances(listener, study.id)) == 1
        with listener.store() as uow:
            undo(uow, decision.id, by="max", why="no")
        assert instances(listener, study.id) == []
        assert open_rows(listener) == ["wrong-patient"]


def test_files_of_another_patient_leave_under_a_study_uid_of_their_own(
    listener: Listener,
) -> None:
    _, study = ordered(listener.store)
    with listener.store() as uow:
        uow.patients.save(BERT)
    right = image(study.study_uid, patient=ANNA)
    wrong = image(study.study_uid, patient=BERT, number=2)
    send(listener, right, wrong)
    decided(listener, 1, Action.FILE, patient_id="bert")
    own = study_of(listener, wrong.SOPInstanceUID)
    assert (own.id != study.id, own.patient_id) == (True, "bert")
    (ds,) = left(listener, own)
    assert (ds.StudyInstanceUID, ds.PatientID) == (own.study_uid, "0008822")
    assert ds.SeriesInstanceUID != right.SeriesInstanceUID
    assert ds.PixelData == wrong.PixelData
    former = ds.OriginalAttributesSequence[-1].ModifiedAttributesSequence[0]
    assert former.StudyInstanceUID == study.study_uid
    (row,) = instances(listener, own.id)
    with listener.tiers.open(Tier(row.tier), row.path) as stream:
        assert dcmread(stream).StudyInstanceUID == study.study_uid
    # What was right from the beginning leaves as it came.
    (ds,) = left(listener, study)
    assert (ds.StudyInstanceUID, "OriginalAttributesSequence" in ds) == (study.study_uid, False)
    assert open_rows(listener) == []


def test_files_of_another_patient_become_the_exam_of_that_patients_order(
    listener: Listener,
) -> None:
    _, study = ordered(listener.store)
    order, planned = ordered(listener.store, BERT, accession="S26009999")
    wrong = image(study.study_uid, patient=BERT)
    send(listener, wrong)
    decision = decided(listener, 1, Action.FILE, order_id=order.id)
    own = study_of(listener, wrong.SOPInstanceUID)
    assert (own.order_id, own.accession) == (order.id, "S26009999")
    with listener.store() as uow:
        undo(uow, decision.id, by="max", why="no")
        assert uow.studies.get(planned.id).order_id == order.id
        assert uow.studies.find_instance(wrong.SOPInstanceUID) is None
        assert uow.studies.get(own.id).state is StudyState.CANCELLED
    assert open_rows(listener) == ["wrong-patient"]


def test_files_become_a_study_of_their_own_which_is_looked_for_as_any_other(
    listener: Listener,
) -> None:
    _, study = ordered(listener.store)
    order, _ = ordered(listener.store, BERT, accession="S26009999")
    wrong = changed(image(study.study_uid, patient=BERT), AccessionNumber="S26009999")
    send(listener, wrong)
    decided(listener, 1, Action.APART)
    own = study_of(listener, wrong.SOPInstanceUID)
    assert (own.patient_id, own.order_id, own.state) == (None, None, StudyState.ACQUIRING)
    assert open_rows(listener) == ["no-order"]
    (ds,) = left(listener, own)
    assert (ds.StudyInstanceUID, ds.PatientID) == (own.study_uid, "0008822")
    assert place_study(listener.store, own.id, settings=listener.settings)
    with listener.store() as uow:
        assert uow.studies.get(own.id).order_id == order.id
    # It has to be parted from the order before it can go back.
    with pytest.raises(IllegalMove, match="undo that first"), listener.store() as uow:
        undo(uow, 1, by="max", why="no")


def test_a_series_of_another_study_is_filed_under_a_series_uid_of_its_own(
    listener: Listener,
) -> None:
    _, one = ordered(listener.store)
    _, two = ordered(listener.store, accession="S26001235")
    first = image(one.study_uid, patient=ANNA, series_uid="1.2.3")
    second = image(two.study_uid, patient=ANNA, series_uid="1.2.3")
    send(listener, first, second)
    decided(listener, 1, Action.FILE, patient_id="anna")
    (ds,) = left(listener, two)
    assert (ds.StudyInstanceUID, ds.SeriesInstanceUID != "1.2.3") == (two.study_uid, True)
    assert len(instances(listener, one.id)) == 1


@pytest.mark.parametrize("action", [Action.FILE, Action.APART])
def test_another_object_under_a_known_uid_cannot_be_filed_but_rejected(
    listener: Listener, action: Action
) -> None:
    _, study = ordered(listener.store)
    first = image(study.study_uid, patient=ANNA)
    send(
        listener, first, image(study.study_uid, patient=ANNA, sop_uid=first.SOPInstanceUID, seed=7)
    )
    before = kept(listener)
    with listener.store() as uow:
        assert propose(uow, 1, listener.settings).actions == (Action.REJECT, Action.LEAVE)
    values = {"patient_id": "anna"} if action is Action.FILE else {}
    with pytest.raises(IllegalMove, match="cannot be decided so"):
        decided(listener, 1, action, **values)
    assert open_rows(listener) == ["uid-conflict"]
    decided(listener, 1, Action.REJECT)
    assert (open_rows(listener), kept(listener)) == ([], before)
    assert len(instances(listener, study.id)) == 1


def test_two_deciders_at_once_file_once(listener: Listener) -> None:
    _, study = ordered(listener.store)
    send(listener, changed(image(study.study_uid, patient=ANNA), PatientID="4711"))
    told: list[str] = []
    barrier = threading.Barrier(2)

    def run(by: str, action: Action, values: dict[str, Any]) -> None:
        barrier.wait(10)
        try:
            decided(listener, 1, action, **values, by=by)
            told.append("decided")
        except IllegalMove:
            told.append("refused")

    people = [
        threading.Thread(target=run, args=("rita", Action.FILE, {"patient_id": "anna"})),
        threading.Thread(target=run, args=("max", Action.REJECT, {})),
    ]
    for person in people:
        person.start()
    for person in people:
        person.join(30)
    assert sorted(told) == ["decided", "refused"]
    with listener.store() as uow:
        (decision,) = propose(uow, 1, listener.settings).decisions
    assert len(instances(listener, study.id)) == (decision.action == "file")


def test_files_that_come_while_somebody_decides_are_not_left_behind(listener: Listener) -> None:
    _, study = ordered(listener.store)
    objects = [
        changed(image(study.study_uid, patient=ANNA, number=n), PatientID="4711")
        for n in range(1, 21)
    ]
    send(listener, objects[0])
    sender = threading.Thread(target=send, args=(listener, *objects[1:]))
    sender.start()
    decided(listener, 1, Action.FILE, patient_id="anna")
    sender.join(60)
    assert len(instances(listener, study.id)) == len(objects)
    assert open_rows(listener) == []


def test_where_two_have_to_agree_no_file_moves_before_both_do(listener: Listener) -> None:
    _, study = ordered(listener.store)
    send(listener, changed(image(study.study_uid, patient=ANNA), PatientID="4711"))
    two = listener.settings.model_copy(update={"desk_approvals": 2})
    for by, count in (("rita", 0), ("max", 1)):
        with listener.store() as uow:
            decide(uow, 1, Action.FILE, patient_id="anna", by=by, why="hers", settings=two)
        assert len(instances(listener, study.id)) == count


def test_an_unreadable_file_is_rejected_and_kept(listener: Listener, tmp_path: Path) -> None:
    ds = changed(image(new_uid()), StudyInstanceUID="")
    send(listener, ds)
    before = kept(listener)
    assert (len(before), open_rows(listener)) == (1, ["unreadable"])
    with pytest.raises(IllegalMove):
        decided(listener, 1, Action.APART)
    decided(listener, 1, Action.REJECT)
    assert (open_rows(listener), kept(listener)) == ([], before)
