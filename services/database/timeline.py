"""The evidence of every step of a study's life."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select

from services.database.direct import Direct, Prepared
from services.database.tables import timeline

_ADD = Prepared(insert(timeline), ("study_id", "at", "kind", "summary", "actor", "evidence"))
_OF_STUDY = Prepared(
    select(timeline).where(timeline.c.study_id == bindparam("study")).order_by(timeline.c.id)
)


class Timeline:
    """Repository of timeline entries; entries are only ever added."""

    def __init__(self, now: datetime, direct: Direct) -> None:
        self._now = now
        self._direct = direct
        self._known: dict[str, Any] = {}

    def noting(self, **evidence: Any) -> None:
        """Put evidence beside that of every entry that this unit of work adds from here on."""
        self._known |= evidence

    def add(
        self, study_id: str, kind: str, summary: str, *, actor: str = "spinecho", **evidence: Any
    ) -> None:
        """Add an entry.

        Parameters
        ----------
        study_id : str
        kind : str
            A short dotted word such as ``order.placed``; pages group by it.
        summary : str
            One line for people, free of patient data: it is shown in Prefect too.
        actor : str
            Who did it: a person, a sending system, an AE title, or ``spinecho``.
        **evidence
            Message id, acknowledgement, digest, model version; JSON values.
        """
        self._direct.later(
            _ADD(
                study_id=study_id,
                at=self._now,
                kind=kind,
                summary=summary,
                actor=actor,
                evidence=self._known | evidence,
            )
        )

    def of_study(self, study_id: str) -> list[Any]:
        """Return the study's entries, oldest first."""
        return self._direct.fetch(_OF_STUDY(study=study_id))
