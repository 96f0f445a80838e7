"""What an order message says, as a scanner reads it from the worklist, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from services.database.store import Store
from services.hl7.mapping import ORDER, PATIENT, STEP
from services.workflow.messages import receive_message
from tests.dicom.conftest import Listener
from tests.dicom.department import run
from tests.hl7.full_orders import omi_full, orm_full
from tests.hl7.orders import omi, orm

KEYS = sorted({row.keyword for row in (*PATIENT, *ORDER)})
STEP_KEYS = sorted(
    {row.keyword for row in STEP}
    | {"ScheduledProcedureStepStartTime", "ScheduledProcedureStepStatus"}
)


def take(listener: Listener, raw: bytes) -> str:
    return receive_message(listener.store, raw, peer="test", settings=listener.settings).code


def forget(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE patient, imaging_order, study, message_log CASCADE")


def worklist(listener: Listener, folder: Path) -> list[bytes]:
    """Ask with DCMTK's findscu for every attribute; return the answers as they were sent."""
    folder.mkdir()
    keys = [*KEYS, *(f"ScheduledProcedureStepSequence[0].{key}" for key in STEP_KEYS)]
    arguments = [part for key in keys for part in ("-k", key)]
    asked = run("findscu", "-W", "-X", "-od", folder, *arguments, "127.0.0.1", str(listener.port))
    assert asked.returncode == 0, asked.stderr
    return [_dataset(path) for path in sorted(folder.glob("rsp*.dcm"))]


def _dataset(path: Path) -> bytes:
    """The data set as it was sent; findscu makes up the file meta before it (PS3.10 §7.1)."""
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


@pytest.mark.parametrize(("first", "second"), [(orm_full(), omi_full()), (orm(), omi())])
def test_both_ihe_options_make_the_same_item_byte_for_byte(
    listener: Listener, tmp_path: Path, first: bytes, second: bytes
) -> None:
    answers = []
    for number, raw in enumerate((first, second)):
        assert take(listener, raw) == "AA"
        (answer,) = worklist(listener, tmp_path / str(number))
        answers.append(answer)
        forget(listener.store)
    if first == orm():
        # The short messages differ in what only one of them says: the protocol in IPC-6.
        items = []
        for number in range(2):
            item = dcmread(tmp_path / str(number) / "rsp0001.dcm")
            del item.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence
            items.append(item)
        assert items[0] == items[1]
    else:
        assert answers[0] == answers[1]


def test_everything_that_is_said_arrives_at_its_attribute(
    listener: Listener, tmp_path: Path
) -> None:
    take(listener, omi_full())
    worklist(listener, tmp_path / "out")
    item = dcmread(tmp_path / "out" / "rsp0001.dcm")
    empty = [e.keyword for e in item if e.is_empty or (e.VR == "SQ" and not e.value)]
    assert empty == []  # nothing of the mapping is lost
    step = item.ScheduledProcedureStepSequence[0]
    assert [e.keyword for e in step if e.is_empty] == [
        "ScheduledStationName",
        "ScheduledProcedureStepLocation",
    ]
    told = {
        "PatientName": "DOE^JANE^Q^DR",
        "PatientID": "0012345",
        "IssuerOfPatientID": "HOSP",
        "PatientMotherBirthName": "SMITH^ANNE",
        "PatientAddress": "1 MAIN ST^^TOWN^ST^12345",
        "PatientComments": "Brings a relative",
        "Allergies": "Gadolinium contrast; Latex",
        "MedicalAlerts": "Pacemaker",
        "PregnancyStatus": 3,
        "SpecialNeeds": "wheelchair or stretcher",
        "PatientState": "Aggressive",
        "PatientWeight": 72,
        "PatientSize": 1.68,
        "AdmissionID": "V123",
        "RouteOfAdmissions": "E",
        "CurrentPatientLocation": "ED^B12^1",
        "ReferringPhysicianName": "REF^ANNA",
        "RequestingPhysician": "REF^ANNA",
        "OrderEnteredBy": "CLERK^CARL",
        "IssueDateOfImagingServiceRequest": "20260228",
        "InstitutionName": "General Hospital",
        "InstitutionalDepartmentName": "NEURO",
        "ReasonForVisit": "Headache",
        "ConfidentialityConstraintOnPatientDataDescription": "VIP",
        "RequestedProcedurePriority": "STAT",
        "ReasonForTheRequestedProcedure": "Acute severe headache",
        "PatientTransportArrangements": "WALK",
        "PlacerOrderNumberImagingServiceRequest": "P100",
        "FillerOrderNumberImagingServiceRequest": "F200",
        "AccessionNumber": "A2026000123",
        "RequestedProcedureID": "RP1",
        "StudyInstanceUID": "1.2.3.4.5.6.7",
    }
    assert {k: item[k].value for k in told} == told
    assert _issuer(item.OrderPlacerIdentifierSequence) == ("EMR", "1.2.9", "ISO")
    assert _issuer(item.OrderFillerIdentifierSequence) == ("RIS", "1.2.8", "ISO")
    assert _issuer(item.IssuerOfAccessionNumberSequence) == ("RIS", "1.2.8", "ISO")
    assert _issuer(item.IssuerOfAdmissionIDSequence) == ("HOSP", "1.2.3.4", "ISO")
    assert item.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3.4"
    (other,) = item.OtherPatientIDsSequence
    assert (other.PatientID, other.IssuerOfPatientID) == ("9988", "REGION")
    assert item.PatientPrimaryLanguageCodeSequence[0].CodeValue == "de"
    assert item.ReasonForRequestedProcedureCodeSequence[0].CodeValue == "R51"
    assert item.RequestedProcedureCodeSequence[0].CodeValue == "MRBRWO"
    assert step.ScheduledPerformingPhysicianName == "TECH^TINA"
    assert step.ScheduledProtocolCodeSequence[0].CodingSchemeDesignator == "99SITE"
    assert (step.ScheduledStationAETitle, step.ScheduledProcedureStepStatus) == (
        "MR1AE",
        "SCHEDULED",
    )


def _issuer(sequence: list[Dataset]) -> tuple[str, str, str]:
    (item,) = sequence
    return item.LocalNamespaceEntityID, item.UniversalEntityID, item.UniversalEntityIDType


def test_a_step_for_two_scanners_is_on_the_worklist_of_both(
    listener: Listener, tmp_path: Path
) -> None:
    take(listener, omi().replace(b"|||MR1AE", b"|||MR1AE~MR2AE"))
    for number, (title, found) in enumerate((("MR1AE", 1), ("MR2AE", 1), ("MR3AE", 0))):
        out = tmp_path / str(number)
        out.mkdir()
        key = f"ScheduledProcedureStepSequence[0].ScheduledStationAETitle={title}"
        run("findscu", "-W", "-X", "-od", out, "-k", key, "127.0.0.1", str(listener.port))
        assert len(list(out.glob("rsp*.dcm"))) == found


def modalities(listener: Listener, folder: Path, asked_for: str) -> list[str]:
    """What a console sees that asks for one modality, or leaves it open."""
    folder.mkdir()
    key = f"ScheduledProcedureStepSequence[0].Modality={asked_for}"
    asked = run("findscu", "-W", "-X", "-od", folder, "-k", key, "127.0.0.1", str(listener.port))
    assert asked.returncode == 0, asked.stderr
    items = (dcmread(path) for path in folder.glob("rsp*.dcm"))
    return sorted(item.ScheduledProcedureStepSequence[0].Modality for item in items)


def marks(listener: Listener, uid: str = "1.2.3.4.5.6.7") -> int:
    with listener.store() as uow:
        study = uow.studies.find(uid)
        assert study is not None
        kinds = [entry.kind for entry in uow.timeline.of_study(study.id)]
    return kinds.count("order.elsewhere")


@pytest.mark.parametrize(
    ("section", "modality"),
    [("NMR", "MR"), ("nmr", "MR"), ("MR", "MR"), ("CT", "CT"), ("RUS", "US"), ("PT", "PT")],
)
def test_the_word_for_the_section_is_read_as_the_modality_where_it_is_certain(
    listener: Listener, tmp_path: Path, section: str, modality: str
) -> None:
    order = orm().replace(b"||||MR|||", b"||||%s|||" % section.encode())
    assert take(listener, order) == "AA"
    ours = modality == "MR"
    assert modalities(listener, tmp_path / "own", "MR") == (["MR"] if ours else [])
    assert modalities(listener, tmp_path / "open", "") == [modality]
    assert marks(listener) == (0 if ours else 1)


def test_an_order_that_becomes_one_for_another_modality_is_marked_then(
    listener: Listener, tmp_path: Path
) -> None:
    take(listener, orm())
    change = orm(control_id="M2", control="XO").replace(b"||||MR|||", b"||||CT|||")
    assert take(listener, change) == "AA"
    assert modalities(listener, tmp_path / "own", "MR") == []
    assert marks(listener) == 1


def test_what_is_examined_here_is_a_setting(listener: Listener) -> None:
    both = listener.settings.model_copy(update={"modalities": ("MR", "CT")})
    order = orm().replace(b"||||MR|||", b"||||CT|||")
    assert receive_message(listener.store, order, peer="test", settings=both).code == "AA"
    assert marks(listener) == 0
