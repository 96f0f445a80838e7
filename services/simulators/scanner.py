"""An MR scanner's console: worklist, performed step, images, commitment.

Whatever it knows of a patient it has from the worklist; a wrong answer there shows in the images.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from threading import Event
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from services.simulators.commitment import CommitmentBox, CommitResult
from services.simulators.header import Exam, dataset
from services.simulators.patience import UnavailableError, patiently
from services.simulators.performed_step import creation, ending, reference
from services.simulators.worklist import WorklistItem, query, read_item

T = TypeVar("T")

SUCCESS: Final = 0x0000
STORED: Final = frozenset({0x0000, 0xB000, 0xB006, 0xB007})
_DUPLICATE: Final = 0x0111
_PROCESSING_FAILURE: Final = 0x0110
_RESOURCE_LIMITATION: Final = 0x0213
_PLAIN: Final[list[str | UID]] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class DicomRefusedError(Exception):
    """The engine understood a request and refused it; sending it again would not help."""

    def __init__(self, service: str, status: int) -> None:
        super().__init__(f"{service} was answered with status 0x{status:04X}")
        self.service = service
        self.status = status


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What came of one exam: its header, C-STORE statuses and the commitment."""

    exam: Exam
    instance_uids: tuple[str, ...]
    statuses: tuple[int, ...]
    commitment: CommitResult | None


class Scanner:
    """One console with its application entity and its listener for commitment results.

    Parameters
    ----------
    ae_title
        Its own title; the worklist is asked for this station.
    host, port, called_aet
        The engine.
    listener_port
        Where results of storage commitment are received; zero for any free port.
    patience_s
        How long anything is tried again while the engine is away.
    stop
        Ends the trying when set.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        called_aet: str,
        *,
        listener_host: str = "127.0.0.1",
        listener_port: int = 0,
        patience_s: float = 120.0,
        stop: Event | None = None,
    ) -> None:
        self.ae_title = ae_title
        self._peer = (host, port, called_aet)
        self._patience_s = patience_s
        self._stop = stop or Event()
        self._box = CommitmentBox()
        self._ae: Any = AE(ae_title=ae_title)
        self._ae.connection_timeout = 5
        self._ae.add_supported_context(Verification)
        # the engine opens the association and claims the SCP's role, so ours is the SCU's
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server: Any = self._ae.start_server(
            (listener_host, listener_port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_ECHO, lambda _: SUCCESS),
                *self._box.handlers(same_association=False),
            ],
        )
        self._server = server
        self.listener_port = int(server.server_address[1])

    def echo(self) -> bool:
        """Ask whether the engine answers at all (C-ECHO), once."""
        try:
            with self._association([Verification]) as assoc:
                return self._status(assoc.send_c_echo()) == SUCCESS
        except OSError:
            return False

    def worklist(self, day: date | None = None, modality: str = "MR") -> list[WorklistItem]:
        """Fetch this station's scheduled steps, in the order of the answers.

        Raises
        ------
        DicomRefusedError
            If the query ends with anything but success.
        """
        identifier = query(self.ae_title, modality, day)

        def ask() -> list[WorklistItem]:
            items = []
            with self._association([ModalityWorklistInformationFind]) as assoc:
                for answer, data in assoc.send_c_find(identifier, ModalityWorklistInformationFind):
                    status = self._status(answer)
                    if status in (0xFF00, 0xFF01) and data is not None:
                        items.append(read_item(data))
                    elif status != SUCCESS:
                        raise _refusal("C-FIND", status)
            return items

        return self._patiently(ask)

    def exam(self, item: WorklistItem, *, protocol: str = "T1 MPRAGE AX") -> Exam:
        """Take a worklist item over as the header of an exam that starts now."""
        return Exam(
            key=f"{item.study_uid}/{item.step_id}",
            patient_name=item.patient_name,
            patient_id=item.patient_id,
            issuer=item.issuer,
            birth_date=item.birth_date,
            sex=item.sex,
            accession=item.accession,
            study_uid=item.study_uid,
            study_id=item.procedure_id,
            study_description=item.procedure_description,
            referring_physician=item.referring_physician,
            requested_procedure_id=item.procedure_id,
            step_id=item.step_id,
            step_description=item.step_description,
            station=self.ae_title,
            protocol=protocol,
            started=datetime.now().astimezone(),
        )

    def begin(self, item: WorklistItem | Exam) -> Exam:
        """Start an exam: MPPS N-CREATE, IN PROGRESS (PS3.4 Annex F).

        An exam that was built by hand, without a step, is an unscheduled one.
        """
        exam = item if isinstance(item, Exam) else self.exam(item)
        answer = None if isinstance(item, Exam) else item.answer
        attributes = creation(exam, answer)

        def create() -> None:
            with self._association([ModalityPerformedProcedureStep]) as assoc:
                reply, _ = assoc.send_n_create(
                    attributes, ModalityPerformedProcedureStep, exam.mpps_uid
                )
                # the step exists when an earlier attempt's answer was lost
                if (status := self._status(reply)) not in (SUCCESS, _DUPLICATE):
                    raise _refusal("N-CREATE", status)

        self._patiently(create)
        return exam

    def send(self, images: Sequence[Dataset]) -> list[int]:
        """Send images over one association; after a break, the rest over the next.

        Returns
        -------
        list of int
            The C-STORE status of each image, in the order given.
        """
        statuses: dict[str, int] = {}
        classes = {str(image.SOPClassUID) for image in images}
        contexts: list[str] = [
            str(each) for each in (MRImageStorage, EnhancedMRImageStorage) if each in classes
        ]

        def store() -> None:
            with self._association(contexts) as assoc:
                for image in images:
                    if image.SOPInstanceUID in statuses:
                        continue
                    status = self._status(assoc.send_c_store(image))
                    if status >> 8 == 0xA7:
                        raise UnavailableError(f"out of resources: 0x{status:04X}")
                    statuses[image.SOPInstanceUID] = status

        self._patiently(store)
        return [statuses[image.SOPInstanceUID] for image in images]

    def end(
        self,
        exam: Exam,
        images: Sequence[Dataset],
        *,
        discontinued: str | None = None,
    ) -> None:
        """Finish an exam: MPPS N-SET, COMPLETED or DISCONTINUED.

        Parameters
        ----------
        discontinued
            A code of `DISCONTINUATION`, such as ``110514`` for the wrong worklist entry; None when
            the exam was completed.
        """
        changes = ending(exam, images, datetime.now().astimezone(), discontinued)
        tried = Event()

        def update() -> None:
            again = tried.is_set()
            with self._association([ModalityPerformedProcedureStep]) as assoc:
                tried.set()
                reply, _ = assoc.send_n_set(changes, ModalityPerformedProcedureStep, exam.mpps_uid)
                status = self._status(reply)
                # the step is already final when an earlier attempt's answer was lost
                if status != SUCCESS and not (again and status == _PROCESSING_FAILURE):
                    raise _refusal("N-SET", status)

        self._patiently(update)

    def commit(
        self, images: Sequence[Dataset], *, timeout_s: float = 30.0, linger_s: float = 2.0
    ) -> CommitResult:
        """Ask the engine to take responsibility for images and wait for its word.

        Parameters
        ----------
        timeout_s
            How long a result is waited for before the request is made again.
        linger_s
            How long the association of the request is kept open for the result.

        Raises
        ------
        TimeoutError
            If no result came within the patience of this scanner.
        """
        references = [reference(image) for image in images]

        def ask() -> CommitResult:
            # a transaction UID is used once, so another attempt gets another
            transaction = str(generate_uid(prefix=None))
            request = dataset({"TransactionUID": transaction, "ReferencedSOPSequence": references})
            with self._association(
                [StorageCommitmentPushModel], self._box.handlers(same_association=True)
            ) as assoc:
                reply, _ = assoc.send_n_action(
                    request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )
                if (status := self._status(reply)) != SUCCESS:
                    raise _refusal("N-ACTION", status)
                self._box.wait(transaction, linger_s, lambda: not assoc.is_established)
            result = self._box.wait(transaction, timeout_s, self._stop.is_set)
            if result is None:
                raise TimeoutError("no N-EVENT-REPORT for the storage commitment request")
            return result

        return self._patiently(ask)

    def scan(
        self,
        item: WorklistItem | Exam,
        images: Callable[[Exam], Sequence[Dataset]],
        *,
        commit: bool = True,
    ) -> ScanResult:
        """Perform a whole exam.

        Parameters
        ----------
        images
            Makes the images once the step is in progress, from the exam's header.
        """
        exam = self.begin(item)
        made = list(images(exam))
        statuses = self.send(made)
        self.end(exam, made)
        result = self.commit(made) if commit else None
        uids = tuple(str(image.SOPInstanceUID) for image in made)
        return ScanResult(exam, uids, tuple(statuses), result)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _patiently(self, act: Callable[[], T]) -> T:
        return patiently(act, patience_s=self._patience_s, stop=self._stop)

    @contextmanager
    def _association(
        self,
        contexts: list[str],
        handlers: list[tuple[Any, ...]] | None = None,
    ) -> Iterator[Any]:
        """Open an association, release it at the end, abort it on any error."""
        host, port, called = self._peer
        assoc = self._ae.associate(
            host,
            port,
            contexts=[build_context(name, _PLAIN) for name in contexts],
            ae_title=called,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once), *(handlers or [])],
        )
        if not assoc.is_established:
            raise ConnectionRefusedError(f"{called} did not open an association")
        clean = False
        try:
            if len(assoc.accepted_contexts) < len(contexts):
                raise DicomRefusedError("presentation context", 0x0122)
            yield assoc
            clean = True
        except RuntimeError as error:
            # pynetdicom's word for an association that has gone away under the caller
            if assoc.is_established:
                raise
            raise ConnectionResetError("the association broke") from error
        finally:
            if assoc.is_established:
                if clean:
                    assoc.release()
                else:
                    assoc.abort()

    @staticmethod
    def _status(reply: Dataset) -> int:
        if "Status" not in reply:
            raise ConnectionResetError("the association broke before an answer came")
        return int(reply.Status)


def _refusal(service: str, status: int) -> Exception:
    """Tell a refusal from a peer that has no room just now."""
    # to an N-SET, processing failure also says that the step is final
    failed = status == _PROCESSING_FAILURE and service != "N-SET"
    if failed or status >> 8 == 0xA7 or status == _RESOURCE_LIMITATION:
        return UnavailableError(f"{service} could not be served now: 0x{status:04X}")
    return DicomRefusedError(service, status)


def _send_at_once(event: Any) -> None:
    # each object is a small command and a data set; waiting to fill a packet costs 40 ms a slice
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
