"""Report delivery: every version to every destination, once, with proof."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from models.errors import Unavailable
from models.lifecycle import ReportStatus, StudyEvent
from models.report import Report
from services.database.deliveries import SETTLED
from services.database.store import Store, UnitOfWork
from services.hl7.er7 import parse
from services.hl7.references import references
from services.hl7.results import build_oru
from services.hl7.sender import send
from services.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """How one delivery ended."""

    destination: str
    state: str
    """``accepted``, ``rejected``, ``superseded`` or ``busy``."""
    ack_code: str = ""


def split_version(version: str) -> tuple[int, str]:
    """Return the report's version, and the change of patient after which it goes out again."""
    number, _, edition = version.partition(".")
    return int(number), edition


def plan_deliveries(
    store: Store, settings: Settings, study_id: str, version: int, edition: str = ""
) -> list[str] | None:
    """Write down what is to be sent where, before anything is sent; return the destinations.

    None says that the report is held, and its stage closed, until the study has an order.

    The bytes are kept in the message log now, so that every attempt, also after a crash, sends the
    same message under the same control id.

    Parameters
    ----------
    edition : str
        The change of patient records because of which a report goes out again, under its patient
        of now. Who has a final version already gets it as a correction (OBR-25 C, HL70123).
    """
    with store() as uow:
        report = _version(uow, study_id, version)
        if report is None:
            return []
        if uow.studies.get(study_id, lock=True).order_id is None:
            # Nobody placed it: a report under a guessed patient must not reach a chart. Closed
            # here, under the study's lock, so that an order which comes now opens it again.
            if uow.outbox.done(study_id, "report_delivery", str(version)):
                uow.timeline.add(
                    study_id,
                    "report.held",
                    f"report version {version} waits until the desk has found the study's order",
                )
            return None
        if edition and uow.reports.of_study(study_id)[-1].version > version:
            # Signed since: the newer version is made out to the patient of now.
            return []
        for destination in settings.destinations:
            control_id = _control_id(report, destination, edition)
            uow.deliveries.plan(report.id, destination, control_id)
            said = report
            if edition:
                said = _readdress(uow, report, destination, control_id)
            if uow.deliveries.get(report.id, destination).message_id is None:
                raw = _build(uow, said, control_id, destination)
                message_id = uow.messages.add(
                    direction="out",
                    protocol="hl7",
                    peer=settings.destinations[destination],
                    raw=raw,
                    sender="SPINECHO|RAD",
                    control_id=control_id,
                    type="ORU^R01",
                    state="planned",
                    study_id=study_id,
                    references=references(parse(raw)),
                )
                uow.deliveries.change(report.id, destination, message_id=message_id)
    return list(settings.destinations)


def deliver(
    store: Store, settings: Settings, study_id: str, version: int, destination: str
) -> Delivered:
    """Send one report version to one destination, unless it has it already.

    A row lock makes sure that only one process sends it at a time. A version that was overtaken
    by a newer one is not sent any more.

    Raises
    ------
    Unavailable
        If the destination does not answer, or answers AE: try again later.
    """
    failure: Unavailable | None = None
    with store() as uow:
        report = _version(uow, study_id, version)
        if report is None:
            return Delivered(destination=destination, state="superseded")
        delivery = uow.deliveries.claim(report.id, destination)
        if delivery is None:
            known = uow.deliveries.get(report.id, destination)
            state = known.state if known.state in SETTLED else "busy"
            return Delivered(destination=destination, state=state, ack_code=known.ack_code or "")
        newest = uow.reports.of_study(study_id)[-1]
        if newest.version > version and newest.status is not ReportStatus.PRELIMINARY:
            uow.deliveries.change(report.id, destination, state="superseded")
            return Delivered(destination=destination, state="superseded")
        message = uow.messages.get(delivery.message_id)
        try:
            raw, reply = send(
                settings.destinations[destination],
                message.raw,
                delivery.control_id,
                settings=settings,
            )
        except Unavailable as error:
            failure = error
            changes: dict[str, Any] = {"error": str(error)}
        else:
            accepted, refused = reply.accepted, reply.code in {"AR", "CR"}
            state = "accepted" if accepted else "rejected" if refused else "planned"
            changes = {"state": state, "ack_code": reply.code, "error": None}
            uow.messages.answer(message.id, state=state, ack=raw, ack_code=reply.code)
            if accepted:
                changes["accepted_at"] = uow.now
            else:
                # Without the answer's text: it may name the patient, and this goes to a log.
                failure = Unavailable(f"{destination} answered {reply.code}")
            uow.timeline.add(
                study_id,
                f"report.{'delivered' if accepted else 'refused'}",
                f"report version {version} to {destination}: {reply.code}",
                actor=destination,
                message=message.id,
                control_id=delivery.control_id,
                ack=reply.code,
            )
            if refused:
                uow.studies.to_desk(
                    "report-refused",
                    f"{report.id}:{destination}",
                    f"{destination} rejected report version {version}",
                    study_id=study_id,
                    evidence={"ack": reply.code, "message": message.id},
                )
        uow.deliveries.change(
            report.id, destination, attempts=delivery.attempts + 1, sent_at=uow.now, **changes
        )
    if failure is not None and changes.get("state") != "rejected":
        raise failure
    return Delivered(
        destination=destination,
        state=str(changes["state"]),
        ack_code=str(changes["ack_code"]),
    )


def settle(store: Store, study_id: str, version: int) -> bool:
    """Close the study's delivery once every destination has this version."""
    with store() as uow:
        study = uow.studies.get(study_id, lock=True)
        report = _version(uow, study_id, version)
        if report is None or study.order_id is None:
            return False
        mine = [d for d in uow.deliveries.of_study(study_id) if d.version == version]
        if any(d.state not in {"accepted", "superseded"} for d in mine):
            return False
        if study.state.value in {"final", "preliminary"}:
            uow.studies.move(study, StudyEvent.DELIVERED)
        return True


def _readdress(uow: UnitOfWork, report: Report, destination: str, control_id: str) -> Report:
    """Open a delivery again, once for each `control_id`; return the report as it is to be sent."""
    known = uow.deliveries.get(report.id, destination, lock=True)
    written = {message.control_id for message in uow.messages.of_study(report.study_id)}
    if known.message_id is None or control_id in written:
        return report
    uow.deliveries.change(
        report.id,
        destination,
        control_id=control_id,
        state="planned",
        attempts=0,
        message_id=None,
        **dict.fromkeys(("ack_code", "error", "sent_at", "accepted_at")),
    )
    uow.timeline.add(
        report.study_id,
        "report.readdressed",
        f"report version {report.version} goes to {destination} again, under its patient of now",
        message=known.message_id,
        control_id=control_id,
    )
    may_be_known = known.state == "accepted" or (known.state == "planned" and known.attempts > 0)
    if may_be_known and report.status is ReportStatus.FINAL:
        return replace(report, status=ReportStatus.CORRECTED, signed_at=uow.now)
    return replace(report, signed_at=uow.now) if may_be_known else report


def _version(uow: UnitOfWork, study_id: str, version: int) -> Report | None:
    return next((r for r in uow.reports.of_study(study_id) if r.version == version), None)


def _control_id(report: Report, destination: str, edition: str = "") -> str:
    # MSH-10 holds 20 characters in v2.5.1; the same version to the same destination has the same.
    what = f"{report.id}|{destination}" + (f"|{edition}" if edition else "")
    return sha256(what.encode()).hexdigest()[:20].upper()


def _build(uow: UnitOfWork, report: Report, control_id: str, destination: str) -> bytes:
    study = uow.studies.get(report.study_id)
    row = uow.studies.row(study.id)
    return build_oru(
        report,
        study,
        uow.orders.get(study.order_id) if study.order_id else None,
        uow.patients.get(study.patient_id) if study.patient_id else None,
        control_id=control_id,
        receiver=destination,
        critical=uow.reports.critical(study.id) is not None,
        reference_id=(row.dicom_patient_id, row.dicom_patient_name),
    )
