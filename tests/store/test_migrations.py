"""Databases of an older revision, with rows in them, are brought up and lose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql
from sqlalchemy import MetaData, create_engine, insert, make_url, select

from models.patient import Identifier, Patient, PersonName
from services.database import cluster
from services.database.store import Store
from services.database.tables import (
    appointment,
    delivery,
    desk,
    external_result,
    message_key,
    patient_change,
    patient_key,
    patient_trait,
)
from services.database.tables import metadata as declared
from services.identity.index import PatientIndex
from services.settings import Settings
from services.workflow.patients import fill_index

AT = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
RAW = b"MSH|^~\\&|EMR|HOSP|SPINECHO|MRI|20260131||ADT^A40|C1|P|2.5.1\r"
PEOPLE = 25
SINCE = sorted(
    path.name[:4]
    for path in (Path(cluster.__file__).parent / "migrations" / "versions").glob("0*.py")
    if path.name >= "0008"
)
"""Every revision from which an installation may come: 0008 and all since."""


@pytest.fixture
def old(cluster_settings: Settings, settings: Settings) -> Iterator[Settings]:
    """Settings of an installation with a database of its own, without any table."""
    name = f"old_{uuid4().hex[:8]}"
    url = make_url(cluster_settings.store_url)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield settings.model_copy(
        update={"database_url": url.set(database=name).render_as_string(hide_password=False)}
    )
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def fill(settings: Settings) -> None:
    """Put rows into the tables as they are at the revision that the database has."""
    engine = create_engine(settings.store_url)
    tables = MetaData()
    tables.reflect(engine)

    def add(table: str, **values: Any) -> None:
        columns = tables.tables[table].c
        known = {name: value for name, value in values.items() if name in columns}
        connection.execute(insert(tables.tables[table]).values(**known))

    with engine.begin() as connection:
        for number in range(PEOPLE):
            name = f"p{number:02d}"
            add(
                *("patient",),
                **{"id": name, "family": f"Quillfeather{number}", "given": "Ottoline"},
                **{"birth_date": date(1980, 2, 1 + number), "sex": "F", "updated_at": AT},
            )
            add(
                *("patient_identifier",),
                **{"authority": "HOSP", "value": f"00{number}77", "type": "MR"},
                patient_id=name,
            )
        add(
            "imaging_order",
            **{"id": "o1", "patient_id": "p00", "placer_number": "P1", "placer_authority": "EMR"},
            **{"accession": "A1", "study_uid": "1.2.3", "requested_procedure_id": "RP1"},
            **{"priority": 4, "status": "SC", "placed_at": AT},
        )
        add("scheduled_step", order_id="o1", sps_id="S1", start_at=AT, status="SCHEDULED")
        add(
            *("study",),
            **{"id": "s1", "study_uid": "1.2.3", "order_id": "o1", "patient_id": "p00"},
            **{"accession": "A1", "state": "final", "priority": 4, "created_at": AT},
        )
        for number, (state, direction) in enumerate(
            (("accepted", "in"), ("refused", "in"), ("sent", "out")), 1
        ):
            raw = RAW.replace(b"C1", b"C%d" % number)
            add(
                *("message_log",),
                **{"direction": direction, "protocol": "hl7", "peer": "10.0.0.1"},
                **{"id": number, "sender": "EMR|HOSP", "control_id": f"C{number}"},
                **{"type": "ADT^A40", "digest": sha256(raw).hexdigest(), "raw": raw},
                **{"state": state, "ack": b"MSA|AA", "ack_code": "AA", "study_id": "s1"},
                **{"at": AT, "received_at": AT},
            )
        add(
            *("report",),
            **{"id": "r1", "study_id": "s1", "version": 1, "status": "final", "findings": ""},
            **{"impression": "none", "author": "R", "signed_at": AT},
        )
        add(
            *("delivery",),
            **{"report_id": "r1", "destination": "emr", "control_id": "C3", "state": "sent"},
            **{"message_id": 3, "sent_at": AT},
        )
        add(
            *("patient_change",),
            **{"kind": "merge", "survivor_id": "p00", "retired_id": "p01", "by": "EMR"},
            **{"why": "ADT^A40", "message_id": 1, "at": AT},
        )
        add(
            *("appointment",),
            **{"id": "a1", "key": "K1", "state": "booked", "message_id": 1, "updated_at": AT},
        )
        add(
            *("external_result",),
            **{"study_id": "s1", "message_id": 2, "position": 1, "received_at": AT},
        )
        add("desk", kind="no-order", subject="1.2.9", reason="no order", at=AT)
    engine.dispose()


def make_part(settings: Settings) -> None:
    """From 0010 on, the log needs a part for the month that the rows are of."""
    engine = create_engine(settings.store_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE message_log_2026_01 PARTITION OF message_log "
            "FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00')"
        )
    engine.dispose()


@pytest.mark.parametrize("revision", SINCE)
def test_a_filled_database_of_an_older_revision_comes_up_whole(
    old: Settings, revision: str
) -> None:
    cluster.migrate(old, revision=revision)
    if revision >= "0010":
        make_part(old)
    fill(old)
    cluster.migrate(old)
    store = Store(old)
    with store() as uow:
        assert [uow.messages.get(n).raw for n in (1, 2, 3)] == [
            RAW.replace(b"C1", b"C%d" % n) for n in (1, 2, 3)
        ]
        assert [m.id for m in uow.messages.of_study("s1")] == [1, 2, 3]
        order = uow.orders.find_by_accession("A1")
        assert order is not None
        assert [step.sps_id for step in order.steps] == ["S1"]
        assert uow.studies.get("s1").order_id == "o1"
        numbers = [
            uow.connection.scalar(select(table.c.message_id))
            for table in (delivery, patient_change, appointment, external_result)
        ]
        assert numbers == [3, 1, 1, 2]
        assert uow.connection.scalar(select(desk.c.subject)) == "1.2.9"
        if revision < "0010":
            # The same bytes again are known, and the next number is a new one.
            digests = uow.connection.execute(select(message_key.c.digest)).scalars()
            assert sha256(RAW).digest() in set(digests)
            assert uow.connection.exec_driver_sql("SELECT nextval('message_number')").scalar() == 4
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, *_: not str(name).startswith("message_log_")},
        )
        assert compare_metadata(context, declared) == []
    store.close()


class Stopped(Exception):
    pass


def test_patients_from_before_the_index_are_filed_in_batches_that_may_stop(old: Settings) -> None:
    cluster.migrate(old, revision="0008")
    fill(old)
    cluster.migrate(old)
    store = Store(old)

    def filed() -> int:
        with store() as uow:
            return len(uow.connection.execute(select(patient_trait)).all())

    def stop(_: int) -> None:
        raise Stopped

    asked = Patient(
        id="asked",
        identifiers=(Identifier(value="2477", authority="HOSP"),),
        name=PersonName(family="Quillfeather24", given="Ottoline"),
        birth_date=date(1980, 2, 25),
    )
    index = PatientIndex(automatic=old.match_auto, desk=old.match_desk)
    with store() as uow:
        assert index.find(uow.connection, asked) == []
    with pytest.raises(Stopped):
        fill_index(store, batch=10, progress=stop)
    assert filed() == 10
    told: list[int] = []
    assert fill_index(store, batch=10, progress=told.append) == PEOPLE - 10
    assert told == [10, 15]
    assert filed() == PEOPLE
    assert fill_index(store) == 0
    with store() as uow:
        assert [c.patient_id for c in index.find(uow.connection, asked)] == ["p24"]
        keys = uow.connection.execute(
            select(patient_key.c.value).where(
                patient_key.c.patient_id == "p24", patient_key.c.kind == "id"
            )
        ).scalars()
        assert list(keys) == ["2477"]
    store.close()
