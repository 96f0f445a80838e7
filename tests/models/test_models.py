"""What the records refuse, and the rules that they carry themselves."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ANSWERS, MissingField, MissingValue, SpinechoError, answer_to
from models.events import STAGES, Stage, Topic
from models.lifecycle import ReportStatus
from models.order import Code, Order, ScheduledStep
from models.patient import Identifier, Patient, PersonName
from models.priority import HL7_PRIORITY, Priority
from models.report import Report
from models.study import new_id, new_uid, uid_from
from models.tier import Tier

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ORDER = Order(
    id="o1",
    patient_id="p1",
    placer_number="P100",
    accession="A100",
    study_uid="2.25.1",
    requested_procedure_id="RP100",
    procedure=Code(value="MRBRAIN"),
)
REPORT = Report(
    id="r1",
    study_id="s1",
    version=1,
    status=ReportStatus.FINAL,
    findings="",
    impression="No acute finding.",
    author="reader",
    signed_at=NOON,
)


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_identifier_needs_a_value(value: str) -> None:
    with pytest.raises(ValueError, match="value"):
        Identifier(value=value, authority="HOSP")


def test_the_same_number_of_two_authorities_is_two_identifiers() -> None:
    assert Identifier(value="0042", authority="A") != Identifier(value="0042", authority="B")
    assert Identifier(value="0042", authority="A") != Identifier(value="42", authority="A")


def test_records_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        ORDER.accession = "B"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["accession", "requested_procedure_id"])
@pytest.mark.parametrize("value", ["", "A" * 17])
def test_an_order_refuses_what_dicom_cannot_carry(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has {len(value)} characters"):
        replace(ORDER, **{name: value})


def test_an_order_takes_all_sixteen_characters() -> None:
    assert replace(ORDER, accession="A" * 16).accession == "A" * 16


@pytest.mark.parametrize("name", ["sps_id", "station_aet"])
def test_a_step_refuses_what_dicom_cannot_carry(name: str) -> None:
    fields = {"sps_id": "S1", "start_at": NOON} | {name: "A" * 17}
    with pytest.raises(ValueError, match="17 characters"):
        ScheduledStep(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 0}, "count from 1"),
        ({"impression": " \n"}, "impression"),
        ({"author": ""}, "author"),
    ],
)
def test_a_report_needs_a_version_an_impression_and_an_author(
    changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(REPORT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("priority", "queue", "term"),
    [
        (Priority.CRITICAL, "critical", "STAT"),
        (Priority.STAT, "critical", "STAT"),
        (Priority.HIGH, "urgent", "HIGH"),
        (Priority.MEDIUM, "urgent", "MEDIUM"),
        (Priority.ROUTINE, "routine", "ROUTINE"),
        (Priority.LOW, "routine", "LOW"),
    ],
)
def test_queue_and_dicom_term_of_a_priority(priority: Priority, queue: str, term: str) -> None:
    assert (priority.queue, priority.dicom) == (queue, term)


@given(st.sampled_from(Priority), st.sampled_from(Priority))
def test_a_priority_is_raised_and_never_lowered(one: Priority, other: Priority) -> None:
    raised = one.raised_to(other)
    assert raised <= one
    assert raised in {one, other}
    assert raised is other.raised_to(one)


def test_no_sender_can_order_a_critical_study() -> None:
    assert Priority.CRITICAL not in HL7_PRIORITY.values()


component = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="^=\\"), max_size=12
).map(str.strip)


@given(component, component, component, component, component)
def test_a_name_survives_being_written_and_read(
    family: str, given: str, middle: str, prefix: str, suffix: str
) -> None:
    name = PersonName(family=family, given=given, middle=middle, prefix=prefix, suffix=suffix)
    assert PersonName.parse(str(name)) == name


def test_a_name_is_read_from_its_alphabetic_group() -> None:
    name = PersonName.parse("Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert (name.family, name.given, str(name)) == ("Yamada", "Tarou", "Yamada^Tarou")


def test_case_and_spaces_do_not_tell_people_apart() -> None:
    assert PersonName.parse("DOE^JANE  ANN").key() == PersonName.parse("Doe^Jane Ann").key()


def test_dicom_is_told_the_first_medical_record_number() -> None:
    visit, mrn = (
        Identifier(value="V1", authority="HOSP", type="VN"),
        Identifier(value="M1", authority="HOSP"),
    )
    patient = Patient(id="p1", identifiers=(visit, mrn), name=PersonName(family="Doe"))
    assert patient.mrn is mrn
    assert replace(patient, identifiers=(visit,)).mrn is visit


def test_uids_and_ids_say_nothing_and_repeat_on_demand() -> None:
    assert new_id() != new_id()
    assert len(new_id()) == 32
    assert len(new_uid()) <= 64
    assert uid_from("a", "b") == uid_from("a", "b") != uid_from("ab")


def test_every_announcement_starts_a_stage_and_its_key_names_the_attempt() -> None:
    assert set(STAGES) == set(Topic)
    stage = Stage(id=1, flow="triage", subject="s1", version="2", queue="urgent", attempt=3)
    assert stage.key == "s1:triage:2:3"


def test_only_the_hot_tier_is_online() -> None:
    assert [tier.availability for tier in Tier] == ["ONLINE", "NEARLINE", "NEARLINE"]


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.code)
def test_every_error_is_answered_and_errors_of_peers_are_not_ours(
    kind: type[SpinechoError],
) -> None:
    answer = answer_to(kind("said to the peer", location="PID^1^3"))
    assert answer is ANSWERS[kind]
    assert answer.ack in {"AE", "AR"}
    assert 400 <= answer.http < 600


def test_an_error_of_no_known_class_is_internal_and_a_subclass_answers_as_its_parent() -> None:
    class MissingName(MissingField):
        pass

    assert answer_to(KeyError("x")).http == 500
    assert answer_to(MissingName("no name")) is ANSWERS[MissingField]
    assert answer_to(MissingValue("empty")) is ANSWERS[MissingValue]
