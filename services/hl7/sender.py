"""The MLLP sender: one message out, its acknowledgement back, on a connection of its own."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

from models.errors import Malformed, Unavailable
from services.hl7.acknowledgement import Reply, read_reply
from services.hl7.mllp import Deframer, frame
from services.hl7.tls import sender_context
from services.settings import Settings


def send(
    url: str,
    message: bytes,
    control_id: str,
    *,
    settings: Settings | None = None,
    timeout_s: float = 30,
) -> tuple[bytes, Reply]:
    """Send a message and wait for the answer that names its control id.

    Parameters
    ----------
    url : str
        ``mllp://host:port``, or ``mllps://host:port`` for TLS.
    message : bytes
        Without frame.
    control_id : str
        MSH-10; only an answer whose MSA-2 is the same is credited to this message.
    settings : Settings, optional
        Say who we are and whom we believe over TLS.
    timeout_s : float
        Seconds for connecting, and again for the answer.

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
    target = urlsplit(url)
    if target.scheme not in {"mllp", "mllps"} or not target.hostname or not target.port:
        raise Unavailable(f"destination {url!r} is not of the form mllp://host:port or mllps://…")
    deframer = Deframer(1024 * 1024)
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(
                socket.create_connection((target.hostname, target.port), timeout_s)
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "mllps":
                context = sender_context(settings or Settings())
                connection = stack.enter_context(
                    context.wrap_socket(connection, server_hostname=target.hostname)
                )
            connection.sendall(frame(message))
            while data := connection.recv(65536):
                for answer in deframer.feed(data):
                    reply = read_reply(answer)
                    if reply.control_id == control_id:
                        return answer, reply
                    # A late answer to an older message is never credited to this one.
                    raise Unavailable("the answer names another message; MSA-2 differs")
        except (OSError, Malformed) as error:
            raise Unavailable(f"{target.hostname}:{target.port}: {error}") from error
    raise Unavailable(f"{target.hostname}:{target.port} closed without an answer")
