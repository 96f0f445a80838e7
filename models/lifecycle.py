"""The life of a study and of the things around it, as one transition table.

A move that has no row is illegal; `move` says so and nothing is changed. The rows cite the place
that asks for them. The states are plain enums: a string enum would make a study's ``final`` and a
report's ``final`` one key.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

from models.errors import IllegalMove


class StudyState(Enum):
    """Where a study stands on its way from order to archive."""

    SCHEDULED = "scheduled"
    ACQUIRING = "acquiring"
    ACQUIRED = "acquired"
    PRELIMINARY = "preliminary"
    FINAL = "final"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    DISCONTINUED = "discontinued"


class StudyEvent(Enum):
    """What moves a study."""

    CHANGED = "order changed"
    CANCELLED = "order cancelled"
    REPLACED = "order replaced"
    EXAM_STARTED = "exam started"
    INSTANCE_RECEIVED = "instance received"
    EXAM_DISCONTINUED = "exam discontinued"
    COMPLETE = "acquisition complete"
    REPORTED_PRELIMINARY = "preliminary report"
    REPORTED_FINAL = "final report"
    REPORTED_CORRECTED = "corrected report"
    DELIVERED = "report delivered"


class ReportStatus(Enum):
    """HL70123 P, F, C; the values of FHIR DiagnosticReport.status."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"


class StepState(Enum):
    """Scheduled and performed procedure steps (PS3.3 C.4.10, PS3.4 F.7)."""

    SCHEDULED = "SCHEDULED"
    ARRIVED = "ARRIVED"
    ON_HOLD = "ON HOLD"
    UNBOOKED = "UNBOOKED"
    """Ordered, without a slot: not on a worklist until it is booked anew."""
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"
    CANCELED = "CANCELED"


class StepEvent(Enum):
    """What moves a procedure step."""

    CREATE = "N-CREATE"
    SET = "N-SET"
    COMPLETE = "N-SET COMPLETED"
    DISCONTINUE = "N-SET DISCONTINUED"
    CANCEL = "order cancelled"
    HOLD = "order on hold"
    RELEASE = "order released"
    ARRIVE = "patient arrived"
    BOOK = "slot booked"
    FREE = "slot given up"
    CLOSE = "done, as its filler says"


class MigrationState(Enum):
    """How far a study's copy to the next tier has come."""

    PLANNED = "planned"
    COPIED = "copied"
    VERIFIED = "verified"
    SWITCHED = "switched"
    DONE = "done"


class MigrationEvent(Enum):
    """What moves a migration."""

    COPY = "copied"
    VERIFY = "read back and equal"
    SWITCH = "pointer switched"
    DELETE = "source deleted"


S, E = StudyState, StudyEvent
_ORDER = "HL7 v2.5.1 §4.5.1.1 (ORC-1, HL70119)"
_HOLD = "HL7 v2.5.1 §4.5.1.1 (HL70119 HD, RL)"
_ARRIVAL = "PS3.3 C.4.10 (ARRIVED); HL7 v2.5.1 §3.3.10 (ADT^A10)"
_SLOT = "HL7 v2.5.1 §10.4 (SIU)"
_FILLER = "HL7 v2.5.1 §4.5.1.5 (ORC-5 CM)"
_MPPS = "PS3.4 F.7.2"
_IMAGES = "rule 5: a scanner is never refused for a paper problem"
_READ = "HL7 v2.5.1 §7.4.1.25 (OBR-25, HL70123)"
_COPY = "rule 8: nothing is deleted until the copy was read back"

ON_WORKLIST: Final = (StepState.SCHEDULED, StepState.ARRIVED)
"""A step in one of these is answered to a scanner that asks for its worklist."""

_State = Enum
TABLE: Final[dict[tuple[_State, _State], tuple[_State, str]]] = {
    # --- study: the order
    (S.SCHEDULED, E.CHANGED): (S.SCHEDULED, _ORDER),
    (S.SCHEDULED, E.CANCELLED): (S.CANCELLED, _ORDER),
    (S.SCHEDULED, E.REPLACED): (S.CANCELLED, _ORDER),
    # --- study: acquisition; images may precede, outlive or contradict their paperwork
    (S.SCHEDULED, E.EXAM_STARTED): (S.ACQUIRING, _MPPS),
    (S.SCHEDULED, E.INSTANCE_RECEIVED): (S.ACQUIRING, _IMAGES),
    (S.ACQUIRING, E.EXAM_STARTED): (S.ACQUIRING, "PS3.4 F.7 append case"),
    (S.ACQUIRING, E.INSTANCE_RECEIVED): (S.ACQUIRING, _IMAGES),
    (S.ACQUIRING, E.EXAM_DISCONTINUED): (S.DISCONTINUED, _MPPS),
    (S.ACQUIRING, E.COMPLETE): (S.ACQUIRED, "DESIGN §1 acquisition receipt"),
    (S.CANCELLED, E.INSTANCE_RECEIVED): (S.ACQUIRING, _IMAGES),
    (S.CANCELLED, E.EXAM_STARTED): (S.ACQUIRING, _IMAGES),
    (S.DISCONTINUED, E.INSTANCE_RECEIVED): (S.DISCONTINUED, _IMAGES),
    (S.DISCONTINUED, E.EXAM_STARTED): (S.ACQUIRING, "PS3.4 F.7 append case"),
    (S.DISCONTINUED, E.COMPLETE): (S.ACQUIRED, "images of a discontinued exam are read too"),
    (S.ACQUIRED, E.EXAM_STARTED): (S.ACQUIRING, "PS3.4 F.7 append case"),
    (S.ACQUIRED, E.INSTANCE_RECEIVED): (S.ACQUIRING, "late images reopen the verdict"),
    # Late images never take a report away: the study stays where reading has brought it.
    (S.PRELIMINARY, E.INSTANCE_RECEIVED): (S.PRELIMINARY, _IMAGES),
    (S.FINAL, E.INSTANCE_RECEIVED): (S.FINAL, _IMAGES),
    (S.DELIVERED, E.INSTANCE_RECEIVED): (S.DELIVERED, _IMAGES),
    (S.PRELIMINARY, E.EXAM_STARTED): (S.PRELIMINARY, _IMAGES),
    (S.FINAL, E.EXAM_STARTED): (S.FINAL, _IMAGES),
    (S.DELIVERED, E.EXAM_STARTED): (S.DELIVERED, _IMAGES),
    (S.PRELIMINARY, E.COMPLETE): (S.PRELIMINARY, "late images, judged again"),
    (S.FINAL, E.COMPLETE): (S.FINAL, "late images, judged again"),
    (S.DELIVERED, E.COMPLETE): (S.DELIVERED, "late images, judged again"),
    # --- study: reading; a study is readable as soon as it has images
    (S.ACQUIRING, E.REPORTED_PRELIMINARY): (S.PRELIMINARY, _READ),
    (S.ACQUIRING, E.REPORTED_FINAL): (S.FINAL, _READ),
    (S.ACQUIRED, E.REPORTED_PRELIMINARY): (S.PRELIMINARY, _READ),
    (S.ACQUIRED, E.REPORTED_FINAL): (S.FINAL, _READ),
    (S.DISCONTINUED, E.REPORTED_FINAL): (S.FINAL, _READ),
    (S.PRELIMINARY, E.REPORTED_PRELIMINARY): (S.PRELIMINARY, _READ),
    (S.PRELIMINARY, E.REPORTED_FINAL): (S.FINAL, _READ),
    (S.PRELIMINARY, E.DELIVERED): (S.PRELIMINARY, "a preliminary report awaits its final"),
    (S.FINAL, E.DELIVERED): (S.DELIVERED, "DESIGN §1 report delivery"),
    (S.FINAL, E.REPORTED_CORRECTED): (S.FINAL, _READ),
    (S.DELIVERED, E.REPORTED_CORRECTED): (S.FINAL, _READ),
    (S.DELIVERED, E.DELIVERED): (S.DELIVERED, "proof of a further destination"),
    # --- report versions
    (ReportStatus.PRELIMINARY, E.REPORTED_PRELIMINARY): (ReportStatus.PRELIMINARY, _READ),
    (ReportStatus.PRELIMINARY, E.REPORTED_FINAL): (ReportStatus.FINAL, _READ),
    (ReportStatus.FINAL, E.REPORTED_CORRECTED): (ReportStatus.CORRECTED, _READ),
    (ReportStatus.CORRECTED, E.REPORTED_CORRECTED): (ReportStatus.CORRECTED, _READ),
    # --- procedure steps, scheduled and performed
    (StepState.SCHEDULED, StepEvent.CREATE): (StepState.IN_PROGRESS, _MPPS),
    (StepState.IN_PROGRESS, StepEvent.CREATE): (StepState.IN_PROGRESS, "PS3.4 F.7 append case"),
    (StepState.IN_PROGRESS, StepEvent.SET): (StepState.IN_PROGRESS, _MPPS),
    (StepState.IN_PROGRESS, StepEvent.COMPLETE): (StepState.COMPLETED, _MPPS),
    (StepState.IN_PROGRESS, StepEvent.DISCONTINUE): (StepState.DISCONTINUED, _MPPS),
    (StepState.SCHEDULED, StepEvent.CANCEL): (StepState.CANCELED, _ORDER),
    # --- scheduled steps before the exam; whatever their paper says, the exam may begin
    (StepState.ARRIVED, StepEvent.CREATE): (StepState.IN_PROGRESS, _MPPS),
    (StepState.ON_HOLD, StepEvent.CREATE): (StepState.IN_PROGRESS, _IMAGES),
    (StepState.UNBOOKED, StepEvent.CREATE): (StepState.IN_PROGRESS, _IMAGES),
    (StepState.ARRIVED, StepEvent.CANCEL): (StepState.CANCELED, _ORDER),
    (StepState.ON_HOLD, StepEvent.CANCEL): (StepState.CANCELED, _ORDER),
    (StepState.UNBOOKED, StepEvent.CANCEL): (StepState.CANCELED, _ORDER),
    (StepState.CANCELED, StepEvent.CANCEL): (StepState.CANCELED, _ORDER),
    (StepState.SCHEDULED, StepEvent.HOLD): (StepState.ON_HOLD, _HOLD),
    (StepState.ARRIVED, StepEvent.HOLD): (StepState.ON_HOLD, _HOLD),
    (StepState.UNBOOKED, StepEvent.HOLD): (StepState.ON_HOLD, _HOLD),
    (StepState.ON_HOLD, StepEvent.HOLD): (StepState.ON_HOLD, _HOLD),
    (StepState.ON_HOLD, StepEvent.RELEASE): (StepState.SCHEDULED, _HOLD),
    (StepState.SCHEDULED, StepEvent.RELEASE): (StepState.SCHEDULED, _HOLD),
    (StepState.SCHEDULED, StepEvent.ARRIVE): (StepState.ARRIVED, _ARRIVAL),
    (StepState.ARRIVED, StepEvent.ARRIVE): (StepState.ARRIVED, _ARRIVAL),
    (StepState.SCHEDULED, StepEvent.BOOK): (StepState.SCHEDULED, _SLOT),
    (StepState.ARRIVED, StepEvent.BOOK): (StepState.SCHEDULED, _SLOT),
    (StepState.UNBOOKED, StepEvent.BOOK): (StepState.SCHEDULED, _SLOT),
    (StepState.ON_HOLD, StepEvent.BOOK): (StepState.ON_HOLD, _HOLD),
    (StepState.SCHEDULED, StepEvent.FREE): (StepState.UNBOOKED, _SLOT),
    (StepState.ARRIVED, StepEvent.FREE): (StepState.UNBOOKED, _SLOT),
    (StepState.UNBOOKED, StepEvent.FREE): (StepState.UNBOOKED, _SLOT),
    (StepState.ON_HOLD, StepEvent.FREE): (StepState.ON_HOLD, _HOLD),
    (StepState.SCHEDULED, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    (StepState.ARRIVED, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    (StepState.ON_HOLD, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    (StepState.UNBOOKED, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    (StepState.IN_PROGRESS, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    (StepState.COMPLETED, StepEvent.CLOSE): (StepState.COMPLETED, _FILLER),
    # --- migration between tiers
    (MigrationState.PLANNED, MigrationEvent.COPY): (MigrationState.COPIED, _COPY),
    (MigrationState.COPIED, MigrationEvent.VERIFY): (MigrationState.VERIFIED, _COPY),
    (MigrationState.VERIFIED, MigrationEvent.SWITCH): (MigrationState.SWITCHED, _COPY),
    (MigrationState.SWITCHED, MigrationEvent.DELETE): (MigrationState.DONE, _COPY),
}
"""(state, event) → (next state, the place that asks for the row)."""

_StateT = TypeVar("_StateT", bound=Enum)


def move(state: _StateT, event: Enum) -> _StateT:
    """Return the state that `event` leads to.

    Raises
    ------
    IllegalMove
        If the table has no row for the pair.
    """
    try:
        after, _ = TABLE[state, event]
    except KeyError:
        raise IllegalMove(
            f"{type(state).__name__} {state.value!r} does not allow {event.value!r}"
        ) from None
    return after  # type: ignore[return-value]
