"""Prepared statements beside SQLAlchemy's own, in one transaction of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import (
    ARRAY,
    Column,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from services.database.direct import Call, Direct, Prepared
from services.database.store import Store

thing = Table(
    "direct_thing",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("text", Text),
    Column("number", Float),
    Column("day", Date),
    Column("at", DateTime(timezone=True)),
    Column("bytes", LargeBinary),
    Column("document", JSONB),
    Column("texts", ARRAY(Text)),
)
ADD = Prepared(insert(thing), [column.name for column in thing.c])
GET = Prepared(select(thing).where(thing.c.id == bindparam("thing")))
RENAME = Prepared(
    update(thing).where(thing.c.id == bindparam("thing")).values(text=bindparam("new"))
)


@pytest.fixture
def things(store: Store) -> Iterator[Store]:
    thing.metadata.create_all(store.engine)
    yield store
    thing.metadata.drop_all(store.engine)


def _count(store: Store) -> int:
    with store() as uow:
        return int(uow.connection.scalar(select(func.count()).select_from(thing)) or 0)


def _write(store: Store, *calls: Call, ahead: bool = False) -> None:
    with store() as uow:
        for call in calls:
            uow.direct.later(call)
            if ahead:
                uow.direct.ahead()


def test_every_kind_of_value_comes_back_as_it_went(things: Store) -> None:
    values = {
        "id": -3,
        "text": "Grüße 漢字 \\ ' \" {}",
        "number": 0.1,
        "day": date(1980, 2, 29),
        "at": datetime(2026, 3, 1, 9, 0, 0, 123456, tzinfo=UTC),
        "bytes": bytes(range(256)),
        "document": {"a": ["ä", None, 1.5]},
    }
    with things() as uow:
        uow.direct.later(ADD(**values, texts=['a"b', "c\\d", "", "e,f", "{}"]))
    with things() as uow:
        row = uow.direct.first(GET(thing=-3))
        told = uow.connection.execute(select(thing)).one()
    assert row is not None
    assert row[:7] == tuple(values.values()) == tuple(told)[:7]
    assert told.texts == ['a"b', "c\\d", "", "e,f", "{}"]


def test_a_column_that_is_not_given_is_null_and_a_value_must_be_given(things: Store) -> None:
    with things() as uow:
        uow.direct.later(ADD(id=1))
        assert uow.direct.first(GET(thing=1)) == (1, *[None] * 7)
        with pytest.raises(KeyError, match="thing"):
            uow.direct.first(GET())


def test_each_way_of_speaking_sees_what_the_other_wrote(things: Store) -> None:
    with things() as uow:
        uow.direct.later(ADD(id=1, text="first"))
        # SQLAlchemy's own statement sends what waits first.
        assert uow.connection.scalar(select(thing.c.text)) == "first"
        uow.connection.execute(update(thing).values(text="second"))
        row = uow.direct.first(GET(thing=1))
        assert row is not None
        assert row.text == "second"


def test_an_answer_is_kept_until_its_table_is_written(things: Store) -> None:
    with things() as uow:
        uow.direct.foresee(GET(thing=1), GET(thing=2))
        assert uow.direct.first(GET(thing=1)) is None
        uow.direct.later(ADD(id=1, text="now"))
        row = uow.direct.first(GET(thing=1))
        assert row is not None
        uow.direct.later(RENAME(thing=1, new="then"))
        row = uow.direct.first(GET(thing=1))
        assert row is not None
        assert row.text == "then"


@pytest.mark.parametrize("send", [None, Direct.ahead, Direct.flush])
def test_a_failed_attempt_takes_back_its_own_writes_only(
    things: Store, send: Callable[[Direct], None] | None
) -> None:
    with things() as uow:
        uow.direct.later(ADD(id=1))
        with suppress(KeyError), uow.direct.attempt():
            uow.direct.later(ADD(id=2))
            if send:
                send(uow.direct)
            raise KeyError
        uow.direct.later(ADD(id=3))
    with things() as uow:
        assert list(uow.connection.scalars(select(thing.c.id).order_by(thing.c.id))) == [1, 3]


def test_a_failed_attempt_takes_back_what_sqlalchemy_wrote_after_a_question(things: Store) -> None:
    with things() as uow:
        with suppress(KeyError), uow.direct.attempt():
            uow.direct.fetch(GET(thing=1))
            uow.connection.execute(insert(thing).values(id=1))
            raise KeyError
        uow.direct.later(ADD(id=2))
    with things() as uow:
        assert list(uow.connection.scalars(select(thing.c.id))) == [2]


def test_a_good_attempt_stays(things: Store) -> None:
    for sent in (False, True):
        with things() as uow, uow.direct.attempt():
            uow.direct.later(ADD(id=int(sent)))
            if sent:
                uow.direct.flush()
    assert _count(things) == 2


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_with_the_commit_and_leaves_nothing(things: Store, ahead: bool) -> None:
    with things() as uow:
        uow.direct.later(ADD(id=1))
    for _ in range(2):  # the second time every statement has been prepared
        with pytest.raises(IntegrityError):
            _write(things, ADD(id=2), ADD(id=1), RENAME(thing=2, new="never"), ahead=ahead)
    assert _count(things) == 1
    with things() as uow:
        uow.direct.later(RENAME(thing=1, new="after"))
    with things() as uow:
        assert uow.connection.scalar(select(thing.c.text)) == "after"


@pytest.mark.parametrize("wrong", [False, True])
def test_an_exception_in_the_block_leaves_nothing(things: Store, wrong: bool) -> None:
    for ahead in (False, True):
        with suppress(KeyError), things() as uow:
            uow.direct.later(ADD(id=1))
            if wrong:
                uow.direct.later(ADD(id=1))
            if ahead:
                uow.direct.ahead()
            raise KeyError
    assert _count(things) == 0


def test_what_is_sent_ahead_is_there_for_either_way_of_speaking(things: Store) -> None:
    with things() as uow:
        for number in (1, 2):
            uow.direct.later(ADD(id=number, text="first"))
            uow.direct.ahead()
        assert uow.connection.scalar(select(thing.c.text).where(thing.c.id == 1)) == "first"
        uow.direct.later(RENAME(thing=2, new="second"))
        uow.direct.ahead()
        row = uow.direct.first(GET(thing=2))
        assert row is not None
        assert row.text == "second"
    assert _count(things) == 2


@pytest.mark.parametrize("ahead", [False, True])
def test_more_than_the_sockets_hold_goes_through(things: Store, ahead: bool) -> None:
    with things() as uow:
        for number in range(40):
            uow.direct.later(ADD(id=number, bytes=b"x" * 400_000))
            if ahead:
                uow.direct.ahead()
        uow.direct.foresee(*(GET(thing=n) for n in range(40)))
    assert _count(things) == 40


_NOTIFY = Prepared(select(func.pg_notify("direct_thing", bindparam("word", type_=Text))))


def test_what_follows_the_commit_is_heard_once_and_only_then(things: Store) -> None:
    heard = things.engine.raw_connection()
    heard.driver_connection.autocommit = True
    heard.driver_connection.execute("LISTEN direct_thing")
    with suppress(KeyError), things() as uow:
        uow.direct.after_commit(_NOTIFY(word="never"))
        raise KeyError
    with things() as uow:
        uow.connection.execute(insert(thing).values(id=1))
        for _ in range(2):
            uow.direct.after_commit(_NOTIFY(word="then"))
    told = [note.payload for note in heard.driver_connection.notifies(timeout=5, stop_after=1)]
    told += [note.payload for note in heard.driver_connection.notifies(timeout=0)]
    assert told == ["then"]
    assert _count(things) == 1
    heard.invalidate()
