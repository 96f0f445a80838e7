"""ADT and SIU segments → visits, merges and appointments that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models.errors import MissingField
from models.patient import Identifier, PersonName
from models.request import PatientRequest
from models.visit import AppointmentRequest, VisitRequest
from services.hl7.er7 import Message, Segment
from services.hl7.fields import read_identifiers, read_time, said
from services.hl7.mapping import VISIT
from services.hl7.requests import patient_of


def read_visit(message: Message) -> VisitRequest | None:
    """Read PV1, PV2 and PID-18; None where there is no PV1.

    Raises
    ------
    InvalidValue
        If a time is none.
    """
    pv1 = message.first("PV1")
    if pv1 is None:
        return None
    segments = {s.name: s for s in message.segments if s.name in {"PID", "PV1", "PV2"}}
    values = said(VISIT, segments, {}, [])
    issuer = values.get("admission_issuer")
    referring = values.get("referring")
    pid = segments.get("PID")
    return VisitRequest(
        number=values.get("admission_id") or "",
        authority=issuer.name if issuer else "",
        account=pid.optional(18) if pid else None,
        patient_class=values.get("patient_class"),
        location=values.get("location"),
        referring=str(referring) if isinstance(referring, PersonName) else referring,
        reason=values.get("visit_reason"),
        admitted_at=read_time(t, "PV1^1^44") if (t := pv1.get(44)) else None,
        discharged_at=read_time(t, "PV1^1^45") if (t := pv1.get(45)) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """One PID with the MRG behind it."""

    survivor: PatientRequest
    retired: tuple[Identifier, ...]
    number: int
    """Which MRG of the message it is."""
    prior_account: str
    prior_visit: str
    account: str
    visit: str


def read_merges(
    message: Message, default_authority: str, *, of_visits: bool = False
) -> list[MergeRequest]:
    """Read every PATIENT group of an ADT_A39, A30, A43 or A45 (v2.5.1 §3.3.40 and behind).

    Parameters
    ----------
    of_visits : bool
        Accounts or visits of one patient merge: MRG-1 need not repeat who that is.

    Raises
    ------
    MissingField
        If a group has no MRG-1 or no PID-3.
    """
    merges = []
    for number, (pid, mrg, pv1) in enumerate(_groups(message), 1):
        retired = () if mrg is None else tuple(read_identifiers(mrg, 1, default_authority))
        if mrg is None or (not retired and not of_visits):
            raise MissingField("MRG-1 has no identifier", location=f"MRG^{number}^1")
        merges.append(
            MergeRequest(
                survivor=patient_of(pid, default_authority, number),
                retired=retired,
                number=number,
                prior_account=mrg.get(3),
                prior_visit=mrg.get(5),
                account=pid.get(18),
                visit="" if pv1 is None else pv1.get(19),
            )
        )
    if not merges:
        raise MissingField("there is no PID segment", location="PID")
    return merges


def _groups(message: Message) -> Iterator[tuple[Segment, Segment | None, Segment | None]]:
    pid: Segment | None = None
    mrg: Segment | None = None
    pv1: Segment | None = None
    for segment in message.segments:
        if segment.name == "PID":
            if pid is not None:
                yield pid, mrg, pv1
            pid, mrg, pv1 = segment, None, None
        elif segment.name == "MRG" and pid is not None:
            if mrg is not None:
                # Several MRG under one PID: each is a merge of its own (ADT_A45).
                yield pid, mrg, pv1
                pv1 = None
            mrg = segment
        elif segment.name == "PV1":
            pv1 = segment
    if pid is not None:
        yield pid, mrg, pv1


def read_appointment(message: Message) -> AppointmentRequest:
    """Read SCH and the resources behind it (v2.5.1 §10.6).

    Raises
    ------
    MissingField
        If there is no SCH segment or it names no appointment.
    InvalidValue
        If a time is none.
    """
    sch = message.first("SCH")
    if sch is None:
        raise MissingField("there is no SCH segment", location="SCH")
    key = _named(sch, 2) or _named(sch, 1)
    if not key:
        raise MissingField("SCH-1 and SCH-2 name no appointment", location="SCH^1^2")
    ais, ail, obr = (message.first(name) for name in ("AIS", "AIL", "OBR"))
    aig, orc = message.first("AIG"), message.first("ORC")
    start, place = next(
        (
            (text, where)
            for text, where in (
                (ais.get(4) if ais else "", "AIS^1^4"),
                (sch.get(11, 4), "SCH^1^11^1^4"),
                (aig.get(8) if aig else "", "AIG^1^8"),
            )
            if text
        ),
        ("", ""),
    )
    placer = _named(sch, 26) or next((_named(s, 2) for s in (orc, obr) if s is not None), "")
    filler = _named(sch, 27) or next((_named(s, 3) for s in (orc, obr) if s is not None), "")
    return AppointmentRequest(
        key=key,
        start_at=read_time(start, place) if start else None,
        order_placer=placer,
        order_filler=filler,
        location=(ail.get(3, 9) or ail.get(3)) or None if ail else None,
        station=(aig.get(3) or None) if aig else None,
        sender=message.msh.get(3),
    )


def _named(segment: Segment, number: int) -> str:
    value, issuer = segment.get(number), segment.get(number, 2) or segment.get(number, 3)
    return f"{value}^{issuer}".rstrip("^") if value else ""
