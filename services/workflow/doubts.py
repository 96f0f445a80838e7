"""Patient numbers that were taken although they cannot be right: somebody has to look."""

from __future__ import annotations

from hashlib import sha256

from models.patient import PersonName
from models.study import Study
from services.hl7.fields import read_identifiers
from services.hl7.standardising import Standard
from services.workflow.dispatch import Received


def show_doubts(received: Received, standard: Standard, study: Study | None) -> None:
    """Show on the desk a patient number that was taken although its check digit is wrong."""
    pid = standard.message.first("PID")
    if not standard.doubts or pid is None:
        return
    uow = received.uow
    reason = f"a patient number has not its {standard.doubts[0].scheme} check digit"
    # The same patient is one row, however many messages come; the number is not to be read in it.
    subject = sha256(pid.raw(3).encode()).hexdigest()[:16]
    first = next(iter(read_identifiers(pid, 3, received.settings.default_authority)), None)
    new = uow.studies.to_desk(
        "check-digit",
        f"number-{subject}",
        reason,
        study_id=None if study is None else study.id,
        evidence={
            "message": received.message_id,
            "profile": standard.profile,
            "claimed": {
                "name": str(PersonName(family=pid.get(5), given=pid.get(5, 2))),
                "patient_id": "" if first is None else first.value,
                "issuer": "" if first is None else first.authority,
            },
        },
    )
    if new and study is not None:
        uow.timeline.add(
            study.id, "desk.check-digit", f"{reason}; on the desk", message=received.message_id
        )
