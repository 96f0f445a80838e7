"""``python -m tests.hl7.fuzz 100000``: damaged frames against the real listener and a real store.

Everything comes from one seed, so that a run can be had again. It ends with figures, or with an
`AssertionError` that says what was broken: the process died, grew or hung, a frame was not
answered as the store says, or its bytes are not in the store.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import psutil

from deployments.installation import free_port
from services.database import cluster
from services.database.messages import Wanted
from services.database.store import Store
from services.settings import Settings
from tests.hl7.orders import adt, omi, orm

SEED = 20260301
LIMIT = 128 * 1024  # the listener's, small enough to be passed now and then
LANES = 12
BATCH = 20
HANG_S = 120
GROWTH_MB = 200
ATTEMPTS = 6

_DELIMITERS = b"|^~\\&$*%!@\r\n"
_SETS = [
    b"",
    b"8859/1",
    b"8859/5",
    b"UNICODE UTF-8",
    b"ISO IR87",
    b"~ISO IR87",
    b"ISO IR14~ISO IR87",
    b"GB 18030-2000",
    b"KS X 1001",
    b"UNICODE UTF-16",
    b"NONSENSE",
]
_TEXTS = [
    "Müller".encode(),
    "Müller".encode("latin-1"),
    "山田".encode("iso2022_jp"),
    b"\x1b$B\x1b$(D\x1b)I\xff",
    "张伟".encode("gb18030"),
    b"\\XFF\\\\X00\\\\XC3\\\\XBC\\",
    b"\\M2442\\;3ED\\C2842\\",
    b"\\E\\\\.br\\\\H\\\\",
    b"\x00\x01\x7f\x80\xfe",
]
_MODES = [b"", b"NE", b"AL", b"ER", b"SU", b"XX"]


@dataclass(slots=True)
class Sent:
    """One burst on one connection, and what came back."""

    digests: list[str]
    answer: bytes = b""


@dataclass(slots=True)
class Figures:
    """What a run came to."""

    frames: int = 0
    distinct: int = 0
    kept: int = 0
    fragments: int = 0
    answers: int = 0
    bytes_sent: int = 0
    resent: int = 0
    seconds: float = 0
    memory_mb: tuple[float, float, float] = (0, 0, 0)
    """After the first frames, at its largest, at the end."""
    states: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        first, largest, last = self.memory_mb
        return (
            f"{self.frames} complete frames ({self.distinct} different, "
            f"{self.bytes_sent / 1e6:.0f} MB) in {self.seconds:.0f} s, "
            f"{self.frames / self.seconds:.0f}/s\n"
            f"kept {self.kept}, and {self.fragments} unfinished ones; {self.answers} answers; "
            f"{self.resent} bursts sent again after a closed connection\n"
            f"states {dict(self.states.most_common())}\ncodes {dict(self.codes.most_common())}\n"
            f"memory of the listener {first:.0f} MB at first, {largest:.0f} MB at most, "
            f"{last:.0f} MB at the end"
        )


def damaged(random_: random.Random, number: int) -> bytes:
    """Return a message that is more or less broken; it holds nothing that ends its frame."""
    # Few patients and many orders: lanes meet over the former, and the latter come, change and go.
    pid, placer = str(random_.randrange(300)), str(random_.randrange(2000))
    own = {"control_id": f"F{number}", "placer": placer, "accession": f"A{placer}"}
    own["uid"] = f"1.2.3.4.{placer}"
    raw = random_.choice(
        (
            lambda: orm(**own, pid=placer),
            lambda: orm(**own, pid=placer),
            lambda: orm(**own, pid=placer, control="XO", start="20260302100000"),
            lambda: orm(**own, pid=placer, control="CA"),
            lambda: omi(control_id=f"F{number}", placer=f"O{placer}").replace(
                b"A2026000123", b"B" + placer.encode()
            ),
            lambda: adt(control_id=f"F{number}", event="A08", pid=pid),
            lambda: adt(control_id=f"F{number}", event="A40", pid=pid, mrg=f"9{placer}"),
        )
    )()
    for _ in range(random_.choice((0, 1, 1, 2, 3, 6))):
        raw = random_.choice(_DAMAGES)(random_, raw)
    raw = raw[: 3 * LIMIT]  # of what goes on for four times the limit, the listener hangs up
    # A lone 0x1C is data, and the trailer is no more a trailer when its CR is another one.
    return raw.replace(b"\x1c\r", b"\x1c\n").replace(b"\x0bMSH", b"\x0bMSG").rstrip(b"\x1c")


def _flip(random_: random.Random, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(random_.choice((1, 1, 3, 20))):
        if out:
            out[random_.randrange(len(out))] ^= 1 << random_.randrange(8)
    return bytes(out)


def _truncate(random_: random.Random, raw: bytes) -> bytes:
    return raw[: random_.randrange(len(raw) + 1)]


def _delimit(random_: random.Random, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(random_.choice((1, 4))):
        out.insert(random_.randrange(min(len(out), 60) + 1), random_.choice(_DELIMITERS))
    return bytes(out)


def _place(random_: random.Random, raw: bytes, value: bytes) -> bytes:
    lines = raw.split(b"\r")
    at = random_.randrange(len(lines))
    fields = lines[at].split(b"|")
    fields[random_.randrange(len(fields))] = value
    lines[at] = b"|".join(fields)
    return b"\r".join(lines)


def _huge(random_: random.Random, raw: bytes) -> bytes:
    size = random_.choice((300, 5_000, 5_000, 70_000, LIMIT))
    if random_.random() < 0.1:
        return _place(random_, raw, b"~".join([b"1^2&3"] * (size // 50)))
    return _place(random_, raw, bytes([random_.randrange(0x20, 0x7F)]) * size)


def _characters(random_: random.Random, raw: bytes) -> bytes:
    raw = _place(random_, raw, random_.choice(_TEXTS))
    header, _, rest = raw.partition(b"\r")
    fields = header.split(b"|") + [b""] * 18
    fields[17] = random_.choice(_SETS)
    return b"|".join(fields[:18]) + b"\r" + rest


def _mode(random_: random.Random, raw: bytes) -> bytes:
    header, _, rest = raw.partition(b"\r")
    fields = header.split(b"|") + [b""] * 18
    fields[14], fields[15] = random_.choice(_MODES), random_.choice(_MODES)
    fields[10] = random_.choice((b"P", b"P", b"T", b""))
    fields[12] = random_.choice((b"", b"1", b"-1"))
    return b"|".join(fields[:18]) + b"\r" + rest


def _shuffle(random_: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r")
    at = random_.randrange(len(lines))
    return b"\r".join(
        [*lines[:at], *random_.choices(lines, k=random_.choice((0, 1, 9))), *lines[at:]]
    )


def _noise(random_: random.Random, _raw: bytes) -> bytes:
    return random_.randbytes(random_.choice((0, 1, 9, 900)))


_DAMAGES = (
    *(_flip,) * 3,
    *(_truncate,) * 2,
    *(_delimit,) * 2,
    _huge,
    *(_characters,) * 2,
    *(_mode,) * 2,
    _shuffle,
    _noise,
)


class Fuzzer:
    """Senders that damage what they send, and the books of what became of it."""

    def __init__(self, settings: Settings, port: int, count: int, seed: int) -> None:
        self._settings = settings
        self._port = port
        self._count = count
        self._seed = seed
        self._lock = threading.Lock()
        self.sent: list[Sent] = []
        self.fragments: set[str] = set()
        self.figures = Figures()
        self.failures: list[str] = []

    def run(self) -> None:
        """Send everything; raise what a lane ran into."""
        lanes = [threading.Thread(target=self._lane, args=(n,)) for n in range(LANES)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        assert not self.failures, self.failures[0]

    def _lane(self, lane: int) -> None:
        random_ = random.Random(f"{self._seed}/{lane}")
        numbers = range(lane, self._count, LANES)
        try:
            for at in range(0, len(numbers), BATCH):
                if self.failures:
                    return
                burst = [damaged(random_, number) for number in numbers[at : at + BATCH]]
                self._burst(random_, burst)
        except Exception as error:  # noqa: BLE001 (told by `run`)
            self.failures.append(f"lane {lane}: {type(error).__name__}: {error}")

    def _burst(self, random_: random.Random, burst: list[bytes]) -> None:
        stream = b"".join(
            b"\x0b" + raw + b"\x1c\r" + random_.choice((b"", b"", b"\r\n", b"\0")) for raw in burst
        )
        rest = b""
        if random_.random() < 0.2:
            # It is cut inside a frame, or what comes last is no frame at all.
            rest = f"cut {random_.getrandbits(64):x}".encode()
            stream += random_.choice((b"\x0b", b"")) + rest
        seconds = random_.random() * 0.02
        sizes = random_.choices((1, 7, 100, 1500, 65536), (1, 1, 4, 8, 8), k=64)
        attempts = 0
        while True:
            answer = _exchange(self._port, stream, sizes, seconds)
            # As a sender does: what was not answered is sent again, all of it.
            if answer is not None:
                break
            attempts += 1
            assert attempts < ATTEMPTS, f"the listener closed {ATTEMPTS} times on the same burst"
        with self._lock:
            digests = [sha256(raw[: LIMIT + 1]).hexdigest() for raw in burst]
            self.sent.append(Sent(digests, answer))
            if rest:
                self.fragments.add(sha256(rest).hexdigest())
            self.figures.frames += len(burst)
            self.figures.bytes_sent += len(stream)
            self.figures.resent += attempts

    def settle(self, store: Store) -> None:
        """Compare what was sent and answered with what the store has."""
        with store() as uow:
            rows = uow.messages.opened(Wanted())
        figures = self.figures
        # Reckoned from what is held, as it opens.
        whole = {sha256(row.raw).hexdigest(): row for row in rows if row.state != "fragment"}
        for row in rows:
            figures.states[row.state] += 1
            figures.codes[row.ack_code or "-"] += 1
        wanted = {digest for sent in self.sent for digest in sent.digests}
        figures.distinct, figures.kept = len(wanted), len(whole)
        assert wanted == set(whole), f"{len(wanted)} frames sent, {len(whole)} kept"
        unfinished = {sha256(row.raw).hexdigest() for row in rows if row.state == "fragment"}
        figures.fragments = len(unfinished & self.fragments)
        assert self.fragments <= unfinished, "an unfinished frame is not kept"
        for sent in self.sent:
            expected = b"".join(whole[digest].ack or b"" for digest in sent.digests)
            assert sent.answer.replace(b"\x0b", b"").replace(b"\x1c\r", b"") == expected, (
                "what was answered is not what the store has as its answer"
            )
            figures.answers += sent.answer.count(b"\x0b")
        silent = [r for r in whole.values() if not r.ack and r.ack_code not in {"none", None}]
        assert not silent, "an answer was due and none is there"
        mute = {r.state for r in whole.values() if r.ack_code is None}
        assert mute <= {"noted"}, f"neither answered nor an answer: {mute}"
        assert figures.states["failed"] == 0, "a message made us fail"


def _exchange(port: int, stream: bytes, sizes: list[int], pause: float) -> bytes | None:
    """Send a stream in packets of these sizes; return all that comes until the end, or None.

    None says that the listener closed before we did.
    """
    deadline = time.monotonic() + HANG_S
    with socket.create_connection(("127.0.0.1", port), HANG_S) as peer:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watch = selectors.DefaultSelector()
        watch.register(peer, selectors.EVENT_READ | selectors.EVENT_WRITE)
        view, received, turn = memoryview(stream), bytearray(), 0
        with watch:
            while True:
                assert time.monotonic() < deadline, f"no answer for {HANG_S} s"
                for _, events in watch.select(1):
                    try:
                        if events & selectors.EVENT_READ:
                            data = peer.recv(65536)
                            if not data:
                                return None if view else bytes(received)
                            received += data
                        if events & selectors.EVENT_WRITE and view:
                            view = view[peer.send(view[: sizes[turn % len(sizes)]]) :]
                            turn += 1
                            if turn < 3:
                                time.sleep(pause)
                            if not view:
                                # All is said; what is still to come ends with the connection.
                                watch.modify(peer, selectors.EVENT_READ)
                                peer.shutdown(socket.SHUT_WR)
                    except ConnectionError:
                        return None


@contextmanager
def listener(settings: Settings, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Run the HL7 edge as a process of its own."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SPINECHO_", "PREFECT_"))}
    env |= {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SPINECHO_HOME": str(settings.home),
        "SPINECHO_DATABASE_URL": settings.store_url,
        "SPINECHO_HL7_PORT": str(port),
        "SPINECHO_MAX_MESSAGE_BYTES": str(LIMIT),
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, "-m", "services.hl7.server"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=env, cwd=log.parent, stdout=output, stderr=output) as child,
    ):
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                except OSError:
                    assert child.poll() is None, log.read_text()[-2000:]
                    assert time.monotonic() < deadline, "it does not listen"
                    time.sleep(0.05)
                else:
                    break
            try:
                yield port, psutil.Process(child.pid)
            except AssertionError as error:
                # Says where each of its threads stands.
                child.send_signal(signal.SIGABRT)
                child.wait(60)
                error.add_note(log.read_text(errors="replace")[-20_000:])
                raise
            assert child.poll() is None, f"the listener died: {log.read_text()[-2000:]}"
        finally:
            child.terminate()
        assert child.wait(60) == 0, "it did not stop as it should"


def fuzz(settings: Settings, count: int, directory: Path, seed: int = SEED) -> Figures:
    """Send `count` frames to a listener on an empty, migrated store; return the figures."""
    log = directory / "hl7.log"
    with listener(settings, log) as (port, process):
        # Imports, pools and statements are there once some messages have passed.
        warm = Fuzzer(settings, port, min(500, count), seed - 1)
        warm.run()
        fuzzer = Fuzzer(settings, port, count, seed)
        first = largest = process.memory_info().rss / 1e6
        stop = threading.Event()

        def watch() -> None:
            nonlocal largest
            while not stop.wait(0.2):
                largest = max(largest, process.memory_info().rss / 1e6)

        watching = threading.Thread(target=watch)
        watching.start()
        begun = time.monotonic()
        try:
            fuzzer.run()
        finally:
            stop.set()
            watching.join()
        fuzzer.figures.seconds = time.monotonic() - begun
        last = process.memory_info().rss / 1e6
        fuzzer.figures.memory_mb = (first, largest, last)
    # The process has ended, so every connection has kept what it had.
    fuzzer.sent += warm.sent
    fuzzer.fragments |= warm.fragments
    store = Store(settings)
    try:
        fuzzer.settle(store)
    finally:
        store.close()
    grown = largest - first
    assert grown < GROWTH_MB, f"the listener grew by {grown:.0f} MB\n{fuzzer.figures}"
    faults = [line for line in log.read_text().splitlines() if "hl7.failed" in line]
    assert not [f for f in faults if not _is_passing(f)], faults[0]
    return fuzzer.figures


def _is_passing(fault: str) -> bool:
    """Whether a fault is one that two senders of the same patient can make for a moment."""
    return any(
        kind in fault for kind in ("DeadlockDetected", "UniqueViolation", "LockNotAvailable")
    )


def main() -> None:
    """Run against a database of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="spinecho-fuzz-", dir="/var/tmp"))
    home.chmod(0o755)
    settings = Settings(home=home, database_url=None)
    try:
        with cluster.running(settings):
            print(fuzz(settings, arguments.count, home, arguments.seed))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
