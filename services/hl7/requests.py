"""HL7 segments → what is asked for (IHE RAD TF-2 App. B, as STANDARDS §1.2 lists it).

Both IHE options are read: v2.3.1 (ORM^O01 with ZDS, OBR-18 to -20) and v2.5.1 (OMI^O23 with IPC
and TQ1); a mixture is read too, the more specific place first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

from models.errors import InvalidValue, MissingField
from models.order import Code
from models.patient import Identifier, PersonName
from models.priority import HL7_PRIORITY, Priority
from models.request import OrderControl, OrderRequest, PatientRequest, StepRequest
from services.hl7.acknowledgement import TooLong
from services.hl7.er7 import Message, Segment

ORDER_TYPES = frozenset({"ORM^O01", "OMI^O23", "OMG^O19"})
NOT_IMAGING = frozenset(
    {"AU", "BG", "BLB", "CH", "CP", "CTH", "EC", "EN", "HM", "ICU", "IMM", "LAB", "MB", "MCB"}
    | {"MYC", "OSL", "OT", "PF", "PHR"}
)
"""OBR-24 diagnostic service sections (HL70074) that no modality serves."""
_UID = re.compile(r"(?=.{1,64}$)(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+$")
_TIME = re.compile(
    r"(?P<y>\d{4})(?P<mo>\d\d)?(?P<d>\d\d)?(?P<h>\d\d)?(?P<mi>\d\d)?(?P<s>\d\d)?"
    r"(?:\.\d+)?(?P<z>[+-]\d{4})?$"
)


def is_uid(text: str) -> bool:
    """Tell whether `text` is a DICOM UID (PS3.5 §9.1)."""
    return _UID.match(text) is not None


def read_time(text: str, location: str) -> datetime:
    """Read an HL7 TS/DTM (v2.5.1 §2.A.22) as UTC; without an offset it is local time.

    Raises
    ------
    InvalidValue
        If it is no date, naming `location`.
    """
    wrong = InvalidValue(
        f"expected YYYYMMDDHHMMSS, got {len(text)} other characters", location=location
    )
    match = _TIME.match(text)
    if match is None:
        raise wrong
    try:
        parts = {k: int(v) for k, v in match.groupdict().items() if v and k != "z"}
        moment = datetime(  # noqa: DTZ001 (the zone is settled two lines below)
            parts["y"],
            parts.get("mo", 1),
            parts.get("d", 1),
            parts.get("h", 0),
            parts.get("mi", 0),
            parts.get("s", 0),
        )
        if zone := match["z"]:
            sign = -1 if zone[0] == "-" else 1
            offset = sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
            return moment.replace(tzinfo=timezone(offset)).astimezone(UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong from None


def read_patient(message: Message, default_authority: str) -> PatientRequest:
    """Read PID.

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
    pid = pids[0]
    identifiers = tuple(read_identifiers(pid, 3, default_authority))
    if not identifiers:
        raise MissingField("PID-3 has no identifier", location="PID^1^3")
    born = pid.optional(7)
    birth_date: date | None = None
    if born:
        read_time(born, "PID^1^7")  # refuses what is no date
        birth_date = _date(born)
    sex = pid.optional(8)
    return PatientRequest(
        identifiers=identifiers,
        name=_name(pid, 5),
        birth_date=birth_date,
        sex=None if sex is None else sex if sex in {"M", "F", "O", ""} else "O",
    )


def read_identifiers(segment: Segment, number: int, default_authority: str) -> Iterable[Identifier]:
    """Read a repeated CX field: value, assigning authority, type."""
    seen = set()
    for repetition in segment.repetitions(number):
        value = segment.part(repetition, 1)
        authority = segment.part(repetition, 4) or default_authority
        if value and (value, authority) not in seen:
            seen.add((value, authority))
            yield Identifier(
                value=value, authority=authority, type=segment.part(repetition, 5) or "MR"
            )


def read_orders(message: Message) -> list[OrderRequest]:
    """Read every ORC/OBR group.

    Raises
    ------
    MissingField, InvalidValue, TooLong
        Naming the place as an ERL, such as ``OBR^1^18``.
    """
    groups = _groups(message)
    if not groups:
        raise MissingField("there is no ORC segment", location="ORC")
    return [_read_order(message, group) for group in groups]


def is_imaging(message: Message) -> bool:
    """Tell whether any OBR-24 may be served by a modality."""
    sections = {obr.get(24) for obr in message.all("OBR")}
    return not sections or not sections <= NOT_IMAGING


def _groups(message: Message) -> list[dict[str, list[Segment]]]:
    groups: list[dict[str, list[Segment]]] = []
    for segment in message.segments:
        if segment.name == "ORC":
            groups.append({})
        if groups:
            groups[-1].setdefault(segment.name, []).append(segment)
    return groups


def _read_order(message: Message, group: dict[str, list[Segment]]) -> OrderRequest:
    orc = group["ORC"][0]
    obr = (group.get("OBR") or [Segment("OBR", ("OBR",), orc.delimiters)])[0]
    pv1 = message.first("PV1") or Segment("PV1", ("PV1",), orc.delimiters)
    ipcs = group.get("IPC", [])
    tq1 = (group.get("TQ1") or [Segment("TQ1", ("TQ1",), orc.delimiters)])[0]
    try:
        control = OrderControl(orc.get(1))
    except ValueError:
        raise InvalidValue(
            f"ORC-1 {orc.get(1)[:4]!r} is not an order control that is served here",
            location="ORC^1^1",
        ) from None
    placer = orc.get(2) or obr.get(2)
    if not placer:
        raise MissingField("the placer order number is absent", location="ORC^1^2")
    accession, accession_at = _pick(
        (ipcs[0].optional(1) if ipcs else None, "IPC^1^1"), (obr.optional(18), "OBR^1^18")
    )
    procedure_id, procedure_at = _pick(
        (ipcs[0].optional(2) if ipcs else None, "IPC^1^2"), (obr.optional(19), "OBR^1^19")
    )
    # Two orders could collide under a cut accession number; every other number of ours may stand
    # in for one that does not fit, with a warning on the timeline.
    if accession and len(accession) > 16:
        raise TooLong(f"{len(accession)} characters; DICOM SH allows 16", location=accession_at)
    warnings: list[str] = []
    procedure_id = _short(procedure_id, procedure_at, warnings)
    zds = next(iter(group.get("ZDS", ())), None) or message.first("ZDS")
    study_uid, _ = _pick(
        (ipcs[0].optional(3) if ipcs else None, ""), (zds.optional(1) if zds else None, "")
    )
    if study_uid and not is_uid(study_uid):
        warnings.append("the Study Instance UID sent is no UID; one of ours takes its place")
        study_uid = None
    urgency = tq1.get(9) or orc.get(7, 6) or obr.get(27, 6)
    return OrderRequest(
        control=control,
        placer_number=placer,
        placer_authority=orc.get(2, 2) or obr.get(2, 2),
        filler_number=orc.optional(3) or obr.optional(3),
        accession=accession or None,
        study_uid=study_uid or None,
        requested_procedure_id=procedure_id or None,
        procedure=_code(obr, 44) or _code(obr, 4),
        priority=HL7_PRIORITY.get(urgency.upper(), Priority.ROUTINE) if urgency else None,
        reason=obr.optional(31, 2) or obr.optional(31),
        referring=_name(pv1, 8, offset=1),
        requesting=_name(obr, 16, offset=1) or _name(orc, 12, offset=1),
        patient_class=pv1.optional(2),
        location=pv1.optional(3),
        admission_id=pv1.optional(19),
        transport=obr.optional(30),
        confidentiality=orc.optional(28),
        medical_alerts=obr.optional(13),
        allergies=_allergies(message),
        # B6 is pregnant (HL70009); silence is not "no".
        pregnancy_status=3 if "B6" in pv1.repetitions(15) else None,
        weight_kg=_measured(group, ("BW", "BODY WEIGHT"), {"kg": 1.0, "g": 0.001}),
        height_m=_measured(group, ("BH", "BODY HEIGHT"), {"m": 1.0, "cm": 0.01}),
        status=orc.optional(5),
        sender=message.msh.get(3),
        steps=tuple(_steps(orc, obr, tq1, ipcs, warnings)),
        warnings=tuple(warnings),
    )


def _steps(
    orc: Segment, obr: Segment, tq1: Segment, ipcs: list[Segment], warnings: list[str]
) -> list[StepRequest]:
    start, place = _pick(
        (tq1.optional(7), "TQ1^1^7"),
        (orc.optional(7, 4), "ORC^1^7^1^4"),
        (obr.optional(27, 4), "OBR^1^27^1^4"),
        (obr.optional(36), "OBR^1^36"),
    )
    common = StepRequest(
        start_at=read_time(start, place) if start else None,
        sps_id=_short(obr.optional(20), "OBR^1^20", warnings),
        modality=obr.optional(24),
        station_aet=_short(orc.optional(18), "ORC^1^18", warnings),
        description=obr.optional(4, 5) or obr.optional(4, 2),
        performing=_performing(obr),
    )
    if not ipcs:
        return [common]
    return [
        replace(
            common,
            sps_id=_short(ipc.optional(4), f"IPC^{n}^4", warnings) or common.sps_id,
            modality=ipc.optional(5) or common.modality,
            protocol=_code(ipc, 6),
            description=ipc.optional(6, 2) or common.description,
            station_name=ipc.optional(7),
            location=ipc.optional(8),
            station_aet=_short(ipc.optional(9), f"IPC^{n}^9", warnings) or common.station_aet,
        )
        for n, ipc in enumerate(ipcs, 1)
    ]


def _pick(*candidates: tuple[str | None, str]) -> tuple[str | None, str]:
    return next((c for c in candidates if c[0]), candidates[0])


def _short(value: str | None, location: str, warnings: list[str]) -> str | None:
    if value and len(value) > 16:
        warnings.append(f"{location} has {len(value)} characters, DICOM allows 16; not used")
        return None
    return value


def _code(segment: Segment, number: int) -> Code | None:
    value = segment.get(number)
    if not value and not segment.get(number, 2):
        return None
    return Code(value=value, meaning=segment.get(number, 2), scheme=segment.get(number, 3) or "L")


def _name(segment: Segment, number: int, *, offset: int = 0) -> PersonName | None:
    # XPN begins with the family name; XCN puts an identifier before it.
    first = segment.raw(number).split(segment.delimiters.repetition, 1)[0]
    family, given, middle, suffix, prefix = (
        segment.part(first, n + offset) for n in (1, 2, 3, 4, 5)
    )
    if not any((family, given, middle)):
        return None
    return PersonName(family=family, given=given, middle=middle, prefix=prefix, suffix=suffix)


def _performing(obr: Segment) -> PersonName | None:
    # NDL-1 is a CNN (v2.5.1 §2.A.49): the parts of one component, the first one a number.
    family, given, middle, suffix, prefix = (obr.get(34, 1, n) for n in range(2, 7))
    if not any((family, given, middle)):
        return None
    return PersonName(family=family, given=given, middle=middle, prefix=prefix, suffix=suffix)


def _date(text: str) -> date:
    padded = (text[:8] + "0101")[:8] if len(text) < 8 else text[:8]
    return date(int(padded[:4]), int(padded[4:6]), int(padded[6:8]))


def _allergies(message: Message) -> str | None:
    named = [al1.get(3, 2) or al1.get(3) for al1 in message.all("AL1")]
    return "; ".join(n for n in named if n) or None


def _measured(
    group: dict[str, list[Segment]], names: tuple[str, ...], units: dict[str, float]
) -> float | None:
    for obx in group.get("OBX", []):
        if {obx.get(3).upper(), obx.get(3, 2).upper()} & set(names) and obx.get(6) in units:
            try:
                return round(float(obx.get(5)) * units[obx.get(6)], 3)
            except ValueError:
                return None
    return None
