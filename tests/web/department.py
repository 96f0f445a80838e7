"""A morning's studies, as the other parts would have left them; every person is invented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import insert

from models.finding import Finding, Outcome
from models.lifecycle import StudyState
from models.order import Code, Order, Safety, ScheduledStep
from models.patient import Identifier, Patient, PersonName
from models.priority import Priority
from models.study import Instance, Study, new_id, uid_from
from services.database.store import Store, UnitOfWork
from services.database.tables import instance

HYDROCEPHALUS = "Marked asymmetric enlargement of the left lateral ventricle, midline shift"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one study of the morning looks like."""

    accession: str
    name: str
    mrn: str
    born: date
    sex: str
    exam: str
    state: StudyState = StudyState.ACQUIRED
    priority: Priority = Priority.ROUTINE
    minutes: int = 10
    outcome: Outcome | None = Outcome.NORMAL
    text: str = ""
    reason: str = ""
    why: str = ""
    series: tuple[tuple[str, int], ...] = (("T1 MPRAGE sag", 176), ("T2 TSE tra", 34))
    safety: Safety = field(default_factory=Safety)
    place: str = ""

    @property
    def study_uid(self) -> str:
        return uid_from("test", self.accession)


CASES = (
    Case(
        accession="S2600000107",
        name="ZZTEST-ALDERBOURNE^Wilhelmina",
        mrn="0012345",
        born=date(1951, 3, 9),
        sex="F",
        exam="MR brain without contrast",
        priority=Priority.ROUTINE,
        minutes=7,
        outcome=Outcome.CRITICAL,
        text=HYDROCEPHALUS,
        why="Headache and vomiting for two days, drowsy since this morning",
        place="ED 12",
        safety=Safety(medical_alerts="Pacemaker, MR conditional", allergies="Gadolinium: rash"),
        series=(
            ("Localizer", 9),
            ("T1 MPRAGE sag", 176),
            ("T2 TSE tra", 34),
            ("FLAIR tra", 34),
            ("DWI b0/b1000", 68),
        ),
    ),
    Case(
        accession="S2600000101",
        name="ZZTEST-BRACKENRIDGE^Tobias^J",
        mrn="0012351",
        born=date(1987, 11, 2),
        sex="M",
        exam="MR brain with and without contrast",
        priority=Priority.STAT,
        minutes=21,
        outcome=Outcome.CRITICAL,
        text="Asymmetric lateral ventricles, suspected mass effect",
        why="First seizure",
        place="ICU 3",
    ),
    Case(
        accession="S2600000103",
        name="ZZTEST-CORNFLOWER^Adaeze",
        mrn="0012377",
        born=date(2019, 6, 21),
        sex="F",
        exam="MR brain, paediatric protocol",
        priority=Priority.STAT,
        minutes=34,
        why="Fall from height, Glasgow 14",
        place="ED 4",
    ),
    Case(
        accession="S2600000098",
        name="ZZTEST-DRUMMONDSON^Ignatius",
        mrn="0009914",
        born=date(1944, 1, 30),
        sex="M",
        exam="MR cervical spine without contrast",
        priority=Priority.HIGH,
        minutes=58,
        outcome=Outcome.ABSTAINED,
        reason="not a head study",
        why="Progressive gait disturbance, cord compression?",
        place="Ward 5B",
        series=(("T2 TSE sag", 15), ("T1 TSE sag", 15), ("T2 ME2D tra", 40)),
    ),
    Case(
        accession="S2600000110",
        name="ZZTEST-ELLERSLIE^Noor",
        mrn="0012402",
        born=date(1995, 8, 14),
        sex="F",
        exam="MR pituitary dynamic",
        priority=Priority.HIGH,
        state=StudyState.ACQUIRING,
        minutes=4,
        outcome=None,
        why="Prolactin 210, bitemporal field loss",
        series=(("Localizer", 9), ("T1 TSE cor", 22)),
    ),
    Case(
        accession="S2600000095",
        name="ZZTEST-FOTHERGILL^Maximiliane Rosalind",
        mrn="0011870",
        born=date(1972, 12, 24),
        sex="F",
        exam="MR brain, multiple sclerosis follow-up",
        minutes=126,
        why="Relapsing MS, new brain-stem symptoms",
    ),
    Case(
        accession="S2600000096",
        name="ZZTEST-GREYWETHER^Olumide",
        mrn="0012010",
        born=date(1963, 5, 5),
        sex="M",
        exam="MR lumbar spine without contrast",
        minutes=112,
        outcome=Outcome.ABSTAINED,
        reason="not a head study",
        why="Left L5 radiculopathy, six weeks",
        series=(("T2 TSE sag", 17), ("T1 TSE sag", 17), ("T2 TSE tra", 35)),
    ),
    Case(
        accession="S2600000099",
        name="ZZTEST-HOLLOWAYE^Jun",
        mrn="0012118",
        born=date(2001, 2, 17),
        sex="O",
        exam="MR knee left",
        minutes=73,
        outcome=Outcome.ABSTAINED,
        reason="not a head study",
        why="Twisting injury, locked knee",
        series=(("PD FS sag", 28), ("PD FS cor", 26), ("PD FS tra", 30)),
    ),
    Case(
        accession="S2600000100",
        name="ZZTEST-INGLENOOK^Perpetua",
        mrn="0012130",
        born=date(1939, 9, 1),
        sex="F",
        exam="MR brain, dementia protocol",
        state=StudyState.PRELIMINARY,
        minutes=66,
        why="Cognitive decline over a year",
    ),
    Case(
        accession="S2600000112",
        name="ZZTEST-JESSAMY^Bartholomew",
        mrn="0012420",
        born=date(1980, 4, 4),
        sex="M",
        exam="MR liver with hepatobiliary contrast",
        state=StudyState.SCHEDULED,
        minutes=0,
        outcome=None,
        why="Indeterminate lesion segment VII",
        series=(),
    ),
    Case(
        accession="S2600000090",
        name="ZZTEST-KESTREL^Anneliese",
        mrn="0011790",
        born=date(1958, 7, 19),
        sex="F",
        exam="MR brain without contrast",
        state=StudyState.FINAL,
        minutes=180,
        why="Vertigo",
    ),
    Case(
        accession="S2600000091",
        name="ZZTEST-LARKSPUR^Dmitri",
        mrn="0011802",
        born=date(1990, 10, 10),
        sex="M",
        exam="MR shoulder right",
        state=StudyState.CANCELLED,
        minutes=0,
        outcome=None,
        series=(),
    ),
)
READING_ORDER = (
    "S2600000101",  # critical, ordered stat
    "S2600000107",  # critical, ordered routine
    "S2600000103",  # stat
    "S2600000098",  # high, longest waiting
    "S2600000110",  # high
    "S2600000095",  # routine, in order of waiting
    "S2600000096",
    "S2600000099",
    "S2600000100",
)


def morning(store: Store, cases: tuple[Case, ...] = CASES) -> dict[str, Study]:
    """Fill the store and return the studies by accession number."""
    now = datetime.now(UTC)
    with store() as uow:
        return {case.accession: add(uow, case, now) for case in cases}


def add(uow: UnitOfWork, case: Case, now: datetime) -> Study:
    """Add one case."""
    patient = Patient(
        id=new_id(),
        identifiers=(Identifier(value=case.mrn, authority="HOSP"),),
        name=PersonName.parse(case.name),
        birth_date=case.born,
        sex=case.sex,
    )
    uow.patients.save(patient)
    start = now - timedelta(minutes=case.minutes + 25)
    order = Order(
        id=new_id(),
        patient_id=patient.id,
        placer_number=f"P{case.accession[-4:]}",
        placer_authority="EMR",
        filler_number=f"F{case.accession[-4:]}",
        accession=case.accession,
        study_uid=case.study_uid,
        requested_procedure_id=f"RP{case.accession[-4:]}",
        procedure=Code(value="MRX", meaning=case.exam),
        priority=case.priority,
        reason=case.why,
        referring=PersonName(family="TESTREFERRER", given="Anna", prefix="Dr"),
        patient_class="E" if case.place.startswith("ED") else "O",
        location=case.place,
        safety=case.safety,
        steps=(
            ScheduledStep(
                sps_id=f"SPS{case.accession[-4:]}",
                start_at=start,
                station_aet="MR1",
                description=case.exam,
            ),
        ),
    )
    uow.orders.save(order)
    study = uow.studies.ensure(
        case.study_uid,
        state=case.state,
        order_id=order.id,
        patient_id=patient.id,
        accession=case.accession,
        priority=case.priority,
        description=case.exam,
    )
    uow.timeline.add(study.id, "order.placed", "order placed", actor="EMR", control_id="M1")
    # The first image of each series makes the series; the rest go in at once, for speed.
    for (record, description, number), *others in images(case):
        uow.studies.add_instance(
            study.id,
            record,
            source_ae="MR1",
            modality="MR",
            series_description=description,
            series_number=number,
        )
        uow.connection.execute(
            insert(instance),
            [
                {**_row(other), "study_id": study.id, "source_ae": "MR1", "received_at": uow.now}
                for other, _, _ in others
            ],
        )
    if case.series:
        uow.studies.change(study.id, started_at=start, version=1)
        uow.timeline.add(study.id, "exam.started", "exam started at MR1", actor="MR1")
    if case.series and case.state is not StudyState.ACQUIRING:
        acquired = now - timedelta(minutes=case.minutes)
        uow.studies.change(study.id, acquired_at=acquired, ended_at=acquired)
        count = sum(number for _, number in case.series)
        uow.timeline.add(
            study.id,
            "acquisition.complete",
            f"version 1: all {count} instances that the MPPS lists are here",
            version=1,
            instances=count,
            missing=0,
        )
    if case.outcome is not None:
        judge(uow, study, case, now)
    return uow.studies.get(study.id)


def judge(uow: UnitOfWork, study: Study, case: Case, now: datetime) -> None:
    """Add what the model said."""
    assert case.outcome is not None
    measured = case.outcome is not Outcome.ABSTAINED
    critical = case.outcome is Outcome.CRITICAL
    uow.studies.add_finding(
        Finding(
            study_id=study.id,
            version=1,
            outcome=case.outcome,
            model="asymmetry@1.0.0",
            score=(0.94 if critical else 0.06) if measured else None,
            text=case.text,
            reason=case.reason,
            measurements=(
                ("lateral ventricle volume, left", 48.2 if critical else 11.3, "mL"),
                ("lateral ventricle volume, right", 17.9 if critical else 10.8, "mL"),
                ("midline shift", 6.4 if critical else 0.3, "mm"),
            )
            if measured
            else (),
        )
    )
    uow.studies.change(study.id, triage=case.outcome.value, triage_text=case.text)
    uow.timeline.add(
        study.id, "triage.done", case.outcome.value, actor="asymmetry@1.0.0", version=1
    )
    if critical:
        uow.studies.change(study.id, priority=int(Priority.CRITICAL), critical_at=now)
        uow.reports.found_critical(study.id)


def images(case: Case) -> Iterator[list[tuple[Instance, str, int]]]:
    """Yield the images of each series, with its description and number."""
    for number, (description, count) in enumerate(case.series, start=1):
        yield [
            (_image(case, description, image), description, number) for image in range(1, count + 1)
        ]


def _image(case: Case, description: str, number: int) -> Instance:
    uid = uid_from("test", case.accession, description, str(number))
    return Instance(
        sop_uid=uid,
        sop_class="1.2.840.10008.5.1.4.1.1.4",
        series_uid=uid_from("test", case.accession, description),
        study_uid=case.study_uid,
        transfer_syntax="1.2.840.10008.1.2.1",
        number=number,
        path=f"{uid}.dcm",
        size=131_072,
        digest="0" * 64,
    )


def _row(image: Instance) -> dict[str, object]:
    row = asdict(image)
    del row["study_uid"]
    return row | {"tier": image.tier.value}
