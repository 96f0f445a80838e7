"""Patients as their senders describe them: created, refreshed, merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from models.errors import DuplicateKey, InvalidValue
from models.patient import Identifier, Patient, PersonName
from models.request import PatientRequest
from models.study import new_id
from services.database.store import Store, UnitOfWork
from services.workflow.identity import merge, refuse_retired
from services.workflow.said import overlaid

_SAID: Final = (*("name", "birth_date", "sex", "mother_name", "address", "language", "comments"),)


def take_patient(uow: UnitOfWork, request: PatientRequest) -> Patient:
    """Create or refresh the patient that the request's identifiers point to.

    Raises
    ------
    InvalidValue
        If its identifiers point to different patients: it is attached to neither.
    UnknownKey
        If one of them retired (STANDARDS §2.3, rule 4).
    """
    refuse_retired(uow, request.identifiers)
    found = [p for i in request.identifiers if (p := uow.patients.known_by(i)) is not None]
    if len({patient.id for patient in found}) > 1:
        raise InvalidValue("PID-3 names identifiers of different patients", location="PID^1^3")
    if found:
        known = found[0]
        joined = _joined(known.identifiers, request.identifiers)
        patient = overlaid(replace(known, identifiers=joined), request, _SAID)
        if patient == known:
            return known
    else:
        blank = Patient(id=new_id(), identifiers=request.identifiers, name=PersonName())
        patient = overlaid(blank, request, _SAID)
    uow.patients.save(patient)
    return patient


def merge_patients(
    uow: UnitOfWork,
    survivor: PatientRequest,
    retired: Identifier,
    *,
    by: str,
    message_id: int | None = None,
) -> Patient:
    """Retire the record of `retired` into the survivor (ADT^A40, STANDARDS §2.3).

    Raises
    ------
    DuplicateKey
        If both are the same identifier, or merged the other way round.
    UnknownKey
        If one of them retired before.
    """
    if retired.key in {i.key for i in survivor.identifiers}:
        raise DuplicateKey("MRG-1 and PID-3 are the same identifier", location="MRG^1^1")
    retired_id = uow.merges.owner(retired)
    owners = {uow.merges.owner(i): uow.patients.find(i) for i in survivor.identifiers}
    if retired_id is not None and retired_id in owners:
        # Both identifiers are one record's already.
        return take_patient(uow, survivor)
    if retired_id is not None and retired_id in owners.values():
        raise DuplicateKey(
            "these records are merged the other way round; undo that first", location="PID^1^3"
        )
    known = next((owner for owner in owners if owner is not None), None)
    before = None if known is None else uow.merges.columns(known)
    kept = take_patient(uow, survivor)
    if retired_id is None:
        return kept
    merge(
        uow,
        kept.id,
        retired_id,
        by=by,
        why="ADT^A40",
        message_id=message_id,
        survivor_before=before,
    )
    return uow.patients.get(kept.id)


def fill_index(
    store: Store, *, batch: int = 500, progress: Callable[[int], None] = lambda _: None
) -> int:
    """File the records from before there was a patient index; return how many.

    Each batch is a transaction of its own: stopped at any moment, the next call goes on from there.

    Parameters
    ----------
    batch : int
        Records in one transaction; nobody else changes them meanwhile.
    progress : callable
        Told how many are filed, after each batch.
    """
    count, last = 0, ""
    while True:
        with store() as uow:
            records = uow.patients.unfiled(last, batch)
            for record in records:
                uow.patients.file(record)
        if not records:
            return count
        last = records[-1].id
        count += len(records)
        progress(count)


def _joined(known: tuple[Identifier, ...], more: tuple[Identifier, ...]) -> tuple[Identifier, ...]:
    keys = {i.key for i in known}
    return known + tuple(i for i in more if i.key not in keys)
