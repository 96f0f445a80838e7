"""Patients as their senders describe them: created, refreshed, merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from models.errors import DuplicateKey, InvalidValue
from models.patient import Identifier, Patient, PersonName
from models.request import PatientRequest
from models.study import new_id
from services.database.store import UnitOfWork
from services.workflow.said import overlaid

_SAID: Final = (*("name", "birth_date", "sex", "mother_name", "address", "language", "comments"),)


def take_patient(uow: UnitOfWork, request: PatientRequest) -> Patient:
    """Create or refresh the patient that the request's identifiers point to.

    Raises
    ------
    InvalidValue
        If its identifiers point to different patients: it is attached to neither.
    """
    found = {uow.patients.find(i): i for i in request.identifiers}
    found.pop(None, None)
    if len(found) > 1:
        raise InvalidValue("PID-3 names identifiers of different patients", location="PID^1^3")
    if found:
        known = uow.patients.get(next(i for i in found if i is not None))
        joined = _joined(known.identifiers, request.identifiers)
        patient = overlaid(replace(known, identifiers=joined), request, _SAID)
        if patient == known:
            return known
    else:
        blank = Patient(id=new_id(), identifiers=request.identifiers, name=PersonName())
        patient = overlaid(blank, request, _SAID)
    uow.patients.save(patient)
    return patient


def merge_patients(uow: UnitOfWork, survivor: PatientRequest, retired: Identifier) -> Patient:
    """Retire the record of `retired` into the survivor (ADT^A40, STANDARDS §2.3).

    Raises
    ------
    DuplicateKey
        If both are the same identifier.
    """
    if retired.key in {i.key for i in survivor.identifiers}:
        raise DuplicateKey("MRG-1 and PID-3 are the same identifier", location="MRG^1^1")
    kept = take_patient(uow, survivor)
    retired_id = uow.patients.find(retired)
    if retired_id is None or retired_id == kept.id:
        return kept
    uow.patients.merge(retired_id, kept.id)
    for study_id in uow.studies.hand_over(retired_id, kept.id):
        uow.timeline.add(study_id, "patient.merged", "patient record merged into another")
    return uow.patients.get(kept.id)


def _joined(known: tuple[Identifier, ...], more: tuple[Identifier, ...]) -> tuple[Identifier, ...]:
    keys = {i.key for i in known}
    return known + tuple(i for i in more if i.key not in keys)
