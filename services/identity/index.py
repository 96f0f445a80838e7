"""The patient index: who a described person may be, among all records, in one query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, text

from models.patient import Identifier, Patient
from services.database.tables import patient, patient_trait
from services.identity.keys import WORTH, asked, stored
from services.identity.matching import Frequencies, Score, Traits, Verdict, compare, unambiguous
from services.identity.normalise import Name

CANDIDATES: Final = 40
"""Records scored for one question: those that share most with it, by the worth of each key."""
COMMON: Final = 3
"""How many records bear a name before it is counted; rarer ones are all alike rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A record that may be the person, and why."""

    patient_id: str
    """The living record: the survivor, where the one that was found had retired."""
    score: Score


class PatientIndex:
    """Looks persons up.

    Parameters
    ----------
    automatic, desk : float
        Settings ``match_auto`` and ``match_desk``.
    frequencies : Frequencies, optional
        How common names are; counted at the first question if not given.
    """

    def __init__(
        self, *, automatic: float, desk: float, frequencies: Frequencies | None = None
    ) -> None:
        self._automatic = automatic
        self._desk = desk
        self._frequencies = frequencies

    def compare(self, connection: Connection, person: Patient, record: Patient) -> Score:
        """Score one record that was found in another way."""
        return compare(
            Traits.of(person),
            Traits.of(record),
            self._counted(connection),
            automatic=self._automatic,
            desk=self._desk,
        )

    def find(self, connection: Connection, person: Patient) -> list[Candidate]:
        """Return every record that `person` is or may be, the likeliest first.

        At most the first is `Verdict.AUTOMATIC`; all others wait for somebody's decision. The
        record with the person's own id is left out.
        """
        frequencies = self._counted(connection)
        question = Traits.of(person)
        best: dict[str, Score] = {}
        for row in _candidates(connection, question):
            if row.patient_id == person.id:
                continue
            score = compare(
                question,
                _traits(row),
                frequencies,
                automatic=self._automatic,
                desk=self._desk,
            )
            if score.verdict is Verdict.STRANGER:
                continue
            known = _survivor(connection, row)
            if known == person.id:
                continue
            if known not in best or _rank(score) > _rank(best[known]):
                best[known] = score
        owners = {id(score): patient_id for patient_id, score in best.items()}
        ranked = sorted(best.values(), key=_rank, reverse=True)
        settled = unambiguous(ranked, self._desk)
        return [
            Candidate(patient_id=owners[id(before)], score=after)
            for before, after in zip(ranked, settled, strict=True)
        ]

    def _counted(self, connection: Connection) -> Frequencies:
        if self._frequencies is None:
            self._frequencies = count_names(connection)
        return self._frequencies


def rows(record: Patient, now: datetime) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return the rows of `patient_trait` and `patient_key` that file a record."""
    traits = Traits.of(record)
    name = traits.name
    said = {
        "family": name.family,
        "given": name.given,
        "middle": name.middle,
        "tag": name.tag,
        "newborn": name.newborn,
        "unknown": name.unknown,
        "birth_date": traits.birth_date,
        "sex": traits.sex,
    }
    digest = sha256("\x1f".join(map(str, said.values())).encode()).hexdigest()[:16]
    keys = [
        {"kind": kind, "value": value, "patient_id": record.id}
        for kind, value in sorted(stored(traits))
    ]
    return {"patient_id": record.id, "digest": digest, "since": now, **said}, keys


def count_names(connection: Connection) -> Frequencies:
    """Count the records, and the names that several of them bear."""
    counted: dict[str, dict[str, int]] = {}
    for kind in ("family", "given"):
        column = patient_trait.c[kind]
        found = connection.execute(
            select(column, func.count()).group_by(column).having(func.count() > COMMON)
        )
        counted[kind] = {name: count for name, count in found.tuples() if name}
    records = connection.scalar(select(func.count()).select_from(patient)) or 0
    return Frequencies(records=records, **counted)


# As text, for the look-up is asked for every image and message: it is prepared once.
_LOOK_UP: Final = text(
    """
    SELECT t.patient_id, t.family, t.given, t.middle, t.tag, t.sex, t.newborn, t.unknown,
           t.birth_date, p.merged_into,
           (SELECT json_agg(json_build_array(i.value, i.authority, i.type))
              FROM patient_identifier i WHERE i.patient_id = hit.patient_id) AS identifiers
      FROM (SELECT k.patient_id
              FROM unnest(CAST(:kinds AS text[]), CAST(:values AS text[]), CAST(:worth AS int[]))
                   AS asked (kind, value, worth)
              JOIN patient_key k ON k.kind = asked.kind AND k.value = asked.value
             GROUP BY k.patient_id
             ORDER BY sum(asked.worth) DESC, k.patient_id
             LIMIT :candidates) AS hit
      JOIN patient p ON p.id = hit.patient_id
      JOIN patient_trait t ON t.patient_id = hit.patient_id
    """
)


def _candidates(connection: Connection, question: Traits) -> Sequence[Row[Any]]:
    keys = asked(question)
    if not keys:
        return []
    kinds, values = zip(*keys, strict=True)
    return connection.execute(
        _LOOK_UP,
        {
            "kinds": list(kinds),
            "values": list(values),
            "worth": [WORTH[kind] for kind in kinds],
            "candidates": CANDIDATES,
        },
    ).all()


def _traits(row: Row[Any]) -> Traits:
    return Traits(
        Name(
            family=row.family,
            given=row.given,
            middle=row.middle,
            newborn=row.newborn,
            tag=row.tag,
            unknown=row.unknown,
        ),
        row.birth_date,
        row.sex,
        tuple(_identifiers(row.identifiers or ())),
    )


def _identifiers(found: Iterable[Sequence[str]]) -> Iterable[Identifier]:
    for value, authority, kind in found:
        yield Identifier(value=value, authority=authority, type=kind)


def _survivor(connection: Connection, row: Row[Any]) -> str:
    found, above = str(row.patient_id), row.merged_into
    while above is not None:
        found = str(above)
        above = connection.scalar(select(patient.c.merged_into).where(patient.c.id == found))
    return found


def _rank(score: Score) -> tuple[bool, float]:
    return score.verdict is Verdict.AUTOMATIC, score.total
