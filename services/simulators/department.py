"""A morning in the department: everybody at work at once, over the real protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, datetime
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

from pydicom.dataset import Dataset

from services.simulators.anatomy import head
from services.simulators.day_log import DayLog
from services.simulators.emr import Ack, Emr, EmrInbox
from services.simulators.header import Exam
from services.simulators.imaging import classic_mr, enhanced_mr
from services.simulators.mllp import Hl7ProtocolError
from services.simulators.patience import StoppedError
from services.simulators.plan import STATIONS, PlannedPatient, plan
from services.simulators.reader import (
    CRITICAL,
    NORMAL,
    Reader,
    ReadingRoomError,
    Signed,
    Study,
)
from services.simulators.scanner import STORED, DicomRefusedError, Scanner
from services.simulators.worklist import WorklistItem

__all__ = ["DayLog", "Department", "PlannedPatient", "plan"]

OnEvent = Callable[[str, str, str], None]
_LOOK_S: Final = 0.3  # how often worklist and reading list are looked at
_WORKLIST_S: Final = 20.0  # within which an order must appear on and leave the worklist
_LATE_RESULT_S: Final = 15.0  # how long the radiologist stays for results of triage
_EMERGENCY_AFTER: Final = 2  # exams of the first scanner before the unknown patient comes


class Department:
    """An EMR, two scanners and a radiologist around one engine.

    Parameters
    ----------
    seed, day
        The plan; see `plan`.
    hl7_port, dicom_port, http_url
        The engine.
    inbox
        Where the engine delivers reports; the caller has told the engine.
    on_event
        Called with kind, patient id and detail as things happen, from several threads but never
        from two at once.
    reading_s
        How long the radiologist looks at a study.
    reader_after
        Studies that wait before the radiologist comes, so that there is an order to read in.
    listener_ports
        Port of each station's listener for commitment results; any free one when left out.
    patience_s
        How long everybody puts up with an engine that is away.
    matrix, slices
        Size of every head.
    """

    def __init__(
        self,
        *,
        seed: int,
        hl7_port: int,
        dicom_port: int,
        http_url: str,
        inbox: EmrInbox,
        host: str = "127.0.0.1",
        called_aet: str = "SPINECHO",
        day: date | None = None,
        on_event: OnEvent | None = None,
        reading_s: float = 0.8,
        reader_after: int = 4,
        listener_ports: Mapping[str, int] | None = None,
        patience_s: float = 120.0,
        matrix: int = 128,
        slices: int = 50,
    ) -> None:
        self.plan = plan(seed, day)
        self._day = self.plan[0].scheduled.date()
        self._hl7 = (host, hl7_port)
        self._dicom = (host, dicom_port, called_aet)
        self._http_url = http_url
        self._inbox = inbox
        self._on_event = on_event or (lambda _kind, _patient, _detail: None)
        self._reading_s = reading_s
        self._reader_after = reader_after
        self._listener_ports = dict(listener_ports or {})
        self._patience_s = patience_s
        self._size = (matrix, slices)
        self._stop = Event()
        self._scanning_over = Event()
        self._reading_over = Event()
        self._lock = Lock()
        self._log = DayLog(self.plan)

    def stop(self) -> None:
        """Send everybody home."""
        self._stop.set()

    def run(self, timeout_s: float = 300.0) -> DayLog:
        """Run the morning to its end or until time is up.

        Returns
        -------
        DayLog
            Complete when its `finished` is true; `problems` says what went wrong in either case.
        """
        begun = monotonic()
        with ExitStack() as stack:
            scanners = [
                stack.enter_context(
                    Scanner(
                        station,
                        *self._dicom,
                        listener_port=self._listener_ports.get(station, 0),
                        patience_s=self._patience_s,
                        stop=self._stop,
                    )
                )
                for station in STATIONS
            ]
            consoles = [self._thread(self._scan_all, scanner) for scanner in scanners]
            others = [
                self._thread(self._order_all, scanners),
                self._thread(self._read_all),
            ]
            receiving = self._thread(self._receive_all)
            deadline = begun + timeout_s
            for thread in consoles:
                thread.join(max(0.0, deadline - monotonic()))
            self._scanning_over.set()
            for thread in others:
                thread.join(max(0.0, deadline - monotonic()))
            self._reading_over.set()
            receiving.join(max(0.0, deadline - monotonic()))
            self._stop.set()
            for thread in [*consoles, *others, receiving]:
                thread.join()
        self._log.seconds = monotonic() - begun
        self._log.finished = self._is_finished()
        return self._log

    def _thread(self, work: Callable[..., None], *args: object) -> Thread:
        def guarded() -> None:
            try:
                work(*args)
            except StoppedError:
                pass
            except (OSError, DicomRefusedError, Hl7ProtocolError, ReadingRoomError) as error:
                self._problem("", f"{work.__name__.strip('_')}: {error}")
            except Exception as error:
                # a thread that dies in silence would look like a slow engine
                self._problem("", f"{work.__name__.strip('_')}: {error!r}")
                raise

        thread = Thread(target=guarded, name=work.__name__.strip("_"), daemon=True)
        thread.start()
        return thread

    def _tell(self, kind: str, patient: str, detail: str = "") -> None:
        with self._lock:
            self._on_event(kind, patient, detail)

    def _problem(self, patient: str, words: str) -> None:
        with self._lock:
            self._log.problems.append(f"{patient}: {words}" if patient else words)
            self._on_event("problem", patient, words)

    # the EMR

    def _order_all(self, scanners: Sequence[Scanner]) -> None:
        with Emr(*self._hl7, patience_s=self._patience_s, stop=self._stop) as emr:
            for patient in self.plan:
                if patient.unordered:
                    continue
                order = patient.order()
                self._note_ack(patient, "A04", emr.register(order))
                first = emr.place(order)
                self._note_ack(patient, "NW", first)
                if patient.duplicated:
                    again = emr.place(order)
                    self._note_ack(patient, "NW again", again)
                    if (again.code, again.control_id) != (first.code, first.control_id):
                        self._problem(patient.patient_id, "the same order got another answer")
            cancelled = next(patient for patient in self.plan if patient.cancelled)
            scanner = next(s for s in scanners if s.ae_title == cancelled.station)
            if not self._await_listing(scanner, cancelled, listed=True):
                self._problem(cancelled.patient_id, "the order never came to the worklist")
            self._note_ack(cancelled, "CA", emr.cancel(cancelled.order()))
            self._log.cancelled_vanished = self._await_listing(scanner, cancelled, listed=False)
            if self._log.cancelled_vanished:
                self._tell("vanished", cancelled.patient_id, cancelled.accession)
            else:
                self._problem(cancelled.patient_id, "cancelled, but still on the worklist")

    def _note_ack(self, patient: PlannedPatient, kind: str, ack: Ack) -> None:
        self._log.acks.setdefault(patient.patient_id, []).append((kind, ack))
        if not ack.accepted:
            self._problem(patient.patient_id, f"{kind} was answered {ack.code}: {ack.text}")
        words = {"A04": "registered", "NW": "ordered", "NW again": "repeated", "CA": "cancelled"}
        self._tell(words[kind], patient.patient_id, f"{patient.priority} {patient.station}")

    def _await_listing(self, scanner: Scanner, patient: PlannedPatient, *, listed: bool) -> bool:
        deadline = monotonic() + _WORKLIST_S
        while not self._stop.is_set() and monotonic() < deadline:
            seen = {item.accession for item in scanner.worklist(self._day)}
            if (patient.accession in seen) == listed:
                return True
            self._stop.wait(_LOOK_S)
        return False

    # the scanners

    def _scan_all(self, scanner: Scanner) -> None:
        mine = {
            patient.accession: patient
            for patient in self.plan
            if patient.station == scanner.ae_title and patient.reported
        }
        unknown = [
            patient
            for patient in self.plan
            if patient.station == scanner.ae_title and patient.unordered
        ]
        done = 0
        while (mine or unknown) and not self._stop.is_set():
            if unknown and (done >= _EMERGENCY_AFTER or not mine):
                patient = unknown.pop()
                self._scan(scanner, patient, _emergency(patient))
            try:
                items = scanner.worklist(self._day)
            except DicomRefusedError as error:
                # the technologist shakes the head and presses the button again
                self._problem("", f"{scanner.ae_title}: {error}")
                self._stop.wait(1.0)
                continue
            with self._lock:
                self._log.listed.update(item.accession for item in items)
            item = next((item for item in items if item.accession in mine), None)
            if item is None:
                self._stop.wait(_LOOK_S)
                continue
            patient = mine.pop(item.accession)
            if item.study_uid != patient.study_uid:
                self._problem(patient.patient_id, "the worklist has another Study Instance UID")
            self._scan(scanner, patient, item)
            done += 1

    def _scan(self, scanner: Scanner, patient: PlannedPatient, item: WorklistItem | Exam) -> None:
        def images(exam: Exam) -> list[Dataset]:
            matrix, slices = self._size
            # the stack always covers the same 150 mm of head
            volume = head(
                patient.anatomy_seed,
                patient.pathology,
                matrix=matrix,
                slices=slices,
                slice_mm=150 / slices,
            )
            made = [enhanced_mr(volume, exam)] if patient.enhanced else classic_mr(volume, exam)
            self._tell("acquired", patient.patient_id, f"{len(made)} objects")
            return made

        how = "unscheduled" if patient.unordered else "scheduled"
        self._tell("scanning", patient.patient_id, f"{scanner.ae_title} {how}")
        try:
            result = scanner.scan(item, images)
        except (DicomRefusedError, OSError) as error:
            # one patient's trouble must not keep the next one waiting
            self._problem(patient.patient_id, str(error))
            return
        with self._lock:
            self._log.scans[patient.patient_id] = result
        refused = [status for status in result.statuses if status not in STORED]
        if refused:
            self._problem(patient.patient_id, f"{len(refused)} objects were refused")
        if result.commitment is None or result.commitment.failed:
            self._problem(patient.patient_id, "the engine did not commit to all objects")
        self._tell("committed", patient.patient_id, f"{len(result.statuses)} objects")

    # the radiologist

    def _read_all(self) -> None:
        by_study = {patient.study_uid: patient for patient in self.plan}

        def opinion(study: Study) -> tuple[str, str]:
            # the radiologist sees the images, whatever the list says of them
            patient = by_study.get(study.study_uid)
            return CRITICAL if patient is not None and patient.critical else NORMAL

        with Reader(
            self._http_url, opinion=opinion, patience_s=self._patience_s, stop=self._stop
        ) as reader:
            while not self._stop.is_set():
                if len(self._log.scans) < self._reader_after and not self._scanning_over.is_set():
                    self._stop.wait(_LOOK_S)
                    continue
                signed = reader.read_next()
                if signed is not None:
                    self._note_signed(by_study, signed)
                    self._stop.wait(self._reading_s)
                    continue
                self._acknowledge_late(reader)
                if self._scanning_over.is_set() and self._all_read():
                    break
                self._stop.wait(_LOOK_S)
            late = monotonic() + _LATE_RESULT_S
            while not (self._stop.is_set() or self._all_acknowledged()) and monotonic() < late:
                self._acknowledge_late(reader)
                self._stop.wait(_LOOK_S)

    def _note_signed(self, by_study: Mapping[str, PlannedPatient], signed: Signed) -> None:
        patient = by_study.get(signed.study.study_uid)
        with self._lock:
            self._log.signed.append(signed)
            if signed.acknowledged:
                self._log.acknowledged.add(signed.study.study_uid)
        who = patient.patient_id if patient else ""
        self._tell("read", who, "critical" if signed.study.critical else signed.study.priority)

    def _acknowledge_late(self, reader: Reader) -> None:
        """Acknowledge results that turned critical after the study had been read."""
        for study in reader.unacknowledged():
            if study.study_uid not in self._log.acknowledged:
                reader.acknowledge(study)
                with self._lock:
                    self._log.acknowledged.add(study.study_uid)

    # the end of the day

    def _owed(self) -> list[PlannedPatient]:
        return [p for p in self.plan if p.reported and p.patient_id in self._log.scans]

    def _all_read(self) -> bool:
        read = {signed.study.study_uid for signed in self._log.signed}
        return all(patient.study_uid in read for patient in self._owed())

    def _all_acknowledged(self) -> bool:
        return all(
            patient.study_uid in self._log.acknowledged
            for patient in self._owed()
            if patient.critical
        )

    def _receive_all(self) -> None:
        """Watch the EMR's inbox until every report that was signed has arrived."""
        by_accession = {p.accession: p for p in self.plan if p.reported}
        while not self._stop.is_set():
            arrived = {m.accession for m in self._inbox.accepted if m.status in ("F", "C")}
            for accession in arrived & by_accession.keys() - self._log.delivered:
                self._log.delivered.add(accession)
                self._tell("delivered", by_accession[accession].patient_id, accession)
            read = {signed.study.accession for signed in self._log.signed}
            if self._reading_over.is_set() and read & by_accession.keys() <= self._log.delivered:
                break
            self._stop.wait(_LOOK_S)

    def _is_finished(self) -> bool:
        log = self._log
        scanned = all(p.patient_id in log.scans for p in self.plan if p.scanned)
        delivered = {p.accession for p in self.plan if p.reported} <= log.delivered
        return scanned and log.cancelled_vanished and self._all_read() and delivered


def _emergency(patient: PlannedPatient) -> Exam:
    """Type in by hand what is known of a patient for whom nobody ordered anything."""
    return Exam(
        key=patient.study_uid,
        patient_name=patient.name,
        patient_id=patient.patient_id,
        study_uid=patient.study_uid,
        station=patient.station,
        protocol="T1 EMERGENCY AX",
        started=datetime.now().astimezone(),
    )
