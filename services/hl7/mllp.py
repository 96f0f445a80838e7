"""MLLP framing (HL7 v2.5.1 App. C): bytes in, messages out, memory bounded."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.errors import Malformed

START, END, CR = b"\x0b", b"\x1c", b"\r"
_NOISE = 64 * 1024


def frame(message: bytes) -> bytes:
    """Return `message` in its frame."""
    return START + message + END + CR


@dataclass(slots=True)
class Deframer:
    """Collects the bytes of one connection into messages.

    Parameters
    ----------
    limit : int
        Largest message in bytes.
    """

    limit: int = 16 * 1024 * 1024
    _buffer: bytearray = field(default_factory=bytearray)
    _inside: bool = False
    _scanned: int = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes and return the messages they complete.

        Raises
        ------
        Malformed
            If the peer sends 64 kB without beginning a frame, or a message above the limit.
        """
        self._buffer += data
        messages: list[bytes] = []
        while True:
            if not self._inside:
                start = self._buffer.find(START)
                if start < 0:
                    if len(self._buffer) > _NOISE:
                        raise Malformed("64 kB arrived and no frame began: this is not MLLP")
                    return messages
                del self._buffer[: start + 1]
                self._inside, self._scanned = True, 0
            # A lone 0x1C inside a message is data; the trailer is 0x1C 0x0D.
            end = self._buffer.find(END + CR, max(0, self._scanned - 1))
            if end < 0:
                self._scanned = len(self._buffer)
                if self._scanned > self.limit:
                    raise Malformed(f"the message is larger than {self.limit} bytes")
                return messages
            messages.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 2]
            self._inside = False

    @property
    def rest(self) -> bytes:
        """What is left of an unfinished message."""
        return bytes(self._buffer)
