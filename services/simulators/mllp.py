"""HL7 over TCP as an EMR does it: frames, plain strings and sockets."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Final, Self

START: Final = b"\x0b"
END: Final = b"\x1c\r"
_LIMIT: Final = 32 * 1024 * 1024  # bytes; a report with its PDF inside is far smaller

_CHARSETS: Final = {
    "": "latin-1",
    "ASCII": "latin-1",
    "8859/1": "latin-1",
    "8859/2": "iso8859-2",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
}


class Hl7ProtocolError(Exception):
    """The peer answered something that is no acknowledgement of what was sent."""


def wrap(payload: bytes) -> bytes:
    """Put a message into its block (HL7 v2.5.1 App. C)."""
    return START + payload + END


def take(sock: socket.socket, rest: bytearray) -> bytes | None:
    """Read the next message from a connection.

    Parameters
    ----------
    sock
        A blocking socket; its time-out applies to every read.
    rest
        Bytes read beyond the previous message; updated in place.

    Returns
    -------
    bytes or None
        The message without its block characters, or None when the peer has closed.

    Raises
    ------
    Hl7ProtocolError
        If the peer sends something other than a block.
    OSError
        If the connection breaks or times out.
    """
    while True:
        end = rest.find(END)
        if end >= 0:
            block = bytes(rest[:end])
            del rest[: end + len(END)]
            if not block.startswith(START):
                raise Hl7ProtocolError("the block does not begin with 0x0B")
            return block[1:]
        if len(rest) > _LIMIT:
            raise Hl7ProtocolError(f"no end of block within {_LIMIT} bytes")
        chunk = sock.recv(65536)
        if not chunk:
            return None
        rest += chunk


def text_of(message: bytes) -> str:
    """Decode a message by the character set that it names in MSH-18."""
    header = message.split(b"\r", 1)[0].decode("latin-1")
    fields = header.split(header[3]) if len(header) > 3 else []
    charset = fields[17].split("~")[0] if len(fields) > 17 else ""
    return message.decode(_CHARSETS.get(charset.upper(), "utf-8"), errors="replace")


def segments(text: str) -> list[list[str]]:
    """Split a message into segments of fields; index n is field n, MSH included."""
    separator = text[3] if len(text) > 3 else "|"
    found = []
    for line in text.replace("\n", "\r").split("\r"):
        if line:
            fields = line.split(separator)
            # MSH-1 is the separator itself, which splitting has eaten
            found.append(["MSH", separator, *fields[1:]] if fields[0] == "MSH" else fields)
    return found


def field(segment: list[str], number: int) -> str:
    """Give a field of a segment, empty when it is not there."""
    return segment[number] if number < len(segment) else ""


def escape(text: str) -> str:
    """Escape the delimiters in a piece of text."""
    for raw, code in (("\\", "E"), ("|", "F"), ("^", "S"), ("&", "T"), ("~", "R")):
        text = text.replace(raw, f"\\{code}\\")
    return text


class MllpLink:
    """One connection that stays open between messages and opens again after it broke."""

    def __init__(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._sock: socket.socket | None = None
        self._rest = bytearray()
        self.opened = 0

    def exchange(self, message: bytes) -> bytes:
        """Send a message and return the answer.

        Raises
        ------
        OSError
            If the connection is refused, breaks or times out; the next call opens a new one.
        """
        try:
            if self._sock is None:
                self._rest.clear()
                self._sock = socket.create_connection(self._address, self._timeout_s)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.opened += 1
            self._sock.sendall(wrap(message))
            answer = take(self._sock, self._rest)
        except (OSError, Hl7ProtocolError):
            # an answer that arrives late would be taken for the next message's
            self.close()
            raise
        if answer is None:
            self.close()
            raise ConnectionResetError("the peer closed the connection without an answer")
        return answer

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
