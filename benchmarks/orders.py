"""HL7 orders over MLLP: acknowledged after the commit, beside what a bare commit costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier
from urllib.parse import unquote

import psycopg
from sqlalchemy import func, make_url, select

from benchmarks.figures import Figure, Outcome, latencies
from benchmarks.installation import database, environment, listening, ours
from deployments.installation import free_port
from models.study import new_uid
from services.database.store import Store
from services.database.tables import imaging_order
from services.settings import Settings
from services.simulators.emr import Order
from services.simulators.mllp import MllpLink

SINGLE, PARALLEL, ROUNDS = 1500, 4, 3
EACH = 375
"""Orders on each of the parallel connections."""
FLOOR = "psycopg, one row + commit"
BARE = "PyPI hl7, acknowledges, keeps nothing"
_PLACED = datetime(2026, 3, 2, 7, 0)  # noqa: DTZ001 (an EMR writes local time)


@dataclass(slots=True)
class Timed:
    """All of one load: the wall time and each operation's seconds."""

    wall: float = 0.0
    each: list[float] = field(default_factory=list)

    def add(self, more: Timed) -> None:
        """Count another round to this one."""
        self.wall += more.wall
        self.each += more.each

    @property
    def rate(self) -> float:
        """Operations a second."""
        return len(self.each) / self.wall


def run(directory: Path) -> Outcome:
    """Send orders on one and on four connections.

    Raises
    ------
    RuntimeError
        If an order was not accepted, or the database has fewer than were acknowledged.
    """
    outcome = Outcome(peers={"psycopg": psycopg.__version__})
    with ExitStack() as stack:
        settings = stack.enter_context(database(directory / "orders"))
        stack.enter_context(
            listening(
                ours("services.hl7.server"),
                settings.hl7_port,
                env=environment(settings),
                log=directory / "hl7.log",
            )
        )
        bare_port = None
        if find_spec("hl7") is None:
            outcome.notes.append("orders: PyPI hl7 is not installed (a development dependency)")
        else:
            outcome.peers["PyPI hl7"] = metadata.version("hl7")
            bare_port = stack.enter_context(_bare_server(directory))
        with psycopg.connect(_dsn(settings), autocommit=True) as connection:
            server = connection.info.server_version
            outcome.peers["PostgreSQL"] = f"{server // 10000}.{server % 10000} (embedded)"
            connection.execute("CREATE TABLE floor (id bigint PRIMARY KEY, body bytea NOT NULL)")
        # Not counted: statements, connections and caches warm up.
        acknowledged = len(_send(settings.hl7_port, 0, 2, 25).each)
        for lanes, count in ((1, SINGLE), (PARALLEL, EACH)):
            mine, floor, bare = Timed(), Timed(), Timed()
            for number in range(ROUNDS):  # in turns, so that all meet the same disturbances
                first, share = 10_000 * lanes + 1_000 * number, count // ROUNDS
                mine.add(_send(settings.hl7_port, first, lanes, share))
                floor.add(_commit(settings, first, lanes, share))
                if bare_port is not None:
                    bare.add(_send(bare_port, first, lanes, share))
            acknowledged += len(mine.each)
            what = f"{lanes} connection{'s' if lanes > 1 else ''}"
            outcome.figures.append(_figure(what, mine, FLOOR, floor))
            if bare.each:
                outcome.figures.append(_figure(what, mine, BARE, bare))
            outcome.figures += latencies(
                "orders", f"ACK, {what}", mine.each, BARE.split(",")[0], bare.each
            )
        _require(settings, acknowledged)
    outcome.notes += [
        "orders: each ORM^O01 is a new order of one of 200 patients, "
        f"{len(_order(0))} bytes; counted when its"
        " AA came, which is after message, patient, order, step, study and outbox rows are durable",
        "orders: the floor inserts the same message as one row into one table of the same cluster "
        "and commits, synchronous_commit on; no HL7, no domain. PyPI hl7 (hl7.mllp) parses the "
        "message and acknowledges it without storing it: the cost of MLLP alone",
        "orders: sender is services.simulators.mllp, one thread a connection, on the same cores",
    ]
    return outcome


def _send(port: int, first: int, lanes: int, count: int) -> Timed:
    messages = [[_order(first + lane * count + i) for i in range(count)] for lane in range(lanes)]

    @contextmanager
    def sender() -> Iterator[Callable[[int, bytes], None]]:
        with MllpLink("127.0.0.1", port) as link:

            def exchange(_number: int, message: bytes) -> None:
                answer = link.exchange(message)
                if b"\rMSA|AA|" not in answer:
                    raise RuntimeError(f"not accepted: {answer[:400]!r}")

            yield exchange

    return _load(messages, sender)


def _commit(settings: Settings, first: int, lanes: int, count: int) -> Timed:
    messages = [[_order(first + lane * count + i) for i in range(count)] for lane in range(lanes)]

    @contextmanager
    def writer() -> Iterator[Callable[[int, bytes], None]]:
        with psycopg.connect(_dsn(settings), autocommit=True) as connection:
            connection.execute("SET synchronous_commit TO on")

            def insert(number: int, message: bytes) -> None:
                connection.execute(
                    "INSERT INTO floor VALUES (%s, %s)", (first + number, message), prepare=True
                )

            yield insert

    return _load(messages, writer)


def _load(messages: list[list[bytes]], connect: Callable[[], object]) -> Timed:
    """Work through each list on a thread and a connection of its own, all from one signal on."""
    gate = Barrier(len(messages) + 1)
    count = len(messages[0])

    def lane(number: int) -> list[float]:
        seconds = []
        with connect() as perform:  # type: ignore[attr-defined]
            gate.wait()
            for i, message in enumerate(messages[number]):
                begun = time.perf_counter()
                perform(number * count + i, message)
                seconds.append(time.perf_counter() - begun)
        return seconds

    with ThreadPoolExecutor(len(messages)) as threads:
        lanes = [threads.submit(lane, number) for number in range(len(messages))]
        gate.wait()
        begun = time.perf_counter()
        each = [seconds for done in lanes for seconds in done.result()]
        return Timed(time.perf_counter() - begun, each)


def _order(number: int) -> bytes:
    order = Order(
        patient_id=f"B{number % 200:06d}",
        patient_name=f"BENCH{number % 200:04d}^SYNTHETIC",
        birth_date="19800214",
        sex="F",
        placer=f"P{number:08d}",
        filler=f"F{number:08d}",
        accession=f"B{number:08d}",
        procedure_id=f"RP{number:08d}",
        step_id=f"SPS{number:08d}",
        study_uid=new_uid(),
        priority="R",
        procedure=("MRBRWO", "MRI brain w/o contrast"),
        reason="Headache, no alarm sign",
        station="MR1",
        placed=_PLACED,
        scheduled=_PLACED + timedelta(minutes=number % 10_000),
    )
    return order.new()


@contextmanager
def _bare_server(directory: Path) -> Iterator[int]:
    port = free_port()
    command = [*ours("benchmarks.bare_mllp"), str(port)]
    settings = Settings(home=directory)
    with listening(command, port, env=environment(settings), log=directory / "bare.log"):
        yield port


def _dsn(settings: Settings) -> str:
    url = make_url(settings.store_url)
    return f"host={unquote(str(url.query['host']))} user={url.username} dbname={url.database}"


def _require(settings: Settings, acknowledged: int) -> None:
    store = Store(settings)
    try:
        with store() as uow:
            kept = uow.connection.scalar(select(func.count()).select_from(imaging_order))
    finally:
        store.close()
    if kept != acknowledged:
        raise RuntimeError(f"{acknowledged} orders were acknowledged and {kept} are stored")


def _figure(what: str, mine: Timed, peer: str, theirs: Timed) -> Figure:
    return Figure(
        part="orders",
        what=f"durably acknowledged, {what}",
        unit="orders/s",
        ours=mine.rate,
        peer=peer,
        theirs=theirs.rate,
        samples=len(mine.each),
    )
