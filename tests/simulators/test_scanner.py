from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from datetime import date, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind

from deployments.installation import free_port
from services.simulators.anatomy import head
from services.simulators.commitment import CommitmentBox
from services.simulators.emr import Emr
from services.simulators.header import Exam, dataset, uid
from services.simulators.imaging import classic_mr, enhanced_mr
from services.simulators.plan import plan
from services.simulators.scanner import DicomRefusedError, Scanner
from services.simulators.worklist import read_item
from tests.simulators.stand_in import StandIn

NINE = datetime.fromisoformat("2026-03-01T09:00:00")
DAY = date(2026, 3, 1)
PATIENT = next(p for p in plan(7, DAY) if p.station == "MR1AE" and "Müller" not in p.name)


def dcmtk(name):
    """DCMTK's own tool: the environment's bin holds namesakes that are pynetdicom's."""
    path = shutil.which(name, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if path is None:
        pytest.skip(f"DCMTK's {name} is not installed")
    return path


@pytest.fixture
def background():
    """Start a program that listens and wait until it does; end it afterwards."""
    running = []

    def start(arguments, port):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"{arguments[0]} does not listen")

    yield start
    for process in running:
        process.terminate()
        process.wait(5)


@pytest.fixture(scope="module")
def volume():
    return head(3, matrix=64, slices=8, slice_mm=18.0)


@pytest.fixture
def department():
    """A scanner and a stand-in engine that can reach its listener."""
    ports = {"MR1AE": free_port()}
    engine = StandIn(0, ports)
    with Scanner(
        "MR1AE", "127.0.0.1", engine.dicom_port, "SPINECHO", listener_port=ports["MR1AE"]
    ) as scanner:
        yield scanner, engine
    engine.close()


def test_worklist_of_dcmtk(background, tmp_path):
    """`wlmscpfs` refuses queries that break PS3.4 Annex K, so its answer is a verdict on ours."""
    folder = tmp_path / "SPINECHO"
    folder.mkdir()
    (folder / "lockfile").touch()
    for number, station in enumerate(("MR1AE", "MR2AE")):
        step = dataset(
            {
                "ScheduledStationAETitle": station,
                "ScheduledProcedureStepStartDate": "20260301",
                "ScheduledProcedureStepStartTime": "090000",
                "Modality": "MR",
                "ScheduledPerformingPhysicianName": "",
                "ScheduledProcedureStepDescription": "T1",
                "ScheduledProcedureStepID": f"SPS{number}",
                "ScheduledStationName": "",
                "ScheduledProcedureStepLocation": "",
            }
        )
        entry = dataset(
            {
                "SpecificCharacterSet": "ISO_IR 100",
                "AccessionNumber": f"A{number}",
                "ReferringPhysicianName": "",
                "PatientName": "Müller-Testfall^Jörg",
                "PatientID": f"T{number}",
                "PatientBirthDate": "19700101",
                "PatientSex": "M",
                "StudyInstanceUID": uid("dcmtk", number),
                "RequestingPhysician": "",
                "RequestedProcedureDescription": "MRI brain",
                "RequestedProcedureID": f"RP{number}",
                "RequestedProcedurePriority": "STAT",
                "ScheduledProcedureStepSequence": [step],
            }
        )
        entry.file_meta = FileMetaDataset()
        entry.file_meta.MediaStorageSOPClassUID = ModalityWorklistInformationFind
        entry.file_meta.MediaStorageSOPInstanceUID = uid("worklist", number)
        entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        entry.save_as(folder / f"{number}.wl", enforce_file_format=True)
    port = free_port()
    background([dcmtk("wlmscpfs"), "-dfp", str(tmp_path), str(port)], port)
    with Scanner("MR1AE", "127.0.0.1", port, "SPINECHO", patience_s=1) as scanner:
        (item,) = scanner.worklist(DAY)
        assert scanner.worklist(date(2026, 3, 2)) == []
    assert (item.accession, item.patient_id, item.step_id) == ("A0", "T0", "SPS0")
    assert item.patient_name == "Müller-Testfall^Jörg"
    assert item.study_uid == uid("dcmtk", 0)
    assert (item.priority, item.scheduled, item.station) == ("STAT", "20260301090000", "MR1AE")


def test_images_reach_dcmtk_unchanged(background, tmp_path, volume):
    port = free_port()
    background([dcmtk("storescp"), "-aet", "SPINECHO", "-od", str(tmp_path), str(port)], port)
    exam = Exam(
        key="d",
        patient_name="Exemple^Éloïse",
        patient_id="T1",
        study_uid=uid("d"),
        started=NINE,
    )
    other = Exam(
        key="e",
        patient_name="Exemple^Éloïse",
        patient_id="T1",
        study_uid=uid("d"),
        series_number=2,
        started=NINE,
    )
    images = [*classic_mr(volume, exam), enhanced_mr(volume, other)]
    with Scanner("MR1AE", "127.0.0.1", port, "SPINECHO", patience_s=1) as scanner:
        assert scanner.echo()
        assert scanner.send(images) == [0] * 9
    kept = {ds.SOPInstanceUID: ds for ds in map(dcmread, Path(tmp_path).iterdir())}
    assert set(kept) == {image.SOPInstanceUID for image in images}
    for image in images:
        assert kept[image.SOPInstanceUID] == image


def order(engine, patient):
    with Emr("127.0.0.1", engine.hl7_port) as emr:
        assert emr.place(patient.order()).accepted


def test_a_whole_exam(department, volume):
    scanner, engine = department
    order(engine, PATIENT)
    (item,) = scanner.worklist(PATIENT.scheduled.date())
    result = scanner.scan(item, lambda exam: classic_mr(volume, exam))
    assert result.statuses == (0,) * 8
    assert result.commitment.committed == result.instance_uids
    assert result.commitment.failed == ()
    assert not result.commitment.same_association
    assert scanner.worklist() == []

    (step,) = engine.steps.values()
    scheduled = step.ScheduledStepAttributesSequence[0]
    assert scheduled.StudyInstanceUID == PATIENT.study_uid
    assert scheduled.AccessionNumber == PATIENT.accession
    assert scheduled.ScheduledProcedureStepID == PATIENT.step_id
    assert step.PatientName == PATIENT.name
    assert step.PerformedProcedureStepStatus == "COMPLETED"
    assert step.PerformedProcedureStepEndDate
    (series,) = step.PerformedSeriesSequence
    assert series.ProtocolName
    listed = [r.ReferencedSOPInstanceUID for r in series.ReferencedImageSequence]
    assert listed == list(result.instance_uids)

    for uid_ in result.instance_uids:
        image = engine.instances[uid_]
        assert image.PatientName == PATIENT.name
        assert image.PatientID == PATIENT.patient_id
        assert image.PatientBirthDate == PATIENT.birth_date
        assert image.AccessionNumber == PATIENT.accession
        assert image.StudyInstanceUID == PATIENT.study_uid
        assert image.SeriesInstanceUID == series.SeriesInstanceUID
        request = image.RequestAttributesSequence[0]
        assert request.ScheduledProcedureStepID == PATIENT.step_id
        reference = image.ReferencedPerformedProcedureStepSequence[0]
        assert reference.ReferencedSOPInstanceUID in engine.steps


FINAL_ONLY = {
    # PS3.4 Table F.7.2-1: never in an N-SET
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
    "StudyID",
}


def test_a_discontinued_exam_says_why(department):
    scanner, engine = department
    order(engine, PATIENT)
    (item,) = scanner.worklist()
    exam = scanner.begin(item)
    scanner.end(exam, [], discontinued="110514")
    ((_, change),) = engine.changes
    assert change.PerformedProcedureStepStatus == "DISCONTINUED"
    (reason,) = change.PerformedProcedureStepDiscontinuationReasonCodeSequence
    assert (reason.CodeValue, reason.CodingSchemeDesignator) == ("110514", "DCM")
    (series,) = change.PerformedSeriesSequence
    assert series.ProtocolName
    assert len(series.ReferencedImageSequence) == 0
    assert not FINAL_ONLY & set(change.dir())
    with pytest.raises(DicomRefusedError, match="0x0110"):
        scanner.end(exam, [])


def test_an_unscheduled_exam_has_one_empty_step(department, volume):
    scanner, engine = department
    exam = Exam(
        key="x",
        patient_name="DOE^UNKNOWN",
        patient_id="UNK1",
        study_uid=uid("x"),
        station="MR1AE",
        started=NINE,
    )
    result = scanner.scan(exam, lambda it: [enhanced_mr(volume, it)])
    (step,) = engine.steps.values()
    (scheduled,) = step.ScheduledStepAttributesSequence
    assert scheduled.StudyInstanceUID == uid("x")
    assert not scheduled.AccessionNumber
    assert not scheduled.ScheduledProcedureStepID
    assert not scheduled.RequestedProcedureID
    assert result.commitment.committed == result.instance_uids


def test_commitment_on_the_same_association(department, volume, monkeypatch):
    scanner, engine = department
    engine.same_association = True

    class SlowBox(CommitmentBox):
        def take(self, event, same_association):
            answer = super().take(event, same_association)
            time.sleep(0.3)  # a release in this moment would overtake the answer
            return answer

    monkeypatch.setattr(scanner, "_box", SlowBox())
    images = classic_mr(
        volume,
        Exam(
            key="c",
            patient_name="Muster^Änne",
            patient_id="T1",
            study_uid=uid("c"),
            started=NINE,
        ),
    )
    scanner.send(images[:-1])
    result = scanner.commit(images)
    assert result.same_association
    assert len(result.committed) == 7
    assert result.failed == ((images[-1].SOPInstanceUID, 0x0112),)
    assert engine.answers == [0x0000]


def test_an_association_cut_in_the_middle_loses_and_doubles_nothing(volume):
    engine = StandIn(0, {}, drop_after=3)
    exam = Exam(
        key="b",
        patient_name="Muster^Änne",
        patient_id="T1",
        study_uid=uid("b"),
        started=NINE,
    )
    images = classic_mr(volume, exam)
    with Scanner("MR1AE", "127.0.0.1", engine.dicom_port, "SPINECHO") as scanner:
        assert scanner.send(images) == [0] * 8
    engine.close()
    assert set(engine.instances) == {image.SOPInstanceUID for image in images}
    # only the one whose answer was lost may have come twice
    assert engine.stores.total() <= 9


def test_a_lost_answer_to_mpps_is_no_second_step(department):
    scanner, engine = department
    order(engine, PATIENT)
    (item,) = scanner.worklist()
    exam = scanner.begin(item)
    scanner.begin(item)
    assert list(engine.steps) == [exam.mpps_uid]


def test_a_worklist_answer_without_a_step_is_refused():
    with pytest.raises(ValueError, match="0040,0100"):
        read_item(dataset({"PatientName": "A", "ScheduledProcedureStepSequence": Sequence()}))


def test_a_refused_query_is_told():
    ae = AE("SPINECHO")
    ae.add_supported_context(ModalityWorklistInformationFind)

    def refuse(_event):
        yield 0xC001, None

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, refuse)])
    with (
        Scanner("MR1AE", "127.0.0.1", server.server_address[1], "SPINECHO") as scanner,
        pytest.raises(DicomRefusedError, match="0xC001"),
    ):
        scanner.worklist()
    server.shutdown()


def test_importing_the_simulators_does_not_import_nilearn():
    code = (
        "import sys, services.simulators.department;"
        "assert 'nilearn' not in sys.modules and 'prefect' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
