"""Why a study's files may say another patient than its record does, and since when.

Nothing of this is stored: it is asked of the changes and decisions that stand, so that undoing one
takes its effect away. A study without any is found to have none without opening a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, select, text

from models.overlay import Overlay, Part, Reason
from models.patient import Identifier, Patient, PersonName
from services.database.store import UnitOfWork
from services.database.tables import instance, patient_identifier, patient_trait
from services.identity import index
from services.workflow.desk import RULES

_PERSON: Final = frozenset({Part.NAME, Part.IDENTIFIER, Part.BIRTH_DATE, Part.SEX})
_PARTS: Final = {
    "merge": _PERSON,
    "move": _PERSON,
    "desk": _PERSON | {Part.ACCESSION},
    "rules": _PERSON | {Part.ACCESSION},
    "rekey": frozenset({Part.IDENTIFIER}),
}
_WRONG: Final = {"move", "desk"}
"""Causes that say that the file was made in another person's name."""
_COERCED: Final = {"merge", "rekey", "rules"}
_COMPARED: Final = {
    Part.NAME: ("family", "given", "middle"),
    Part.BIRTH_DATE: ("birth_date",),
    Part.SEX: ("sex",),
}

# A study is its home's until a merge takes it up a chain of survivors.
_CAUSES: Final = text(
    """
    WITH RECURSIVE chain AS (
        SELECT home_id AS id FROM patient_home WHERE kind = 'study' AND key = :study
        UNION
        SELECT p.merged_into FROM patient p JOIN chain ON p.id = chain.id
         WHERE p.merged_into IS NOT NULL
    )
    SELECT c.kind, c.at
      FROM patient_change c
     WHERE c.undone_at IS NULL
       AND (c.survivor_id = :patient OR c.survivor_id IN (SELECT id FROM chain)
            OR c.retired_id IN (SELECT id FROM chain))
       AND CASE c.kind
           WHEN 'merge' THEN c.retired_id IN (SELECT id FROM chain)
           WHEN 'rekey' THEN c.survivor_id = :patient
           ELSE EXISTS (SELECT FROM patient_change_item i
                         WHERE i.change_id = c.id AND i.kind = 'study' AND i.key = :study)
           END
    UNION ALL
    SELECT CASE d.by WHEN :rules THEN 'rules' ELSE 'desk' END, d.done_at
      FROM desk_decision d JOIN desk k ON k.id = d.desk_id
     WHERE coalesce(d.before ->> 'study', k.study_id) = :study AND d.action = 'file'
       AND d.done_at IS NOT NULL AND d.undone_at IS NULL
    """
)


def overlay_of(uow: UnitOfWork, study_id: str) -> Overlay | None:
    """Return what has to be laid over a study's files as they leave, or None.

    None where no merge, move, re-key or decision of the desk stands and the record says what it
    said when the first image came: then every file leaves as it is, unopened.
    """
    study = uow.studies.get(study_id)
    if study.patient_id is None:
        return None
    causes = uow.connection.execute(
        _CAUSES, {"study": study_id, "patient": study.patient_id, "rules": RULES}
    ).all()
    record = uow.patients.get(study.patient_id)
    corrected, since = _corrections(uow, study_id, record)
    kinds = {cause.kind for cause in causes}
    parts = corrected.union(*(_PARTS[kind] for kind in kinds))
    if not parts:
        return None
    moments: list[tuple[datetime, str]] = [(cause.at, cause.kind) for cause in causes]
    if since is not None:
        moments.append((since, "correction"))
    at, latest = max(moments)
    return Overlay(
        patient=record,
        identifiers=_standing(uow, record),
        accession=study.accession,
        parts=parts,
        is_other_person=not kinds.isdisjoint(_WRONG),
        reason=Reason.COERCE if latest in _COERCED else Reason.CORRECT,
        at=at,
    )


def under_uids(
    overlay: Overlay | None, study_uid: str, series_uid: str, since: datetime
) -> Overlay:
    """Return the overlay of a file that the desk put under UIDs which it does not say."""
    uids = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    if overlay is not None:
        return replace(overlay, uids=uids, at=max(overlay.at, since))
    return Overlay(
        patient=Patient(id="", identifiers=(), name=PersonName()),
        identifiers=(),
        accession="",
        parts=frozenset(),
        is_other_person=False,
        reason=Reason.CORRECT,
        at=since,
        uids=uids,
    )


def _standing(uow: UnitOfWork, record: Patient) -> tuple[Identifier, ...]:
    replaced = set(
        uow.connection.execute(
            select(patient_identifier.c.value, patient_identifier.c.authority).where(
                patient_identifier.c.patient_id == record.id,
                patient_identifier.c.retired_by.is_not(None),
            )
        ).tuples()
    )
    others = (i for i in record.identifiers if i.key not in replaced and i != record.mrn)
    return (record.mrn, *others)


def _corrections(
    uow: UnitOfWork, study_id: str, record: Patient
) -> tuple[frozenset[Part], datetime | None]:
    """Return what the record says otherwise than when the first image came, and since when."""
    said = uow.connection.execute(
        select(patient_trait)
        .where(patient_trait.c.patient_id == record.id)
        .order_by(patient_trait.c.since)
    ).all()
    if len(said) < 2:
        return frozenset(), None
    received = uow.connection.scalar(
        select(func.min(instance.c.received_at)).where(instance.c.study_id == study_id)
    )
    then = _as_of(said, received)
    digest = index.rows(record, uow.now)[0]["digest"]
    now = next((row for row in said if row.digest == digest), None)
    if now is None or then is None or now.digest == then.digest:
        return frozenset(), None
    parts = {
        part
        for part, names in _COMPARED.items()
        if any(getattr(now, name) != getattr(then, name) for name in names)
    }
    # When an older version is in force again, its return is later than all that was new.
    since = now.since if now.since > then.since else said[-1].since
    return frozenset(parts), since


def _as_of(said: Sequence[Row[Any]], moment: datetime | None) -> Row[Any] | None:
    earlier = [row for row in said if moment is not None and row.since <= moment]
    return earlier[-1] if earlier else None
