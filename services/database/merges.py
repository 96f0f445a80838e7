"""Changes of patient records: which record lives on, what moved, what was filed where.

A record that retires keeps its row and its identifiers and points to its survivor. Every row that
belongs to a patient has a home, the record it was filed under, and shows the home's last survivor
as its patient. The database holds this for every writer (trigger ``file_under_survivor``), so that
an order or an image that comes in the middle of a merge is not left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, UniqueConstraint, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.merge import ChangeKind, Merge, Moved
from models.patient import Identifier
from services.database.tables import (
    appointment,
    imaging_order,
    metadata,
    patient,
    patient_change,
    patient_change_item,
    patient_home,
    patient_identifier,
    study,
    visit,
)

OWNED: Final[tuple[Table, ...]] = (imaging_order, study, visit, appointment)
"""Tables whose rows belong to a patient and follow the patient's record; performed steps, images,
findings, reports and deliveries follow their study."""

RETIRED_POSITION: Final = 1000
"""Added to the position of an identifier that was replaced: never the one that is shown first."""

_KEPT: Final = frozenset({"id", "merged_into", "updated_at"})


class Merges:
    """Repository of `Merge`."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    def get(self, change_id: int, *, lock: bool = False) -> Merge | None:
        """Return the change, or None; with `lock`, nobody else undoes it until this commit."""
        query = select(patient_change).where(patient_change.c.id == change_id)
        row = self._connection.execute(query.with_for_update() if lock else query).one_or_none()
        return None if row is None else self._load(row)

    def of_patient(self, patient_id: str) -> list[Merge]:
        """Return every change in which this record took part, oldest first."""
        rows = self._connection.execute(
            select(patient_change)
            .where(
                (patient_change.c.survivor_id == patient_id)
                | (patient_change.c.retired_id == patient_id)
            )
            .order_by(patient_change.c.id)
        )
        return [self._load(row) for row in rows]

    def standing(self, retired_id: str) -> Merge | None:
        """Return the merge that retired this record and was not undone, or None."""
        row = self._connection.execute(
            select(patient_change).where(
                patient_change.c.kind == ChangeKind.MERGE.value,
                patient_change.c.retired_id == retired_id,
                patient_change.c.undone_at.is_(None),
            )
        ).one_or_none()
        return None if row is None else self._load(row)

    def is_replaced(self, identifier: Identifier) -> bool:
        """Whether a re-key put another identifier in the place of this one."""
        return (
            self._connection.scalar(
                select(patient_identifier.c.retired_by.is_not(None)).where(
                    patient_identifier.c.authority == identifier.authority,
                    patient_identifier.c.value == identifier.value,
                )
            )
            is True
        )

    def owner(self, identifier: Identifier) -> str | None:
        """Return the record that has `identifier` itself, retired or not."""
        return self._connection.scalar(
            select(patient_identifier.c.patient_id).where(
                patient_identifier.c.authority == identifier.authority,
                patient_identifier.c.value == identifier.value,
            )
        )

    def lock(self, *patient_ids: str) -> dict[str, Row[Any]]:
        """Lock records against other changes and return them; always in one order."""
        rows = self._connection.execute(
            select(patient)
            .where(patient.c.id.in_(patient_ids))
            .order_by(patient.c.id)
            .with_for_update()
        )
        return {row.id: row for row in rows}

    def add(self, kind: ChangeKind, survivor_id: str, retired_id: str, **values: Any) -> int:
        """Record a change and return its id."""
        return int(
            self._connection.execute(
                insert(patient_change)
                .values(
                    kind=kind.value,
                    survivor_id=survivor_id,
                    retired_id=retired_id,
                    at=self._now,
                    **values,
                )
                .returning(patient_change.c.id)
            ).scalar_one()
        )

    def retire(self, change_id: int, retired_id: str, survivor_id: str) -> None:
        """Point the retired record to its survivor and let everything it has follow."""
        self._point(retired_id, survivor_id)
        for table in OWNED:
            query = select(table.c.id).where(
                table.c.patient_id == retired_id, *_no_rival(table, survivor_id)
            )
            keys = self._connection.scalars(query).all()
            self._note(change_id, table, keys, retired_id)
            # To itself: the trigger sends it on and remembers where it was.
            self._connection.execute(
                update(table).where(table.c.id.in_(keys)).values(patient_id=retired_id)
            )

    def restore(self, retired_id: str) -> list[str]:
        """Let a retired record live again with all that was filed under it; return its studies."""
        below = select(patient.c.id).where(patient.c.id == retired_id).cte(recursive=True)
        below = below.union(select(patient.c.id).where(patient.c.merged_into == below.c.id))
        records = self._connection.scalars(select(below.c.id)).all()
        self._point(retired_id, None)
        studies: list[str] = []
        for table in OWNED:
            moved = self._connection.execute(
                update(table)
                .where(
                    patient_home.c.kind == table.name,
                    patient_home.c.key == table.c.id,
                    patient_home.c.home_id.in_(records),
                )
                .values(patient_id=patient_home.c.home_id)
                .returning(table.c.id)
            )
            if table is study:
                studies = [row.id for row in moved]
        return studies

    def give(self, change_id: int, kind: str, keys: Sequence[str], from_id: str, to: str) -> int:
        """Give the named rows of one record to another; return how many it had."""
        table = metadata.tables[kind]
        owned = self._connection.scalars(
            select(table.c.id).where(table.c.id.in_(keys), table.c.patient_id == from_id)
        ).all()
        self._note(change_id, table, owned, from_id)
        self._connection.execute(update(table).where(table.c.id.in_(owned)).values(patient_id=to))
        return len(owned)

    def give_back(self, change: Merge) -> list[str]:
        """File what a move gave away where it was, unless it was filed anew; return the studies."""
        studies = []
        for item in change.moved:
            table = metadata.tables[item.kind]
            home = select(patient_home.c.home_id).where(
                patient_home.c.kind == item.kind, patient_home.c.key == item.key
            )
            back = self._connection.execute(
                update(table)
                .where(
                    table.c.id == item.key,
                    func.coalesce(home.scalar_subquery(), table.c.patient_id) == change.survivor_id,
                )
                .values(patient_id=item.home_id)
            )
            if back.rowcount and item.kind == study.name:
                studies.append(item.key)
        return studies

    def replace_identifier(self, change_id: int, old: Identifier, new: Identifier) -> None:
        """Put `new` where `old` was; `old` still finds the record, behind all others."""
        where = and_(
            patient_identifier.c.authority == old.authority,
            patient_identifier.c.value == old.value,
        )
        row = self._connection.execute(select(patient_identifier).where(where)).one()
        self._connection.execute(
            insert(patient_identifier).values(
                authority=new.authority,
                value=new.value,
                type=new.type,
                patient_id=row.patient_id,
                position=row.position,
            )
        )
        self._connection.execute(
            update(patient_identifier)
            .where(where)
            .values(retired_by=change_id, position=row.position + RETIRED_POSITION)
        )

    def restore_identifier(self, change_id: int, new: Identifier) -> None:
        """Put the identifier that a re-key replaced back, and take the other one away."""
        row = self._connection.execute(
            patient_identifier.delete()
            .where(
                patient_identifier.c.authority == new.authority,
                patient_identifier.c.value == new.value,
            )
            .returning(patient_identifier.c.position)
        ).one()
        self._connection.execute(
            update(patient_identifier)
            .where(patient_identifier.c.retired_by == change_id)
            .values(retired_by=None, position=row.position)
        )

    def columns(self, patient_id: str) -> dict[str, Any]:
        """Return what a record says of its person, in JSON values."""
        row = self._connection.execute(select(patient).where(patient.c.id == patient_id)).one()
        return {
            name: value.isoformat() if isinstance(value, date) else value
            for name, value in row._mapping.items()
            if name not in _KEPT
        }

    def take_back(self, patient_id: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Restore the columns that a merge changed and nobody has changed since."""
        now = self.columns(patient_id)
        lost = {
            name: value
            for name, value in before.items()
            if after.get(name) != value and now.get(name) == after.get(name)
        }
        if lost.get("birth_date"):
            lost["birth_date"] = date.fromisoformat(lost["birth_date"])
        if lost:
            self._connection.execute(
                update(patient)
                .where(patient.c.id == patient_id)
                .values(**lost, updated_at=self._now)
            )

    def undone(self, change_id: int, *, by: str, why: str) -> None:
        """Record who took the change back, and why."""
        self._connection.execute(
            update(patient_change)
            .where(patient_change.c.id == change_id)
            .values(undone_at=self._now, undone_by=by, undone_why=why)
        )

    def _point(self, retired_id: str, survivor_id: str | None) -> None:
        self._connection.execute(
            update(patient)
            .where(patient.c.id == retired_id)
            .values(merged_into=survivor_id, updated_at=self._now)
        )

    def _note(self, change_id: int, table: Table, keys: Sequence[str], holder: str) -> None:
        if not keys:
            return
        homes = dict(
            self._connection.execute(
                select(patient_home.c.key, patient_home.c.home_id).where(
                    patient_home.c.kind == table.name, patient_home.c.key.in_(keys)
                )
            )
            .tuples()
            .all()
        )
        self._connection.execute(
            insert(patient_change_item),
            [
                {
                    "change_id": change_id,
                    "kind": table.name,
                    "key": key,
                    "home_id": homes.get(key, holder),
                }
                for key in keys
            ],
        )

    def _load(self, row: Row[Any]) -> Merge:
        items = self._connection.execute(
            select(patient_change_item)
            .where(patient_change_item.c.change_id == row.id)
            .order_by(patient_change_item.c.kind, patient_change_item.c.key)
        )
        return Merge(
            id=row.id,
            kind=ChangeKind(row.kind),
            survivor_id=row.survivor_id,
            retired_id=row.retired_id,
            by=row.by,
            why=row.why,
            at=row.at,
            message_id=row.message_id,
            before=row.before,
            after=row.after,
            moved=tuple(Moved(kind=i.kind, key=i.key, home_id=i.home_id) for i in items),
            undone_at=row.undone_at,
            undone_by=row.undone_by,
            undone_why=row.undone_why,
        )


def _no_rival(table: Table, survivor_id: str) -> Iterable[Any]:
    # A row that the survivor has its own of stays with the retired record.
    for constraint in table.constraints:
        if not isinstance(constraint, UniqueConstraint) or "patient_id" not in constraint.columns:
            continue
        rival = table.alias()
        same = [rival.c[c.name] == c for c in constraint.columns if c.name != "patient_id"]
        yield ~select(rival.c.id).where(rival.c.patient_id == survivor_id, *same).exists()
