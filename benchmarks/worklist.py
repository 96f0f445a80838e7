"""C-FIND on a worklist of 1,000 scheduled steps, beside DCMTK's wlmscpfs with the same items."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom import __version__ as pynetdicom_version
from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

from benchmarks import dcmtk
from benchmarks.figures import Figure, Outcome, latencies
from benchmarks.installation import database, environment, listening, ours
from deployments.installation import free_port
from models.order import Code, Order, ScheduledStep
from models.patient import Identifier, Patient, PersonName
from models.study import new_id, new_uid
from services.database.store import Store
from services.dicom.worklist import worklist_item

DAYS, STATIONS, EACH = 10, 5, 20
QUERIES = 200
PATIENCE_S = 30.0
"""A kind of query that would take longer stops here; the table says how many were made."""
PEER = "DCMTK wlmscpfs"
_THEIR_TITLE = "WLMSCPFS"
_FIRST_DAY = datetime(2026, 3, 2, 7, 0)  # noqa: DTZ001 (local time, as a department schedules)


def run(directory: Path) -> Outcome:
    """Ask both for one scanner's day and for everything.

    Raises
    ------
    RuntimeError
        If an answer has not the number of items that were scheduled.
    """
    outcome = Outcome(
        peers={"DCMTK": dcmtk.version("wlmscpfs"), "SCU": f"pynetdicom {pynetdicom_version}"}
    )
    total = DAYS * STATIONS * EACH
    kinds = {
        f"one scanner's day, {EACH} of {total:,} items": (_query("MR3", "20260306"), EACH),
        f"universal, {total:,} items": (_query("", ""), total),
    }
    with ExitStack() as stack:
        settings = stack.enter_context(database(directory / "worklist"))
        store = Store(settings)
        stack.callback(store.close)
        schedule(store)
        stack.enter_context(
            listening(
                ours("services.dicom.server"),
                settings.dicom_port,
                env=environment(settings),
                log=directory / "worklist.log",
            )
        )
        their_port = None
        if dcmtk.find("wlmscpfs") is None:
            outcome.notes.append("worklist: no peer, DCMTK is not installed (apt install dcmtk)")
        else:
            their_port = stack.enter_context(_their_worklist(store, directory))
        ports = {settings.ae_title: settings.dicom_port}
        if their_port is not None:
            ports[_THEIR_TITLE] = their_port
        assocs = {t: stack.enter_context(_associated(port, t)) for t, port in ports.items()}
        for what, (query, expected) in kinds.items():
            measured = _ask(assocs, query, expected)
            mine, their = measured[settings.ae_title], measured.get(_THEIR_TITLE, [])
            outcome.figures += latencies("worklist", what, mine, PEER, their)
            if expected == total:
                outcome.figures.append(_rate(total, mine, their))
    outcome.notes += [
        "worklist: time from C-FIND request to the last answer, decoded, at a pynetdicom SCU on "
        f"one association each, in turns: its own work is in both; {QUERIES} queries each, fewer "
        f"where both would take over {PATIENCE_S:.0f} s",
        "worklist: both answer the same return keys. wlmscpfs reads its .wl files again for every "
        "query and supports fewer matching and return keys; it has no scheduler behind it",
    ]
    return outcome


def schedule(store: Store) -> None:
    """Put 20 steps on each of 5 scanners on each of 10 days."""
    with store() as uow:
        for number in range(DAYS * STATIONS * EACH):
            slot, rest = number % EACH, number // EACH
            station, day = rest % STATIONS + 1, rest // STATIONS
            person = Patient(
                id=new_id(),
                identifiers=(Identifier(value=f"B{number:06d}", authority="HOSP"),),
                name=PersonName(family=f"BENCH{number:04d}", given="SYNTHETIC"),
                birth_date=datetime(1950 + number % 50, 1 + number % 12, 1).date(),  # noqa: DTZ001 (a date)
                sex="MF"[number % 2],
            )
            uow.patients.save(person)
            code = Code(value="MRBRWO", meaning="MRI brain w/o contrast")
            start = _FIRST_DAY + timedelta(days=day, minutes=30 * slot)
            step = ScheduledStep(
                sps_id=f"SPS{number:06d}",
                start_at=start.astimezone(),
                station_aet=f"MR{station}",
                station_name=f"MRI {station}",
                location="MRI",
                description=code.meaning,
                protocol=code,
            )
            uow.orders.save(
                Order(
                    id=new_id(),
                    patient_id=person.id,
                    placer_number=f"P{number:06d}",
                    placer_authority="EMR",
                    filler_number=f"F{number:06d}",
                    accession=uow.orders.next_accession(uow.now),
                    study_uid=new_uid(),
                    requested_procedure_id=f"RP{number:06d}",
                    procedure=code,
                    reason="Headache",
                    referring=PersonName(family="TESTREFERRER", given="ANNA"),
                    requesting=PersonName(family="TESTREFERRER", given="ANNA"),
                    steps=(step,),
                )
            )


@contextmanager
def _their_worklist(store: Store, directory: Path) -> Iterator[int]:
    """Give wlmscpfs our own items as its files and run it."""
    folder = directory / "wl" / _THEIR_TITLE
    folder.mkdir(parents=True)
    (folder / "lockfile").touch()
    with store() as uow:
        rows = uow.orders.worklist()
        known = uow.patients.identifiers(row.patient_id for row in rows)
    for number, row in enumerate(rows):
        _write(folder / f"{number:04d}.wl", worklist_item(row, known[row.patient_id]))
    port = free_port()
    program = dcmtk.find("wlmscpfs") or "wlmscpfs"
    options = ("--single-process", "--max-pdu", "131072", "--data-files-path")
    with listening(
        [program, *options, folder.parent, str(port)],
        port,
        env=dcmtk.ENVIRONMENT,
        log=directory / "wlmscpfs.log",
    ):
        yield port


def _write(path: Path, item: Dataset) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ModalityWorklistInformationFind
    meta.MediaStorageSOPInstanceUID = UID(new_uid())
    file = FileDataset("", item, file_meta=meta, preamble=bytes(128))
    file.save_as(path, enforce_file_format=True)


def _query(station: str, day: str) -> Dataset:
    """Return what a console asks: its day, or everything; return keys of IHE RAD-5."""
    query = Dataset()
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
        *("ReferringPhysicianName", "StudyInstanceUID", "RequestedProcedureID"),
        *("RequestedProcedureDescription", "RequestedProcedurePriority"),
    ):
        setattr(query, keyword, "")
    step = Dataset()
    step.ScheduledStationAETitle = station
    step.ScheduledProcedureStepStartDate = day
    step.Modality = "MR" if station else ""
    for keyword in (
        *("ScheduledProcedureStepStartTime", "ScheduledPerformingPhysicianName"),
        *("ScheduledProcedureStepDescription", "ScheduledProcedureStepID"),
        *("ScheduledStationName", "ScheduledProcedureStepLocation"),
    ):
        setattr(step, keyword, "")
    query.ScheduledProcedureStepSequence = [step]
    return query


@contextmanager
def _associated(port: int, title: str) -> Iterator[Any]:
    ae = AE(ae_title="BENCH")
    ae.add_requested_context(ModalityWorklistInformationFind, ExplicitVRLittleEndian)
    ae.maximum_pdu_size = 0
    assoc = ae.associate(
        "127.0.0.1", port, ae_title=title, evt_handlers=[(evt.EVT_CONN_OPEN, _at_once)]
    )
    if not assoc.is_established:
        raise RuntimeError(f"{title} on {port} refused the association")
    try:
        yield assoc
    finally:
        assoc.release()


def _ask(assocs: dict[str, Any], query: Dataset, expected: int) -> dict[str, list[float]]:
    """Ask each in turn, again and again; return the seconds of each query."""
    seconds: dict[str, list[float]] = {title: [] for title in assocs}
    for assoc in assocs.values():
        _count(assoc, query)  # not counted: the first one fills caches
    begun = time.perf_counter()
    for _ in range(QUERIES):
        for title, assoc in assocs.items():
            asked = time.perf_counter()
            count = _count(assoc, query)
            seconds[title].append(time.perf_counter() - asked)
            if count != expected:
                raise RuntimeError(f"{title} answered {count} items, not {expected}")
        if time.perf_counter() - begun > PATIENCE_S:
            break
    return seconds


def _count(assoc: Any, query: Dataset) -> int:
    answers = assoc.send_c_find(query, ModalityWorklistInformationFind)
    return sum(1 for status, _ in answers if status and status.Status in (0xFF00, 0xFF01))


def _at_once(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _rate(total: int, mine: list[float], their: list[float]) -> Figure:
    return Figure(
        part="worklist",
        what="universal, items answered",
        unit="items/s",
        ours=total * len(mine) / sum(mine),
        peer=PEER if their else "",
        theirs=total * len(their) / sum(their) if their else None,
        samples=len(mine),
    )
