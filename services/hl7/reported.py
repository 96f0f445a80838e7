"""ORU^R01 from other systems (HL7 v2.5.1 §7.3.1): which exam is reported, and how it stands."""

from __future__ import annotations

from typing import Final

from models.errors import MissingField
from models.external_result import CRITICAL, ExternalResult
from services.hl7.er7 import Message, Segment
from services.hl7.fields import is_uid, read_time

_STUDY_UID: Final = frozenset({"113014", "110180"})
"""DCM codes for Study Instance UID in OBX-3."""
_LABORATORY: Final = frozenset(
    {"2160-0", "33914-3", "48642-3", "48643-1", "50044-7", "62238-1", "77147-7", "98979-8"}
)
"""LOINC: creatinine, and glomerular filtration rates estimated from it."""


def read_results(message: Message) -> list[ExternalResult]:
    """Read every OBR with its OBX segments.

    Raises
    ------
    MissingField
        If there is no OBR.
    InvalidValue
        If its time is none.
    """
    groups: list[tuple[Segment, list[Segment]]] = []
    for segment in message.segments:
        if segment.name == "OBR":
            groups.append((segment, []))
        elif segment.name == "OBX" and groups:
            groups[-1][1].append(segment)
    if not groups:
        raise MissingField("there is no OBR segment", location="OBR")
    orc = message.first("ORC")
    return [_result(message, orc, obr, obxs, n) for n, (obr, obxs) in enumerate(groups, 1)]


def is_laboratory(message: Message) -> bool:
    """Tell whether every observation is a kidney value: a laboratory's, not an exam's."""
    coded = {(obx.get(3), obx.get(3, 2).upper()) for obx in message.all("OBX")}
    return bool(coded) and all(
        code in _LABORATORY or "CREATININE" in text or "EGFR" in text for code, text in coded
    )


def _result(
    message: Message, orc: Segment | None, obr: Segment, obxs: list[Segment], number: int
) -> ExternalResult:
    uid = next((obx.get(5) for obx in obxs if obx.get(3) in _STUDY_UID), "")
    zds = message.first("ZDS")
    if not uid and zds is not None:
        uid = zds.get(1)
    placed = obr if obr.get(2) or orc is None else orc
    flags = {obx.part(flag, 1) for obx in obxs for flag in obx.repetitions(8)}
    states = [obx.get(11) for obx in obxs if obx.get(11)]
    observed = obr.get(22) or obr.get(7)
    where = f"OBR^{number}^{22 if obr.get(22) else 7}"
    return ExternalResult(
        study_uid=uid if is_uid(uid) else "",
        accession=obr.get(18),
        placer_number=placed.get(2),
        placer_authority=placed.get(2, 2) or placed.get(2, 3),
        filler_number=obr.get(3) or (orc.get(3) if orc else ""),
        sender=message.msh.get(3),
        status=obr.get(25) or (states[0] if states else ""),
        procedure=obr.get(4, 2) or obr.get(4),
        author=_author(obr),
        critical=bool(flags & CRITICAL),
        observed_at=read_time(observed, where) if observed else None,
    )


def _author(obr: Segment) -> str:
    # NDL-1 is a CNN: its parts stand in subcomponents; many send an XCN instead.
    family, given = obr.get(32, 1, 2), obr.get(32, 1, 3)
    if not family:
        family, given = obr.get(32, 2), obr.get(32, 3)
    return f"{family}^{given}".rstrip("^")
