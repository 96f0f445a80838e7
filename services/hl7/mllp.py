"""MLLP framing (HL7 v2.5.1 App. C): bytes in, messages out, memory bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from models.errors import Malformed

START, END, CR = b"\x0b", b"\x1c", b"\r"
_TRAILER = END + CR
_AGAIN = START + b"MSH"
_NOISE = 64 * 1024
_BETWEEN = b"\r\n \t\x00\x1c"
_PATIENCE = 4


def frame(message: bytes) -> bytes:
    """Return `message` in its frame."""
    return START + message + END + CR


@dataclass(slots=True)
class Deframer:
    """Collects the bytes of one connection into messages.

    Parameters
    ----------
    limit : int
        Largest message in bytes. Of a longer one `limit` + 1 bytes are handed over, so that whoever
        receives it sees that it is too long and can still answer its header.
    """

    limit: int = 16 * 1024 * 1024
    abandoned: list[bytes] = field(default_factory=list)
    """What was cut short by the next frame; whoever reads it empties it."""
    _buffer: bytearray = field(default_factory=bytearray)
    _inside: bool = False
    _scanned: int = 0
    _dropped: int = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add received bytes; iterating gives the messages they complete.

        Raises
        ------
        Malformed
            While iterating: if the peer sends 64 kB without beginning a frame, or a frame goes
            on for four times the limit.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[bytes]:
        while True:
            if not self._inside:
                start = self._buffer.find(START)
                if start < 0:
                    # Line ends that some senders put between frames are no unfinished message.
                    if not self._buffer.strip(_BETWEEN):
                        self._buffer.clear()
                    if len(self._buffer) > _NOISE:
                        raise Malformed("64 kB arrived and no frame began: this is not MLLP")
                    return
                if noise := self._buffer[:start].strip(_BETWEEN):
                    self.abandoned.append(bytes(noise))
                del self._buffer[: start + 1]
                self._inside, self._scanned, self._dropped = True, 0, 0
            # A lone 0x1C inside a message is data; the trailer is 0x1C 0x0D.
            end = self._buffer.find(_TRAILER, max(0, self._scanned - 1))
            reach = end if end >= 0 else len(self._buffer)
            # A sender that gave up inside a frame and begins anew on the same connection: two
            # messages in one would mix two patients.
            again = self._buffer.rfind(_AGAIN, max(0, self._scanned - 3), reach)
            if again >= 0:
                self.abandoned.append(bytes(self._buffer[:again]))
                del self._buffer[: again + 1]
                self._scanned = self._dropped = 0
                continue
            if end >= 0:
                yield bytes(self._buffer[: min(end, self.limit + 1)])
                del self._buffer[: end + 2]
                self._inside = False
                continue
            self._drop()
            self._scanned = len(self._buffer)
            return

    def _drop(self) -> None:
        """Forget the middle of a message that is too long already."""
        kept = self.limit + 1
        # The last bytes may begin a trailer or a new frame.
        spare = len(self._buffer) - kept - len(_AGAIN)
        if spare > 0:
            del self._buffer[kept : kept + spare]
            self._dropped += spare
        if self._dropped > _PATIENCE * self.limit:
            raise Malformed(f"a frame went on for more than {_PATIENCE} times {self.limit} bytes")

    @property
    def pending(self) -> int:
        """Bytes received of what is not finished."""
        return len(self._buffer) + self._dropped

    @property
    def rest(self) -> bytes:
        """What is left of an unfinished message."""
        return bytes(self._buffer if self._inside else self._buffer.lstrip(_BETWEEN))
