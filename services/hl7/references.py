"""What a message is found by: the patient's and the order's numbers that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.hl7.er7 import Message

MRN: Final = "mrn"
ACCESSION: Final = "accession"
Reference = tuple[str, str]
"""(kind, value)"""

_MOST: Final = 32
"""More numbers than any real message names; a hostile one must not fill the index."""


def references(*messages: Message) -> list[Reference]:
    """Return every PID-3, MRG-1, IPC-1 and OBR-18 of the messages, without repetition."""
    found = dict.fromkeys(one for message in messages for one in _named(message))
    return list(found)[:_MOST]


def _named(message: Message) -> Iterator[Reference]:
    for segment in message.segments:
        number = {"PID": 3, "MRG": 1}.get(segment.name)
        if number is not None:
            for repetition in segment.repetitions(number):
                if value := segment.part(repetition, 1):
                    yield MRN, value
        number = {"IPC": 1, "OBR": 18}.get(segment.name)
        if number is not None and (value := segment.get(number)):
            yield ACCESSION, value
