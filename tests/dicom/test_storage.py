"""C-STORE over real sockets, by DCMTK and by hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from models.lifecycle import StudyState
from models.patient import Identifier
from models.study import new_uid
from models.tier import Tier
from services.archive.part10 import digest_of
from services.database.store import Store
from services.dicom.sop import VERIFICATION
from services.settings import Settings
from services.workflow.identity import merge
from tests.dicom.conftest import Listener
from tests.dicom.department import JANE, JOHN, associated, image, place, run, series, write


def eventually(fact: Callable[[], bool], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def topics(listener: Listener, study_id: str) -> list[tuple[str, str]]:
    with listener.store() as uow:
        return [(row.topic, row.version) for row in uow.outbox.of_study(study_id)]


def desk(listener: Listener) -> list[tuple[str, str | None]]:
    with listener.store() as uow:
        return [(row.kind, row.study_id) for row in uow.studies.desk()]


def data_sets(folder: Path) -> set[str]:
    digests = set()
    for path in folder.rglob("*.dcm"):
        with path.open("rb") as stream:
            digests.add(digest_of(stream))
    return digests


def test_echo(listener: Listener) -> None:
    assert run("echoscu", "127.0.0.1", str(listener.port)).returncode == 0


def test_an_ordered_series_lands_whole_and_is_announced_once(
    listener: Listener, tmp_path: Path
) -> None:
    _, study = place(listener.store)
    series(tmp_path / "out", study.study_uid, 12)
    sent = run("storescu", "-aet", "MR1", "+sd", "127.0.0.1", listener.port, tmp_path / "out")
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: len(topics(listener, study.id)) == 1)
    with listener.store() as uow:
        rows = uow.studies.instances(study.id)
        entries = [(e.kind, e.summary) for e in uow.timeline.of_study(study.id)]
        found = uow.studies.get(study.id)
        attributes = uow.studies.row(study.id).attributes
    assert len(rows) == 12
    assert all(listener.tiers.verify(Tier(r.tier), r.path, r.digest) for r in rows)
    assert data_sets(listener.settings.hot_root) == data_sets(tmp_path / "out")
    assert found.state is StudyState.ACQUIRING
    assert found.started_at is not None
    assert attributes["00080020"] == {"vr": "DA", "Value": ["20260301"]}
    assert [kind for kind, _ in entries] == ["images.arriving", "images.received"]
    assert "12 instances" in entries[-1][1]
    assert topics(listener, study.id)[0][1].startswith("assoc-")
    assert list(listener.tiers.incoming("dicom").iterdir()) == []
    assert desk(listener) == []


def test_the_same_instances_again_make_nothing_second(listener: Listener, tmp_path: Path) -> None:
    _, study = place(listener.store)
    series(tmp_path / "out", study.study_uid, 3)
    for _ in range(2):
        sent = run("storescu", "+sd", "127.0.0.1", listener.port, tmp_path / "out")
        assert sent.returncode == 0
    with listener.store() as uow:
        assert len(uow.studies.instances(study.id)) == 3
    assert len(list(listener.settings.hot_root.rglob("*.dcm"))) == 3
    assert not listener.tiers.quarantine_root.exists()


def test_a_lost_file_is_restored_by_sending_it_again(listener: Listener, tmp_path: Path) -> None:
    _, study = place(listener.store)
    series(tmp_path / "out", study.study_uid, 1)
    run("storescu", "+sd", "127.0.0.1", listener.port, tmp_path / "out")
    (stored,) = listener.settings.hot_root.rglob("*.dcm")
    stored.unlink()
    run("storescu", "+sd", "127.0.0.1", listener.port, tmp_path / "out")
    assert stored.exists()


def test_an_exam_without_order_is_stored_readable_and_on_the_desk_once(
    listener: Listener, tmp_path: Path
) -> None:
    uid = new_uid()
    made = series(tmp_path / "out", uid, 3)
    for ds in made:
        ds.AccessionNumber = "UNKNOWN1"
        write(ds, tmp_path / "out" / f"{ds.InstanceNumber - 1:04d}.dcm")
    assert run("storescu", "+sd", "127.0.0.1", listener.port, tmp_path / "out").returncode == 0
    with listener.store() as uow:
        study = uow.studies.find(uid)
        assert study is not None
        row = uow.studies.row(study.id)
        assert (study.order_id, study.state) == (None, StudyState.ACQUIRING)
        assert (row.dicom_patient_name, row.dicom_patient_id) == ("DOE^JANE", "0012345")
        assert row.accession == "UNKNOWN1"
        assert len(uow.studies.instances(study.id)) == 3
    assert desk(listener) == [("no-order", study.id)]


def test_a_known_accession_under_another_study_uid_is_a_candidate_not_a_guess(
    listener: Listener, tmp_path: Path
) -> None:
    order, ordered = place(listener.store, accession="A77")
    uid = new_uid()
    ds = image(uid)
    ds.AccessionNumber = "A77"
    write(ds, tmp_path / "a.dcm")
    assert run("storescu", "127.0.0.1", listener.port, tmp_path / "a.dcm").returncode == 0
    with listener.store() as uow:
        study = uow.studies.find(uid)
        assert study is not None
        assert (study.order_id, study.accession) == (None, "")
        (row,) = uow.studies.desk()
        assert row.evidence["candidate"] == {
            "order_id": order.id,
            "study_uid": ordered.study_uid,
            "contradictions": [],
        }


def test_another_patient_under_an_ordered_study_uid_never_enters_the_study(
    listener: Listener, tmp_path: Path
) -> None:
    _, study = place(listener.store)
    series(tmp_path / "out", study.study_uid, 2, patient=JOHN)
    for _ in range(2):
        sent = run("storescu", "+sd", "127.0.0.1", listener.port, tmp_path / "out")
        assert sent.returncode == 0
    with listener.store() as uow:
        assert uow.studies.instances(study.id) == []
        assert uow.studies.get(study.id).state is StudyState.SCHEDULED
        (row,) = uow.studies.desk()
    assert (row.kind, row.study_id) == ("wrong-patient", study.id)
    assert row.evidence["claimed"]["name"] == "ROE^JOHN"
    assert row.evidence["expected"]["name"] == "DOE^JANE"
    assert len(list((listener.tiers.quarantine_root / row.path).iterdir())) == 2
    assert data_sets(listener.tiers.quarantine_root) == data_sets(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "entered"),
    [
        ({"PatientName": "Doe^Jane"}, True),
        ({"PatientName": "DOÉ^JANE"}, True),
        ({"PatientName": ""}, True),
        ({"PatientBirthDate": ""}, True),
        ({"PatientID": ""}, True),
        ({"IssuerOfPatientID": "HOSP"}, True),
        ({"IssuerOfPatientID": "ELSEWHERE"}, False),
        ({"PatientID": "0012346"}, False),
        ({"PatientID": "12345"}, False),
        ({"PatientName": "DOE^JOAN"}, False),
        ({"PatientBirthDate": "19800215"}, False),
        ({"PatientID": "", "PatientBirthDate": ""}, False),
        ({"PatientID": "", "PatientName": ""}, False),
    ],
)
def test_who_may_enter_an_ordered_study(
    listener: Listener, change: dict[str, str], entered: bool
) -> None:
    _, study = place(listener.store)
    ds = image(study.study_uid)
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000
    with listener.store() as uow:
        assert bool(uow.studies.instances(study.id)) is entered
    assert [kind for kind, _ in desk(listener)] == ([] if entered else ["wrong-patient"])


def test_images_under_a_merged_identifier_go_to_the_survivor(listener: Listener) -> None:
    _, study = place(listener.store)
    with listener.store() as uow:
        uow.patients.save(JOHN)
        merge(uow, JANE.id, JOHN.id, by="chief", why="one person")
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(image(study.study_uid, patient=JOHN)).Status == 0x0000
    with listener.store() as uow:
        assert len(uow.studies.instances(study.id)) == 1


def test_the_same_uid_with_other_bytes_is_kept_apart_with_a_warning(listener: Listener) -> None:
    _, study = place(listener.store)
    first = image(study.study_uid)
    other = image(study.study_uid, sop_uid=first.SOPInstanceUID, seed=7)
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(first).Status == 0x0000
        assert assoc.send_c_store(other).Status == 0xB000
        assert assoc.send_c_store(other).Status == 0xB000
        assert assoc.send_c_store(first).Status == 0x0000
    with listener.store() as uow:
        (row,) = uow.studies.instances(study.id)
        with listener.tiers.open(Tier(row.tier), row.path) as stream:
            assert dcmread(stream).PixelData == first.PixelData
        (entry,) = uow.studies.desk()
    assert entry.kind == "uid-conflict"
    (kept,) = (listener.tiers.quarantine_root / entry.path).iterdir()
    assert dcmread(kept).PixelData == other.PixelData


def test_a_second_patient_in_an_unordered_study_is_kept_apart(listener: Listener) -> None:
    uid = new_uid()
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(image(uid)).Status == 0x0000
        assert assoc.send_c_store(image(uid, number=2, patient=JOHN)).Status == 0x0000
    with listener.store() as uow:
        study = uow.studies.find(uid)
        assert study is not None
        assert len(uow.studies.instances(study.id)) == 1
    assert sorted(kind for kind, _ in desk(listener)) == ["no-order", "wrong-patient"]


def test_a_series_uid_of_another_study_is_a_conflict(listener: Listener) -> None:
    _, one = place(listener.store)
    _, two = place(listener.store, accession="A2")
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(image(one.study_uid, series_uid="1.2.3")).Status == 0x0000
        assert assoc.send_c_store(image(two.study_uid, series_uid="1.2.3")).Status == 0xB000
    with listener.store() as uow:
        assert uow.studies.instances(two.id) == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", "../../../etc/passwd"),
        ("SeriesInstanceUID", "1.2/../.."),
        ("StudyInstanceUID", "1." + "2" * 80),
        ("SeriesInstanceUID", ""),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
def test_a_hostile_uid_never_becomes_a_path(listener: Listener, keyword: str, value: str) -> None:
    ds = image(new_uid())
    setattr(ds, keyword, value)
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(ds).Status == 0xA900
        assert assoc.send_c_store(image(new_uid())).Status == 0x0000
    kinds = sorted(kind for kind, _ in desk(listener))
    assert kinds == ["no-order", "unreadable"]
    (kept,) = (listener.tiers.quarantine_root / "unreadable").iterdir()
    assert kept.stat().st_size > 0
    home = listener.settings.home
    assert {p.name for p in home.iterdir()} == {"archive"}


def test_text_with_nul_is_stored(listener: Listener) -> None:
    uid = new_uid()
    ds = image(uid)
    ds.SeriesDescription = "T1\0 ax"
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000


def test_a_full_disk_answers_out_of_resources_and_stores_nothing(listener: Listener) -> None:
    tiers = listener.tiers
    tiers.settings = tiers.settings.model_copy(update={"disk_floor_mb": 1 << 40})
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(image(new_uid())).Status == 0xA700
    assert list(listener.settings.hot_root.rglob("*.dcm")) == []


def test_a_database_that_is_down_answers_out_of_resources(
    listener: Listener, tmp_path: Path
) -> None:
    listener.store.engine.dispose()
    real = listener.store.engine
    away = Settings(home=tmp_path, database_url="postgresql://x@127.0.0.1:1/none")
    listener.store.engine = Store(away).engine
    try:
        with associated(listener.port, MRImageStorage) as assoc:
            assert assoc.send_c_store(image(new_uid())).Status == 0xA700
    finally:
        listener.store.engine = real
    assert list(listener.settings.hot_root.rglob("*.dcm")) == []


def test_request_and_data_set_must_name_the_same_object(listener: Listener) -> None:
    ds = image(new_uid())
    ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    with associated(listener.port, MRImageStorage) as assoc:
        from io import BytesIO

        from pynetdicom.dimse_primitives import C_STORE
        from pynetdicom.dsutils import encode

        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = MRImageStorage
        request.AffectedSOPInstanceUID = new_uid()
        context = assoc.accepted_contexts[0]
        syntax = context.transfer_syntax[0]
        request.DataSet = BytesIO(encode(ds, syntax.is_implicit_VR, syntax.is_little_endian) or b"")
        assoc._reactor_checkpoint.clear()
        assoc.dimse.send_msg(request, context.context_id)
        _, response = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
        assert response is not None
        assert response.Status == 0xA900


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_private_classes_are_stored_too(listener: Listener, syntax: str) -> None:
    uid = new_uid()
    ds = image(uid)
    ds.SOPClassUID = "1.3.12.2.1107.5.9.1"  # Siemens CSA Non-Image Storage
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    with associated(listener.port, "1.3.12.2.1107.5.9.1") as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000


def test_garbage_and_silence_on_the_port_leave_the_listener_alive(listener: Listener) -> None:
    held = socket.create_connection(("127.0.0.1", listener.port))
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\0" * 4096):
        with socket.create_connection(("127.0.0.1", listener.port)) as peer:
            peer.sendall(garbage)
    with associated(listener.port, VERIFICATION) as assoc:
        assert assoc.send_c_echo().Status == 0x0000
    held.close()


def test_an_association_cut_in_the_middle_of_an_image_leaves_nothing(listener: Listener) -> None:
    _, study = place(listener.store)
    whole = image(study.study_uid, size=512)
    with associated(listener.port, MRImageStorage, max_pdu=16384) as assoc:
        assert assoc.send_c_store(whole).Status == 0x0000
        raw = assoc.dul.socket.socket
        # a P-DATA-TF PDU that promises more than it brings, in the middle of a data set
        cut = image(study.study_uid, number=2, size=512)
        half_send(assoc, cut)
        raw.close()
    incoming = listener.tiers.incoming("dicom")
    eventually(lambda: list(incoming.iterdir()) == [])
    eventually(lambda: len(topics(listener, study.id)) == 1)
    with listener.store() as uow:
        assert len(uow.studies.instances(study.id)) == 1
    assert run("echoscu", "127.0.0.1", str(listener.port)).returncode == 0


def half_send(assoc: object, ds: object) -> None:
    """Send a C-STORE request and only the first half of its data set."""
    from io import BytesIO

    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    request = C_STORE()
    request.MessageID, request.Priority = 9, 2
    request.AffectedSOPClassUID = ds.SOPClassUID
    request.AffectedSOPInstanceUID = ds.SOPInstanceUID
    context = assoc.accepted_contexts[0]
    syntax = context.transfer_syntax[0]
    request.DataSet = BytesIO(encode(ds, syntax.is_implicit_VR, syntax.is_little_endian))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    fragments = list(message.encode_msg(context.context_id, 16384))
    for fragment in fragments[: len(fragments) // 2]:
        assoc.dul.send_pdu(fragment)
    time.sleep(0.3)


def test_off_loopback_only_registered_peers_are_served(listener: Listener) -> None:
    known = listener.server._known
    assert known("ANY", "127.0.0.1")
    assert known("ANY", "::1")
    assert not known("MR1", "192.0.2.7")
    with listener.store() as uow:
        uow.peers.save("MR1", "192.0.2.7", 104)
        uow.peers.save("MR2", "mr2.example", 104)
    assert known("MR1", "192.0.2.7")
    assert not known("MR1", "192.0.2.8")
    assert known("MR2", "192.0.2.9")


def test_an_issuer_tells_equal_numbers_apart(listener: Listener) -> None:
    _, study = place(listener.store)
    with listener.store() as uow:
        from dataclasses import replace

        uow.patients.save(
            replace(JOHN, identifiers=(Identifier(value="0012345", authority="ELSEWHERE"),))
        )
    ds = image(study.study_uid)
    ds.IssuerOfPatientID = "ELSEWHERE"
    with associated(listener.port, MRImageStorage) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000
    with listener.store() as uow:
        assert uow.studies.instances(study.id) == []
