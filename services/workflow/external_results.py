"""A result from another system is linked to its study, or shown on the desk; never guessed."""

from __future__ import annotations

from datetime import date

from models.external_result import STATUS_WORDS, ExternalResult
from models.patient import PersonName
from models.request import PatientRequest
from models.study import Study
from services.database.store import UnitOfWork
from services.workflow.identification import Claim, contradictions, fold


def take_results(
    uow: UnitOfWork,
    request: PatientRequest,
    results: list[ExternalResult],
    *,
    message_id: int,
) -> list[Study]:
    """Keep every result; return the studies that they were linked to.

    The first of these that names a study decides: its Study UID, the accession number in OBR-18
    or in OBR-3, the placer order number. Where the message's patient is not the study's, or no
    study is named, the result goes to the desk.
    """
    linked = []
    for position, result in enumerate(results, 1):
        study = _named(uow, result)
        against = [] if study is None else _against(uow, study, request)
        belongs = study is not None and not against
        uow.external.add(
            result,
            study_id=study.id if study is not None and belongs else None,
            message_id=message_id,
            position=position,
        )
        if study is not None and belongs:
            linked.append(study)
            word = STATUS_WORDS.get(result.status, "without a status")
            uow.timeline.add(
                study.id,
                "result.external",
                f"result from {result.sender or 'another system'}: {word}"
                + (", marked critical" if result.critical else ""),
                actor=result.sender,
                message=message_id,
                status=result.status,
                critical=result.critical,
            )
            continue
        reason = (
            "a result from another system names no study that is here"
            if study is None
            else "a result from another system is of another patient: " + ", ".join(against)
        )
        uow.studies.to_desk(
            "unlinked-result",
            f"message-{message_id}-{position}",
            reason,
            study_id=None if study is None else study.id,
            evidence={
                "message": message_id,
                "study_uid": result.study_uid,
                "accession": result.accession,
                "placer_number": result.placer_number,
                "filler_number": result.filler_number,
            },
        )
    return linked


def _named(uow: UnitOfWork, result: ExternalResult) -> Study | None:
    if result.study_uid and (study := uow.studies.find(result.study_uid)) is not None:
        return study
    for accession in (result.accession, result.filler_number):
        found = uow.studies.find_by_accession(accession) if accession else []
        if len(found) == 1:
            return found[0]
    if not result.placer_number:
        return None
    orders = uow.orders.placed_under(result.placer_number, result.placer_authority)
    return uow.studies.find(orders[0].study_uid) if len(orders) == 1 else None


def _against(uow: UnitOfWork, study: Study, request: PatientRequest) -> list[str]:
    name = str(request.name) if isinstance(request.name, PersonName) else ""
    if study.patient_id is not None:
        found: list[str] = []
        for identifier in request.identifiers:
            claim = Claim(
                name=name,
                patient_id=identifier.value,
                issuer=identifier.authority,
                birth_date=request.birth_date if isinstance(request.birth_date, date) else None,
            )
            found = contradictions(uow, claim, study.patient_id)
            if not found:
                return []
        return found
    row = uow.studies.row(study.id)
    against = []
    if row.dicom_patient_id not in {i.value for i in request.identifiers}:
        against.append("patient-id")
    if name and fold(name) != fold(row.dicom_patient_name):
        against.append("name")
    return against
