"""HL7 segments → the patient and the orders that are asked for, as `mapping` says.

An ORC/OBR pair is one scheduled step in v2.3.1 and one requested procedure in v2.5.1, where each
IPC is a step. Pairs that mean the same requested procedure become one request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from models.errors import InvalidValue, MissingField
from models.order_control import CONTROLS, RULES, OrderAction
from models.request import Deleted, OrderRequest, PatientRequest, StepRequest
from services.hl7.acknowledgement import NotInTable
from services.hl7.er7 import NULL, Message, Segment
from services.hl7.fields import is_uid, read_identifiers, said
from services.hl7.mapping import ORDER, PATIENT, STEP

ORDER_TYPES = frozenset({"ORM^O01", "OMI^O23", "OMG^O19"})
NOT_IMAGING = frozenset(
    {"AU", "BG", "BLB", "CH", "CP", "CTH", "EC", "EN", "HM", "ICU", "IMM", "LAB", "MB", "MCB"}
    | {"MYC", "OSL", "OT", "PF", "PHR"}
)
"""OBR-24 diagnostic service sections (HL70074) that no modality serves."""
_NEEDS: Final = {
    "A1": "walks with an assistive device",
    "A2": "wheelchair or stretcher",
    "A3": "comatose",
    "A4": "disoriented",
    "A5": "vision impaired",
    "A6": "hearing impaired",
    "A7": "speech impaired",
    "A8": "needs an interpreter",
    "B1": "oxygen therapy",
    "B2": "special equipment (tubes, IVs, catheters)",
    "B3": "amputee",
    "B4": "mastectomy",
    "B5": "paraplegic",
}
"""HL70009 without A0 and A9, which ask for nothing, and B6, which is Pregnancy Status."""
_WEIGHT: Final = frozenset({"BW", "BODY WEIGHT", "3141-9", "29463-7"})
_HEIGHT: Final = frozenset({"BH", "BODY HEIGHT", "3137-7", "8302-2"})
_KG: Final = {"KG": 1.0, "G": 0.001, "LB": 0.45359237, "[LB_AV]": 0.45359237}
_M: Final = {"M": 1.0, "CM": 0.01, "[IN_I]": 0.0254}


def read_patient(message: Message, default_authority: str) -> PatientRequest:
    """Read PID, and the NTE behind it.

    Raises
    ------
    MissingField
        If PID or every identifier in PID-3 is absent.
    InvalidValue
        If two PID segments disagree: nothing is attached to either.
    """
    pids = list(message.all("PID"))
    if not pids:
        raise MissingField("there is no PID segment", location="PID")
    if len({(p.raw(3), p.raw(5)) for p in pids}) > 1:
        raise InvalidValue("two PID segments name different patients", location="PID^2")
    request = patient_of(pids[0], default_authority)
    notes = _behind(message, "PID", "NTE")
    if notes:
        comments = "\n".join(t for note in notes if (t := note.get(3)) and t != NULL)
        request = replace(request, comments=comments)
    return request


def patient_of(pid: Segment, default_authority: str, number: int = 1) -> PatientRequest:
    """Read one PID segment, the `number`-th of its message.

    Raises
    ------
    MissingField
        If PID-3 has no identifier.
    """
    identifiers = tuple(read_identifiers(pid, 3, default_authority))
    if not identifiers:
        raise MissingField("PID-3 has no identifier", location=f"PID^{number}^3")
    sex = pid.optional(8)
    return PatientRequest(
        identifiers=identifiers,
        sex=None if sex is None else sex if sex in {"M", "F", "O", ""} else "O",
        **said(PATIENT, {"PID": pid}, {"PID": number}, []),
    )


def read_orders(message: Message) -> list[OrderRequest]:
    """Read every requested procedure, with its steps.

    Raises
    ------
    MissingField, InvalidValue, NotInTable, TooLong
        Naming the place as an ERL, such as ``OBR^1^18``.
    """
    pairs = _pairs(message)
    if not pairs:
        raise MissingField("there is no ORC segment", location="ORC")
    shared = _shared(message)
    merged: dict[tuple[str, ...], OrderRequest] = {}
    requests = [_read_pair(message, pair, shared) for pair in pairs]
    placers = [(r.placer_number, r.placer_authority) for r in requests]
    for number, request in enumerate(requests, 1):
        procedure = (request.accession or "", request.requested_procedure_id or "")
        if not any(procedure) and request.procedure is not None:
            procedure = (request.procedure.value, request.procedure.meaning)
        key = (request.control, *placers[number - 1], *procedure)
        known = merged.get(key)
        merged[key] = request if known is None else _joined(known, request, number)
    found = list(merged.values())
    if len(found) == 1 and found[0].study_uid is None and (zds := message.first("ZDS")):
        # It may stand before the pair that it belongs to; with one procedure there is no doubt.
        uid = _uid(zds.optional(1), warnings := list(found[0].warnings))
        found = [replace(found[0], study_uid=uid, warnings=tuple(warnings))]
    return [_told_apart(request, found) for request in found]


def is_imaging(message: Message) -> bool:
    """Tell whether any OBR-24 may be served by a modality."""
    sections = {obr.get(24) for obr in message.all("OBR")}
    return not sections or not sections <= NOT_IMAGING


def read_allergies(segments: Iterable[Segment]) -> str | None:
    """Read AL1-3 or IAM-3, in words; empty when the list is to be emptied."""
    stated = list(segments)
    named = [t for s in stated if (t := s.get(3, 2) or s.get(3)) and t != NULL]
    if named:
        return "; ".join(dict.fromkeys(named))
    return "" if any(s.raw(3) == NULL for s in stated) else None


@dataclass(slots=True)
class _Pair:
    """One ORC with one OBR and what belongs to them."""

    orc: Segment
    number: int
    """Which ORC of the message it is."""
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)


def _pairs(message: Message) -> list[_Pair]:
    pairs: list[_Pair] = []
    counted: dict[str, int] = {}
    for segment in message.segments:
        name = segment.name
        counted[name] = counted.get(name, 0) + 1
        if name == "ORC":
            pairs.append(_Pair(segment, counted[name]))
        elif not pairs:
            continue
        elif name == "OBR" and "OBR" in pairs[-1].segments:
            # A second OBR under the same ORC: another pair, at the time of the first one.
            last = pairs[-1]
            timed = {"TQ1": last.segments["TQ1"]} if "TQ1" in last.segments else {}
            pairs.append(_Pair(last.orc, last.number, timed, {"TQ1": counted.get("TQ1", 1)}))
        pairs[-1].segments.setdefault(name, []).append(segment)
        pairs[-1].numbers.setdefault(name, counted[name])
    return pairs


def _shared(message: Message) -> dict[str, Any]:
    """Read what the message says once for all its orders."""
    pv1 = message.first("PV1")
    stated = [] if pv1 is None else [pv1.part(r, 1) for r in pv1.repetitions(15)]
    values: dict[str, Any] = {"allergies": read_allergies(message.all("AL1"))}
    if pv1 is not None and pv1.raw(15) == NULL:
        values |= {"pregnancy_status": "", "special_needs": ""}
    elif stated:
        needs = [_NEEDS[code] for code in stated if code in _NEEDS]
        values["special_needs"] = "; ".join(needs) or None
        # B6 is pregnant (HL70009); silence is not "no".
        values["pregnancy_status"] = 3 if "B6" in stated else None
    return values


def _read_pair(message: Message, pair: _Pair, shared: dict[str, Any]) -> OrderRequest:
    orc, at = pair.orc, pair.number
    control, status = orc.get(1), orc.get(5)
    action = _action(control, "" if status == NULL else status, at)
    segments = {name: listed[0] for name, listed in pair.segments.items()}
    segments["ORC"] = orc
    for name in ("PID", "PV1", "PV2"):
        if (segment := message.first(name)) is not None:
            segments[name] = segment
    numbers = {**pair.numbers, "ORC": at}
    obr, ipcs, zds = segments.get("OBR"), pair.segments.get("IPC", []), segments.get("ZDS")
    placed_at = orc if orc.get(2) or obr is None else obr
    placer = placed_at.get(2)
    if not placer and action not in _BY_FILLER:
        raise MissingField("the placer order number is absent", location=f"ORC^{at}^2")
    warnings: list[str] = []
    values = {**shared, **said(ORDER, segments, numbers, warnings)}
    if "procedure" in values and values["procedure"] == "":
        raise MissingField("an order needs a procedure", location=f"OBR^{numbers['OBR']}^4")
    if len({ipc.get(3) for ipc in ipcs}) > 1:
        raise InvalidValue(
            "one requested procedure has one Study Instance UID",
            location=f"IPC^{numbers['IPC'] + 1}^3",
        )
    uid = ipcs[0].optional(3) if ipcs else None
    values["study_uid"] = _uid(uid or (zds.optional(1) if zds else None), warnings)
    for name in ("accession", "requested_procedure_id"):
        # What identifies an order cannot be deleted, and `""` there says nothing.
        values[name] = values.get(name) or None
    observed = pair.segments.get("OBX", [])
    return OrderRequest(
        action=action,
        control=control,
        placer_number=placer,
        placer_authority=placed_at.get(2, 2) or placed_at.get(2, 3),
        parent_number=orc.get(8),
        parent_authority=orc.get(8, 1, 2) or orc.get(8, 1, 3),
        weight_kg=_measured(observed, _WEIGHT, _KG),
        height_m=_measured(observed, _HEIGHT, _M),
        status=orc.optional(5),
        sender=message.msh.get(3),
        steps=tuple(_steps(segments, ipcs, numbers, warnings)),
        warnings=tuple(warnings),
        **values,
    )


_BY_FILLER: Final = frozenset({OrderAction.NOTE})


def _action(control: str, status: str, at: int) -> OrderAction:
    if control not in CONTROLS:
        raise NotInTable(
            f"ORC-1 {control[:4]!r} is not an order control that is served here",
            location=f"ORC^{at}^1",
        )
    rule = RULES.get((control, status))
    if rule is None:
        raise NotInTable(
            f"nothing is agreed on ORC-1 {control} with ORC-5 {status[:4]!r}",
            location=f"ORC^{at}^5",
        )
    return rule.action


def _steps(
    segments: dict[str, Segment], ipcs: list[Segment], numbers: dict[str, int], warnings: list[str]
) -> list[StepRequest]:
    if not ipcs:
        return [StepRequest(**said(STEP, segments, numbers, warnings))]
    first = numbers["IPC"]
    return [
        StepRequest(**said(STEP, {**segments, "IPC": ipc}, {**numbers, "IPC": first + n}, warnings))
        for n, ipc in enumerate(ipcs)
    ]


def _joined(known: OrderRequest, more: OrderRequest, number: int) -> OrderRequest:
    """Add the steps of a further pair that asks for the same requested procedure."""
    if known.study_uid and more.study_uid and known.study_uid != more.study_uid:
        raise InvalidValue(
            "one requested procedure has one Study Instance UID", location=f"ORC^{number}^2"
        )
    filled = {
        f.name: value
        for f in fields(OrderRequest)
        if getattr(known, f.name) is None and (value := getattr(more, f.name)) is not None
    }
    return replace(
        known,
        steps=known.steps + more.steps,
        warnings=tuple(dict.fromkeys(known.warnings + more.warnings)),
        **filled,
    )


def _told_apart(request: OrderRequest, found: list[OrderRequest]) -> OrderRequest:
    # Several procedures under one placer number need numbers of their own to be found again.
    siblings = sum(
        (r.placer_number, r.placer_authority) == (request.placer_number, request.placer_authority)
        for r in found
    )
    if siblings > 1 and request.requested_procedure_id is None and request.accession is not None:
        return replace(request, requested_procedure_id=request.accession)
    return request


def _uid(text: str | None, warnings: list[str]) -> str | None:
    if text and not is_uid(text):
        warnings.append("the Study Instance UID sent is no UID; one of ours takes its place")
        return None
    return text or None


def _behind(message: Message, before: str, name: str) -> list[Segment]:
    found: list[Segment] = []
    inside = False
    for segment in message.segments:
        if segment.name == name and inside:
            found.append(segment)
        else:
            inside = segment.name == before or (inside and segment.name == "PD1")
    return found


def _measured(
    observed: list[Segment], names: frozenset[str], units: dict[str, float]
) -> float | Deleted | None:
    for obx in observed:
        if names.isdisjoint({obx.get(3).upper(), obx.get(3, 2).upper()}):
            continue
        if obx.raw(5) == NULL:
            return ""
        if (unit := obx.get(6).upper()) in units:
            try:
                return round(float(obx.get(5)) * units[unit], 3)
            except ValueError:
                return None
    return None
