"""Files as a hospital hands them over: HL7 with or without frames, DICOM, tar archives of either.

Read piece by piece: at no time is more than one message in memory, and no pixel.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, cast

from models.errors import SpinechoError
from services.hl7.er7 import parse
from services.hl7.standardising import Rewriting
from services.identity.audit.sightings import Sighting, in_message, in_object

_BEGIN: Final = re.compile(rb"(?:\A\xef\xbb\xbf|\A|(?<=[\r\n\x0b]))[ \t]*(?=(?:MSH|[FB]HS)[^\w\s])")
_BATCH: Final = (b"FHS", b"BHS")
_CHUNK: Final = 1 << 18
_PREFIX: Final = 132
"""Bytes before a DICOM file says that it is one (PS3.10 §7.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What was left out.

    Attributes
    ----------
    where
        Which file, and which message in it.
    reason
        Without anything that the file says.
    broken
        Whether it begins as a message or an object; false for what is neither.
    """

    where: str
    reason: str
    broken: bool = True


def read_files(
    paths: list[Path], *, limit: int, profiles: Rewriting | None = None
) -> Iterator[Sighting | Unread]:
    """Yield what every file below `paths` says, and what could not be read.

    Parameters
    ----------
    paths : list of Path
        Files and directories.
    limit : int
        Largest message in bytes.
    profiles : Rewriting, optional
        By which messages are read.
    """
    for path in paths:
        for file in _below(path):
            try:
                yield from _read(file, limit, profiles)
            except OSError as error:
                yield Unread(where=str(file), reason=f"cannot be read: {error.strerror or error}")


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for inner in sorted(path.iterdir()):
        if inner.is_dir() and not inner.is_symlink():
            yield from _below(inner)
        elif not inner.is_dir():
            yield inner


def _read(file: Path, limit: int, profiles: Rewriting | None) -> Iterator[Sighting | Unread]:
    with file.open("rb") as stream:
        known = _kind(stream)
        if known:
            yield from _opened(stream, str(file), limit, profiles)
            return
    if not tarfile.is_tarfile(file):
        yield Unread(where=str(file), reason="neither HL7 v2 nor DICOM", broken=False)
        return
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                inner = archive.extractfile(member) if member.isfile() else None
                if inner is not None:
                    where = f"{file}:{member.name}"
                    yield from _opened(cast("BinaryIO", inner), where, limit, profiles)
                archive.members = []  # type: ignore[attr-defined]  # it would keep one a file
    except (tarfile.TarError, EOFError) as error:
        yield Unread(where=str(file), reason=f"the archive is broken: {type(error).__name__}")


def _kind(stream: BinaryIO) -> str:
    head = stream.read(4096)
    stream.seek(0)
    if head[_PREFIX - 4 : _PREFIX] == b"DICM":
        return "dicom"
    return "hl7" if _BEGIN.search(head) else ""


def _opened(
    stream: BinaryIO, where: str, limit: int, profiles: Rewriting | None
) -> Iterator[Sighting | Unread]:
    kind = _kind(stream)
    if kind == "dicom":
        try:
            found = in_object(stream, where)
            yield found or Unread(where=where, reason="a DICOMDIR", broken=False)
        except SpinechoError as error:
            yield Unread(where=where, reason=str(error))
        except Exception as error:  # noqa: BLE001 (pydicom names none of what it raises)
            yield Unread(where=where, reason=f"a broken DICOM file: {type(error).__name__}")
    elif kind == "hl7":
        for number, raw in enumerate(messages_in(stream, limit), 1):
            yield from read_message(raw, f"{where}#{number}", limit=limit, profiles=profiles)
    else:
        yield Unread(where=where, reason="neither HL7 v2 nor DICOM", broken=False)


def read_message(
    raw: bytes, where: str, *, limit: int, profiles: Rewriting | None = None
) -> Iterator[Sighting | Unread]:
    """Yield what one message says, read by its sender's profile, or why it cannot be read."""
    if len(raw) > limit:
        yield Unread(where=where, reason=f"longer than {limit} bytes")
        return
    try:
        message = parse(raw)
        if profiles is not None:
            message = profiles.standardised(message, raw).message
        yield from in_message(message, where)
    except SpinechoError as error:
        yield Unread(where=where, reason=str(error))


def messages_in(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Split a file into its messages: one behind the other, in MLLP frames, or in a batch.

    Parameters
    ----------
    stream : BinaryIO
    limit : int
        Of a longer message `limit` + 1 bytes are handed over.
    """
    held, more = bytearray(), True
    while more:
        data = stream.read(_CHUNK)
        more = bool(data)
        held += data
        # What could still be the beginning of a header waits for the next piece.
        ready = len(held) - 64 if more else len(held)
        starts = [m.end() for m in _BEGIN.finditer(held) if m.end() < ready]
        for begin, end in pairwise(starts):
            yield from _whole(held[begin:end], limit)
        if starts:
            del held[: starts[-1]]
        if len(held) > limit + _CHUNK:
            del held[limit + 1 : len(held) - 64]
    yield from _whole(held, limit)


def _whole(part: bytearray, limit: int) -> Iterator[bytes]:
    message = bytes(part[: limit + 1]).rstrip(b"\r\n\x0b\x1c\x00 \t")
    if message and not message.startswith(_BATCH):
        yield message
