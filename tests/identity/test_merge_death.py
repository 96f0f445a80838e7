"""A merge dies in the middle, or meets another one: it is complete or absent, and can be repeated.

Each merge runs in a process of its own on real PostgreSQL. A row that is locked from outside holds
it up in the middle for as long as a test needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import select, text

from deployments.installation import environment
from models.patient import Identifier, Patient, PersonName
from models.study import new_id
from services.archive.tiers import Tiers
from services.database.store import Store
from services.database.tables import imaging_order, patient, study
from services.settings import Settings
from services.workflow.acquisition import receive_instance
from services.workflow.filing import Disposition
from services.workflow.messages import receive_message
from tests.dicom.department import image, place, write
from tests.hl7.orders import adt

Owners = Counter[tuple[str | None, str | None]]


class Merging:
    """A process that is ready to apply one message."""

    def __init__(self, settings: Settings, raw: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.identity.merging"],
            env=os.environ | environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._say(raw.hex())
        assert self._hear() == "ready"

    def go(self) -> None:
        self._say("go")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)

    def answer(self) -> str:
        """Wait for the end; what it answered, empty if it died."""
        return self._process.communicate(timeout=60)[0].strip()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def person(store: Store, number: str) -> Patient:
    record = Patient(
        id=new_id(),
        identifiers=(Identifier(value=number, authority="HOSP"),),
        name=PersonName(family="DOE", given=number),
    )
    with store() as uow:
        uow.patients.save(record)
    return record


def with_studies(store: Store, number: str, count: int) -> Patient:
    record = person(store, number)
    for index in range(count):
        place(store, patient=record, accession=f"{number}-{index}")
    return record


def merging(control_id: str, survivor: str, retired: str) -> bytes:
    return adt(event="A40", control_id=control_id, pid=survivor, mrg=retired)


def owners(store: Store) -> Owners:
    """The record of every study beside that of its order, with how often each pair is there."""
    with store.engine.connect() as connection:
        rows = connection.execute(
            select(study.c.patient_id, imaging_order.c.patient_id).join_from(study, imaging_order)
        )
        return Counter((row[0], row[1]) for row in rows)


def changes(store: Store, record: Patient) -> int:
    with store() as uow:
        return len(uow.merges.of_patient(record.id))


@contextmanager
def held_up(store: Store, table: str, retired: Patient) -> Iterator[Callable[[], int]]:
    """Lock the last row that a merge of `retired` comes to in a table; the function waits until
    somebody waits for it, and returns that server process."""
    tables = {"patient": patient, "imaging_order": imaging_order, "study": study}
    chosen = tables[table]
    column = chosen.c.id if table == "patient" else chosen.c.patient_id
    with store.engine.connect() as connection:
        connection.execute(
            select(chosen.c.id)
            .where(column == retired.id)
            .order_by(chosen.c.id.desc())
            .limit(1)
            .with_for_update()
        )

        def waiting() -> int:
            deadline = time.monotonic() + 20
            while True:
                with store.engine.connect() as other:
                    found = other.scalar(
                        text(
                            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                            " AND datname = current_database() ORDER BY query_start LIMIT 1"
                        )
                    )
                if found is not None:
                    return int(found)
                assert time.monotonic() < deadline, "nobody waits for the lock"
                time.sleep(0.01)

        yield waiting
        connection.rollback()


@pytest.mark.parametrize("table", ["patient", "imaging_order", "study"])
@pytest.mark.parametrize("victim", ["process", "server process"])
def test_killed_in_the_middle_nothing_has_happened_and_the_message_again_does_it(
    store: Store, settings: Settings, table: str, victim: str
) -> None:
    kept, retired = person(store, "777"), with_studies(store, "TEMP77", 30)
    raw = merging("K1", "777", "TEMP77")
    process = Merging(settings, raw)
    with held_up(store, table, retired) as waiting:
        process.go()
        server = waiting()
        if victim == "process":
            process.kill()
        else:
            with store.engine.begin() as connection:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": server})
        assert owners(store) == {(retired.id, retired.id): 30}
    if victim == "server process":
        # It may have begun anew by itself.
        process.answer()
    assert owners(store) in ({(retired.id, retired.id): 30}, {(kept.id, kept.id): 30})
    for _ in range(2):
        assert receive_message(store, raw, peer="test", settings=settings).code == "AA"
        assert owners(store) == {(kept.id, kept.id): 30}
        assert changes(store, kept) == 1


def test_killed_at_any_moment_it_is_complete_or_absent(store: Store, settings: Settings) -> None:
    moments = [0.0, 0.005, 0.01, 0.02, 0.04, 0.08]
    pairs = [
        (person(store, f"K{n}"), with_studies(store, f"T{n}", 40)) for n in range(len(moments))
    ]
    messages = [merging(f"R{n}", f"K{n}", f"T{n}") for n in range(len(moments))]
    processes = [Merging(settings, raw) for raw in messages]
    for process, moment in zip(processes, moments, strict=True):
        process.go()
        time.sleep(moment)
        process.kill()
    found = owners(store)
    for kept, retired in pairs:
        pair = found[kept.id, kept.id], found[retired.id, retired.id]
        assert pair in ((40, 0), (0, 40))
    assert found.total() == 40 * len(pairs)
    for raw in messages:
        assert receive_message(store, raw, peer="test", settings=settings).code == "AA"
    assert owners(store) == {(kept.id, kept.id): 40 for kept, _ in pairs}
    assert [changes(store, kept) for kept, _ in pairs] == [1] * len(pairs)


def test_images_under_the_retired_number_in_the_middle_become_the_survivors(
    store: Store, settings: Settings
) -> None:
    tiers = Tiers(settings.model_copy(update={"disk_floor_mb": 1}))
    kept, retired = person(store, "777"), with_studies(store, "TEMP77", 5)
    with store() as uow:
        uids = [s.study_uid for s in uow.studies.select(select(study.c.study_uid))]
    process = Merging(settings, merging("I1", "777", "TEMP77"))

    def arrive(uid: str) -> Disposition:
        file = write(image(uid, patient=retired), tiers.incoming("test") / f"{uid}.dcm")
        return receive_instance(store, tiers, file, source_ae="MR1").disposition

    with ThreadPoolExecutor(len(uids)) as pool:
        with held_up(store, "study", retired) as waiting:
            process.go()
            waiting()
            arriving = [pool.submit(arrive, uid) for uid in uids]
        assert process.answer() == "AA"
        assert [each.result() for each in arriving] == [Disposition.STORED] * len(uids)
    assert owners(store) == {(kept.id, kept.id): 5}
    with store() as uow:
        assert uow.studies.desk() == []


@pytest.mark.parametrize(
    ("first", "second", "answers"),
    [
        (("777", "TEMP77"), ("777", "TEMP77"), {"AA": 2}),
        (("777", "TEMP77"), ("TEMP77", "777"), {"AA": 1, "AE": 1}),
        (("777", "TEMP77"), ("888", "TEMP77"), {"AA": 1, "AE": 1}),
        (("777", "TEMP77"), ("777", "888"), {"AA": 2}),
    ],
)
def test_two_processes_merge_at_once(
    store: Store,
    settings: Settings,
    first: tuple[str, str],
    second: tuple[str, str],
    answers: dict[str, int],
) -> None:
    records = [with_studies(store, number, 5) for number in ("777", "888", "TEMP77")]
    processes = [
        Merging(settings, merging("P1", *first)),
        Merging(settings, merging("P2", *second)),
    ]
    for process in processes:
        process.go()
    assert Counter(process.answer() for process in processes) == answers
    with store() as uow:
        survivors = {record.id: uow.patients.survivor(record.id) for record in records}
    expected: Owners = Counter()
    for record in records:
        expected[survivors[record.id], survivors[record.id]] += 5
    assert owners(store) == expected
    assert len(set(survivors.values())) == (1 if answers == {"AA": 2} and first != second else 2)
