"""What a message would do: the real intake, in a transaction that is always rolled back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import TracebackType
from typing import Any, Final, cast

from pydicom import Dataset
from pydicom.config import disable_value_validation
from sqlalchemy import Connection, Row, Table, func, or_, select, text
from sqlalchemy.exc import OperationalError

from models.errors import SpinechoError, Unavailable
from models.priority import Priority
from services.database.direct import Direct
from services.database.orders import Orders
from services.database.patients import Patients
from services.database.store import Store, UnitOfWork
from services.database.tables import imaging_order, message_key, message_log, metadata
from services.dicom.worklist import worklist_item
from services.hl7.er7 import parse
from services.hl7.standardising import Rewriting, Standard
from services.settings import Settings
from services.workflow.messages import Answered, receive_message

_NAMED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "patient": ("patient", ("family", "given")),
    "patient_identifier": ("patient identifier", ("value", "authority")),
    "imaging_order": ("order", ("accession",)),
    "scheduled_step": ("step", ("sps_id",)),
    "study": ("study", ("accession",)),
    "visit": ("visit", ("number",)),
    "appointment": ("appointment", ("key",)),
    "external_result": ("result from elsewhere", ("sender", "status")),
    "timeline": ("timeline", ("kind",)),
    "outbox": ("stage", ("flow",)),
    "desk": ("desk", ("kind",)),
    "status_notice": ("notice to the placer", ("words",)),
}
"""Table → what it is called here, and the columns that name one of its rows to a person."""
_OWN: Final = frozenset(
    {"id", "patient_id", "order_id", "study_id", "subject", "attributes", "position", "attempt"}
    | {"judged", "version", "at", "created_at", "updated_at", "placed_at"}
)
"""Columns of a new row that say nothing: what they would hold is made up at the time."""
_WORKLIST_KEYS: Final = (
    *("AccessionNumber", "PatientID", "PatientName", "StudyInstanceUID"),
    *("RequestedProcedurePriority", "RequestedProcedureDescription"),
)
_STEP_KEYS: Final = (
    *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate"),
    *("ScheduledProcedureStepStartTime", "Modality", "ScheduledProcedureStepID"),
)

Fields = dict[str, list[Any]]
"""Column → value before and after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row that would be there, or be another, afterwards.

    Attributes
    ----------
    what
        order, patient, step, study, worklist item, …
    change
        ``added`` or ``changed``; of a worklist item also ``removed``.
    name
        How a person knows it.
    fields
        What differs.
    """

    what: str
    change: str
    name: str
    fields: Fields


@dataclass(slots=True, kw_only=True)
class Rehearsed:
    """What a message would be answered, and what it would change."""

    answered: Answered
    state: str = ""
    error: str | None = None
    changes: list[Change] = field(default_factory=list)
    standard: Standard | None
    """The message after its sender's profile."""


def rehearse(
    store: Store,
    raw: bytes,
    *,
    settings: Settings,
    profiles: Rewriting | None = None,
    keep: bool = False,
) -> Rehearsed:
    """Receive a message as if a sender had sent it, and take everything back.

    Row locks are held for that moment, and a number drawn from a sequence (accession numbers, ids
    of the log) stays drawn; nothing else remains. With `keep` everything stays: a store of the
    rehearsal's own may play one message after the other.

    Raises
    ------
    Unavailable
        If another transaction is changing the same rows at this moment, or the store is away.
    """
    stage = _Stage(store, keep=keep)
    try:
        answered = receive_message(
            stage, raw, peer="rehearsal", settings=settings, profiles=profiles
        )
    except OperationalError as error:
        raise Unavailable(
            "the store is away, or the same records are being changed at this moment; try again"
        ) from error
    log: Any = stage.log
    if log is None or log.id != answered.message_id:
        with store() as uow:  # it was received before
            log = uow.messages.get(answered.message_id)
    return Rehearsed(
        answered=answered,
        state=log.state,
        error=log.error,
        changes=stage.changes,
        standard=_standard(raw, profiles),
    )


def _standard(raw: bytes, profiles: Rewriting | None) -> Standard | None:
    try:
        message = parse(raw)
    except SpinechoError:
        return None  # the answer says why
    return Standard(message) if profiles is None else profiles.standardised(message, raw)


class _Stage(Store):
    """A store whose every unit of work is a rehearsal."""

    def __init__(self, real: Store, *, keep: bool) -> None:
        self._real = real
        self.keep = keep
        self.engine, self.clock = real.engine, real.clock
        self.keys, self.partitions = real.keys, real.partitions
        self.changes: list[Change] = []
        self.log: Row[Any] | None = None

    def __call__(self) -> UnitOfWork:
        return cast("UnitOfWork", _Rehearsal(self._real(), self))


class _TakenBack(Exception):
    """Why the transaction of a rehearsal ends in a rollback."""


class _Rehearsal:
    """A unit of work that tells what it wrote, and then takes it back."""

    def __init__(self, uow: UnitOfWork, stage: _Stage) -> None:
        self._uow = uow
        self._stage = stage

    def __enter__(self) -> UnitOfWork:
        uow = self._uow.__enter__()
        # One snapshot: what others commit meanwhile must not look like ours.
        uow.connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        uow.connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        uow.connection.execute(select(func.pg_current_xact_id()))
        return uow

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end = error
        try:
            if error is None:
                end = None if self._stage.keep else _TakenBack()
                with self._stage.engine.connect() as before:
                    self._look(self._uow.connection, before)
        except BaseException as fault:
            end = fault
            raise
        finally:
            self._uow.__exit__(kind, end, trace)

    def _look(self, after: Connection, before: Connection) -> None:
        touched = after.execute(
            text(
                "SELECT relname FROM pg_stat_xact_user_tables "
                "WHERE schemaname = current_schema() AND n_tup_ins + n_tup_upd > 0"
            )
        )
        written = {
            table.name: list(after.execute(_written(table)))
            for table in (metadata.tables.get(str(name)) for name in sorted(touched.scalars()))
            # That the message itself is kept is no news.
            if table not in (None, message_log, message_key)
        }
        self._stage.log = after.execute(
            select(message_log.c.id, message_log.c.state, message_log.c.error)
            .order_by(message_log.c.id.desc())
            .limit(1)
        ).first()
        for name in [*(n for n in _NAMED if n in written), *(written.keys() - _NAMED.keys())]:
            self._stage.changes.extend(_changes(metadata.tables[name], written[name], before))
        orders = {r.id for r in written.get("imaging_order", ())}
        orders |= {r.order_id for r in written.get("scheduled_step", ())}
        patients = {r.id for r in written.get("patient", ())}
        patients |= {r.patient_id for r in written.get("patient_identifier", ())}
        concerned = or_(imaging_order.c.id.in_(orders), imaging_order.c.patient_id.in_(patients))
        now = self._uow.now
        self._stage.changes.extend(
            _worklist_changes(_worklist(before, now, concerned), _worklist(after, now, concerned))
        )


def _written(table: Table) -> Any:
    # A row that this transaction wrote carries its id or that of one of its savepoints, which
    # were given later: their age, counted from the transaction's own id, is not positive.
    return select(table).where(text(f'age("{table.name}".xmin) <= 0'))


def _changes(table: Table, rows: Sequence[Row[Any]], before: Connection) -> Iterator[Change]:
    what, names = _NAMED.get(table.name, (table.name, ()))
    keys = [column.name for column in table.primary_key]
    for row in rows:
        after = row._mapping
        was = before.execute(
            select(table).where(*(table.c[key] == after[key] for key in keys))
        ).one_or_none()
        old = {} if was is None else was._mapping
        silent = _OWN if was is None else {"updated_at"}
        fields = {
            name: [_plain(name, old.get(name)), _plain(name, after[name])]
            for name in after
            if name not in silent
            and old.get(name) != after[name]
            and not (was is None and after[name] in ("", None))
        }
        if "details" in fields:
            # One column of many values: each is named like a column of its own.
            fields |= _opened(*fields.pop("details"))
        if fields:
            yield Change(
                what=what,
                change="added" if was is None else "changed",
                name=" ".join(str(after[n]) for n in names or keys),
                fields=fields,
            )


def _opened(before: Any, after: Any) -> Fields:
    old, new = (
        {name: _said(value) for name, value in (details or {}).items()}
        for details in (before, after)
    )
    return {
        name: [old.get(name), new.get(name)]
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }


def _said(value: Any) -> Any:
    """Return a code, an issuer or a name as it is written in a message."""
    if isinstance(value, dict) and len(value) == 1:
        (parts,) = value.values()
        return "^".join(map(str, parts)).rstrip("^") if isinstance(parts, list) else parts
    return value


def _worklist(
    connection: Connection, now: datetime, concerned: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    direct = Direct.of(connection)
    rows = Orders(connection, now, direct).worklist([concerned])
    identifiers = Patients(connection, now, direct).identifiers(row.patient_id for row in rows)
    with disable_value_validation():  # a long name is the worklist's business, not ours
        return {
            (row.scheduled_step_order_id, row.scheduled_step_sps_id): _item(
                worklist_item(row, identifiers.get(row.patient_id, []))
            )
            for row in rows
        }


def _item(item: Dataset) -> dict[str, Any]:
    step = item.ScheduledProcedureStepSequence[0]
    values = {k: str(item.get(k) or "") for k in _WORKLIST_KEYS}
    return values | {k: str(step.get(k) or "") for k in _STEP_KEYS}


def _worklist_changes(
    before: dict[tuple[str, str], dict[str, Any]], after: dict[tuple[str, str], dict[str, Any]]
) -> Iterator[Change]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, {}), after.get(key, {})
        if old != new:
            yield Change(
                what="worklist item",
                change="changed" if old and new else "added" if new else "removed",
                name=key[1],
                fields={
                    k: [old.get(k), new.get(k)] for k in (new or old) if old.get(k) != new.get(k)
                },
            )


def _plain(column: str, value: Any) -> Any:
    if column == "priority" and value is not None:
        return Priority(value).name
    return value.isoformat() if isinstance(value, datetime | date) else value
