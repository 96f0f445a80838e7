"""The MLLP listener: any number of messages a connection, in order, committed before answered.

One blocking thread a connection: what is received is applied and answered where it is read, with
no hand-over on the way.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from models.errors import Malformed
from services.hl7.mllp import Deframer, frame

log = structlog.get_logger()

Receive = Callable[[bytes, str], Sequence[bytes]]
"""(message, peer) → what is answered; returns after the commit."""
Keep = Callable[[bytes, str, str], None]
"""(bytes, peer, reason): keeps what never became a message."""

_CHUNK = 64 * 1024
_SLOWEST = 1000
"""Bytes a second below which a sender is given up once `stall_s` has passed."""
_POLL_S = 0.5


class MllpListener:
    """Serves MLLP (HL7 v2.5.1 App. C) on one address.

    Parameters
    ----------
    receive : callable
        Records and applies a message; called on the connection's thread, so in order.
    keep : callable
        Keeps the bytes of a connection that ended inside a message.
    limit : int
        Largest message in bytes.
    connections : int
        Connections served at once; a further one is closed as soon as it is accepted.
    workers : int
        Messages that are committed at the same time.
    stall_s : float
        Seconds that an unfinished message may take, and one more for each kilobyte of it.
    send_s : float
        Seconds after which a peer that does not read its answers is given up.
    tls : ssl.SSLContext, optional
        Makes the port speak TLS and nothing else.
    """

    def __init__(
        self,
        receive: Receive,
        keep: Keep,
        *,
        limit: int = 16 * 1024 * 1024,
        connections: int = 64,
        workers: int = 8,
        stall_s: float = 60,
        send_s: float = 30,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._receive = receive
        self._keep = keep
        self._limit = limit
        self._most = connections
        self._turn = threading.BoundedSemaphore(workers)
        self._stall_s = stall_s
        self._send_s = send_s
        self._tls = tls
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}

    def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses when `port` is 0."""
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._server = socket.create_server(address[:2], family=family, backlog=128)
        self._server.settimeout(_POLL_S)
        self.port: int = self._server.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="hl7-accept", daemon=True)
        self._acceptor.start()
        log.info("hl7.listening", host=host, port=self.port, tls=self._tls is not None)
        return int(self.port)

    def stop(self, timeout_s: float = 30) -> None:
        """Take no new connection, finish the messages in hand, and close."""
        self._stopping.set()
        self._acceptor.join()
        self._server.close()
        with self._lock:
            open_ = dict(self._connections)
        for connection in open_.values():
            if isinstance(connection, ssl.SSLSocket) and connection.version():
                continue  # it looks up by itself; an end inside TLS would be taken for an attack
            # The reader wakes with nothing read; what it has in hand it still answers.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)
        deadline = time.monotonic() + timeout_s
        for thread in open_:
            thread.join(max(0, deadline - time.monotonic()))
        if left := sum(thread.is_alive() for thread in open_):
            log.warning("hl7.not_finished", connections=left)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = self._server.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Out of descriptors, say: those who are connected go on, the others wait.
                log.warning("hl7.not_accepted", reason=str(error))
                self._stopping.wait(_POLL_S)
                continue
            peer = f"{address[0]}:{address[1]}"
            if len(self._connections) >= self._most:
                log.warning("hl7.too_many_connections", peer=peer, most=self._most)
                connection.close()
                continue
            try:
                self._begin(connection, peer)
            except (OSError, RuntimeError) as error:
                log.warning("hl7.not_accepted", peer=peer, reason=str(error))
                connection.close()

    def _begin(self, connection: socket.socket, peer: str) -> None:
        _prepare(connection)
        if self._tls is not None:
            # Its handshake is made on its own thread: a silent peer holds up nobody else.
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(
            target=self._run, args=(connection, peer), name=f"hl7-{peer}", daemon=True
        )
        with self._lock:
            self._connections[thread] = connection
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._connections[thread]
            connection.close()
            raise

    def _run(self, connection: socket.socket, peer: str) -> None:
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.settimeout(self._stall_s)
                connection.do_handshake()
        except OSError as error:
            log.warning("hl7.tls_refused", peer=peer, reason=str(error))
        else:
            self._serve(connection, peer)
        finally:
            _close(connection)
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def _serve(self, connection: socket.socket, peer: str) -> None:
        deframer = Deframer(self._limit)
        reason = "the connection closed inside a message"
        begun: float | None = None
        try:
            while not self._stopping.is_set():
                # An idle connection may stay open for hours; an unfinished message may not.
                left = self._left(deframer, begun)
                if self._tls is not None:
                    left = min(left or _POLL_S, _POLL_S)
                connection.settimeout(left)
                try:
                    data = connection.recv(_CHUNK)
                except TimeoutError:
                    continue
                if not data:
                    break
                for message in deframer.feed(data):
                    begun = None
                    self._answer(connection, message, peer)
                self._leave(deframer, peer)
                begun = (begun or time.monotonic()) if deframer.pending else None
            if self._stopping.is_set():
                reason = "Spinecho was stopped"
        except Malformed as error:
            reason = str(error)
            log.warning("hl7.not_mllp", peer=peer, reason=reason)
        except TimeoutError as error:
            reason = str(error)
            log.warning("hl7.given_up", peer=peer, reason=reason)
        except OSError as error:
            reason = f"the connection broke: {type(error).__name__}"
        except Exception:
            # Closed without an answer: the sender keeps this message and what came behind it, and
            # sends them again.
            log.exception("hl7.failed", peer=peer)
            return
        self._leave(deframer, peer)
        if deframer.pending:
            self._keep_quietly(deframer.rest, peer, reason)

    def _left(self, deframer: Deframer, begun: float | None) -> float | None:
        if begun is None:
            return None
        left = begun + self._stall_s + deframer.pending / _SLOWEST - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"a message was not finished within {self._stall_s:.0f} s")
        return left

    def _answer(self, connection: socket.socket, message: bytes, peer: str) -> None:
        with self._turn:
            answers = self._receive(message, peer)
        if not answers:
            return
        connection.settimeout(self._send_s)
        try:
            connection.sendall(b"".join(frame(answer) for answer in answers))
        except TimeoutError:
            raise TimeoutError(f"the peer read no answer for {self._send_s:.0f} s") from None

    def _leave(self, deframer: Deframer, peer: str) -> None:
        while deframer.abandoned:
            rest = deframer.abandoned.pop(0)
            self._keep_quietly(rest, peer, "the next frame began inside the message")

    def _keep_quietly(self, rest: bytes, peer: str, reason: str) -> None:
        try:
            self._keep(rest, peer, reason)
        except Exception:
            log.exception("hl7.fragment_lost", peer=peer, bytes=len(rest))


def _prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A peer that lost its power says nothing more; its place is free again after some minutes.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _close(connection: socket.socket) -> None:
    if isinstance(connection, ssl.SSLSocket):
        # Without its closing alert the peer cannot tell an end from a cut.
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(1)
            connection.unwrap().close()
    connection.close()
