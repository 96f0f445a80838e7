"""The patient index over a real database, and over a small population with known truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import date

from sqlalchemy import select

from benchmarks.identity import described, measure, registered
from models.patient import Identifier, Patient, PersonName
from models.study import new_id
from services.database.store import Store
from services.database.tables import patient_key, patient_trait
from services.identity.index import Candidate, PatientIndex
from services.identity.matching import Verdict
from services.settings import Settings
from services.simulators.population import Population
from services.workflow.identity import merge, unmerge

JANE = Patient(
    id=new_id(),
    identifiers=(Identifier(value="0012345", authority="HOSP"),),
    name=PersonName(family="Quillfeather", given="Ottoline"),
    birth_date=date(1980, 2, 14),
    sex="F",
)
SOMEBODY = replace(JANE, id="asked", identifiers=(Identifier(value="C9", authority="CLINIC"),))


def find(store: Store, person: Patient, settings: Settings) -> list[Candidate]:
    index = PatientIndex(automatic=settings.match_auto, desk=settings.match_desk)
    with store() as uow:
        return index.find(uow.connection, person)


def save(store: Store, *people: Patient) -> None:
    with store() as uow:
        for person in people:
            uow.patients.save(person)


def test_a_record_is_found_as_soon_as_it_is_saved(store: Store, settings: Settings) -> None:
    assert find(store, SOMEBODY, settings) == []
    save(store, JANE)
    (found,) = find(store, replace(JANE, id="asked"), settings)
    assert (found.patient_id, found.score.verdict) == (JANE.id, Verdict.AUTOMATIC)


def test_a_record_does_not_find_itself(store: Store, settings: Settings) -> None:
    save(store, JANE)
    assert find(store, JANE, settings) == []


def test_what_a_record_said_before_still_finds_it(store: Store, settings: Settings) -> None:
    save(store, JANE, replace(JANE, name=PersonName(family="Vandersloot", given="Ottoline")))
    for family in ("Quillfeather", "Vandersloot"):
        asked = replace(JANE, id="asked", name=PersonName(family=family, given="Ottoline"))
        (found,) = find(store, asked, settings)
        assert (found.patient_id, found.score.verdict) == (JANE.id, Verdict.AUTOMATIC)
    with store() as uow:
        assert len(uow.connection.execute(select(patient_trait)).all()) == 2


def test_saving_the_same_again_files_nothing_new(store: Store) -> None:
    save(store, JANE)
    with store() as uow:
        before = uow.connection.execute(select(patient_key)).all()
    save(store, JANE)
    with store() as uow:
        assert uow.connection.execute(select(patient_key)).all() == before
        assert len(uow.connection.execute(select(patient_trait)).all()) == 1


def test_a_retired_record_leads_to_its_survivor(store: Store, settings: Settings) -> None:
    other = replace(
        JANE,
        id=new_id(),
        name=PersonName(family="Vandersloot", given="Henrika"),
        identifiers=(Identifier(value="777", authority="HOSP"),),
        birth_date=date(1951, 7, 30),
    )
    save(store, JANE, other)
    with store() as uow:
        change = merge(uow, other.id, JANE.id, by="admin", why="same")
    assert [c.patient_id for c in find(store, SOMEBODY, settings)] == [other.id]
    with store() as uow:
        unmerge(uow, change.id, by="admin", why="not the same")
    assert [c.patient_id for c in find(store, SOMEBODY, settings)] == [JANE.id]


def test_two_that_are_as_alike_are_never_automatic(store: Store, settings: Settings) -> None:
    double = replace(JANE, id=new_id(), identifiers=(Identifier(value="99", authority="HOSP"),))
    save(store, JANE, double)
    found = find(store, SOMEBODY, settings)
    assert {c.patient_id for c in found} == {JANE.id, double.id}
    assert {c.score.verdict for c in found} == {Verdict.DESK}


def test_a_twins_number_with_no_given_name_is_asked_about(store: Store, settings: Settings) -> None:
    twin = replace(
        JANE,
        id=new_id(),
        name=PersonName(family="Quillfeather", given="Marguerite"),
        identifiers=(Identifier(value="0012346", authority="HOSP"),),
    )
    save(store, JANE, twin)
    asked = replace(JANE, id="asked", name=PersonName(family="Quillfeather"))
    found = find(store, asked, settings)
    assert {c.patient_id for c in found} == {JANE.id, twin.id}
    assert {c.score.verdict for c in found} == {Verdict.DESK}


def test_nobody_described_is_nobody_found(store: Store, settings: Settings) -> None:
    save(store, JANE)
    nobody = replace(JANE, id="asked", name=PersonName(), birth_date=None, sex="", identifiers=())
    assert find(store, nobody, settings) == []


def test_no_match_in_a_population_is_wrong_and_nearly_none_is_missed(
    store: Store, settings: Settings
) -> None:
    tally = measure(store, settings, Population(5000, 77), pairs=630, strangers=500)
    assert tally.false == []
    assert (tally.automatic + tally.desk) / tally.pairs >= 0.97
    assert tally.ordinary_on_desk / tally.ordinary <= 0.1


def test_a_population_is_repeatable_and_its_truth_holds() -> None:
    one, again = Population(500, 5), Population(500, 5)
    assert one.registry == again.registry
    assert list(one.questions(63)) == list(again.questions(63))
    assert list(one.strangers(50)) == list(again.strangers(50))
    assert Population(500, 6).registry != one.registry
    numbers = [i for p in one.registry for i in p.identifiers]
    assert len(set(numbers)) == len(one.registry) == 500
    kinds = Counter(q.kind for q in one.questions(63))
    assert set(kinds.values()) == {3}
    exact = next(q for q in one.questions(21) if q.kind == "exact, own number")
    assert exact.truth is not None
    assert exact.person == one.registry[exact.truth]
    assert described(exact.person, registered(exact.truth)).id == registered(exact.truth)
    assert all(q.truth is None for q in one.strangers(10))
