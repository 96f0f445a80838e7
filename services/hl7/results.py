"""A signed report as ORU^R01 (HL7 v2.5.1 §7.3.1, STANDARDS §5.1)."""

from __future__ import annotations

from datetime import datetime

from models.lifecycle import ReportStatus
from models.order import Order
from models.patient import Patient
from models.report import Report
from models.study import Study
from services.hl7.er7 import escape

_STATUS = {
    ReportStatus.PRELIMINARY: "P",
    ReportStatus.FINAL: "F",
    ReportStatus.CORRECTED: "C",
}
"""OBR-25 (HL70123) and OBX-11 (HL70085)."""


def build_oru(
    report: Report,
    study: Study,
    order: Order | None,
    patient: Patient | None,
    *,
    control_id: str,
    receiver: str,
    critical: bool,
    reference_id: tuple[str, str] = ("", ""),
) -> bytes:
    """Return the message that carries one version of a report.

    Parameters
    ----------
    report, study : Report, Study
    order, patient : Order or None, Patient or None
        None for an unscheduled exam; `reference_id` then says what the images say.
    control_id : str
        MSH-10; the same for every attempt, so that a receiver can tell a repetition.
    receiver : str
        MSH-5.
    critical : bool
        Whether the study carries a critical finding: OBX-8 AA on the impression.
    reference_id : tuple of str
        Patient ID and PN as the objects carry them.

    Returns
    -------
    bytes
        UTF-8, segments ending in CR. The content depends on the arguments alone: every attempt
        to deliver the same version sends the same bytes.
    """
    status = _STATUS[report.status]
    signed = _time(report.signed_at)
    placer = f"{escape(order.placer_number)}^{escape(order.placer_authority)}" if order else ""
    filler = escape((order.filler_number or order.accession) if order else study.accession)
    code = order.procedure if order else None
    obr = {
        1: "1",
        2: placer.rstrip("^"),
        3: f"{filler}^SPINECHO" if filler else f"{study.id[:20]}^SPINECHO",
        4: _join(code.value, code.meaning, code.scheme) if code else "MR^MR examination^L",
        7: _time(study.started_at) if study.started_at else "",
        16: _person(str(order.requesting)) if order else "",
        18: escape(study.accession),
        19: escape(order.requested_procedure_id) if order else "",
        22: signed,
        24: "RAD",
        25: status,
        # NDL: the name's components are sub-components, id&family&given.
        32: f"&{escape(report.author)}",
    }
    msh = {
        2: "^~\\&",
        3: "SPINECHO",
        4: "RAD",
        5: escape(receiver),
        7: signed,
        9: "ORU^R01^ORU_R01",
        10: control_id,
        11: "P",
        12: "2.5.1",
        18: "UNICODE UTF-8",
    }
    # MSH-1 is the separator itself, so the header is joined one field later.
    header = "MSH" + _fields("", msh)[1:]
    segments = [
        header,
        _pid(patient, reference_id),
        _fields("ORC", {1: "RE", 2: obr[2], 3: obr[3], 5: "CM" if status != "P" else "IP"}),
        _fields("OBR", obr),
        _obx(1, "ST", "113014^DICOM Study^DCM", study.study_uid, "O"),
    ]
    sections = [
        ("59776-5^Findings^LN", report.findings, ""),
        ("19005-8^Impression^LN", report.impression, "AA" if critical else ""),
    ]
    for heading, text, flag in sections:
        if text.strip():
            segments.append(_obx(len(segments) - 3, "FT", heading, escape(text), status, flag))
    return ("\r".join(segments) + "\r").encode()


def _pid(patient: Patient | None, reference_id: tuple[str, str]) -> str:
    if patient is None:
        number, pn = reference_id
        return _fields("PID", {1: "1", 3: _join(number, "", "", "UNKNOWN", "PI"), 5: _person(pn)})
    identifiers = "~".join(_join(i.value, "", "", i.authority, i.type) for i in patient.identifiers)
    return _fields(
        "PID",
        {
            1: "1",
            3: identifiers,
            5: _person(str(patient.name)),
            7: f"{patient.birth_date:%Y%m%d}" if patient.birth_date else "",
            8: patient.sex,
        },
    )


def _obx(number: int, kind: str, code: str, value: str, status: str, flag: str = "") -> str:
    return _fields("OBX", {1: str(number), 2: kind, 3: code, 4: "1", 5: value, 8: flag, 11: status})


def _fields(name: str, values: dict[int, str]) -> str:
    last = max((n for n, v in values.items() if v), default=0)
    return "|".join([name, *(values.get(n, "") for n in range(1, last + 1))])


def _join(*parts: str) -> str:
    return "^".join(escape(part) for part in parts).rstrip("^")


def _person(pn: str) -> str:
    # PN and XPN share family, given and middle; suffix and prefix change places.
    family, given, middle, prefix, suffix, *_ = [*pn.split("^"), *[""] * 5]
    return _join(family, given, middle, suffix, prefix)


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y%m%d%H%M%S%z")
