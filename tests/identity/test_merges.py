"""Merges, moves and re-keys, and their undoing (STANDARDS §2.3)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date
from time import perf_counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from models.errors import DuplicateKey, InvalidValue, SpinechoError, UnknownKey
from models.lifecycle import StudyState
from models.merge import ChangeKind, Merge
from models.order import Code, Order, ScheduledStep
from models.patient import Identifier, Patient, PersonName
from models.study import new_id, new_uid
from services.database.merges import OWNED
from services.database.store import Store, UnitOfWork
from services.database.tables import imaging_order, metadata, patient, patient_home, study
from services.workflow.identity import merge, move, refuse_retired, rekey, unmerge

WHO = {"by": "admin", "why": "same person"}


def person(store: Store, name: str) -> str:
    with store() as uow:
        record = Patient(
            id=new_id(),
            identifiers=(Identifier(value=name, authority="HOSP"),),
            name=PersonName(family=name, given="Test"),
            birth_date=date(1980, 2, 14),
            sex="F",
        )
        uow.patients.save(record)
    return record.id


def ordered(uow: UnitOfWork, patient_id: str) -> str:
    """Place an order and return its study's id."""
    number, uid = new_id()[:12], new_uid()
    order = Order(
        id=new_id(),
        patient_id=patient_id,
        placer_number=number,
        accession=number,
        study_uid=uid,
        requested_procedure_id=number,
        procedure=Code(value="MR", meaning="MR"),
        status="SC",
        steps=(ScheduledStep(sps_id=number, start_at=uow.now),),
    )
    uow.orders.save(order)
    return uow.studies.ensure(
        uid, state=StudyState.SCHEDULED, order_id=order.id, patient_id=patient_id
    ).id


def place(store: Store, patient_id: str) -> str:
    with store() as uow:
        return ordered(uow, patient_id)


def holder(store: Store, study_id: str) -> str | None:
    """The patient of the study, which must be its order's too."""
    with store() as uow:
        found = uow.studies.get(study_id)
        assert found.order_id is not None
        assert uow.orders.get(found.order_id).patient_id == found.patient_id
        return found.patient_id


def contents(store: Store) -> dict[str, list[str]]:
    """Everything that says who has what, as text; times of change aside."""
    found = {}
    with store.engine.connect() as connection:
        for table in (patient, imaging_order, study, metadata.tables["patient_identifier"]):
            columns = [c for c in table.c if c.name != "updated_at"]
            rows = connection.execute(select(*columns)).all()
            found[table.name] = sorted(map(repr, rows))
    return found


def test_every_table_whose_rows_belong_to_a_patient_follows_a_merge(store: Store) -> None:
    owned = {
        name
        for name, table in metadata.tables.items()
        if "patient_id" in table.c
        and not table.c.patient_id.primary_key
        and name != "patient_identifier"  # it stays with its record, and leads to the survivor
    }
    assert owned == {table.name for table in OWNED}, "add it to OWNED, and its trigger"
    with store.engine.connect() as connection:
        guarded = connection.scalars(
            text("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = :n"),
            {"n": "file_under_survivor"},
        ).all()
    assert set(guarded) == owned


def test_orders_worklist_and_studies_follow_and_come_back_as_they_were(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    own, other = place(store, kept), place(store, retired)
    before = contents(store)
    with store() as uow:
        change = merge(uow, kept, retired, **WHO)
    assert {holder(store, own), holder(store, other)} == {kept}
    assert change.study_ids == [other]
    assert {m.home_id for m in change.moved} == {retired}
    with store() as uow:
        assert {row.patient_family for row in uow.orders.worklist()} == {"A"}
        (entry,) = uow.timeline.of_study(other)
        assert (entry.kind, entry.actor, entry.evidence["change"]) == (
            *("patient.merged", "admin"),
            change.id,
        )
    with store() as uow:
        undone = unmerge(uow, change.id, by="chief", why="two persons")
    assert (undone.undone_by, undone.undone_why) == ("chief", "two persons")
    assert contents(store) == before
    with store.engine.connect() as connection:
        assert connection.execute(select(patient_home)).all() == []


def test_the_same_merge_and_the_same_undoing_again_change_nothing(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    with store() as uow:
        first = merge(uow, kept, retired, **WHO)
    with store() as uow:
        assert merge(uow, kept, retired, by="again", why="again").id == first.id
        assert len(uow.merges.of_patient(kept)) == 1
    with store() as uow:
        once = unmerge(uow, first.id, by="chief", why="no")
    with store() as uow:
        assert unmerge(uow, first.id, by="other", why="again") == once


def test_what_may_not_be_merged_is_refused_and_changes_nothing(store: Store) -> None:
    a, b, c = (person(store, name) for name in "ABC")
    with store() as uow:
        merge(uow, a, b, **WHO)
    before = contents(store)
    refused = [
        (a, a, DuplicateKey),
        (b, a, DuplicateKey),  # the reversed duplicate
        (b, c, UnknownKey),  # its survivor retired
        (c, b, UnknownKey),  # it retired into another
        (a, "nobody", UnknownKey),
        ("nobody", a, UnknownKey),
    ]
    for survivor, retired, error in refused:
        with pytest.raises(error), store() as uow:
            merge(uow, survivor, retired, **WHO)
    assert contents(store) == before
    with pytest.raises(UnknownKey), store() as uow:
        unmerge(uow, 999, **WHO)
    with pytest.raises(InvalidValue), store() as uow:
        unmerge(uow, 1, by="chief", why=" ")


def test_a_chain_can_be_undone_in_any_order(store: Store) -> None:
    a, b, c = (person(store, name) for name in "ABC")
    studies = {p: place(store, p) for p in (a, b, c)}
    with store() as uow:
        first = merge(uow, b, a, **WHO)
    with store() as uow:
        second = merge(uow, c, b, **WHO)
    assert {holder(store, s) for s in studies.values()} == {c}
    with store() as uow:
        unmerge(uow, first.id, by="chief", why="wrong")
    assert [holder(store, studies[p]) for p in (a, b, c)] == [a, c, c]
    with store() as uow:
        unmerge(uow, second.id, by="chief", why="wrong")
    assert [holder(store, studies[p]) for p in (a, b, c)] == [a, b, c]


def test_what_comes_for_the_retired_record_goes_to_the_survivor_and_home_again(
    store: Store,
) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    with store() as uow:
        change = merge(uow, kept, retired, **WHO)
    late, own = place(store, retired), place(store, kept)
    assert {holder(store, late), holder(store, own)} == {kept}
    with store() as uow:
        unmerge(uow, change.id, by="chief", why="wrong")
    assert (holder(store, late), holder(store, own)) == (retired, kept)


def test_a_message_may_not_use_a_retired_identifier(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    a, b = (Identifier(value=v, authority="HOSP") for v in "AB")
    with store() as uow:
        change = merge(uow, kept, retired, **WHO)
    with store() as uow:
        refuse_retired(uow, [a])
        refuse_retired(uow, [a, b])  # a sender that lists both means the survivor
        with pytest.raises(UnknownKey, match="retired"):
            refuse_retired(uow, [b])
        assert uow.patients.find(b) == kept  # images under it are the survivor's
        unmerge(uow, change.id, by="chief", why="wrong")
        refuse_retired(uow, [b])


def test_the_survivors_fields_come_back_unless_changed_since(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    with store() as uow:
        before = uow.merges.columns(kept)
        record = uow.patients.get(kept)
        changed = Patient(
            id=kept,
            identifiers=record.identifiers,
            name=PersonName(family="NEW", given="Wrong"),
            birth_date=date(1980, 2, 15),
            sex="F",
        )
        uow.patients.save(changed)
        change = merge(uow, kept, retired, survivor_before=before, **WHO)
    with store() as uow:
        later = Patient(
            id=kept,
            identifiers=record.identifiers,
            name=PersonName(family="MARRIED", given="Wrong"),
            birth_date=date(1980, 2, 15),
            sex="F",
        )
        uow.patients.save(later)
    with store() as uow:
        unmerge(uow, change.id, by="chief", why="wrong")
        now = uow.patients.get(kept)
    assert str(now.name) == "MARRIED^Test"
    assert now.birth_date == date(1980, 2, 14)


def test_a_move_takes_order_and_study_and_gives_them_back(store: Store) -> None:
    a, b, c = (person(store, name) for name in "ABC")
    wanted, stays = place(store, a), place(store, a)
    before = contents(store)
    with store() as uow:
        change = move(uow, a, b, study_ids=[wanted], by="EMR", why="A43")
    assert change.kind is ChangeKind.MOVE
    assert (holder(store, wanted), holder(store, stays)) == (b, a)
    with store() as uow:
        merge(uow, c, b, **WHO)  # it moves on, and its home is still where it was moved to
    assert holder(store, wanted) == c
    with store() as uow:
        unmerge(uow, change.id, by="chief", why="wrong")
        unmerge(uow, change.id + 1, by="chief", why="wrong")
    assert contents(store) == before
    for wrong in ({"study_ids": [wanted, "no such"]}, {"order_ids": []}):
        with pytest.raises(UnknownKey), store() as uow:
            move(uow, a, b, by="EMR", why="A43", **wrong)
    with pytest.raises(DuplicateKey), store() as uow:
        move(uow, a, a, study_ids=[wanted], by="EMR", why="A43")


def test_a_rekey_keeps_the_old_number_findable_and_can_be_undone(store: Store) -> None:
    a = person(store, "A")
    person(store, "B")
    old, new, taken = (Identifier(value=v, authority="HOSP") for v in ("A", "A2", "B"))
    before = contents(store)
    with store() as uow:
        change = rekey(uow, old, new, by="EMR", why="A47")
    with store() as uow:
        assert rekey(uow, old, new, by="EMR", why="A47").id == change.id
        assert uow.patients.get(a).mrn == new
        assert uow.patients.find(old) == uow.patients.find(new) == a
        with pytest.raises(UnknownKey):
            refuse_retired(uow, [old])
        for first, second, error in (
            (new, taken, DuplicateKey),
            (new, new, DuplicateKey),
            (old, taken, UnknownKey),
            (Identifier(value="X", authority="HOSP"), taken, UnknownKey),
        ):
            with pytest.raises(error):
                rekey(uow, first, second, by="EMR", why="A47")
    third = Identifier(value="A3", authority="HOSP")
    with store() as uow:
        again = rekey(uow, new, third, by="EMR", why="A47")
    with pytest.raises(SpinechoError, match="undo that first"), store() as uow:
        unmerge(uow, change.id, by="chief", why="wrong")
    for each in (again, change):
        with store() as uow:
            unmerge(uow, each.id, by="chief", why="wrong")
    assert contents(store) == before


def test_an_exception_in_the_middle_leaves_nothing_merged(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    place(store, retired)
    before = contents(store)
    with pytest.raises(RuntimeError), store() as uow:  # noqa: PT012 (the block is the subject)
        merge(uow, kept, retired, **WHO)
        raise RuntimeError
    assert contents(store) == before


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["merge", "undo", "order", "order", "move"]),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    max_size=24,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=ACTS)
def test_no_study_ever_points_at_two_patients_or_none(
    store: Store, acts: list[tuple[str, int, int]]
) -> None:
    people = [person(store, new_id()) for _ in range(5)]
    into: dict[str, str] = {}
    home: dict[str, str] = {}
    changes: list[Merge] = []

    def root(record: str) -> str:
        return root(into[record]) if record in into else record

    for act, x, y in acts:
        try:
            if act == "order":
                home[place(store, people[x])] = people[x]
            elif act == "merge":
                with store() as uow:
                    change = merge(uow, people[x], people[y], **WHO)
                if change.id not in {c.id for c in changes}:
                    changes.append(change)
                    into[people[y]] = people[x]
            elif act == "move" and home:
                study_id = sorted(home)[y % len(home)]
                with store() as uow:
                    move(uow, root(home[study_id]), people[x], study_ids=[study_id], **WHO)
                home[study_id] = people[x]
            elif act == "undo" and changes:
                change = changes.pop(x % len(changes))
                with store() as uow:
                    unmerge(uow, change.id, by="chief", why="wrong")
                del into[change.retired_id]
        except (DuplicateKey, UnknownKey):
            pass
        assert {s: holder(store, s) for s in home} == {s: root(h) for s, h in home.items()}
    while changes:
        with store() as uow:
            unmerge(uow, changes.pop().id, by="chief", why="wrong")
    assert {s: holder(store, s) for s in home} == home


def at_once(*works: Callable[[], object]) -> list[BaseException]:
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        ready.wait()
        try:
            work()
        except SpinechoError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def merging(store: Store, survivor: str, retired: str) -> Callable[[], object]:
    def run() -> None:
        with store() as uow:
            merge(uow, survivor, retired, **WHO)

    return run


def test_two_merges_at_once_against_each_other_leave_one(store: Store) -> None:
    for _ in range(10):
        a, b = person(store, new_id()), person(store, new_id())
        failures = at_once(merging(store, a, b), merging(store, b, a))
        assert [type(f) for f in failures] == [DuplicateKey]
        with store() as uow:
            assert uow.patients.survivor(a) == uow.patients.survivor(b)


def placing(store: Store, patient_id: str, placed: list[str]) -> Callable[[], object]:
    return lambda: placed.append(place(store, patient_id))


def test_an_order_in_the_middle_of_a_merge_is_not_left_behind(store: Store) -> None:
    for _ in range(10):
        kept, retired = person(store, new_id()), person(store, new_id())
        placed: list[str] = []
        places = [placing(store, retired, placed) for _ in range(3)]
        assert at_once(merging(store, kept, retired), *places) == []
        assert [holder(store, s) for s in placed] == [kept] * 3


def test_a_merge_of_200_studies_commits_in_under_a_second(store: Store) -> None:
    kept, retired = person(store, "A"), person(store, "B")
    with store() as uow:
        for _ in range(200):
            ordered(uow, retired)
    begun = perf_counter()
    with store() as uow:
        change = merge(uow, kept, retired, **WHO)
    assert perf_counter() - begun < 1
    assert len(change.moved) == 400
    with store() as uow:
        unmerge(uow, change.id, by="chief", why="wrong")
