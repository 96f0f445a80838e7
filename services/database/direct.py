"""Prepared statements over libpq, for the few paths where every acknowledgement waits.

SQLAlchemy builds and compiles a statement each time it is run, which costs more than PostgreSQL
takes to execute it. Here a statement is compiled once, when its module is imported, and prepared
once a connection; what is written waits in a queue and goes out together with the next question or
with the COMMIT, in one round trip (libpq's pipeline mode). It is the same connection and the same
transaction as the unit of work's own, and the two mix freely.
"""

from __future__ import annotations

import select
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final, cast

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb
from sqlalchemy import JSON, Connection, Table, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement, visitors

Call = tuple["Prepared", dict[str, Any]]
"""A statement and its parameters by name."""

_Values = tuple[Any, ...]
_Texts = Sequence[Any]
_Transformer = Any  # psycopg.adapt.Transformer, whose compiled half has no types
_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_NUMBERS = count()
_SAVEPOINT = b"SAVEPOINT attempt"
_KEY = "spinecho.direct"
_TRANSFORMER = "spinecho.transformer"
_REQUIRED: Final = object()


class Prepared:
    """A statement that is compiled once.

    Parameters
    ----------
    statement : ClauseElement
        Any SQLAlchemy Core statement whose values are named `bindparam`s.
    columns : iterable of str, optional
        Of an INSERT or UPDATE: the columns that are given, each as the parameter of its name.
    """

    def __init__(self, statement: ClauseElement, columns: Iterable[str] | None = None) -> None:
        names = None if columns is None else list(columns)
        compiled = cast("Any", statement.compile(dialect=_DIALECT, column_keys=names))
        self.sql: Final[bytes] = str(compiled).encode()
        self.key: Final[bytes] = b"spinecho_%d" % next(_NUMBERS)
        places = tuple(compiled.positiontup or ())
        # A column that is not given is NULL; a named value must be.
        self._parameters: Final = tuple(
            (
                name,
                isinstance(compiled.binds[name].type, JSON),
                _constant(compiled.binds[name], names),
            )
            for name in places
        )
        self.formats: Final = [PyFormat.TEXT] * len(self._parameters)
        self._names: Final = {name for name, _, _ in self._parameters}
        self.tables: Final = frozenset(
            item.name for item in visitors.iterate(statement) if isinstance(item, Table)
        )
        self.writes: Final[str | None] = getattr(getattr(statement, "table", None), "name", None)
        self._row: Callable[[Any], Any] | None = None

    def __call__(self, **parameters: Any) -> Call:
        """Return the statement with its parameters."""
        return self, parameters

    def values(self, parameters: Mapping[str, Any]) -> _Values:
        """Return the parameters in the order in which the statement numbers them."""
        if not parameters.keys() <= self._names:
            raise TypeError(f"no such parameter: {', '.join(parameters.keys() - self._names)}")
        values: list[Any] = []
        for name, is_json, constant in self._parameters:
            value = parameters[name] if constant is _REQUIRED else parameters.get(name, constant)
            values.append(Jsonb(value) if is_json and value is not None else value)
        return tuple(values)

    def rows(self, transformer: _Transformer, result: Any) -> list[Any]:
        """Return a result's rows as named tuples."""
        if result.ntuples == 0:
            return []
        if self._row is None:
            names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
            self._row = cast("Any", namedtuple("Found", names, rename=True))._make
        transformer.set_pgresult(result)
        rows: list[Any] = transformer.load_rows(0, result.ntuples, self._row)
        return rows


class Direct:
    """What one transaction asks and writes by prepared statements.

    Parameters
    ----------
    connection : Connection
        The unit of work's; both speak inside one transaction.
    """

    def __init__(self, connection: Connection) -> None:
        raw = cast("Any", connection.connection.driver_connection)
        self._connection = connection
        self._pg = raw.pgconn
        # Kept with the connection: it remembers how each type is read and written.
        transformer = connection.info.get(_TRANSFORMER)
        if transformer is None:
            transformer = connection.info[_TRANSFORMER] = Transformer(raw)
        self._transformer: _Transformer = transformer
        self._known: set[bytes] = connection.info.setdefault("spinecho.prepared", set())
        self._queue: list[Call | bytes] = []
        self._sent: list[_Sent] = []
        self._after: list[Call] = []
        self._seen: dict[tuple[Prepared, _Values], list[Any]] = {}
        connection.info[_KEY] = self

    @classmethod
    def of(cls, connection: Connection) -> Direct:
        """Return the one that already speaks on this connection, or a new one."""
        known: Direct | None = connection.info.get(_KEY)
        return cls(connection) if known is None else known

    def foresee(self, *calls: Call) -> None:
        """Ask several questions in one round trip; `fetch` gives their answers without asking.

        An answer is forgotten as soon as this transaction writes to a table that it was read from.
        """
        asked = [_numbered(call) for call in calls]
        self._seen.update(zip(asked, self._run(asked), strict=True))

    def first(self, call: Call) -> Any | None:
        """Return the only row that a question gives, or None."""
        rows = self.fetch(call)
        if len(rows) > 1:
            raise LookupError(f"one row was asked for and {len(rows)} are there")
        return rows[0] if rows else None

    def fetch(self, call: Call) -> list[Any]:
        """Return the rows that a question gives."""
        asked = _numbered(call)
        known = self._seen.get(asked)
        return self._run([asked])[0] if known is None else known

    def draw(self, call: Call) -> list[Any]:
        """Return the rows of a question that has another answer each time, such as a sequence."""
        rows = self.fetch(call)
        self._seen.pop(_numbered(call), None)
        return rows

    def later(self, call: Call) -> None:
        """Write with the next question or the COMMIT; what goes wrong is raised there.

        The caller must not need to know how many rows it touched.
        """
        self._queue.append(call)
        self._forget(call[0].writes)

    def after_commit(self, call: Call) -> None:
        """Send a statement behind the COMMIT, in the same round trip, once however often asked for.

        It is not part of the transaction: if we die in between, it never happens.
        """
        if call not in self._after:
            self._after.append(call)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Take back what was written inside, and only that, if an exception leaves the block."""
        self._queue.append(_SAVEPOINT)
        try:
            yield
        except BaseException:
            if _SAVEPOINT in self._queue:
                del self._queue[self._queue.index(_SAVEPOINT) :]
            else:
                self._queue.clear()
                self._queue.append(b"ROLLBACK TO SAVEPOINT attempt")
            self._seen.clear()
            raise
        if _SAVEPOINT in self._queue:
            self._queue.remove(_SAVEPOINT)

    def ahead(self) -> None:
        """Send what waits and go on while PostgreSQL works; what goes wrong is raised later."""
        if self._queue:
            self._send()
            self._pg.flush()

    def flush(self) -> None:
        """Send what waits, and wait for it."""
        if self._queue or self._sent:
            self._run([])

    def commit(self) -> None:
        """Send what waits and COMMIT, in one round trip."""
        if self._queue or self._sent or self._after:
            self._run([], commit=True)

    def abandon(self) -> None:
        """Wait for what was sent ahead: the transaction is to be rolled back."""
        self._queue.clear()
        if self._sent:
            with suppress(DBAPIError):
                self._run([])

    def close(self) -> None:
        """Forget everything; the transaction is over."""
        self._queue.clear()
        self._after.clear()
        self._seen.clear()
        self._connection.info.pop(_KEY, None)

    def forget(self) -> None:
        """Forget every answer: others than ourselves have written in this transaction."""
        self._seen.clear()

    def _forget(self, table: str | None) -> None:
        if self._seen:
            self._seen = {k: rows for k, rows in self._seen.items() if table not in k[0].tables}

    def _run(
        self, questions: Sequence[tuple[Prepared, _Values]], *, commit: bool = False
    ) -> list[list[Any]]:
        pg = self._pg
        try:
            answers = self._send(questions)
            if commit:
                after = [self._encoded(*_numbered(call)) for call in self._after]
                self._command(b"COMMIT")
                for call in after:
                    self._execute(*call)
            pg.pipeline_sync()
            results = self._results()
        finally:
            self._sent = []
            if pg.status == pq.ConnStatus.OK:
                pg.exit_pipeline_mode()
        return [
            statement.rows(self._transformer, results[n])
            for (statement, _), n in zip(questions, answers, strict=True)
        ]

    def _send(self, questions: Sequence[tuple[Prepared, _Values]] = ()) -> list[int]:
        """Send the queue, then questions; return where their answers will stand."""
        # A question needs no savepoint; one that nothing was written after waits on.
        kept = [_SAVEPOINT] if questions and self._queue[-1:] == [_SAVEPOINT] else []
        ready = self._queue[: len(self._queue) - len(kept)]
        # A value that PostgreSQL does not take shows here, before anything is sent.
        writes = [self._encoded(*_numbered(e)) if isinstance(e, tuple) else e for e in ready]
        asked = [self._encoded(*question) for question in questions]
        self._queue[:] = kept
        begins = not self._sent and self._pg.transaction_status == pq.TransactionStatus.IDLE
        self._pg.enter_pipeline_mode()
        if begins:
            self._command(b"BEGIN")
        for entry in writes:
            if isinstance(entry, bytes):
                self._command(entry)
            else:
                self._execute(*entry)
        answers = []
        for question in asked:
            self._execute(*question)
            answers.append(len(self._sent) - 1)
        return answers

    def _encoded(self, statement: Prepared, values: _Values) -> tuple[Prepared, _Texts]:
        try:
            texts = self._transformer.dump_sequence(values, statement.formats)
        except psycopg.Error as error:
            raise _as_sqlalchemy(error) from error
        return statement, texts

    def _command(self, command: bytes) -> None:
        self._pg.send_query_params(command, None)
        self._sent.append(None)

    def _execute(self, statement: Prepared, texts: _Texts) -> None:
        if statement.key not in self._known and statement.key not in self._sent:
            self._pg.send_prepare(statement.key, statement.sql)
            self._sent.append(statement.key)
        self._pg.send_query_prepared(statement.key, texts)
        self._sent.append(statement)

    def _results(self) -> list[Any]:
        """Return one result for each thing sent; the first error is raised after all are read."""
        pg, sent = self._pg, self._sent
        poll = select.poll()
        poll.register(pg.socket, select.POLLIN | select.POLLOUT)
        results: list[Any] = []
        failure = None
        try:
            # Waiting here, and not inside libpq, lets other threads go on.
            while pg.flush():
                poll.poll()
                pg.consume_input()
            poll.modify(pg.socket, select.POLLIN)
            while True:
                while pg.is_busy():
                    poll.poll()
                    pg.consume_input()
                result = pg.get_result()
                if result is None:  # the end of one statement, or of the connection
                    if pg.status != pq.ConnStatus.OK:
                        raise psycopg.OperationalError("the connection to the database broke")
                    continue
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    break
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    failure = failure or result
                elif isinstance(key := sent[len(results)], bytes) and _done(result):
                    self._known.add(key)
                results.append(result)
        except psycopg.Error as error:
            raise _as_sqlalchemy(error) from error
        if failure is not None:
            raise _as_sqlalchemy(psycopg.errors.error_from_result(failure))
        return results


_Sent = Prepared | bytes | None
"""A statement, the name of one that is being prepared, or a command."""


def _numbered(call: Call) -> tuple[Prepared, _Values]:
    return call[0], call[0].values(call[1])


def _done(result: Any) -> bool:
    return bool(result.status == pq.ExecStatus.COMMAND_OK)


def watch(engine: Engine) -> None:
    """Send what waits before anything else is executed on one of the engine's connections."""

    def before(connection: Connection, *_: object) -> None:
        direct = connection.info.get(_KEY)
        if direct is not None:
            direct.flush()
            direct.forget()

    event.listen(engine, "before_cursor_execute", before)


def _as_sqlalchemy(error: psycopg.Error) -> DBAPIError:
    wrapped = DBAPIError.instance(
        None, None, error, psycopg.Error, hide_parameters=True, dialect=_DIALECT
    )
    return cast("DBAPIError", wrapped)


def _constant(bind: Any, columns: Sequence[str] | None) -> Any:
    if columns is not None and bind.key in columns:
        return None
    return _REQUIRED if bind.required else bind.effective_value
