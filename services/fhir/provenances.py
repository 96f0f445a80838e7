"""Provenance: who signed each version of a report, and who merged patient records, and when."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, false, func, literal, select, union_all

from models.errors import UnknownKey
from models.merge import ChangeKind
from services.database.tables import patient_change, report
from services.fhir import codes
from services.fhir.codes import validated
from services.fhir.parameters import Parameter, is_date
from services.fhir.report import instant, readable_author
from services.fhir.reports import version_of
from services.fhir.served import Call, Order, Resource, Searched, Served

_OPERATION: Final = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_LIFECYCLE: Final = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_PARTICIPANT: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_SIGNED, _MERGED, _UNMERGED = "report", "merge", "unmerge"

_MERGES = patient_change.c.kind == ChangeKind.MERGE.value
_ALL = union_all(
    select(
        (f"{_SIGNED}-" + report.c.id).label("id"),
        report.c.signed_at.label("recorded"),
        report.c.study_id.label("study_id"),
        literal(None).label("survivor_id"),
        literal(None).label("retired_id"),
    ),
    *(
        select(
            func.concat(f"{prefix}-", patient_change.c.id),
            at,
            literal(None),
            patient_change.c.survivor_id,
            patient_change.c.retired_id,
        ).where(_MERGES, at.is_not(None))
        for prefix, at in (
            (_MERGED, patient_change.c.at),
            (_UNMERGED, patient_change.c.undone_at),
        )
    ),
).subquery("provenance")


def served() -> Served:
    """Return the row of Provenance."""
    return Served(
        kind="Provenance",
        read=_read,
        search=Searched(
            source=select(_ALL.c.id),
            key=_ALL.c.id,
            parameters={
                "_id": Parameter(type="token", condition=lambda v: _ALL.c.id == v),
                "target": Parameter(type="reference", condition=_target),
                "recorded": Parameter(type="date", condition=is_date(_ALL.c.recorded)),
            },
            orders={
                "recorded": Order(by=_ALL.c.recorded, read=datetime.fromisoformat),
                "_id": Order(by=_ALL.c.id, read=str),
            },
            default="-recorded",
            load=lambda call, ids: [_read(call, i) for i in ids],
        ),
        documentation=(
            "Of every signed version of a DiagnosticReport, and of every merge of Patients and its "
            "undoing. A target is searched for with its type."
        ),
    )


def _target(value: str) -> ColumnElement[bool]:
    kind, _, identity = value.partition("/_history/")[0].rpartition("/")
    kind = kind.rpartition("/")[2]
    if kind == "DiagnosticReport":
        return _ALL.c.study_id == identity
    if kind == "Patient":
        return (_ALL.c.survivor_id == identity) | (_ALL.c.retired_id == identity)
    return false()


def _read(call: Call, identity: str) -> Resource:
    kind, _, key = identity.partition("-")
    if kind == _SIGNED and key.isprintable():
        return _of_report(call, key)
    if kind in {_MERGED, _UNMERGED} and key.isascii() and key.isdigit() and len(key) < 19:
        return _of_merge(call, kind, int(key))
    raise UnknownKey("no resource has this id")


def _of_report(call: Call, report_id: str) -> Resource:
    rows = call.uow.studies.select(select(report).where(report.c.id == report_id))
    if not rows:
        raise UnknownKey("no resource has this id")
    (row,) = rows
    number = version_of(call.uow, row.study_id, row.signed_at)
    return _provenance(
        call,
        f"{_SIGNED}-{report_id}",
        targets=[f"DiagnosticReport/{row.study_id}/_history/{number}"],
        recorded=row.signed_at,
        activity=(_OPERATION, "CREATE", "create")
        if row.version == 1
        else (_OPERATION, "UPDATE", "revise"),
        who=readable_author(row.author),
    )


def _of_merge(call: Call, kind: str, change_id: int) -> Resource:
    change = call.uow.merges.get(change_id)
    undone = kind == _UNMERGED
    if change is None or change.kind is not ChangeKind.MERGE or (undone and not change.undone_at):
        raise UnknownKey("no resource has this id")
    return _provenance(
        call,
        f"{kind}-{change_id}",
        targets=[f"Patient/{change.survivor_id}", f"Patient/{change.retired_id}"],
        recorded=change.undone_at if undone and change.undone_at else change.at,
        activity=(_LIFECYCLE, kind, f"{kind.capitalize()} Record Lifecycle Event"),
        who=change.undone_by if undone else change.by,
    )


def _provenance(
    call: Call,
    identity: str,
    *,
    targets: list[str],
    recorded: datetime,
    activity: tuple[str, str, str],
    who: str,
) -> Resource:
    author = {"system": _PARTICIPANT, "code": "author", "display": "Author"}
    told: dict[str, Any] = {
        "resourceType": "Provenance",
        "id": identity,
        "meta": {"lastUpdated": instant(recorded)},
        "target": [{"reference": target} for target in targets],
        "recorded": instant(recorded),
        "activity": {"coding": [dict(zip(codes.CODING, activity, strict=True))]},
        "agent": [{"type": {"coding": [author]}, "who": {"display": who or "unknown"}}],
    }
    return validated(told, call.version)
