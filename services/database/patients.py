"""Patients and their identifiers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from models.patient import Identifier, Patient, PersonName
from services.database.details import pack, unpack
from services.database.direct import Call, Direct, Prepared
from services.database.tables import patient, patient_identifier, patient_key, patient_trait
from services.identity import index

_DETAILS = ("mother_name", "address", "language", "comments")
_GET = Prepared(select(patient).where(patient.c.id == bindparam("patient")))
_IDENTIFIERS = Prepared(
    select(patient_identifier)
    .where(patient_identifier.c.patient_id == bindparam("patient"))
    .order_by(patient_identifier.c.position)
)
_NAMED = ("value", "authority", "type", "universal_id", "universal_type")
_ITS_IDENTIFIERS = patient_identifier.alias("its")
_FIND = Prepared(
    # All of the patient at once: whoever finds one wants to know them, and another round trip
    # costs more than the whole row.
    select(
        patient,
        patient_identifier.c.retired_by,
        select(
            func.jsonb_agg(
                aggregate_order_by(
                    func.jsonb_build_array(*(_ITS_IDENTIFIERS.c[name] for name in _NAMED)),
                    _ITS_IDENTIFIERS.c.position,
                )
            )
        )
        .where(_ITS_IDENTIFIERS.c.patient_id == patient.c.id)
        .scalar_subquery()
        .label("identifiers"),
    )
    .join_from(patient_identifier, patient)
    .where(
        patient_identifier.c.authority == bindparam("authority"),
        patient_identifier.c.value == bindparam("number"),
    )
)
_FIELDS = (
    *("family", "given", "middle", "prefix", "suffix", "birth_date", "sex", "details"),
    "updated_at",
)
_INSERT = insert(patient)
_SAVE = Prepared(
    _INSERT.on_conflict_do_update(
        index_elements=["id"], set_={name: _INSERT.excluded[name] for name in _FIELDS}
    ),
    ("id", *_FIELDS),
)
_ADD_IDENTIFIER = Prepared(
    insert(patient_identifier).on_conflict_do_nothing(),
    [column.name for column in patient_identifier.c],
)

_ADD_TRAIT = Prepared(
    insert(patient_trait).on_conflict_do_nothing(), columns=patient_trait.c.keys()
)
_ADD_KEY = Prepared(insert(patient_key).on_conflict_do_nothing(), columns=patient_key.c.keys())


class Patients:
    """Repository of `Patient`."""

    def __init__(self, connection: Connection, now: datetime, direct: Direct) -> None:
        self._connection = connection
        self._now = now
        self._direct = direct

    def get(self, patient_id: str) -> Patient:
        """Return the patient with this internal id."""
        asked = (_GET(patient=patient_id), _IDENTIFIERS(patient=patient_id))
        self._direct.foresee(*asked)
        (row,), identifiers = (self._direct.fetch(call) for call in asked)
        return _patient(row, (_identifier(i) for i in identifiers))

    def find(self, identifier: Identifier) -> str | None:
        """Return the internal id that `identifier` points to, of the survivor after a merge."""
        found = self._direct.first(self.finding(identifier))
        if found is None:
            return None
        return str(found.id) if found.merged_into is None else self.survivor(found.merged_into)

    def is_retired(self, identifier: Identifier) -> bool:
        """Whether a message may no longer use `identifier`: its record or itself retired."""
        found = self._direct.first(self.finding(identifier))
        return found is not None and (found.merged_into is not None or found.retired_by is not None)

    def known_by(self, identifier: Identifier) -> Patient | None:
        """Return the patient that `identifier` points to, the survivor after a merge, or None."""
        found = self._direct.first(self.finding(identifier))
        if found is None:
            return None
        if found.merged_into is not None:
            return self.get(self.survivor(found.merged_into))
        named = (dict(zip(_NAMED, values, strict=True)) for values in found.identifiers)
        return _patient(found, (Identifier(**values) for values in named))

    def finding(self, identifier: Identifier) -> Call:
        """Return the question that `find` and `known_by` ask first."""
        return _FIND(authority=identifier.authority, number=identifier.value)

    def find_by_value(self, value: str) -> list[str]:
        """Return the ids of every patient known under `value` at any authority."""
        rows = self._connection.execute(
            select(patient_identifier.c.patient_id).where(patient_identifier.c.value == value)
        )
        return sorted({str(row.patient_id) for row in rows})

    def known(self, patient_id: str) -> Patient | None:
        """Return the patient with this internal id, of the survivor after a merge, or None."""
        if self._direct.first(_GET(patient=patient_id)) is None:
            return None
        return self.get(self.survivor(patient_id))

    def authority_of(self, value: str, universal_id: str) -> str | None:
        """Return the name under which the issuer of a number is known here, or None."""
        own = patient_identifier.c
        return self._connection.execute(
            select(own.authority)
            .where(own.value == value, own.universal_id == universal_id)
            .order_by(own.authority)
            .limit(1)
        ).scalar_one_or_none()

    def survivor(self, patient_id: str) -> str:
        """Return the id that this patient lives on under after merges; mostly its own."""
        merged_into = self._connection.execute(
            select(patient.c.merged_into).where(patient.c.id == patient_id)
        ).scalar_one()
        return patient_id if merged_into is None else self.survivor(str(merged_into))

    def identifiers(self, patient_ids: Iterable[str]) -> dict[str, list[Identifier]]:
        """Return the identifiers of several patients, each in its order of preference."""
        found: dict[str, list[Identifier]] = {}
        rows = self._connection.execute(
            select(patient_identifier)
            .where(patient_identifier.c.patient_id.in_(set(patient_ids)))
            .order_by(patient_identifier.c.position)
        )
        for row in rows:
            found.setdefault(row.patient_id, []).append(_identifier(row))
        return found

    def save(self, record: Patient) -> None:
        """Insert or update a patient; identifiers are added, never taken away here."""
        self._direct.later(
            _SAVE(
                id=record.id,
                **asdict(record.name),
                birth_date=record.birth_date,
                sex=record.sex,
                details=pack(record, _DETAILS),
                updated_at=self._now,
            )
        )
        for position, identifier in enumerate(record.identifiers):
            self._direct.later(
                _ADD_IDENTIFIER(**asdict(identifier), patient_id=record.id, position=position)
            )
        self.file(record)

    def file(self, record: Patient) -> None:
        """Put what a record says, and the keys to find it by, into the index."""
        trait, keys = index.rows(record, self._now)
        self._direct.later(_ADD_TRAIT(**trait))
        for key in keys:
            self._direct.later(_ADD_KEY(**key))

    def unfiled(self, after: str, limit: int) -> list[Patient]:
        """Return the records that the index does not have, by id, from the one behind `after` on.

        Records from before there was an index; whatever is saved since is in it.
        """
        filed = select(patient_trait.c.patient_id).where(patient_trait.c.patient_id == patient.c.id)
        rows = self._connection.execute(
            select(patient)
            .where(patient.c.id > after, ~filed.exists())
            .order_by(patient.c.id)
            .limit(limit)
            # Who saves the record now files it, too; what it said before is not to be lost.
            .with_for_update(of=patient)
        ).all()
        known = self.identifiers(row.id for row in rows)
        return [_patient(row, known.get(row.id, [])) for row in rows]


def _patient(row: Any, identifiers: Iterable[Identifier]) -> Patient:
    return Patient(
        id=row.id,
        identifiers=tuple(identifiers),
        name=PersonName(
            family=row.family,
            given=row.given,
            middle=row.middle,
            prefix=row.prefix,
            suffix=row.suffix,
        ),
        birth_date=row.birth_date,
        sex=row.sex,
        **unpack(row.details),
    )


def _identifier(row: Row[Any]) -> Identifier:
    return Identifier(
        value=row.value,
        authority=row.authority,
        type=row.type,
        universal_id=row.universal_id,
        universal_type=row.universal_type,
    )
