"""The morning as data: who comes, with what, and what ought to be found."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

from services.simulators.anatomy import Pathology
from services.simulators.emr import Order, Priority
from services.simulators.header import uid

STATIONS: Final = ("MR1AE", "MR2AE")
PATIENTS: Final = 12

# invented, and meant to look it; several scripts, because names are where encodings break
_NAMES: Final = (
    ("Müller-Testfall^Jörg", "M"),
    ("Muster^Änne", "F"),
    ("Exemple^Éloïse", "F"),
    ("Próba^Łukasz", "M"),
    ("Prøve^Søren", "M"),
    ("Örnek^Şule", "F"),
    ("Ejemplo^Íñigo", "M"),
    ("Пример^Ольга", "F"),
    ("Δοκιμή^Νίκος", "M"),
    ("Voorbeeld^Joke", "F"),
    ("O'Sample^Mary Ann", "F"),
    ("Testperson^Alex", "O"),
)
_PROCEDURES: Final = (
    (("MRBRWO", "MRI brain w/o contrast"), "Headache"),
    (("MRBRWO", "MRI brain w/o contrast"), "Gait disturbance & falls"),
    (("MRBRWO", "MRI brain w/o contrast"), "Memory loss, 2nd opinion"),
    (("MRBRWO", "MRI brain w/o contrast"), "First seizure"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPatient:
    """One patient of the morning and the truth about the exam.

    Attributes
    ----------
    name
        HL7 and DICOM spelling at once: family^given.
    placer, accession, procedure_id, step_id
        Empty for the unordered patient.
    pathology
        ``unilateral_ventricle`` is the critical one.
    enhanced
        One Enhanced MR object instead of a series of classic ones.
    cancelled
        The order is cancelled before the scan and must leave the worklist.
    duplicated
        The order is sent twice, the same to the byte.
    unordered
        Scanned in an emergency without any order.
    anatomy_seed
        Seed of `services.simulators.anatomy.head`.
    """

    patient_id: str
    name: str
    birth_date: str
    sex: str
    placer: str
    filler: str
    accession: str
    procedure_id: str
    step_id: str
    study_uid: str
    priority: Priority
    procedure: tuple[str, str]
    reason: str
    station: str
    placed: datetime
    scheduled: datetime
    pathology: Pathology
    enhanced: bool
    cancelled: bool
    duplicated: bool
    unordered: bool
    anatomy_seed: int

    @property
    def critical(self) -> bool:
        """Whether the head shows what must be read first."""
        return self.pathology == "unilateral_ventricle"

    @property
    def scanned(self) -> bool:
        """Whether images of this patient are expected."""
        return not self.cancelled

    @property
    def reported(self) -> bool:
        """Whether the EMR is owed a report on an order of its own."""
        return not (self.cancelled or self.unordered)

    def order(self) -> Order:
        """Give the order as the EMR writes it.

        Raises
        ------
        ValueError
            If the patient comes without one.
        """
        if self.unordered:
            raise ValueError("an unordered patient has no order")
        return Order(
            patient_id=self.patient_id,
            patient_name=self.name,
            birth_date=self.birth_date,
            sex=self.sex,
            placer=self.placer,
            filler=self.filler,
            accession=self.accession,
            procedure_id=self.procedure_id,
            step_id=self.step_id,
            study_uid=self.study_uid,
            priority=self.priority,
            procedure=self.procedure,
            reason=self.reason,
            station=self.station,
            placed=self.placed,
            scheduled=self.scheduled,
        )


def plan(seed: int, day: date | None = None) -> list[PlannedPatient]:
    """Plan a morning: twelve ordered patients and one unknown from the emergency room.

    Three are critical and ordered as routine, so that only their images can raise them; one order
    is cancelled, one sent twice; four exams are Enhanced MR, one of them critical.

    Parameters
    ----------
    seed
        Decides everything but the date.
    day
        The day of the appointments; today when left out. Every identifier depends on it, so the
        same seed on another day is another morning.

    Returns
    -------
    list of PlannedPatient
        In the order in which the orders are placed; the unordered patient comes last.
    """
    day = day or datetime.now().astimezone().date()
    stem = _stem(seed, day)
    # reproducible on purpose; nothing secret hangs on it
    rng = random.Random(f"{seed}")  # noqa: S311
    names = list(_NAMES)
    rng.shuffle(names)
    roles = list(range(PATIENTS))
    rng.shuffle(roles)
    critical, cancelled, duplicated = set(roles[:3]), roles[3], roles[4]
    enhanced = {roles[0], *roles[5:8]}
    urgent: dict[int, Priority] = {roles[5]: "S", roles[8]: "S", roles[6]: "A", roles[9]: "A"}
    # both scanners get the same number of patients who really come
    coming = [n for n in range(PATIENTS) if n != cancelled]
    stations = {n: STATIONS[i % 2] for i, n in enumerate(coming)} | {cancelled: STATIONS[1]}
    patients = []
    for n in range(PATIENTS):
        name, sex = names[n]
        procedure, reason = rng.choice(_PROCEDURES)
        number = f"{stem}{n + 1:02d}"
        patients.append(
            PlannedPatient(
                patient_id=f"T{number}",
                name=name,
                birth_date=f"{date(1938, 1, 1) + timedelta(days=rng.randrange(24_000)):%Y%m%d}",
                sex=sex,
                placer=f"P{number}",
                filler=f"F{number}",
                accession=f"A{number}",
                procedure_id=f"RP{number}",
                step_id=f"SPS{number}",
                study_uid=uid("study", number),
                priority=urgent.get(n, "R"),
                procedure=procedure,
                reason=reason,
                station=stations[n],
                placed=_clock(day, time(6, 30), n),
                scheduled=_clock(day, time(7, 0), 20 * n),
                pathology="unilateral_ventricle" if n in critical else "none",
                enhanced=n in enhanced,
                cancelled=n == cancelled,
                duplicated=n == duplicated,
                unordered=False,
                anatomy_seed=rng.randrange(2**31),
            )
        )
    number = f"{stem}99"
    patients.append(
        PlannedPatient(
            patient_id=f"UNK{number}",
            name="DOE^UNKNOWN",
            birth_date="",
            sex="",
            placer="",
            filler="",
            accession="",
            procedure_id="",
            step_id="",
            study_uid=uid("study", number),
            priority="S",
            procedure=("", ""),
            reason="",
            station=STATIONS[0],
            placed=_clock(day, time(8, 30), 0),
            scheduled=_clock(day, time(8, 30), 0),
            pathology="none",
            enhanced=False,
            cancelled=False,
            duplicated=False,
            unordered=True,
            anatomy_seed=rng.randrange(2**31),
        )
    )
    return patients


def _stem(seed: int, day: date) -> str:
    """Seven letters and digits that no other morning has: SH and LO leave little room."""
    number = int(str(uid("morning", seed, day.isoformat())).rsplit(".", 1)[1])
    letters = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    stem = ""
    for _ in range(7):
        number, digit = divmod(number, len(letters))
        stem += letters[digit]
    return stem


def _clock(day: date, start: time, minutes: int) -> datetime:
    # wall-clock time of the hospital: HL7 v2 and DICOM carry it without a zone, and so do we
    return datetime.combine(day, start) + timedelta(minutes=minutes)
