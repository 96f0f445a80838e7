"""The MLLP sender: messages out, the acknowledgement of each back on the same connection."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from models.errors import Malformed, Unavailable
from services.hl7.acknowledgement import Reply, read_reply
from services.hl7.mllp import Deframer, frame
from services.hl7.tls import sender_context
from services.settings import Settings

_LONGEST_ANSWER = 1024 * 1024


class Link:
    """A connection to a receiver, opened for the first message and kept for the next ones.

    Parameters
    ----------
    url : str
        ``mllp://host:port``, or ``mllps://host:port`` for TLS.
    settings : Settings, optional
        Say who we are and whom we believe over TLS.
    timeout_s : float
        Seconds for connecting, and again for each answer.

    Raises
    ------
    Unavailable
        If the URL is of another form.
    """

    def __init__(
        self, url: str, *, settings: Settings | None = None, timeout_s: float = 30
    ) -> None:
        target = urlsplit(url)
        if target.scheme not in {"mllp", "mllps"} or not target.hostname or not target.port:
            raise Unavailable(
                f"destination {url!r} is not of the form mllp://host:port or mllps://…"
            )
        self._host, self._port = target.hostname, target.port
        self._tls = target.scheme == "mllps"
        self._settings = settings
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    def send(self, message: bytes, control_id: str) -> tuple[bytes, Reply]:
        """Send a message and wait for the answer that names its control id.

        A receiver that closes after each message is connected to anew.

        Parameters
        ----------
        message : bytes
            Without frame.
        control_id : str
            MSH-10; only an answer whose MSA-2 is the same is credited to this message.

        Returns
        -------
        raw : bytes
            The acknowledgement as received.
        reply : Reply

        Raises
        ------
        Unavailable
            If nobody answers, or what is answered is no acknowledgement of this message.
        """
        kept = self._connection is not None
        try:
            try:
                answer = self._exchange(message)
            except ConnectionError:
                if not kept:
                    raise
                # Closed since the last answer, most likely; if not, the control id tells a
                # repetition.
                self.close()
                answer = self._exchange(message)
            reply = read_reply(answer)
        except (OSError, Malformed) as error:
            self.close()
            raise Unavailable(f"{self._host}:{self._port}: {error}") from error
        if reply.control_id != control_id:
            # A late answer to an older message is never credited to this one.
            self.close()
            raise Unavailable("the answer names another message; MSA-2 differs")
        return answer, reply

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, message: bytes) -> bytes:
        if self._connection is None:
            self._connection = self._connected()
        self._connection.sendall(frame(message))
        deframer = Deframer(_LONGEST_ANSWER)
        while data := self._connection.recv(65536):
            for answer in deframer.feed(data):
                return answer
        raise ConnectionResetError("closed without an answer")

    def _connected(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), self._timeout_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                context = sender_context(self._settings or Settings())
                return context.wrap_socket(connection, server_hostname=self._host)
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def send(
    url: str,
    message: bytes,
    control_id: str,
    *,
    settings: Settings | None = None,
    timeout_s: float = 30,
) -> tuple[bytes, Reply]:
    """Send one message on a connection of its own; see `Link.send`."""
    with Link(url, settings=settings, timeout_s=timeout_s) as link:
        return link.send(message, control_id)
