"""Images without an order that rules can place are placed; everything else stays on the desk."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, select

from models.errors import IllegalMove
from services.database.store import Store, UnitOfWork
from services.database.tables import desk, desk_decision
from services.identity.index import PatientIndex
from services.settings import Settings
from services.workflow.desk import RULES, Action, decide
from services.workflow.unordered import exam_of, matches

_LOOKED_AT_FOR: Final = timedelta(days=1)
_A_SWEEP: Final = 100


def place_study(
    store: Store, study_id: str, *, settings: Settings, index: PatientIndex | None = None
) -> bool:
    """File a study without an order if rules leave no doubt whose it is; return whether it was.

    Where only the patient is certain, the study is shown as this patient's and stays on the desk,
    for its order is missing. What somebody decided or undid is not decided again. Idempotent.
    """
    with store() as uow:
        row = _undecided(uow, study_id)
        if row is None:
            return False
        index = index or PatientIndex(automatic=settings.match_auto, desk=settings.match_desk)
        first = next(iter(matches(uow, exam_of(uow, row, settings), index)), None)
    if first is None or not first.certain:
        return False
    # Anew, for a decision locks in an order of its own.
    with suppress(IllegalMove), store() as uow:
        if first.order is None:
            return _identify(uow, study_id, first.patient.id, first.rule)
        decide(
            *(uow, row.id, Action.FILE),
            order_id=first.order.id,
            by=RULES,
            why=first.rule,
            settings=settings,
            by_rules=True,
        )
        return True
    return False


def _undecided(uow: UnitOfWork, study_id: str) -> Row[Any] | None:
    decided = select(desk_decision.c.id).where(desk_decision.c.desk_id == desk.c.id)
    return uow.connection.execute(
        select(desk).where(
            desk.c.study_id == study_id,
            desk.c.kind == "no-order",
            desk.c.resolved_at.is_(None),
            ~decided.exists(),
        )
    ).one_or_none()


def place_waiting(store: Store, settings: Settings) -> int:
    """Look again at the youngest images without an order: theirs may have come; return how many."""
    with store() as uow:
        waiting = (
            uow.connection.execute(
                select(desk.c.study_id)
                .where(
                    desk.c.kind == "no-order",
                    desk.c.resolved_at.is_(None),
                    desk.c.study_id.is_not(None),
                    desk.c.at > uow.now - _LOOKED_AT_FOR,
                )
                .order_by(desk.c.at.desc())
                .limit(_A_SWEEP)
            )
            .scalars()
            .all()
        )
    index = PatientIndex(automatic=settings.match_auto, desk=settings.match_desk)
    return sum(place_study(store, s, settings=settings, index=index) for s in waiting)


def _identify(uow: UnitOfWork, study_id: str, patient_id: str, rule: str) -> bool:
    uow.merges.lock(patient_id)
    study = uow.studies.get(study_id, lock=True)
    if study.patient_id is not None or _undecided(uow, study_id) is None:
        return False
    uow.studies.change(study_id, patient_id=patient_id)
    uow.timeline.add(
        study_id, "desk.identified", f"its patient is certain: {rule}; its order is missing"
    )
    return True
