"""Storage commitment: on the same association, on a reversed one, in part, twice, later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_role, evt

from models.study import new_uid
from services.dicom.commitment import answer_open_commitments
from services.dicom.sop import COMMITMENT, COMMITMENT_INSTANCE, VERIFICATION
from tests.dicom.conftest import Listener
from tests.dicom.department import JOHN, associated, image, place


@dataclass
class Inbox:
    """The scanner's side of the results."""

    events: list[tuple[int, Dataset]] = field(default_factory=list)
    unanswered: set[object] = field(default_factory=set)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def handlers(self) -> list[tuple[object, ...]]:
        return [(evt.EVT_N_EVENT_REPORT, self.take), (evt.EVT_PDU_SENT, self.sent)]

    def take(self, event: evt.Event) -> tuple[int, None]:
        self.events.append((event.event_type, event.event_information))
        self.unanswered.add(event.assoc)
        return 0x0000, None

    def sent(self, event: evt.Event) -> None:
        # pynetdicom would let the release of a test that goes on overtake the response
        if event.assoc in self.unanswered:
            self.unanswered.remove(event.assoc)
            self.arrived.release()

    def next(self) -> tuple[int, Dataset]:
        assert self.arrived.acquire(timeout=10), "no result came"
        return self.events[-1]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def scanner(inbox: Inbox) -> Iterator[int]:
    """A scanner that listens for results on a port of its own."""
    ae = AE(ae_title="MR1")
    ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=inbox.handlers)
    yield server.socket.getsockname()[1]
    server.shutdown()


def request(transaction_uid: str, *references: tuple[str, str]) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = []
    for sop_class, sop_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
        ds.ReferencedSOPSequence.append(item)
    return ds


def ask(assoc: object, ds: Dataset, action: int = 1) -> int:
    status, _ = assoc.send_n_action(ds, action, COMMITMENT, COMMITMENT_INSTANCE)
    return int(status.Status)


def failures(event: Dataset) -> dict[str, int]:
    return {i.ReferencedSOPInstanceUID: i.FailureReason for i in event.get("FailedSOPSequence", [])}


def committed(event: Dataset) -> list[str]:
    return [i.ReferencedSOPInstanceUID for i in event.get("ReferencedSOPSequence", [])]


def owed(listener: Listener) -> int:
    with listener.store() as uow:
        return len(uow.studies.open_commitments(uow.now))


def test_all_committed_on_the_same_association(listener: Listener, inbox: Inbox) -> None:
    _, study = place(listener.store)
    images = [image(study.study_uid, number=n) for n in (1, 2, 3)]
    transaction = new_uid()
    with associated(
        listener.port,
        *(MRImageStorage, COMMITMENT, VERIFICATION),
        evt_handlers=inbox.handlers,
    ) as assoc:
        for ds in images:
            assert assoc.send_c_store(ds).Status == 0x0000
        references = [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in images]
        assert ask(assoc, request(transaction, *references)) == 0x0000
        event_type, event = inbox.next()
        assert (event_type, event.TransactionUID) == (1, transaction)
        assert committed(event) == [ds.SOPInstanceUID for ds in images]
        assert assoc.send_c_echo().Status == 0x0000  # and the association goes on
    with listener.store() as uow:
        kinds = [entry.kind for entry in uow.timeline.of_study(study.id)]
    assert "storage.committed" in kinds
    assert owed(listener) == 0


def test_the_result_comes_on_a_reversed_association(
    listener: Listener, inbox: Inbox, scanner: int
) -> None:
    _, study = place(listener.store)
    with listener.store() as uow:
        uow.peers.save("MR1", "127.0.0.1", scanner)
    ds = image(study.study_uid)
    with associated(listener.port, MRImageStorage, COMMITMENT) as assoc:
        assoc.send_c_store(ds)
        assert ask(assoc, request(new_uid(), (ds.SOPClassUID, ds.SOPInstanceUID))) == 0x0000
    event_type, event = inbox.next()
    assert (event_type, committed(event)) == (1, [ds.SOPInstanceUID])
    _eventually_owed(listener, 0)


def test_what_cannot_be_committed_is_named_with_its_reason(
    listener: Listener, inbox: Inbox
) -> None:
    _, study = place(listener.store)
    good, damaged, lost, kept = (image(study.study_uid, number=n) for n in (1, 2, 3, 4))
    kept.PatientName, kept.PatientID = str(JOHN.name), JOHN.mrn.value
    with associated(
        listener.port,
        *(MRImageStorage, COMMITMENT),
        evt_handlers=inbox.handlers,
    ) as assoc:
        for ds in (good, damaged, lost, kept):
            assert assoc.send_c_store(ds).Status == 0x0000
        hot = listener.settings.hot_root
        (path,) = hot.rglob(f"{damaged.SOPInstanceUID}*")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        next(hot.rglob(f"{lost.SOPInstanceUID}*")).unlink()
        references = [(MRImageStorage, ds.SOPInstanceUID) for ds in (good, damaged, lost, kept)]
        references += [("1.2.840.10008.5.1.4.1.1.2", str(good.SOPInstanceUID))]
        references += [(MRImageStorage, "1.2.3.999")]
        assert ask(assoc, request(new_uid(), *references)) == 0x0000
        event_type, event = inbox.next()
    assert event_type == 2
    # what lies on the desk is stored, and answered for, too
    assert committed(event) == [good.SOPInstanceUID, kept.SOPInstanceUID]
    reasons = [i.FailureReason for i in event.FailedSOPSequence]
    assert reasons == [0x0110, 0x0110, 0x0119, 0x0112]


def test_a_transaction_uid_is_used_once(listener: Listener, inbox: Inbox) -> None:
    _, study = place(listener.store)
    ds = image(study.study_uid)
    transaction = new_uid()
    with associated(
        listener.port,
        *(MRImageStorage, COMMITMENT),
        evt_handlers=inbox.handlers,
    ) as assoc:
        assoc.send_c_store(ds)
        reference = (str(ds.SOPClassUID), str(ds.SOPInstanceUID))
        assert ask(assoc, request(transaction, reference)) == 0x0000
        assert inbox.next()[0] == 1
        assert ask(assoc, request(transaction, reference)) == 0x0000
        event_type, event = inbox.next()
    assert (event_type, failures(event)) == (2, {ds.SOPInstanceUID: 0x0131})


def test_requests_that_are_none(listener: Listener) -> None:
    with associated(listener.port, COMMITMENT) as assoc:
        assert ask(assoc, request(new_uid(), (MRImageStorage, "1.2")), action=2) == 0x0123
        assert ask(assoc, request(new_uid())) == 0x0115
        assert ask(assoc, request("", (MRImageStorage, "1.2"))) == 0x0115


# pynetdicom leaves the socket of a refused connection to the collector
@pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_absent_scanner_gets_its_result_later(listener: Listener, inbox: Inbox) -> None:
    _, study = place(listener.store)
    ds = image(study.study_uid)
    with listener.store() as uow:
        uow.peers.save("MR1", "127.0.0.1", 1)  # nobody listens there
    with associated(listener.port, MRImageStorage, COMMITMENT) as assoc:
        assoc.send_c_store(ds)
        ask(assoc, request(new_uid(), (ds.SOPClassUID, ds.SOPInstanceUID)))
    assert owed(listener) == 1
    assert answer_open_commitments(listener.store, listener.tiers, older_s=0) == 0
    ae = AE(ae_title="MR1")
    ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=inbox.handlers)
    with listener.store() as uow:
        uow.peers.save("MR1", "127.0.0.1", server.socket.getsockname()[1])
    assert answer_open_commitments(listener.store, listener.tiers, older_s=0) == 1
    server.shutdown()
    assert committed(inbox.next()[1]) == [ds.SOPInstanceUID]
    assert owed(listener) == 0


def test_images_sent_while_the_result_is_due_are_all_stored(
    listener: Listener, inbox: Inbox
) -> None:
    _, study = place(listener.store)
    first = image(study.study_uid)
    with associated(
        listener.port,
        *(MRImageStorage, COMMITMENT),
        ext_neg=[build_role(COMMITMENT, scu_role=True)],
        evt_handlers=inbox.handlers,
    ) as assoc:
        assoc.send_c_store(first)
        ask(assoc, request(new_uid(), (first.SOPClassUID, first.SOPInstanceUID)))
        inbox.next()
        for number in range(2, 12):
            assert assoc.send_c_store(image(study.study_uid, number=number)).Status == 0x0000
    with listener.store() as uow:
        assert len(uow.studies.instances(study.id)) == 11


def _eventually_owed(listener: Listener, count: int) -> None:
    import time

    for _ in range(100):
        if owed(listener) == count:
            return
        time.sleep(0.05)
    assert owed(listener) == count
