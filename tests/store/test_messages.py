"""The message store: sealed, searchable, bounded; nothing is read without its key."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from models.errors import DamagedCopy, InvalidValue, KeyMissing, UnknownKey
from models.priority import Priority
from services.database import cluster
from services.database.messages import Wanted
from services.database.partitions import create, months
from services.database.store import Store
from services.security.keys import FILE, Keyring
from services.settings import Settings
from services.workflow.messages import keep_fragment, receive_message
from services.workflow.reapplying import apply_again, dead_letters, repeatable, reseal
from services.workflow.retention import tend_messages
from tests.hl7.orders import adt, orm

SURNAME = "ZWIEBELFISCHTEST"


def ids(store: Store, wanted: Wanted) -> list[int]:
    with store() as uow:
        return [row.id for row in uow.messages.search(wanted)]


def test_nothing_of_a_message_is_readable_in_the_files_of_the_database(
    store: Store, settings: Settings, cluster_settings: Settings
) -> None:
    raw = orm(accession="A20269999", pid="MRN777001", control_id="SEAL1", family=SURNAME)
    # Refused before it touches a patient's table: what remains of it is in the store alone.
    raw = raw.replace(b"ORM^O01", b"ORM^O99")
    answered = receive_message(store, raw, peer="test", settings=settings)
    assert answered.code == "AR"
    keep_fragment(store, raw[:-20], peer="test", reason="cut off")
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        base = connection.execute(text("SELECT oid FROM pg_database WHERE datname='spinecho'"))
        files = cluster.data_dir(cluster_settings) / "base" / str(base.scalar_one())
    # In the files, and in the log of changes that is written before them.
    searched = [*files.iterdir(), *(cluster.data_dir(cluster_settings) / "pg_wal").glob("0*")]
    content = [path.read_bytes() for path in searched]
    assert any(b"SEAL1" in one for one in content), "the search must be able to find something"
    for secret in (SURNAME.encode(), b"MRN777001", b"A20269999"):
        assert not any(secret in one for one in content)
    with store() as uow:
        assert uow.messages.get(answered.message_id).raw == raw


def test_a_message_is_found_by_each_of_its_numbers(store: Store, settings: Settings) -> None:
    first = receive_message(
        store,
        orm(accession="A1", pid="111", control_id="C1", uid="1.2.3", placer="P1"),
        peer="test",
        settings=settings,
    ).message_id
    second = receive_message(
        store,
        orm(accession="A2", pid="222", control_id="C2", uid="1.2.4", placer="P2"),
        peer="test",
        settings=settings,
    ).message_id
    refused = receive_message(
        store, adt(event="A99", pid="222", control_id="C3"), peer="test", settings=settings
    ).message_id
    assert ids(store, Wanted(references=[("accession", "A1")])) == [first]
    assert ids(store, Wanted(references=[("mrn", "222")])) == [refused, second]
    assert ids(store, Wanted(references=[("mrn", "222"), ("accession", "A2")])) == [second]
    assert ids(store, Wanted(references=[("accession", "222")])) == []
    assert ids(store, Wanted(control_id="C2")) == [second]
    assert ids(store, Wanted(states=["refused"])) == [refused]
    assert ids(store, Wanted(type="ORM^O01")) == [second, first]
    with store() as uow:
        sender, now = uow.messages.get(first).sender, uow.now
    assert ids(store, Wanted(sender=sender)) == [refused, second, first]
    assert ids(store, Wanted(since=now - timedelta(minutes=1))) == [refused, second, first]
    assert ids(store, Wanted(until=now - timedelta(minutes=1))) == []


def test_an_accession_that_we_gave_finds_the_order_that_had_none(
    store: Store, settings: Settings
) -> None:
    number = receive_message(
        store, orm(accession="", uid=""), peer="test", settings=settings
    ).message_id
    with store() as uow:
        study_id = uow.messages.get(number).study_id
        assert study_id is not None
        accession = uow.studies.get(study_id).accession
    assert ids(store, Wanted(references=[("accession", accession)])) == [number]


def test_the_key_is_the_owners_alone_and_one_for_all_that_start_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from services.security.keys import Keyring; "
        "print(Keyring(Path(sys.argv[1])).current(lambda: True).id)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "keys")],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for _ in range(6)
    ]
    told = {process.communicate(timeout=60)[0] for process in started}
    assert len(told) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [FILE]
    assert (tmp_path / "keys" / FILE).stat().st_mode & 0o777 == 0o600


def test_without_its_key_a_message_is_neither_read_nor_written(
    store: Store, settings: Settings
) -> None:
    number = receive_message(store, orm(), peer="test", settings=settings).message_id
    elsewhere = Store(settings.model_copy(update={"key_dir": settings.home / "other"}))
    with pytest.raises(KeyMissing, match="is not in"), elsewhere() as uow:
        uow.messages.get(number)
    with pytest.raises(KeyMissing, match="restore it from its backup"):
        receive_message(elsewhere, adt(), peer="test", settings=settings)
    assert not (settings.home / "other").exists()
    elsewhere.close()
    with store() as uow:
        assert len(uow.messages.search(Wanted())) == 1


def test_another_installations_key_is_said_to_be_the_wrong_one(
    store: Store, settings: Settings
) -> None:
    number = receive_message(store, orm(), peer="test", settings=settings).message_id
    Keyring(settings.home / "other").current(lambda: True)
    elsewhere = Store(settings.model_copy(update={"key_dir": settings.home / "other"}))
    with pytest.raises(KeyMissing, match="is not in"), elsewhere() as uow:
        uow.messages.get(number)
    elsewhere.close()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("", 0o600, "holds no key"),
        ("abc def\n", 0o600, "damaged in line 1"),
        ("nonsense\n", 0o600, "damaged in line 1"),
        ("", 0o644, "chmod 600"),
    ],
)
def test_a_key_file_that_cannot_be_used_says_why(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    (tmp_path / FILE).write_text(content)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(KeyMissing, match=said):
        Keyring(tmp_path).current(lambda: True)


@pytest.mark.parametrize("change", ["raw = ack", "raw = overlay(raw placing '\\x00' from 20)"])
def test_bytes_that_were_changed_in_the_database_do_not_open(
    store: Store, settings: Settings, change: str
) -> None:
    number = receive_message(store, orm(), peer="test", settings=settings).message_id
    with store() as uow:
        uow.connection.execute(text(f"UPDATE message_log SET {change}"))
    with pytest.raises(DamagedCopy, match=f"message {number} raw"), store() as uow:
        uow.messages.get(number)


def test_after_a_rotation_old_and_new_are_read_and_found(store: Store, settings: Settings) -> None:
    first = receive_message(store, adt(control_id="C1"), peer="test", settings=settings).message_id
    store.keys.rotate()
    second = receive_message(store, adt(control_id="C2"), peer="test", settings=settings).message_id
    with store() as uow:
        old, new = uow.messages.get(first), uow.messages.get(second)
    assert old.key_id != new.key_id
    assert (b"C1" in old.raw, b"C2" in new.raw) == (True, True)
    assert ids(store, Wanted(references=[("mrn", "0012345")])) == [second, first]
    # Another process notices that the file has changed.
    assert [key.id for key in Keyring(settings.key_root).all()] == [old.key_id, new.key_id]


def test_the_answer_of_a_message_that_went_out_before_a_rotation_can_be_read(
    store: Store,
) -> None:
    with store() as uow:
        number = uow.messages.add(
            direction="out", protocol="hl7", peer="emr", raw=b"MSH", state="planned"
        )
    store.keys.rotate()
    with store() as uow:
        uow.messages.answer(number, ack=b"MSA|AA", state="accepted")
        assert uow.messages.get(number).ack == b"MSA|AA"


def test_retention_drops_months_that_are_over_and_keeps_what_is_still_to_be_sent(
    store: Store, settings: Settings
) -> None:
    month = {"old": date(2019, 1, 1), "owed": date(2019, 2, 1)}
    with store() as uow:
        present = set(months(uow.connection))
        for first in month.values():
            create(uow.connection, first)
    then = {k: Store(settings, clock=lambda v=v: at(v)) for k, v in month.items()}
    receive_message(then["old"], adt(), peer="test", settings=settings)
    with then["owed"]() as uow:
        owed = uow.messages.add(
            direction="out", protocol="hl7", peer="emr", raw=b"MSH", state="planned"
        )
        study = uow.connection.execute(
            text(
                "INSERT INTO study (id, study_uid, state, priority, created_at) "
                "VALUES ('s', '1.2', 'final', 1, now()) RETURNING id"
            )
        ).scalar_one()
        uow.connection.execute(
            text(
                "INSERT INTO report (id, study_id, version, status, findings, impression, author, "
                "signed_at) VALUES ('r', :study, 1, 'final', '', '', '', now())"
            ),
            {"study": study},
        )
        uow.deliveries.plan("r", "emr", "C1")
        uow.deliveries.change("r", "emr", message_id=owed)
    for one in then.values():
        one.close()
    done = tend_messages(store, settings)
    assert (done.dropped, done.held, done.forgotten) == ([month["old"]], [month["owed"]], 1)
    with store() as uow:
        assert [row.id for row in uow.messages.search(Wanted())] == [owed]
        uow.deliveries.change("r", "emr", state="accepted")
    assert tend_messages(store, settings).dropped == [month["owed"]]
    with store() as uow:
        assert set(months(uow.connection)) >= present
        assert uow.messages.find(owed) is None
        assert len(set(months(uow.connection))) >= 3


def at(month: date) -> datetime:
    return datetime(month.year, month.month, 15, tzinfo=UTC)


def test_a_message_in_a_month_without_a_part_makes_it(store: Store, settings: Settings) -> None:
    later = Store(settings, clock=lambda: datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC))
    for control_id in ("C1", "C2"):
        receive_message(later, adt(control_id=control_id), peer="test", settings=settings)
    later.close()
    with store() as uow:
        assert date(2031, 12, 1) in set(months(uow.connection))
        assert len(uow.messages.search(Wanted())) == 2


def test_a_message_that_failed_is_tried_afresh_and_keeps_its_history(
    store: Store, settings: Settings
) -> None:
    first = receive_message(store, adt(), peer="test", settings=settings).message_id
    with store() as uow:
        uow.messages.answer(first, state="failed")
    again = receive_message(store, adt(), peer="test", settings=settings)
    assert (again.repeated, again.code) == (False, "AA")
    with store() as uow:
        assert uow.messages.get(again.message_id).attempt_of == first
    third = receive_message(store, adt(), peer="test", settings=settings)
    assert (third.repeated, third.message_id) == (True, again.message_id)


def test_a_refused_message_is_applied_again_once_what_barred_it_is_gone(
    store: Store, settings: Settings
) -> None:
    change = orm(control="XO", control_id="M2", priority="R")
    early = receive_message(store, change, peer="test", settings=settings)
    assert early.code == "AE"
    receive_message(store, orm(), peer="test", settings=settings)
    refused = Wanted(states=["refused"])
    assert [row.id for row in repeatable(store, refused, 10)] == [early.message_id]
    again = apply_again(store, early.message_id, settings=settings)
    assert (again.code, again.repeated) == ("AA", False)
    with store() as uow:
        message = uow.messages.get(again.message_id)
        assert (message.attempt_of, message.raw) == (early.message_id, change)
        (step,) = uow.orders.worklist()
        assert step.imaging_order_priority == Priority.ROUTINE
    # Chosen by its state it is not taken twice, and its sender now gets the new answer.
    assert repeatable(store, refused, 10) == []
    resent = receive_message(store, change, peer="test", settings=settings)
    assert (resent.repeated, resent.message_id, resent.code) == (True, again.message_id, "AA")


def test_an_attempt_that_goes_badly_leaves_the_first_answer(
    store: Store, settings: Settings
) -> None:
    new = receive_message(store, orm(), peer="test", settings=settings)
    wrong = receive_message(
        store, orm(control="XO", placer="P9", control_id="M2"), peer="test", settings=settings
    )
    assert apply_again(store, wrong.message_id, settings=settings).code == "AE"
    assert apply_again(store, new.message_id, settings=settings).code == "AA"
    with store() as uow:
        assert len(uow.orders.worklist()) == 1


def test_what_is_no_whole_message_that_came_in_cannot_be_applied_again(
    store: Store, settings: Settings
) -> None:
    keep_fragment(store, b"MSH|", peer="test", reason="cut off")
    with store() as uow:
        (fragment,) = uow.messages.search(Wanted())
    with pytest.raises(InvalidValue, match="whole message"):
        apply_again(store, fragment.id, settings=settings)
    with pytest.raises(UnknownKey, match="message 99"):
        apply_again(store, 99, settings=settings)


def test_dead_letters_are_what_lies_undone(store: Store, settings: Settings) -> None:
    receive_message(store, orm(), peer="test", settings=settings)
    refused = receive_message(
        store, orm(control="XO", placer="P9", control_id="M2"), peer="test", settings=settings
    )
    keep_fragment(store, b"MSH|", peer="test", reason="cut off")
    found = dead_letters(store)
    assert {line["state"] for line in found} == {"refused", "fragment"}
    assert {line["reason"] for line in found} >= {"cut off"}
    assert refused.message_id in {line["id"] for line in found}


def test_sealing_anew_leaves_nothing_readable_of_what_came_before_keys(
    store: Store, settings: Settings, cluster_settings: Settings
) -> None:
    old = orm(pid="MRN777002", family="ALTKLARTEXT", control_id="OLD1")
    number = receive_message(store, adt(), peer="test", settings=settings).message_id
    with store() as uow:
        uow.connection.execute(
            text(
                "UPDATE message_log SET raw = :raw, ack = NULL, key_id = NULL, blind_index = '{}'"
            ),
            {"raw": old},
        )
        assert (uow.messages.unsealed(), uow.messages.get(number).raw) == (1, old)
    store.keys.rotate()
    assert reseal(store) == 1
    assert ids(store, Wanted(references=[("mrn", "MRN777002")])) == [number]
    with store() as uow:
        assert (uow.messages.unsealed(), uow.messages.get(number).raw) == (0, old)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        base = connection.execute(text("SELECT oid FROM pg_database WHERE datname='spinecho'"))
        files = cluster.data_dir(cluster_settings) / "base" / str(base.scalar_one())
    assert not any(b"ALTKLARTEXT" in path.read_bytes() for path in files.iterdir())
