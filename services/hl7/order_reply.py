"""Application-level answers to an order message: ORR^O02, ORG^O20 and ORI^O24.

HL7 v2.5.1 §4.4.2, §4.4.5 and §4.4.11: the acknowledgement, and for each order what was done with it
(ORC-1, HL70119). IHE RAD is content with the acknowledgement alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from models.order import Order
from models.order_status import standing
from models.study import Study
from services.hl7.er7 import Delimiters, Message, Segment, escape, parse, unescape
from services.hl7.segments import filler_number, joined, placer_number, segment

REPLIES: Final = {
    "ORM^O01": ("ORR", "O02", "ORR_O02"),
    "OMG^O19": ("ORG", "O20", "ORG_O20"),
    "OMI^O23": ("ORI", "O24", "ORI_O24"),
}
"""MSH-9.1 and MSH-9.2 of an order message → MSH-9 of its answer."""

_DONE: Final = {
    "NW": ("OK", "UA"),
    "XO": ("XR", "UX"),
    "CA": ("CR", "UC"),
    "DC": ("DR", "UD"),
    "RP": ("RQ", "UM"),
    "RO": ("RO", "UM"),
    "HD": ("HR", "UH"),
    "RL": ("OR", "UR"),
    "SS": ("SR", "SR"),
}
"""ORC-1 as asked → as answered when it was done, and when it was not (HL70119)."""
_OTHERWISE: Final = ("OK", "UA")

Known = Callable[[str, str], tuple[Order, Study] | None]
"""Placer order number and authority → what we have under it."""


@dataclass(frozen=True, slots=True)
class _Group:
    orc: Segment
    rest: tuple[Segment, ...]

    def first(self, name: str) -> Segment | None:
        return next((s for s in self.rest if s.name == name), None)


def answer_with_orders(message: Message, acknowledgement: bytes, known: Known) -> bytes:
    """Return the acknowledgement as the answer that an order message has of its own.

    Parameters
    ----------
    message : Message
        What was sent.
    acknowledgement : bytes
        The application acknowledgement that is due; a commit acknowledgement stays one.
    known : callable
        Finds an order and its study, as they are now.

    Returns
    -------
    bytes
        `acknowledgement` itself for what is no order message, for one in which nothing is ours, and
        where a number cannot be written in the character set that the sender declared.
    """
    reply = parse(acknowledgement)
    msa = reply.first("MSA")
    code = msa.get(1) if msa else ""
    if message.type not in REPLIES or not code.startswith("A"):
        return acknowledgement
    lines = [
        line
        for number, group in enumerate(_groups(message), 1)
        for line in _order(message.type, group, number, known, accepted=code == "AA")
    ]
    if not lines:
        return acknowledgement
    head, _, body = acknowledgement.partition(b"\r")
    fields = head.split(b"|")
    # Where the acknowledgement names no structure, the version does not know them.
    parts = REPLIES[message.type][: max(2, fields[8].count(b"^") + 1)]
    fields[8] = "^".join(parts).encode()
    try:
        told = "".join(f"{line}\r" for line in lines).encode(reply.delimiters.codec)
    except UnicodeEncodeError:
        return acknowledgement
    return b"|".join(fields) + b"\r" + body + told


def _groups(message: Message) -> Iterator[_Group]:
    starts = [n for n, s in enumerate(message.segments) if s.name == "ORC"]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        yield _Group(message.segments[start], message.segments[start + 1 : end])


def _order(kind: str, group: _Group, number: int, known: Known, *, accepted: bool) -> Iterator[str]:
    asked = group.orc.get(1)
    said = _DONE.get(asked, _OTHERWISE)[0 if accepted else 1]
    found = known(group.orc.get(2), group.orc.get(2, 2))
    if found is None:
        if not accepted:
            yield from _unknown(kind, group, said, number, asked=asked)
        return
    order, study = found
    numbers = {2: placer_number(order), 3: filler_number(order)}
    yield segment("ORC", {1: said, **numbers, 5: standing(order, study.state).order})
    code = order.procedure
    service = joined(code.value, code.meaning, code.scheme)
    accession = escape(order.accession)
    yield segment("OBR", {1: str(number), **numbers, 4: service, 18: accession})
    if kind == "OMI^O23":
        for step in order.steps:
            yield segment(
                "IPC",
                {
                    1: accession,
                    2: escape(order.requested_procedure_id),
                    3: escape(study.study_uid),
                    4: escape(step.sps_id),
                    5: escape(step.modality),
                },
            )


def _unknown(kind: str, group: _Group, said: str, number: int, *, asked: str) -> Iterator[str]:
    """Answer for an order that we do not have, with the numbers that its placer gave."""
    numbers = {n: _echo(group.orc, n) for n in (2, 3)}
    # HL70038 has a status for what a status request does not find.
    yield segment("ORC", {1: said, **numbers, **({5: "ER"} if asked == "SS" else {})})
    obr, ipc = group.first("OBR"), group.first("IPC")
    if obr is not None:
        yield segment("OBR", {1: str(number), **numbers, 4: _echo(obr, 4)})
    if kind == "OMI^O23" and ipc is not None:
        yield segment("IPC", {n: _echo(ipc, n) for n in range(1, 5)})


def _echo(source: Segment, number: int) -> str:
    """Return the first repetition of a field in our own delimiters."""
    own = source.delimiters
    raw = source.raw(number).split(own.repetition, 1)[0]
    if own == Delimiters():
        return raw
    return "^".join(
        "&".join(escape(unescape(part, own)) for part in component.split(own.subcomponent))
        for component in raw.split(own.component)
    )
