"""A signed report as ORU^R01 (HL7 v2.5.1 §7.3.1, STANDARDS §5.1)."""

from __future__ import annotations

from models.lifecycle import ReportStatus
from models.order import Order
from models.patient import Patient
from models.report import Report
from models.study import Study
from services.hl7.er7 import escape
from services.hl7.segments import (
    SENDING,
    filler_number,
    header,
    joined,
    ordering_provider,
    pid,
    placer_number,
    segment,
    time_stamp,
)

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
    signed = time_stamp(report.signed_at)
    code = order.procedure if order else None
    obr = {
        1: "1",
        2: placer_number(order) if order else "",
        3: filler_number(order) if order else joined(study.accession or study.id[:20], SENDING[0]),
        4: joined(code.value, code.meaning, code.scheme) if code else "MR^MR examination^L",
        7: time_stamp(study.started_at) if study.started_at else "",
        16: ordering_provider(order) if order else "",
        18: escape(study.accession),
        19: escape(order.requested_procedure_id) if order else "",
        22: signed,
        24: "RAD",
        25: status,
        # NDL: the name's components are sub-components, id&family&given.
        32: f"&{escape(report.author)}",
    }
    segments = [
        header(
            "ORU^R01^ORU_R01",
            control_id=control_id,
            receiver=receiver,
            version="2.5.1",
            written=report.signed_at,
        ),
        pid(patient, reference_id),
        segment("ORC", {1: "RE", 2: obr[2], 3: obr[3], 5: "CM" if status != "P" else "IP"}),
        segment("OBR", obr),
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


def _obx(number: int, kind: str, code: str, value: str, status: str, flag: str = "") -> str:
    return segment("OBX", {1: str(number), 2: kind, 3: code, 4: "1", 5: value, 8: flag, 11: status})
