"""Images without an order: which orders and patients they may be of, how sure that is, and why.

Candidates come from the accession number, from what the station was to do at the time, from what
the scanner reported of the exam, and from the patient index. A score ranks them; only rules make
one certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, select

from models.lifecycle import StepState
from models.order import Order
from models.patient import Identifier, Patient, PersonName
from services.database.store import UnitOfWork
from services.database.tables import instance, series
from services.identity.index import PatientIndex
from services.identity.matching import Evidence, Level, Score, Verdict
from services.identity.normalise import core, number, read_name
from services.settings import Settings
from services.workflow.identification import Claim, contradictions, fold

NEAR: Final = timedelta(hours=6)
"""How far from its slot an exam may have begun and still be what the station was to do then."""
_LIMIT: Final = 40
_RIVAL: Final = 6.0
"""Two candidates whose scores differ by less are as alike: one is 64 times as likely, or less."""
_OPEN: Final = {s.value for s in (StepState.SCHEDULED, StepState.ARRIVED)}
_BEGUN: Final = {s.value for s in (StepState.IN_PROGRESS, StepState.COMPLETED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What images that nobody ordered, and the scanner, say of themselves."""

    claim: Claim
    person: Patient | None
    """Who they say it is, as the patient index is asked; None if they say nothing."""
    study_id: str | None = None
    accession: str = ""
    stations: frozenset[str] = frozenset()
    modalities: frozenset[str] = frozenset()
    sop_uids: frozenset[str] = frozenset()
    sps_ids: frozenset[str] = frozenset()
    """Scheduled steps that its performed steps name."""
    begun_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A patient, and perhaps one order, that images may be of."""

    patient: Patient
    order: Order | None
    score: float
    certain: bool
    """Whether rules allow to file it without asking."""
    rule: str
    evidence: tuple[Evidence, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as the desk and the API show it."""
        order = self.order
        return {
            "patient": self.patient.id,
            "identifier": self.patient.mrn.value if self.patient.identifiers else "",
            "authority": self.patient.mrn.authority if self.patient.identifiers else "",
            "name": str(self.patient.name),
            "birth_date": str(self.patient.birth_date or ""),
            "sex": self.patient.sex,
            "order": None
            if order is None
            else {
                "id": order.id,
                "accession": order.accession,
                "placer_number": order.placer_number,
                "procedure": order.procedure.meaning or order.procedure.value,
                "status": order.status,
                "start_at": min((s.start_at.isoformat() for s in order.steps), default=""),
                "stations": sorted({s.station_aet for s in order.steps if s.station_aet}),
            },
            "score": round(self.score, 2),
            "verdict": (Verdict.AUTOMATIC if self.certain else Verdict.DESK).value,
            "rule": self.rule,
            "evidence": [e.as_json() for e in self.evidence],
        }


def exam_of(uow: UnitOfWork, row: Row[Any], settings: Settings) -> Exam:
    """Return what a row of the desk says of its images, and what is known of their exam."""
    said = row.evidence.get("claimed") or {}
    born = said.get("birth_date")
    claim = Claim(
        name=said.get("name", ""),
        patient_id=said.get("patient_id", ""),
        issuer=said.get("issuer", ""),
        birth_date=date.fromisoformat(born) if born else None,
    )
    if row.study_id is None or row.kind != "no-order":
        return Exam(claim=claim, person=_person(claim, "", settings))
    study = uow.studies.row(row.study_id)
    made = uow.studies.select(
        select(instance.c.sop_uid, instance.c.source_ae, series.c.modality)
        .join_from(instance, series)
        .where(instance.c.study_id == row.study_id, instance.c.source_ae != settings.ae_title)
    )
    steps = uow.studies.mpps_of(row.study_id)
    sex = (study.attributes.get("00100040", {}).get("Value") or [""])[0]
    return Exam(
        claim=claim,
        person=_person(claim, sex, settings),
        study_id=row.study_id,
        accession=str(row.evidence.get("accession") or ""),
        stations=frozenset({m.source_ae for m in made} | {s.station_aet for s in steps} - {""}),
        modalities=frozenset(m.modality for m in made if m.modality),
        sop_uids=frozenset(m.sop_uid for m in made),
        sps_ids=frozenset(sps_id for s in steps for sps_id in s.sps_ids),
        begun_at=study.started_at,
    )


def matches(uow: UnitOfWork, exam: Exam, index: PatientIndex) -> list[Match]:
    """Return every order and patient that the images may be of, the likeliest first.

    At most the first is certain. Certain is an order whose patient has the number that the images
    say, of the same authority, with nothing that speaks against it, and which the accession number
    or the scanner's own report names; it alone, and nothing done for it yet.
    """
    scores = {} if exam.person is None else _people(uow, exam.person, index)
    looked_at = (_of_order(uow, exam, o, scores, index) for o in _orders(uow, exam, scores))
    found = [match for match in looked_at if match is not None]
    asked_for = {m.patient.id for m in found}
    found += [
        _of_patient(uow, exam, uow.patients.get(patient_id), score)
        for patient_id, score in scores.items()
        if patient_id not in asked_for
    ]
    found.sort(key=lambda m: (m.certain, m.score), reverse=True)
    return _settled(found)


def is_clear(ranked: Sequence[Match]) -> bool:
    """Whether the first stands out from the others, so that it can be proposed."""
    if not ranked:
        return False
    return ranked[0].certain or all(m.score <= ranked[0].score - _RIVAL for m in ranked[1:])


def _people(uow: UnitOfWork, person: Patient, index: PatientIndex) -> dict[str, Score]:
    return {c.patient_id: c.score for c in index.find(uow.connection, person)}


def _orders(uow: UnitOfWork, exam: Exam, people: Iterable[str]) -> list[Order]:
    found: dict[str, Order] = {}
    if exam.accession:
        found |= {o.id: o for o in uow.orders.like_accession(exam.accession, _LIMIT)}
    if exam.begun_at is not None and exam.stations:
        begin, end = exam.begun_at - NEAR, exam.begun_at + NEAR
        found |= {o.id: o for o in uow.orders.scheduled_at(exam.stations, begin, end, _LIMIT)}
    for patient_id in people:
        found |= {o.id: o for o in uow.orders.open_of(patient_id)}
    return list(found.values())


def _of_order(
    uow: UnitOfWork, exam: Exam, order: Order, scores: dict[str, Score], index: PatientIndex
) -> Match | None:
    patient = uow.patients.get(uow.patients.survivor(order.patient_id))
    score = scores.get(patient.id)
    if score is None and exam.person is not None:
        score = index.compare(uow.connection, exam.person, patient)
    told = (_accession(exam, order), _performed(uow, exam, order), _slot(exam, order))
    of_order = [e for e in told if e is not None]
    named = [e for e in of_order if e.field != "slot" and e.level is Level.AGREE]
    is_stranger = score is None or score.verdict is Verdict.STRANGER
    if is_stranger and all(e.level is Level.DISAGREE or e.field == "slot" for e in of_order):
        return None
    evidence = (*(score.evidence if score else ()), *of_order)
    against = _against(uow, exam, patient, score) or _unready(uow, order) or _other(of_order)
    if against:
        rule = against
    elif not named:
        rule = "the patient is certain, the order is not named"
    else:
        rule = "the patient's number and " + " and ".join(_NAMES[e.field] for e in named) + " agree"
    return Match(
        patient=patient,
        order=order,
        score=(score.total if score else 0.0) + sum(e.weight for e in of_order),
        certain=not against and bool(named),
        rule=rule,
        evidence=evidence,
    )


_NAMES: Final = {"accession": "the accession number", "performed step": "the performed step"}


def _of_patient(uow: UnitOfWork, exam: Exam, patient: Patient, score: Score) -> Match:
    against = _against(uow, exam, patient, score)
    return Match(
        patient=patient,
        order=None,
        score=score.total,
        certain=not against,
        rule=against or "the number of the same authority agrees, and nothing speaks against it",
        evidence=score.evidence,
    )


def _against(uow: UnitOfWork, exam: Exam, patient: Patient, score: Score | None) -> str:
    """Return why the patient is not certain; empty if nothing forbids it."""
    if score is None or exam.person is None:
        return "the images say nothing of their patient"
    if score.verdict is not Verdict.AUTOMATIC:
        return score.rule
    if score.level("identifier") is not Level.AGREE:
        return "no number agrees, and what is said of a person is not enough"
    names = (read_name(exam.person.name), read_name(patient.name))
    if any(name.newborn or name.tag for name in names):
        return "a newborn without a name of its own"
    against = set(contradictions(uow, exam.claim, patient.id)) & {"name", "birth-date"}
    if against:
        return "the same number, but not the same " + " and ".join(sorted(against))
    if not exam.claim.issuer and _is_anothers(uow, exam.claim.patient_id, patient.id):
        return "another authority has given this number, and the images say none"
    return ""


def _is_anothers(uow: UnitOfWork, value: str, patient_id: str) -> bool:
    owners = {uow.patients.survivor(owner) for owner in uow.patients.find_by_value(value)}
    return bool(owners - {patient_id})


def _unready(uow: UnitOfWork, order: Order) -> str:
    """Return why an order may not get images without asking; empty if it may."""
    study = uow.studies.find(order.study_uid)
    if study is None or order.status in ("CA", "DC") or order.replaced_by is not None:
        return "the order was cancelled or replaced"
    if uow.studies.instances(study.id):
        return "the order has images of its own"
    if len(order.steps) != 1:
        return "the order has several steps"
    if order.steps[0].status not in _OPEN | _BEGUN:
        return f"the order's step is {order.steps[0].status.lower()}"
    return ""


def _other(of_order: Iterable[Evidence]) -> str:
    if any(e.field == "accession" and e.level is Level.DISAGREE for e in of_order):
        return "the images say another accession number"
    return ""


def _accession(exam: Exam, order: Order) -> Evidence | None:
    said, has = exam.accession, order.accession
    if not said:
        return None
    level, weight, how = Level.DISAGREE, -3.0, "differs"
    if said == has:
        level, weight, how = Level.AGREE, 12.0, "the same"
    elif number(said) == number(has):
        level, weight, how = Level.AGREE, 10.0, "the same but for zeros, case and separators"
    elif core(said) and core(said) == core(has):
        level, weight, how = Level.CLOSE, 6.0, "the same digits, another prefix"
    return _evidence("accession", level, weight, how, said, has)


def _performed(uow: UnitOfWork, exam: Exam, order: Order) -> Evidence | None:
    study = uow.studies.find(order.study_uid)
    listed = {
        uid for step in (uow.studies.mpps_of(study.id) if study else ()) for uid in step.referenced
    }
    if listed & exam.sop_uids:
        return _evidence("performed step", Level.AGREE, 16.0, "lists these very objects")
    if exam.sps_ids & {step.sps_id for step in order.steps}:
        return _evidence("performed step", Level.CLOSE, 8.0, "names a scheduled step of this order")
    return None


def _slot(exam: Exam, order: Order) -> Evidence | None:
    if exam.begun_at is None:
        return None
    for step in order.steps:
        near = abs(step.start_at - exam.begun_at) <= NEAR
        if near and step.station_aet in exam.stations:
            if exam.modalities and step.modality not in exam.modalities | {""}:
                return _evidence("slot", Level.DISAGREE, -2.0, "another modality at this station")
            return _evidence("slot", Level.AGREE, 4.0, "scheduled at this station at the time")
    return None


def _evidence(
    field: str, level: Level, weight: float, how: str, said: str = "", has: str = ""
) -> Evidence:
    return Evidence(field=field, level=level, weight=weight, how=how, values=(said, has))


def _settled(ranked: Sequence[Match]) -> list[Match]:
    """Leave at most one certain: an order that no other is as alike as, or else one patient."""
    first = next((m for m in ranked if m.certain), None)
    why = "" if first is None else _rival(first, [m for m in ranked if m is not first])
    settled = []
    for match in ranked:
        if not match.certain or (match is first and not why):
            settled.append(match)
            continue
        settled.append(replace(match, certain=False, rule=why or "another one is likelier"))
    return settled


def _rival(first: Match, others: Sequence[Match]) -> str:
    if any(_is_named(m) for m in others):
        return "another order is named, too"
    if any(m.certain and m.patient.id != first.patient.id for m in others):
        return "another record is as alike"
    orders = [m for m in others if m.order is not None]
    if first.order is not None and any(m.score > first.score - _RIVAL for m in orders):
        return "another order is as alike"
    return ""


def _is_named(match: Match) -> bool:
    return any(
        e.field in ("accession", "performed step") and e.level is Level.AGREE
        for e in match.evidence
    )


def _person(claim: Claim, sex: str, settings: Settings) -> Patient | None:
    value = claim.patient_id.strip()
    if not value and not fold(claim.name):
        return None
    issuer = claim.issuer or settings.default_authority
    return Patient(
        id="",
        identifiers=(Identifier(value=value, authority=issuer),) if value else (),
        name=PersonName.parse(claim.name),
        birth_date=claim.birth_date,
        sex=sex if sex in ("M", "F", "O") else "",
    )
