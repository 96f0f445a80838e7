"""The MLLP sender: one message out, its acknowledgement back, on a connection of its own."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from models.errors import Malformed, Unavailable
from services.hl7.acknowledgement import Reply, read_reply
from services.hl7.mllp import Deframer, frame


def send(
    url: str, message: bytes, control_id: str, *, timeout_s: float = 30
) -> tuple[bytes, Reply]:
    """Send a message and wait for the answer that names its control id.

    Parameters
    ----------
    url : str
        ``mllp://host:port``.
    message : bytes
        Without frame.
    control_id : str
        MSH-10; only an answer whose MSA-2 is the same is credited to this message.
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
    if target.scheme != "mllp" or not target.hostname or not target.port:
        raise Unavailable(f"destination {url!r} is not of the form mllp://host:port")
    deframer = Deframer(1024 * 1024)
    try:
        with socket.create_connection((target.hostname, target.port), timeout_s) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
