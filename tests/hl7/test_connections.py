"""Connections as senders really use and misuse them, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from services.database.messages import Wanted
from services.database.store import Store
from services.hl7.acknowledgement import read_reply
from services.hl7.listener import MllpListener
from services.hl7.mllp import Deframer, frame
from tests.hl7.conftest import Serve
from tests.hl7.orders import adt, orm


def received(peer: socket.socket, count: int) -> list[bytes]:
    """Read `count` answers, or fewer where the connection ends before."""
    peer.settimeout(20)
    deframer = Deframer()
    answers: list[bytes] = []
    while len(answers) < count and (data := peer.recv(65536)):
        answers += deframer.feed(data)
    return answers


@contextmanager
def listening(
    receive: Callable[[bytes, str], Sequence[bytes]], **options: object
) -> Iterator[tuple[int, list[tuple[bytes, str]]]]:
    """Run a listener without a store; give its port and what it kept."""
    kept: list[tuple[bytes, str]] = []

    def keep(rest: bytes, _peer: str, reason: str) -> None:
        kept.append((rest, reason))

    listener = MllpListener(receive, keep, **options)  # type: ignore[arg-type]
    listener.start("127.0.0.1", 0)
    try:
        yield listener.port, kept
    finally:
        listener.stop()


def echo(message: bytes, _peer: str) -> list[bytes]:
    return [message]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_two_messages_in_one_packet_and_one_in_many(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(frame(adt(control_id="1")) + frame(adt(control_id="2")))
        for byte in frame(adt(control_id="3")):
            peer.sendall(bytes([byte]))
        answers = received(peer, 3)
    assert [read_reply(a).control_id for a in answers] == ["1", "2", "3"]


def test_a_connection_too_many_is_closed_at_once_and_the_next_place_is_free_again(
    serving: Serve,
) -> None:
    port = serving(hl7_connections=2)
    first, second = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    with first, second:
        for peer in (first, second):
            peer.sendall(frame(adt()))
            assert len(received(peer, 1)) == 1
        with socket.create_connection(("127.0.0.1", port)) as third:
            third.settimeout(20)
            assert third.recv(1) == b""
        first.sendall(frame(adt()))
        assert len(received(first, 1)) == 1

    def served() -> bool:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            try:
                peer.sendall(frame(adt()))
                return bool(received(peer, 1))
            except ConnectionError:
                return False

    wait_for(served)


def test_a_message_too_long_is_answered_and_the_connection_goes_on(
    serving: Serve, store: Store
) -> None:
    port = serving(max_message_bytes=5000)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(frame(orm() + b"NTE|1||" + b"x" * 9000 + b"\r") + frame(adt()))
        too_long, good = received(peer, 2)
    assert (read_reply(too_long).code, read_reply(too_long).control_id) == ("AE", "M1")
    assert b"104&" in too_long
    assert read_reply(good).code == "AA"
    with store() as uow:
        kept = uow.messages.get(1)
        assert (kept.state, len(kept.raw)) == ("refused", 5001)
        assert uow.orders.find_by_placer("P100", "EMR") is None


def test_half_a_frame_is_given_up_and_kept_while_an_idle_connection_stays() -> None:
    with listening(echo, stall_s=0.3) as (port, kept):
        idle = socket.create_connection(("127.0.0.1", port))
        half = socket.create_connection(("127.0.0.1", port))
        with idle, half:
            half.sendall(b"\x0bMSH|half")
            half.settimeout(20)
            assert half.recv(1) == b""
            wait_for(lambda: kept)
            assert kept[0][0] == b"MSH|half"
            assert "not finished" in kept[0][1]
            time.sleep(0.3)
            idle.sendall(frame(b"still here"))
            assert received(idle, 1) == [b"still here"]


def test_dripping_bytes_do_not_hold_a_connection_for_ever() -> None:
    with (
        listening(echo, stall_s=0.5) as (port, kept),
        socket.create_connection(("127.0.0.1", port)) as slow,
    ):
        slow.sendall(b"\x0b")

        def drip() -> bool:
            slow.sendall(b"x")
            time.sleep(0.04)
            return False

        with pytest.raises(ConnectionError):
            wait_for(drip)
        wait_for(lambda: kept)


def test_who_never_reads_answers_is_cut() -> None:
    with (
        listening(lambda _m, _p: [b"x" * 1_000_000], send_s=0.5) as (port, _kept),
        socket.create_connection(("127.0.0.1", port)) as deaf,
    ):
        deaf.settimeout(20)

        def more() -> bool:
            deaf.sendall(frame(b"more"))
            return False

        with pytest.raises(ConnectionError):
            wait_for(more)


def test_a_fault_closes_without_an_answer_and_others_go_on() -> None:
    def receive(message: bytes, _peer: str) -> list[bytes]:
        if message == b"bad":
            raise RuntimeError("the database is away")
        return [message]

    with listening(receive) as (port, kept):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(frame(b"good") + frame(b"bad") + frame(b"after"))
            assert received(peer, 3) == [b"good"]
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(frame(b"good"))
            assert received(peer, 1) == [b"good"]
    # What came behind it was not answered either: it comes again.
    assert kept == []


def test_a_stop_finishes_the_message_in_hand() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def receive(message: bytes, _peer: str) -> list[bytes]:
        begun.set()
        go_on.wait(20)
        return [message]

    listener = MllpListener(receive, lambda *_: None)
    listener.start("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", listener.port)) as peer:
        peer.sendall(frame(b"in hand"))
        begun.wait(20)
        stopping = threading.Thread(target=listener.stop)
        stopping.start()
        time.sleep(0.05)
        assert stopping.is_alive()
        go_on.set()
        assert received(peer, 2) == [b"in hand"]
        stopping.join(20)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", listener.port)).close()


def test_a_message_without_its_trailer_is_answered_when_it_comes_whole(
    port: int, store: Store
) -> None:
    half = b"PID|no header, no trailer"
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\x0b" + half)

    def kept() -> bool:
        with store() as uow:
            return uow.connection.exec_driver_sql("SELECT 1 FROM message_log").first() is not None

    wait_for(kept)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(frame(half) * 2)
        first, second = received(peer, 2)
    assert read_reply(first).code == "AR"
    assert first == second
    with store() as uow:
        found = [(m.raw, m.state) for m in uow.messages.opened(Wanted())]
    assert found == [(half, "refused"), (half, "fragment")]


def test_the_same_message_on_many_connections_at_once_has_one_effect_and_one_answer(
    port: int, store: Store
) -> None:
    gate = threading.Barrier(8)
    answers: list[bytes] = []

    def one() -> None:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            gate.wait(20)
            peer.sendall(frame(orm()))
            answers.extend(received(peer, 1))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 8
    assert {read_reply(a).code for a in answers} == {"AA"}
    assert len(set(answers)) == 1
    with store() as uow:
        study = uow.studies.find("1.2.3.4.5.6.7")
        assert study is not None
        assert len(uow.messages.inbound_of(study.id)) == 1
        assert [e.kind for e in uow.timeline.of_study(study.id)] == ["order.placed"]


def test_many_senders_at_once_are_all_served_in_their_own_order(serving: Serve) -> None:
    port = serving()
    seen: list[list[str]] = []

    def one(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            for i in range(5):
                peer.sendall(frame(adt(control_id=f"{number}-{i}", pid=f"9{number}")))
            seen.append([read_reply(a).control_id for a in received(peer, 5)])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == sorted([f"{n}-{i}" for i in range(5)] for n in range(20))
