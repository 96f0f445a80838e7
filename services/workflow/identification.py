"""Whose images these are: what an object says of its patient, held against what the order says.

Nothing is decided by likeness. An object belongs to an order's patient when its Patient ID is one
of that patient's (or of a record merged into it) and neither name nor birth date contradicts.
Evidence goes to the reconciliation desk, never into a log.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any

from models.lifecycle import StudyState
from models.order import Order
from models.patient import Identifier, Patient, PersonName
from models.priority import Priority
from models.study import Study
from services.database.store import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an object or a performed step says of its patient (PS3.3 C.7.1.1)."""

    name: str
    patient_id: str
    issuer: str = ""
    birth_date: date | None = None

    @property
    def key(self) -> str:
        """Eight digits that tell two claims apart and say nothing of the patient."""
        said = "\x1f".join((fold(self.name), self.patient_id, self.issuer, str(self.birth_date)))
        return sha256(said.encode()).hexdigest()[:8]

    def evidence(self) -> dict[str, Any]:
        """Return the claim as the desk shows it."""
        return {
            "name": self.name,
            "patient_id": self.patient_id,
            "issuer": self.issuer,
            "birth_date": None if self.birth_date is None else self.birth_date.isoformat(),
        }


def fold(name: str) -> str:
    """Fold a PN for comparison: consoles drop accents and case when their repertoire is small."""
    decomposed = unicodedata.normalize("NFKD", PersonName.parse(name).key())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def contradictions(uow: UnitOfWork, claim: Claim, patient_id: str) -> list[str]:
    """Return what in `claim` speaks against this patient; an empty list means the same person.

    A Patient ID of a record that was merged into the patient counts as the patient's, with the
    name under which that record was known (IHE RAD, patient reconciliation).
    """
    survivor = uow.patients.survivor(patient_id)
    records = [uow.patients.get(survivor)]
    if patient_id != survivor:
        records.append(uow.patients.get(patient_id))
    found: list[str] = []
    if claim.patient_id:
        owners = [
            uow.patients.get(owner)
            for owner in uow.patients.find_by_value(claim.patient_id)
            if uow.patients.survivor(owner) == survivor
        ]
        owners = [o for o in owners if _knows(o, claim)]
        if not owners:
            found.append("patient-id")
        records.extend(owners)
    names = {fold(str(record.name)) for record in records}
    dates = {record.birth_date for record in records if record.birth_date is not None}
    name = fold(claim.name)
    if name and name not in names:
        found.append("name")
    if claim.birth_date is not None and dates and claim.birth_date not in dates:
        found.append("birth-date")
    # Without an identifier, only name and birth date together say who it is.
    if not claim.patient_id and not (name and claim.birth_date is not None and dates):
        found.append("patient-id")
    return found


def _knows(record: Patient, claim: Claim) -> bool:
    return any(
        i.value == claim.patient_id and claim.issuer in ("", i.authority)
        for i in record.identifiers
    )


def told(patient: Patient) -> dict[str, Any]:
    """Return the order's side of the evidence."""
    mrn: Identifier = patient.mrn
    return {
        "name": str(patient.name),
        "patient_id": mrn.value,
        "issuer": mrn.authority,
        "birth_date": None if patient.birth_date is None else patient.birth_date.isoformat(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """Which study a Study Instance UID leads to, and whether the claim may enter it."""

    study: Study | None
    order: Order | None
    contradictions: tuple[str, ...] = ()
    expected: dict[str, Any] | None = None
    """The other side of the evidence, when there are contradictions."""


def belonging(uow: UnitOfWork, study_uid: str, claim: Claim) -> Belonging:
    """Find the study or the order that owns `study_uid`, and hold `claim` against its patient.

    The study, if there is one, is locked. Nothing is changed.
    """
    study = uow.studies.find(study_uid, lock=True)
    if study is not None and study.order_id is not None:
        order: Order | None = uow.orders.get(study.order_id)
    else:
        order = uow.orders.find_by_study_uid(study_uid)
    patient_id = order.patient_id if order else study.patient_id if study else None
    if study is not None and order is None and patient_id is not None:
        # The desk filed it: what says the same as its first object belongs with that.
        first = _against_first(uow, study, claim)
        if not first.contradictions:
            return first
    if patient_id is not None:
        against = contradictions(uow, claim, patient_id)
        expected = told(uow.patients.get(uow.patients.survivor(patient_id))) if against else None
        return Belonging(study=study, order=order, contradictions=tuple(against), expected=expected)
    if study is not None:
        return _against_first(uow, study, claim)
    return Belonging(study=None, order=None)


def _against_first(uow: UnitOfWork, study: Study, claim: Claim) -> Belonging:
    # Nobody ordered this study: its first object said whose it is, later ones must agree.
    row = uow.studies.row(study.id)
    against = []
    if row.dicom_patient_id != claim.patient_id:
        against.append("patient-id")
    if fold(row.dicom_patient_name) != fold(claim.name):
        against.append("name")
    expected = {"name": row.dicom_patient_name, "patient_id": row.dicom_patient_id}
    return Belonging(
        study=study,
        order=None,
        contradictions=tuple(against),
        expected=expected if against else None,
    )


def open_study(
    uow: UnitOfWork,
    study_uid: str,
    found: Belonging,
    claim: Claim,
    *,
    accession: str,
    description: str,
    actor: str,
) -> Study:
    """Return the study of a claim that nothing contradicts, created if it was unknown; locked.

    A study that nobody ordered is readable at once and goes to the desk, once. It is read before
    routine work: an exam without an order is, in a hospital, mostly an emergency.
    """
    if found.study is not None:
        return found.study
    if found.order is not None:
        order = found.order
        return uow.studies.ensure(
            study_uid,
            state=StudyState.SCHEDULED,
            order_id=order.id,
            patient_id=order.patient_id,
            accession=order.accession,
            priority=order.priority,
            description=order.procedure.meaning,
        )
    candidate = uow.orders.find_by_accession(accession) if accession else None
    study = uow.studies.ensure(
        study_uid,
        state=StudyState.ACQUIRING,
        # An accession number that belongs to an order is not given to a second study by guess.
        accession="" if candidate else accession,
        priority=Priority.HIGH,
        description=description,
    )
    uow.studies.change(study.id, dicom_patient_name=claim.name, dicom_patient_id=claim.patient_id)
    evidence: dict[str, Any] = {"claimed": claim.evidence(), "accession": accession}
    reason = "no order has this Study Instance UID"
    if candidate is not None:
        reason += "; an order with the same accession number has another one"
        evidence["candidate"] = {
            "order_id": candidate.id,
            "study_uid": candidate.study_uid,
            "contradictions": contradictions(uow, claim, candidate.patient_id),
        }
    uow.studies.to_desk("no-order", study_uid, reason, study_id=study.id, evidence=evidence)
    uow.timeline.add(study.id, "desk.no-order", f"{reason}; on the desk", actor=actor)
    return study
