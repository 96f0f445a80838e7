"""Modality Worklist: matching rules on paper, and DCMTK's findscu on a real socket."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite

from models.lifecycle import StepState
from models.patient import Identifier, Patient, PersonName
from models.priority import Priority
from services.database.store import Store
from services.dicom import worklist
from services.dicom.matching import glob, matches, project
from services.dicom.sop import WORKLIST_FIND
from services.settings import Settings
from services.workflow.messages import receive_message
from tests.dicom.conftest import Listener
from tests.dicom.department import JOHN, associated, dcmtk, place, run
from tests.hl7.orders import orm

BERLIN = ZoneInfo("Europe/Berlin")


def query(*, step: dict[str, str] | None = None, **keys: str) -> Dataset:
    ds, item = Dataset(), Dataset()
    keys.setdefault("AccessionNumber", "")
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    for keyword, value in (step or {}).items():
        setattr(item, keyword, value)
    item.setdefault("ScheduledProcedureStepID", "")
    ds.ScheduledProcedureStepSequence = [item]
    return ds


def found(store: Store, ds: Dataset) -> list[str]:
    return sorted(a.AccessionNumber for _, a in worklist.find(store, ds, zone=BERLIN))


@pytest.fixture
def department(store: Store) -> Store:
    """Three steps: 09:00, 15:30 and, across midnight in UTC, 23:30 Berlin time."""
    place(store, accession="A1", start=datetime(2026, 3, 1, 8, 0, tzinfo=UTC))
    place(
        store, accession="A2", patient=JOHN, start=datetime(2026, 3, 1, 14, 30, tzinfo=UTC),
        station="MR2AE", priority=Priority.STAT,
    )  # fmt: skip
    place(store, accession="A3", start=datetime(2026, 3, 1, 22, 30, tzinfo=UTC), modality="CT")
    return store


@pytest.mark.parametrize(
    ("step", "keys", "expected"),
    [
        ({}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledStationAETitle": "MR1AE"}, {}, ["A1", "A3"]),
        ({"ScheduledStationAETitle": "MR*"}, {}, []),
        ({"ScheduledStationAETitle": "*"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledStationAETitle": "mr1ae"}, {}, []),
        ({"Modality": "MR"}, {}, ["A1", "A2"]),
        ({"Modality": "MR\\CT"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledProcedureStepStartDate": "20260301"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledProcedureStepStartDate": "20260302"}, {}, []),
        ({"ScheduledProcedureStepStartDate": "20260228-20260301"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledProcedureStepStartDate": "20260301-"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledProcedureStepStartDate": "-20260228"}, {}, []),
        ({"ScheduledProcedureStepStartTime": "0900"}, {}, ["A1"]),
        ({"ScheduledProcedureStepStartTime": "090000"}, {}, ["A1"]),
        ({"ScheduledProcedureStepStartTime": "0800-1600"}, {}, ["A1", "A2"]),
        (
            {
                "ScheduledProcedureStepStartDate": "20260301-20260302",
                "ScheduledProcedureStepStartTime": "1500-0600",
            },
            {},
            ["A2", "A3"],
        ),
        (
            {
                "ScheduledProcedureStepStartDate": "20260301",
                "ScheduledProcedureStepStartTime": "1500-1600",
            },
            {},
            ["A2"],
        ),
        ({"ScheduledProcedureStepID": "SPS?"}, {}, ["A1", "A2", "A3"]),
        ({"ScheduledPerformingPhysicianName": "SMITH*"}, {}, []),
        ({}, {"PatientID": "0012345"}, ["A1", "A3"]),
        ({}, {"PatientID": "00*"}, ["A1", "A2", "A3"]),
        ({}, {"PatientID": "12345"}, []),
        ({}, {"PatientName": "doe*"}, ["A1", "A3"]),
        ({}, {"PatientName": "DÖE^J?NE"}, ["A1", "A3"]),
        ({}, {"PatientName": "DOE"}, []),
        ({}, {"PatientName": "DOE^JANE^^"}, ["A1", "A3"]),
        ({}, {"AccessionNumber": "A2"}, ["A2"]),
        ({}, {"AccessionNumber": "a2"}, []),
        ({}, {"RequestedProcedurePriority": "STAT"}, ["A2"]),
        ({}, {"PatientBirthDate": "19500101-19791231"}, ["A2"]),
    ],
)
def test_matching(
    department: Store, step: dict[str, str], keys: dict[str, str], expected: list[str]
) -> None:
    assert found(department, query(step=step, **keys)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SMITH^ANNE*", ["A2026000123"]), ("smi*", ["A2026000123"]), ("JONES*", []), ("9877", [])],
)
def test_who_is_to_perform_a_step_comes_from_its_order(
    store: Store, settings: Settings, name: str, expected: list[str]
) -> None:
    message = orm().replace(b"headache", b"headache|||9877&SMITH&ANNE&&&DR^20260301")
    assert receive_message(store, message, peer="test", settings=settings).code == "AA"
    asked = query(step={"ScheduledPerformingPhysicianName": name})
    assert found(store, asked) == expected
    ((_, answer),) = worklist.find(store, query(step={"ScheduledPerformingPhysicianName": ""}))
    step = answer.ScheduledProcedureStepSequence[0]
    assert step.ScheduledPerformingPhysicianName == "SMITH^ANNE^^DR"


def test_every_step_is_one_answer_with_the_same_study(store: Store) -> None:
    order, _ = place(store, sps=("S1", "S2"))
    answers = [a for _, a in worklist.find(store, query(StudyInstanceUID=""))]
    assert [a.StudyInstanceUID for a in answers] == [order.study_uid] * 2
    ids = [a.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for a in answers]
    assert sorted(ids) == ["S1", "S2"]


def test_a_started_step_is_off_the_list(store: Store) -> None:
    order, _ = place(store)
    with store() as uow:
        uow.orders.set_step_status(order.id, StepState.IN_PROGRESS)
    assert found(store, query()) == []


def test_dates_and_times_are_local(department: Store) -> None:
    ds = query(step={"ScheduledProcedureStepStartDate": "", "ScheduledProcedureStepStartTime": ""})
    steps = {
        a.AccessionNumber: a.ScheduledProcedureStepSequence[0]
        for _, a in worklist.find(department, ds, zone=ZoneInfo("Asia/Tokyo"))
    }
    assert steps["A3"].ScheduledProcedureStepStartDate == "20260302"
    assert steps["A3"].ScheduledProcedureStepStartTime == "073000"


def test_unsupported_keys_answer_ff01_and_stay_out(department: Store) -> None:
    ds = query(step={"ScheduledProcedureStepEndDate": ""})
    ds.add_new(0x00091001, "LO", "")
    answers = list(worklist.find(department, ds))
    assert {status for status, _ in answers} == {0xFF01}
    assert 0x00091001 not in answers[0][1]
    assert {status for status, _ in worklist.find(department, query())} == {0xFF00}


def test_only_what_is_asked_for_is_answered(department: Store) -> None:
    (answer,) = [a for _, a in worklist.find(department, query(AccessionNumber="A1"))]
    assert sorted(e.keyword for e in answer) == [
        "AccessionNumber",
        "ScheduledProcedureStepSequence",
    ]
    assert [e.keyword for e in answer.ScheduledProcedureStepSequence[0]] == [
        "ScheduledProcedureStepID"
    ]


@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        (PersonName(family="DOE"), "", None),
        (PersonName(family="MÜLLER"), "", "ISO_IR 192"),
        (PersonName(family="MÜLLER"), "ISO_IR 100", "ISO_IR 100"),
        (PersonName(family="ŁUKASZ"), "ISO_IR 100", "ISO_IR 192"),
        (PersonName(family="ŁUKASZ"), "ISO_IR 101", "ISO_IR 101"),
    ],
)
def test_the_character_set_of_an_answer(
    store: Store, name: PersonName, asked: str, answered: str | None
) -> None:
    place(
        store,
        patient=Patient(id="x", identifiers=(Identifier(value="1", authority="H"),), name=name),
    )
    ds = query(PatientName="")
    if asked:
        ds.SpecificCharacterSet = asked
    ((_, answer),) = worklist.find(store, ds)
    assert answer.get("SpecificCharacterSet") == answered
    assert answer.PatientName == str(name)


def test_everything_on_the_wire_by_findscu(listener: Listener, tmp_path: Path) -> None:
    place(listener.store, start=datetime(2026, 3, 1, 9, 0, tzinfo=UTC), priority=Priority.STAT)
    keys = [
        *("PatientName=doe*", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
        *("AccessionNumber", "StudyInstanceUID", "RequestedProcedureID"),
        *("RequestedProcedureDescription", "RequestedProcedurePriority", "PregnancyStatus"),
        "ScheduledProcedureStepSequence[0].Modality=MR",
        "ScheduledProcedureStepSequence[0].ScheduledStationAETitle=MR1AE",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepSequence[0].ScheduledProcedureStepID",
        "ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence",
    ]
    arguments = [part for key in keys for part in ("-k", key)]
    asked = run("findscu", "-W", "-X", "-od", tmp_path, *arguments, "127.0.0.1", str(listener.port))
    assert asked.returncode == 0, asked.stderr
    (path,) = tmp_path.glob("rsp*.dcm")
    answer = dcmread(path)
    assert (answer.PatientID, answer.PatientSex) == ("0012345", "F")
    assert answer.RequestedProcedurePriority == "STAT"
    step = answer.ScheduledProcedureStepSequence[0]
    assert (step.Modality, step.ScheduledProcedureStepID) == ("MR", "SPS1")
    assert step.ScheduledProtocolCodeSequence[0].CodeValue == "BRAIN"


def test_two_items_in_the_sequence_key_are_refused(listener: Listener) -> None:
    ds = query()
    ds.ScheduledProcedureStepSequence = [Dataset(), Dataset()]
    with associated(listener.port, WORKLIST_FIND) as assoc:
        statuses = [status.Status for status, _ in assoc.send_c_find(ds, WORKLIST_FIND)]
    assert statuses == [0xA900]


def test_a_thousand_answers_and_a_cancel(listener: Listener) -> None:
    place(listener.store, accession="A0", sps=tuple(f"S{n}" for n in range(1000)))
    with associated(listener.port, WORKLIST_FIND) as assoc:
        all_of_them = list(assoc.send_c_find(query(), WORKLIST_FIND))
        assert len(all_of_them) == 1001
        statuses = []
        for number, (status, _) in enumerate(assoc.send_c_find(query(), WORKLIST_FIND, msg_id=7)):
            if number == 3:
                assoc.send_c_cancel(7, query_model=WORKLIST_FIND)
            statuses.append(status.Status)
    assert statuses[-1] == 0xFE00
    assert len(statuses) < 1001


@given(st.text(alphabet="ab?*", max_size=12), st.text(alphabet="ab", max_size=12))
def test_glob_agrees_with_regular_expressions(pattern: str, text: str) -> None:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert glob(pattern, text) is (re.fullmatch(expression, text) is not None)


def test_no_pattern_takes_exponential_time() -> None:
    start = time.perf_counter()
    assert not glob("*a" * 32 + "b", "a" * 64)
    assert time.perf_counter() - start < 0.5


def test_an_unknown_value_matches_only_universal_queries() -> None:
    held = Dataset()
    held.PatientBirthDate = ""
    wanted = Dataset()
    wanted.PatientBirthDate = "19800101-"
    assert not matches(wanted, held)
    wanted.PatientBirthDate = ""
    assert matches(wanted, held)
    assert project(wanted, held)[0].PatientBirthDate == ""


# --- DCMTK's own worklist server as the judge, on the corpus' items and queries

CORPUS = Path(__file__).parents[2].parent / "shared" / "corpora" / "dicom" / "mwl"


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpora are not here")
@pytest.mark.filterwarnings("ignore")
def test_the_corpus_queries_find_what_dcmtk_finds(listener: Listener, tmp_path: Path) -> None:
    import socket
    import subprocess

    server = dcmtk("wlmscpfs")
    area = tmp_path / "wl" / "SPINECHO"
    area.mkdir(parents=True)
    (area / "lockfile").touch()
    for path in sorted(CORPUS.glob("*.wl")):
        item = dcmread(path, force=True)
        step = item.ScheduledProcedureStepSequence[0]
        if not isinstance(step.ScheduledStationAETitle, str):
            step.ScheduledStationAETitle = step.ScheduledStationAETitle[0]  # ours keeps one
        dcmwrite(area / path.name, item, enforce_file_format=True)
        _place_item(listener.store, item)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [server, "-dfp", tmp_path / "wl", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as judge:
        try:
            _wait(port)
            compared = 0
            for path in sorted(CORPUS.glob("*.query.dcm")):
                theirs, ours = (
                    _accessions(port, path, tmp_path),
                    _accessions(listener.port, path, tmp_path),
                )
                assert ours == theirs, path.name
                compared += 1
            assert compared == 13
        finally:
            judge.terminate()


def _wait(port: int) -> None:
    import socket

    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def _accessions(port: int, path: Path, folder: Path) -> list[str]:
    out = folder / f"answers-{port}-{path.stem}"
    out.mkdir()
    asked = run(
        *("findscu", "-W", "-X", "-od", out, "-aec", "SPINECHO"),
        *("-k", "StudyInstanceUID", "127.0.0.1", str(port), path),
    )
    assert asked.returncode == 0, asked.stderr
    return sorted(str(dcmread(p, force=True).StudyInstanceUID) for p in out.glob("rsp*.dcm"))


def _place_item(store: Store, item: Dataset) -> None:
    step = item.ScheduledProcedureStepSequence[0]
    local = datetime.strptime(
        str(step.ScheduledProcedureStepStartDate)
        + str(step.ScheduledProcedureStepStartTime).ljust(6, "0")[:6],
        "%Y%m%d%H%M%S",
    ).astimezone()
    birth = str(item.get("PatientBirthDate") or "")
    patient = Patient(
        id=f"p{item.StudyInstanceUID}",
        identifiers=(Identifier(value=str(item.PatientID), authority=f"X{item.PatientID}"),),
        name=PersonName.parse(str(item.PatientName)),
        birth_date=date(int(birth[:4]), int(birth[4:6]), int(birth[6:8])) if birth else None,
        sex=str(item.get("PatientSex") or ""),
    )
    place(
        store,
        patient=patient,
        accession=str(item.AccessionNumber or item.StudyInstanceUID[-12:]),
        study_uid=str(item.StudyInstanceUID),
        sps=(str(step.ScheduledProcedureStepID),),
        start=local,
        station=str(step.ScheduledStationAETitle),
        modality=str(step.Modality),
        performing=str(step.get("ScheduledPerformingPhysicianName") or ""),
    )
