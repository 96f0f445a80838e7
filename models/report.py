"""What the radiologist wrote, version by version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.lifecycle import ReportStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One signed version of a study's report; a version is never changed, only succeeded."""

    id: str
    study_id: str
    version: int
    status: ReportStatus
    findings: str
    impression: str
    author: str
    signed_at: datetime

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("report versions count from 1")
        if not self.impression.strip():
            raise ValueError("a report needs an impression")
        if not self.author.strip():
            raise ValueError("a report needs an author")
