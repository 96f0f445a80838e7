"""Media types (PS3.18 §8.7): what a client accepts, and multipart bodies."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Final

from models.errors import NotAcceptable

ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One media range of an Accept header.

    Parameters
    ----------
    type : str
        The type itself, or that of the parts of a ``multipart/related``; ``*/*`` for anything.
    multipart : bool
    transfer_syntax : str
        A UID, ``*`` for "as it is stored", or empty when it was not said.
    """

    type: str
    multipart: bool = False
    transfer_syntax: str = ""
    quality: float = 1.0
    free: bool = False
    """Whether the client left the choice of the type to us."""


def accepted(header: str | None, parameter: str | None = None) -> list[Accepted]:
    """Read an Accept header, the most wanted first.

    Parameters
    ----------
    header : str, optional
        None or empty accepts anything.
    parameter : str, optional
        The ``accept`` query parameter, which browsers' links use; it wins (PS3.18 §8.3.3.1).
    """
    text = parameter or header or "*/*"
    ranges = [_one(part) for part in _split(text) if part.strip()]
    return sorted(ranges, key=lambda r: -r.quality)


def _split(text: str) -> Iterator[str]:
    # commas inside quotes do not separate
    part, quoted = "", False
    for char in text:
        quoted ^= char == '"'
        if char == "," and not quoted:
            yield part
            part = ""
        else:
            part += char
    yield part


def _one(text: str) -> Accepted:
    message = Message()
    message["content-type"] = text.strip()
    parameters = {str(k).lower(): str(v) for k, v in (message.get_params() or [])[1:]}
    kind = text.partition(";")[0].strip().lower()
    multipart = kind == "multipart/related"
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        quality = 0.0
    return Accepted(
        type=parameters.get("type", kind).strip('"').lower() if multipart else kind,
        multipart=multipart,
        transfer_syntax=parameters.get("transfer-syntax", "").strip('"'),
        quality=quality,
    )


def choose(ranges: Iterable[Accepted], types: tuple[str, ...], *, single: bool = False) -> Accepted:
    """Return the first range that asks for one of `types`, or for anything.

    Parameters
    ----------
    single : bool
        Whether a body that is not multipart can be sent.

    Raises
    ------
    NotAcceptable
    """
    for wanted in ranges:
        if wanted.quality <= 0:
            continue
        family, _, kind = wanted.type.partition("/")
        free = kind == "*" or wanted.type == "multipart/related"
        for offered in types if free else ():
            if family in ("*", "multipart", offered.partition("/")[0]):
                return Accepted(
                    type=offered,
                    multipart=True,
                    transfer_syntax=wanted.transfer_syntax,
                    free=True,
                )
        if wanted.type in types and (wanted.multipart or single):
            return wanted
    raise NotAcceptable(f"can be sent: {', '.join(types)}", location="Accept")


class Multipart:
    """One ``multipart/related`` body (RFC 2387), written part by part.

    Parameters
    ----------
    kind : str
        Media type of the parts, repeated in the ``type`` parameter.
    """

    def __init__(self, kind: str) -> None:
        # 128 random bits: whatever the pixels are, they do not contain it
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{kind}"; boundary={self._boundary}'

    def body(self, parts: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
        """Yield the body; each part is a content type and its bytes in pieces."""
        for content_type, pieces in parts:
            yield f"--{self._boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
            yield from pieces
            yield b"\r\n"
        yield f"--{self._boundary}--\r\n".encode()
