"""Reporting: a radiologist signs versions of a report, and a person acknowledges a critical result.

Called by the JSON API and by the pages. Both functions may be repeated: the same request gets the
same answer and has one effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from models.errors import Conflict, IllegalMove, InvalidValue, MissingField, UnknownKey
from models.events import Topic
from models.finding import Outcome
from models.lifecycle import TABLE, ReportStatus, StudyEvent, StudyState, move
from models.priority import Priority
from models.report import Report
from models.study import Study, new_id, uid_from
from services.database.store import Store, UnitOfWork

EVENTS: Final[dict[ReportStatus, StudyEvent]] = {
    ReportStatus.PRELIMINARY: StudyEvent.REPORTED_PRELIMINARY,
    ReportStatus.FINAL: StudyEvent.REPORTED_FINAL,
    ReportStatus.CORRECTED: StudyEvent.REPORTED_CORRECTED,
}
"""What signing in each status does to the study."""

LONGEST_TEXT: Final = 100_000
"""Characters of a report's section; the longest real ones have about a tenth of that."""

LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Who took note of a critical result, when, and of what exactly."""

    study_uid: str
    accession: str
    by: str
    at: datetime
    found_at: datetime
    escalations: int
    statement: str
    """The read-back: the words that the person has taken note of."""


def sign_report(
    store: Store,
    study_uid: str,
    *,
    status: ReportStatus | str,
    findings: str,
    impression: str,
    author: str,
    expected_version: int | None = None,
    idempotency_key: str | None = None,
) -> Report:
    """Sign the next version of a study's report and announce it.

    Parameters
    ----------
    expected_version : int, optional
        The newest version that the author has seen, 0 for none. Whoever signs second while two
        read the same study is told so instead of covering what the first has written.
    idempotency_key : str, optional
        Chosen by the client for one act of signing. Without one, the newest version is taken for
        the same act if author, status and text are equal.

    Returns
    -------
    Report
        The new version, or the one that an earlier attempt of the same request has made.

    Raises
    ------
    UnknownKey
        If no study has this UID.
    MissingField, InvalidValue
        If a field is empty or cannot be stored; `location` names it.
    IllegalMove
        If the study or its newest report is not in a state for this status.
    Conflict
        If somebody else has signed since, or the key was used for another report.
    """
    status = _status(status)
    findings = _text("findings", findings, LONGEST_TEXT, required=False)
    impression = _text("impression", impression, LONGEST_TEXT)
    author = _text("author", author, LONGEST_NAME)
    with store() as uow:
        study = _locked(uow, study_uid)
        earlier = uow.reports.of_study(study.id)
        last = earlier[-1] if earlier else None
        report = Report(
            id=_report_id(study.id, idempotency_key),
            study_id=study.id,
            version=1 if last is None else last.version + 1,
            status=status,
            findings=findings,
            impression=impression,
            author=author,
            signed_at=uow.now,
        )
        repeated = _repeated(earlier, report)
        if repeated is not None:
            return repeated
        seen = report.version - 1
        if expected_version is not None and expected_version != seen:
            raise Conflict(
                f"the newest version is {seen}, not {expected_version}: somebody else has signed",
                location="expected_version",
            )
        _move(uow, study, last, status)
        uow.reports.add(report)
        uow.timeline.add(
            study.id,
            "report.signed",
            f"{status.value} report, version {report.version}",
            actor=author,
            report_id=report.id,
            version=report.version,
            status=status.value,
            sha256=_digest(report),
        )
        uow.outbox.announce(Topic.REPORT_SIGNED, study.id, str(report.version), study.priority)
        return report


def acknowledge_critical(store: Store, study_uid: str, by: str) -> Acknowledgement:
    """Record that a named person has taken note of a study's critical result.

    The first acknowledgement stands; a further one is answered with it and changes nothing.

    Raises
    ------
    UnknownKey
        If no study has this UID.
    MissingField, InvalidValue
        If nobody is named.
    IllegalMove
        If the study has no critical result.
    """
    by = _text("by", by, LONGEST_NAME)
    with store() as uow:
        study = _locked(uow, study_uid)
        row = uow.reports.critical(study.id, lock=True)
        if row is None:
            if not is_critical(study):
                raise IllegalMove("the study has no critical result", location="study_uid")
            uow.reports.found_critical(study.id)
            row = uow.reports.critical(study.id, lock=True)
            if row is None:
                raise LookupError("the critical result vanished inside its own transaction")
        statement, model = _statement(uow, study)
        answer = Acknowledgement(
            study_uid=study.study_uid,
            accession=study.accession,
            by=row.acknowledged_by or by,
            at=row.acknowledged_at or uow.now,
            found_at=row.found_at,
            escalations=row.escalations,
            statement=statement,
        )
        if row.acknowledged_at is None:
            uow.reports.change_critical(study.id, acknowledged_at=uow.now, acknowledged_by=by)
            uow.timeline.add(
                study.id,
                "critical.acknowledged",
                f"critical result acknowledged {_span(row.found_at, uow.now)} after it was found",
                actor=by,
                found_at=row.found_at.isoformat(),
                escalations=row.escalations,
                read_back=statement,
                model=model,
            )
        return answer


def is_critical(study: Study) -> bool:
    """Return whether a finding has made this study critical."""
    return study.triage == Outcome.CRITICAL.value or study.priority is Priority.CRITICAL


def signable(state: StudyState, last: ReportStatus | None) -> tuple[ReportStatus, ...]:
    """Return the statuses in which the next version may be signed, by the lifecycle table."""
    return tuple(
        status
        for status, event in EVENTS.items()
        if (state, event) in TABLE and (last is None or (last, event) in TABLE)
    )


def _locked(uow: UnitOfWork, study_uid: str) -> Study:
    study = uow.studies.find(study_uid, lock=True) if study_uid.isprintable() else None
    if study is None:
        raise UnknownKey("no study has this Study Instance UID", location="study_uid")
    return study


def _move(uow: UnitOfWork, study: Study, last: Report | None, status: ReportStatus) -> None:
    event = EVENTS[status]
    try:
        if last is not None:
            move(last.status, event)
        uow.studies.move(study, event, last_read_at=uow.now)
    except IllegalMove as error:
        raise IllegalMove(str(error), location="status") from error


def _repeated(earlier: list[Report], report: Report) -> Report | None:
    for known in earlier:
        if known.id == report.id:
            if _digest(known) != _digest(report):
                raise Conflict(
                    "this idempotency key has signed another report", location="idempotency_key"
                )
            return known
    if earlier and _digest(earlier[-1]) == _digest(report):
        return earlier[-1]
    return None


def _digest(report: Report) -> str:
    parts = (report.status.value, report.findings, report.impression, report.author)
    return sha256("\x1f".join(parts).encode()).hexdigest()


def _report_id(study_id: str, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return new_id()
    key = _text("idempotency_key", idempotency_key, LONGEST_NAME)
    # The id that always belongs to study and key: a repeated request meets its own report.
    return sha256(uid_from("report", study_id, key).encode()).hexdigest()[:32]


def _status(value: ReportStatus | str) -> ReportStatus:
    if isinstance(value, ReportStatus):
        return value
    if not value:
        raise MissingField("status is missing", location="status")
    try:
        return ReportStatus(value)
    except ValueError:
        known = ", ".join(status.value for status in ReportStatus)
        raise InvalidValue(f"status is none of {known}", location="status") from None


def _text(field: str, value: Any, longest: int, *, required: bool = True) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{field} is not text", location=field)
    # A browser's form sends CRLF where a JSON client sends LF; it is the same report.
    text = value.replace("\r\n", "\n").replace("\r", "\n").strip()
    if required and not text:
        raise MissingField(f"{field} is missing or empty", location=field)
    if len(text) > longest:
        raise InvalidValue(
            f"{field} has {len(text)} characters; {longest} are allowed", location=field
        )
    if not all(c in "\n\t" or (c >= " " and c != "\x7f") for c in text) or any(
        "\ud800" <= c <= "\udfff" for c in text
    ):
        raise InvalidValue(f"{field} has characters that are not text", location=field)
    return text


def _statement(uow: UnitOfWork, study: Study) -> tuple[str, str]:
    critical = [f for f in uow.studies.findings(study.id) if f.outcome == Outcome.CRITICAL.value]
    if critical:
        return critical[-1].text or "critical finding", critical[-1].model
    return "critical finding", ""


def _span(start: datetime, end: datetime) -> str:
    seconds = max(0, int((end - start).total_seconds()))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
