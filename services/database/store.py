"""The engine, and the unit of work in which every change is made."""

from __future__ import annotations

import select
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError

from models.errors import Unavailable
from services.database.deliveries import Deliveries
from services.database.direct import Direct, watch
from services.database.external import ExternalResults
from services.database.holdings import Holdings
from services.database.merges import Merges
from services.database.messages import Messages
from services.database.notices import Notices
from services.database.orders import Orders
from services.database.outbox import Outbox
from services.database.partitions import Partitions
from services.database.patients import Patients
from services.database.peers import Peers
from services.database.reports import Reports
from services.database.resources import Resources
from services.database.sequences import Sequences
from services.database.studies import Studies
from services.database.timeline import Timeline
from services.database.visits import Visits
from services.security.keys import Keyring
from services.settings import Settings


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


class UnitOfWork:
    """One transaction and the repositories that work inside it.

    Leaving the ``with`` block commits; an exception rolls back everything, so that message,
    domain change and outbox row become durable together or not at all.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        *,
        keys: Keyring,
        partitions: Partitions,
        tells_placer: bool = False,
    ) -> None:
        self._engine = engine
        self.clock = clock
        self._keys = keys
        self._partitions = partitions
        self._tells_placer = tells_placer

    def __enter__(self) -> Self:
        self.connection: Connection = self._engine.connect()
        self._transaction = self.connection.begin()
        self.now = self.clock()
        self.direct = Direct(self.connection)
        self.patients = Patients(self.connection, self.now, self.direct)
        self.merges = Merges(self.connection, self.now)
        self.visits = Visits(self.connection, self.now, self.direct)
        self.external = ExternalResults(self.connection, self.now)
        self.orders = Orders(self.connection, self.now, self.direct)
        self.notices = Notices(self.connection, self.now, self.direct, enabled=self._tells_placer)
        self.studies = Studies(self.connection, self.now, self.direct, on_status=self.notices.tell)
        self.holdings = Holdings(self.connection, self.now)
        self.peers = Peers(self.connection, self.now)
        self.messages = Messages(
            self.connection, self.now, self.direct, self._keys, self._partitions
        )
        self.outbox = Outbox(self.connection, self.now, self.direct)
        self.timeline = Timeline(self.now, self.direct)
        self.sequences = Sequences(self.connection)
        self.resources = Resources(self.connection, self.now)
        self.reports = Reports(self.connection, self.now)
        self.deliveries = Deliveries(self.connection, self.now)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                try:
                    self.direct.commit()
                    self._transaction.commit()
                except BaseException:
                    self._transaction.rollback()
                    raise
            else:
                self.direct.abandon()
                self._transaction.rollback()
        finally:
            self.direct.close()
            self.connection.close()


class Store:
    """The database of one process.

    Parameters
    ----------
    settings : Settings
        Say where the database is, where the keys of what is sealed in it are, and whether placers
        are told of their orders' status.
    pool_size : int
        Connections kept open; one per thread that commits at once is enough.
    clock : callable, optional
        Where "now" comes from; a test or ``--as-of`` may let time pass.
    """

    def __init__(
        self, settings: Settings, *, pool_size: int = 8, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.engine = create_engine(
            settings.store_url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            # A unit of work ends its transaction itself.
            pool_reset_on_return=None,
            # An error's text may reach a log; the values of a statement are patient data.
            hide_parameters=True,
            # psycopg would deallocate what it did not prepare, too, after a rollback.
            connect_args={"prepare_threshold": None},
        )
        watch(self.engine)
        self.clock = clock
        self.keys = Keyring(settings.key_root)
        self.partitions = Partitions()
        self.tells_placer = settings.status_destination is not None
        event.listen(self.engine, "connect", _durable)
        event.listen(self.engine, "checkout", _alive)

    def __call__(self) -> UnitOfWork:
        """Return a new unit of work."""
        return UnitOfWork(
            self.engine,
            self.clock,
            keys=self.keys,
            partitions=self.partitions,
            tells_placer=self.tells_placer,
        )

    def check(self) -> None:
        """Raise `Unavailable` unless the database answers and carries our tables."""
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1 FROM alembic_version")
        except Exception as error:
            raise Unavailable("the database does not answer or is not migrated") from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _alive(connection: Any, _record: object, _proxy: object) -> None:
    # A question would cost three round trips. A server that went away has closed its end, which
    # makes an idle connection readable; the pool then makes all its connections anew.
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        raise InvalidatePoolError


def _durable(connection: object, _record: object) -> None:
    # A hospital's cluster may default to asynchronous commit; an acknowledgement must not.
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("SET synchronous_commit TO on")
    cursor.execute("SET TIME ZONE 'UTC'")
    cursor.close()
    connection.commit()  # type: ignore[attr-defined]
