"""The performed procedure step (PS3.4 Annex F): an exam begins, changes and ends.

What the standard refuses is refused with the status it names. What is merely a paper problem (an
unknown step, another patient, a cancelled order) is accepted and put on the desk, because a scanner
whose MPPS is refused sends it again for ever.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from models.errors import (
    DuplicateKey,
    IllegalMove,
    InvalidValue,
    MissingField,
    MissingValue,
    UnknownKey,
)
from models.events import Topic
from models.lifecycle import StepEvent, StepState, StudyEvent, move
from models.order import Order
from models.study import Study
from services.archive.part10 import check_uid, parse_date
from services.database.store import Store, UnitOfWork
from services.workflow.identification import Belonging, Claim, belonging, open_study

_TYPE_1: Final = (
    *("ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    *("PerformedProcedureStepStatus", "Modality"),
)
_FIXED: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PerformedProcedureStepID", "PerformedStationAETitle", "Modality", "StudyID"),
    *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)
_IDENTITY: Final = ("00100010", "00100020", "00100021", "00100030")
"""Name, ID, its issuer and birth date, in the DICOM JSON of a stored MPPS."""
_FINAL: Final = (
    *("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"),
    "PerformedSeriesSequence",
)
_ENDS: Final = {
    StepState.COMPLETED: StepEvent.COMPLETE,
    StepState.DISCONTINUED: StepEvent.DISCONTINUE,
}
_WRONG_ENTRY: Final = "110514"
"""CID 9301: Incorrect worklist entry selected."""


def begin_exam(store: Store, sop_uid: str, attributes: Dataset, *, source_ae: str) -> str:
    """Record an N-CREATE (PS3.4 F.7.2.1); return the id of the study it belongs to.

    Raises
    ------
    DuplicateKey
        0111H: the MPPS exists.
    MissingField, MissingValue
        0120H, 0121H: an attribute of type 1 (PS3.4 Table F.7.2-1) is absent or empty.
    InvalidValue
        0106H: the status is not IN PROGRESS, or a UID is none.
    """
    check_uid(sop_uid, "AffectedSOPInstanceUID")
    with store() as uow:
        # First, because a repeated N-CREATE must hear of itself and not of a missing attribute.
        if uow.studies.find_mpps(sop_uid) is not None:
            raise DuplicateKey("this MPPS exists already", location="AffectedSOPInstanceUID")
        for keyword in _TYPE_1:
            _require(attributes, keyword)
        if _status(attributes) != StepState.IN_PROGRESS.value:
            raise InvalidValue(
                "an MPPS is created IN PROGRESS and in no other state",
                location="PerformedProcedureStepStatus",
            )
        items = list(attributes.ScheduledStepAttributesSequence)
        for item in items:
            _require(item, "StudyInstanceUID")
            check_uid(str(item.StudyInstanceUID), "StudyInstanceUID")
        claim = _claim(attributes)
        first = items[0]
        study_uid = str(first.StudyInstanceUID)
        found = belonging(uow, study_uid, claim)
        study = open_study(
            uow,
            study_uid,
            found,
            claim,
            accession=_text(first, "AccessionNumber"),
            description=_text(attributes, "PerformedProcedureStepDescription"),
            actor=source_ae,
        )
        sps_ids = [_text(item, "ScheduledProcedureStepID") for item in items]
        uow.studies.add_mpps(
            sop_uid,
            study.id,
            state=move(StepState.SCHEDULED, StepEvent.CREATE).value,
            station_aet=_text(attributes, "PerformedStationAETitle"),
            attributes=_jsonable(attributes),
            sps_ids=[sps_id for sps_id in sps_ids if sps_id],
        )
        if found.contradictions:
            _wrong_patient(uow, study.id, study_uid, found, claim, source_ae)
            return study.id
        uow.studies.move(
            study,
            StudyEvent.EXAM_STARTED,
            **({"started_at": uow.now} if study.started_at is None else {}),
        )
        _link_steps(uow, study.id, items, StepEvent.CREATE, source_ae)
        uow.timeline.add(
            study.id,
            "exam.started",
            f"exam started at {_text(attributes, 'PerformedStationAETitle')}",
            actor=source_ae,
            mpps=sop_uid,
            steps=[sps_id for sps_id in sps_ids if sps_id],
        )
        return study.id


def change_exam(store: Store, sop_uid: str, modifications: Dataset, *, source_ae: str) -> StepState:
    """Record an N-SET (PS3.4 F.7.2.2); return the state of the step after it.

    An attribute that an N-SET may not name is tolerated when it repeats what was created, for many
    scanners send the whole data set again; another value is refused. The Scheduled Step Attributes
    Sequence is refused always.

    Raises
    ------
    UnknownKey
        0112H: no such MPPS.
    IllegalMove
        0110H with Error ID A710H: COMPLETED and DISCONTINUED are final.
    InvalidValue
        0106H: the status is none, or a fixed attribute is changed.
    MissingField, MissingValue
        0120H, 0121H: COMPLETED without end or series.
    """
    with store() as uow:
        row = uow.studies.find_mpps(sop_uid, lock=True)
        if row is None:
            raise UnknownKey("no such MPPS", location="RequestedSOPInstanceUID")
        before = StepState(row.state)
        wanted = _wanted(modifications)
        after = move(before, _ENDS.get(wanted, StepEvent.SET))
        _check_fixed(row.attributes, modifications)
        attributes = {**row.attributes, **_jsonable(modifications)}
        if after is StepState.COMPLETED:
            _check_final(Dataset.from_json(attributes))
        values: dict[str, Any] = {"attributes": attributes, "state": after.value}
        if after is not before:
            values |= {"ended_at": uow.now, "referenced": _referenced(attributes)}
        uow.studies.change_mpps(sop_uid, **values)
        if after is not before:
            _end(uow, row, after, attributes, values["referenced"], source_ae)
        return after


def is_of_another(uow: UnitOfWork, study: Study, row: Any) -> bool:
    """Return whether an MPPS under the study's UID is of another patient.

    Asked anew each time: a merge of two records, or an order that came late, may settle it.
    """
    identity = {tag: row.attributes[tag] for tag in _IDENTITY if tag in row.attributes}
    return bool(belonging(uow, study.study_uid, _claim(Dataset.from_json(identity))).contradictions)


def _end(
    uow: UnitOfWork,
    row: Any,
    after: StepState,
    attributes: dict[str, Any],
    referenced: list[str],
    source_ae: str,
) -> None:
    study = uow.studies.get(row.study_id, lock=True)
    if is_of_another(uow, study, row):
        # It lies on the desk and says nothing of this study's exam, nor of its steps.
        return
    merged = Dataset.from_json(attributes)
    reason = _reason(merged)
    uow.studies.change(study.id, ended_at=uow.now)
    _link_steps(
        uow, study.id, list(merged.ScheduledStepAttributesSequence), _ENDS[after], source_ae
    )
    word = after.value.lower()
    uow.timeline.add(
        study.id,
        f"exam.{word}",
        f"exam {word}; the scanner lists {len(referenced)} instances"
        + (f"; reason {reason}" if reason else ""),
        actor=source_ae,
        mpps=row.sop_uid,
        instances=len(referenced),
    )
    if reason == _WRONG_ENTRY:
        uow.studies.to_desk(
            "wrong-worklist-entry",
            row.sop_uid,
            "the technologist chose a wrong worklist entry: the images belong to another order",
            study_id=study.id,
            evidence={"mpps": row.sop_uid, "referenced": referenced},
        )
    uow.outbox.announce(Topic.STUDY_RECEIVED, study.id, f"mpps-{row.sop_uid}", study.priority)


def _link_steps(
    uow: UnitOfWork, study_id: str, items: list[Dataset], event: StepEvent, source_ae: str
) -> None:
    """Move the scheduled steps that the items name; a named step that nobody scheduled is told."""
    for item in items:
        sps_id = _text(item, "ScheduledProcedureStepID")
        order = uow.orders.find_by_study_uid(str(item.StudyInstanceUID))
        if order is None:
            # The study itself is on the desk as "no-order", unless the item names another one.
            continue
        states = {step.sps_id: StepState(step.status) for step in order.steps}
        if sps_id and sps_id not in states:
            if event is StepEvent.CREATE:
                _unknown_step(uow, study_id, order, sps_id, source_ae)
            continue
        for known, state in states.items():
            # An unscheduled exam under an order's Study UID performs whatever was scheduled.
            if sps_id not in ("", known):
                continue
            # A step that was performed already, or cancelled, keeps its end (append case).
            with suppress(IllegalMove):
                uow.orders.set_step_status(order.id, move(state, event), [known])


def _unknown_step(
    uow: UnitOfWork, study_id: str, order: Order, sps_id: str, source_ae: str
) -> None:
    uow.studies.to_desk(
        "unknown-step",
        f"{order.study_uid}#{sps_id}",
        "the MPPS names a scheduled step that its order does not have",
        study_id=study_id,
        evidence={
            "sps_id": sps_id,
            "scheduled": [step.sps_id for step in order.steps],
            "source_ae": source_ae,
        },
    )
    uow.timeline.add(
        study_id,
        "desk.unknown-step",
        "the exam names a step that its order does not have; on the desk",
        actor=source_ae,
    )


def _wrong_patient(
    uow: UnitOfWork, study_id: str, study_uid: str, found: Belonging, claim: Claim, source_ae: str
) -> None:
    reason = "an MPPS under this Study Instance UID is of another patient: " + ", ".join(
        found.contradictions
    )
    uow.studies.to_desk(
        "wrong-patient",
        f"{study_uid}#{claim.key}",
        reason,
        study_id=study_id,
        evidence={
            "claimed": claim.evidence(),
            "expected": found.expected,
            "source_ae": source_ae,
            "study_uid": study_uid,
        },
    )
    uow.timeline.add(study_id, "desk.wrong-patient", f"{reason}; on the desk", actor=source_ae)


def _claim(attributes: Dataset) -> Claim:
    return Claim(
        name=_text(attributes, "PatientName"),
        patient_id=_text(attributes, "PatientID"),
        issuer=_text(attributes, "IssuerOfPatientID"),
        birth_date=parse_date(_text(attributes, "PatientBirthDate")),
    )


def _require(dataset: Dataset, keyword: str) -> None:
    if keyword not in dataset:
        raise MissingField(f"{keyword} is absent", location=keyword)
    element = dataset[keyword]
    if element.value is None or (element.VR != "SQ" and not str(element.value).strip()):
        raise MissingValue(f"{keyword} is empty", location=keyword)
    if element.VR == "SQ" and not len(element.value):
        raise MissingValue(f"{keyword} has no item", location=keyword)


def _status(dataset: Dataset) -> str:
    return _text(dataset, "PerformedProcedureStepStatus").upper()


def _wanted(modifications: Dataset) -> StepState:
    status = _status(modifications)
    if not status:
        return StepState.IN_PROGRESS
    allowed = {state.value: state for state in (StepState.IN_PROGRESS, *_ENDS)}
    if status not in allowed:
        raise InvalidValue(
            "the status is none of IN PROGRESS, COMPLETED, DISCONTINUED",
            location="PerformedProcedureStepStatus",
        )
    return allowed[status]


def _check_fixed(created: dict[str, Any], modifications: Dataset) -> None:
    if "ScheduledStepAttributesSequence" in modifications:
        raise InvalidValue(
            "an N-SET may not name the scheduled step", location="ScheduledStepAttributesSequence"
        )
    changed = _jsonable(modifications)
    for keyword in _FIXED:
        if keyword not in modifications:
            continue
        tag = f"{modifications[keyword].tag:08X}"
        if changed[tag].get("Value") != created.get(tag, {}).get("Value"):
            raise InvalidValue(f"an N-SET may not change {keyword}", location=keyword)


def _check_final(merged: Dataset) -> None:
    for keyword in _FINAL:
        _require(merged, keyword)
    for series in merged.PerformedSeriesSequence:
        for keyword in ("SeriesInstanceUID", "ProtocolName"):
            _require(series, keyword)


def _referenced(attributes: dict[str, Any]) -> list[str]:
    uids: dict[str, None] = {}
    for series in Dataset.from_json(attributes).get("PerformedSeriesSequence") or []:
        for keyword in (
            "ReferencedImageSequence",
            "ReferencedNonImageCompositeSOPInstanceSequence",
        ):
            for item in series.get(keyword) or []:
                uids[_text(item, "ReferencedSOPInstanceUID")] = None
    uids.pop("", None)
    return list(uids)


def _reason(merged: Dataset) -> str:
    items = merged.get("PerformedProcedureStepDiscontinuationReasonCodeSequence") or []
    return _text(items[0], "CodeValue") if items else ""


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).replace("\0", "").strip()


def _jsonable(dataset: Dataset) -> dict[str, Any]:
    # PS3.18 F.2; group lengths and the character set describe an encoding that is gone
    model = dataset.to_json_dict(suppress_invalid_tags=True)
    return {
        tag: _without_nul(element)
        for tag, element in model.items()
        if keyword_for_tag(int(tag, 16)) != "SpecificCharacterSet" and not tag.endswith("0000")
    }


def _without_nul(value: Any) -> Any:
    """Drop NUL, which PostgreSQL keeps in no text and no JSON."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(part) for part in value]
    if isinstance(value, dict):
        return {key: _without_nul(part) for key, part in value.items()}
    return value
