"""C-STORE: DCMTK's storescu sends the same kind of images to DCMTK's storescp and to us."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from sqlalchemy import func, select

from benchmarks import dcmtk
from benchmarks.figures import Figure, Outcome, rates
from benchmarks.installation import database, environment, listening, ours
from deployments.installation import free_port
from models.study import new_uid
from services.database.store import Store
from services.database.tables import instance
from services.settings import Settings

ROUNDS = 3
PEER = "DCMTK storescp"
PEER_OPTIONS = ("--bit-preserving", "--max-pdu", "131072", "--access-full")
SENDER_OPTIONS = ("--required", "--scan-directories", "--recurse")


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in one round: `count` images of `edge`² pixels, 16 bit, not compressed."""

    edge: int
    count: int


LOADS = (Load(512, 400), Load(256, 400))


@dataclass(frozen=True, slots=True)
class Sent:
    """One round."""

    seconds: float
    flushing: float
    """How long it took, after the last answer, until everything was on the disk."""


def run(directory: Path) -> Outcome:
    """Send every load to both receivers, in turns.

    Raises
    ------
    RuntimeError
        If a receiver did not keep everything that it confirmed.
    """
    outcome = Outcome(peers={"DCMTK": dcmtk.version("storescu")})
    if dcmtk.find("storescu") is None or dcmtk.find("storescp") is None:
        outcome.notes.append("store: left out, DCMTK is not installed (apt install dcmtk)")
        return outcome
    with ExitStack() as stack:
        settings = stack.enter_context(database(directory / "store"))
        store = Store(settings)
        stack.callback(store.close)
        theirs = directory / "storescp"
        theirs.mkdir()
        our_port = stack.enter_context(_our_receiver(settings, directory))
        their_port = stack.enter_context(_their_receiver(theirs, directory))

        def kept_by_us() -> int:
            with store() as uow:
                count = uow.connection.scalar(select(func.count()).select_from(instance))
            return int(count or 0)

        def kept_by_them() -> int:
            return sum(1 for _ in theirs.iterdir())

        receivers = {
            "ours": (our_port, settings.ae_title, kept_by_us),
            "theirs": (their_port, "STORESCP", kept_by_them),
        }
        outbox = directory / "images"
        for port, title, kept in receivers.values():  # not counted: both start warm
            _round(outbox, Load(256, 20), port, title, kept)
        for load in LOADS:
            measured: dict[str, list[Sent]] = {name: [] for name in receivers}
            size = 0
            for number in range(ROUNDS):
                # In turns, and each goes first in turn.
                order = list(receivers) if number % 2 else list(reversed(receivers))
                for name in order:
                    port, title, kept = receivers[name]
                    size, sent = _round(outbox, load, port, title, kept)
                    measured[name].append(sent)
                    _empty(theirs)
            outcome.figures += _figures(load, size, measured["ours"], measured["theirs"])
    outcome.notes += [
        f"store: storescu {' '.join(SENDER_OPTIONS)}, TCP_NODELAY=1, wall time of the whole program"
        ", one association; every round sends new UIDs; disk flushed before every round",
        f"store: storescp {' '.join(PEER_OPTIONS)} writes files and answers: no fsync, no database,"
        " no check of the data set. Spinecho reads the header, hashes, fsyncs file and directory "
        "and commits patient, study, series and instance before each success status",
        "store: “then on disk” adds a sync(1) of the disk after the peer's last answer, so that "
        "both have done the same for the disk; one flush for all images, not one for each",
    ]
    return outcome


@contextmanager
def _our_receiver(settings: Settings, directory: Path) -> Iterator[int]:
    with listening(
        ours("services.dicom.server"),
        settings.dicom_port,
        env=environment(settings),
        log=directory / "dicom.log",
    ):
        yield settings.dicom_port


@contextmanager
def _their_receiver(target: Path, directory: Path) -> Iterator[int]:
    port = free_port()
    program = dcmtk.find("storescp") or "storescp"
    with listening(
        [program, *PEER_OPTIONS, "--output-directory", target, str(port)],
        port,
        env=dcmtk.ENVIRONMENT,
        log=directory / "storescp.log",
    ):
        yield port


def _round(
    outbox: Path, load: Load, port: int, title: str, kept: Callable[[], int]
) -> tuple[int, Sent]:
    """Write one load of new images, send it, and return its bytes and times."""
    size = write_images(outbox, load)
    before = kept()
    os.sync()
    time.sleep(0.5)  # what the round before left to do after its last answer
    sent = _send(outbox, port, title)
    after = kept()
    shutil.rmtree(outbox)
    if after - before != load.count:
        raise RuntimeError(f"{title} confirmed {load.count} images and kept {after - before}")
    return size, sent


def _send(outbox: Path, port: int, title: str) -> Sent:
    program = dcmtk.find("storescu") or "storescu"
    command = [program, *SENDER_OPTIONS, "--call", title, "127.0.0.1", str(port), outbox]
    started = time.perf_counter()
    done = subprocess.run(
        command, env=dcmtk.ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    answered = time.perf_counter()
    os.sync()
    flushed = time.perf_counter()
    if done.returncode:
        raise RuntimeError(f"storescu to {title}: {done.stderr[-1000:]}")
    return Sent(answered - started, flushed - answered)


def _figures(load: Load, size: int, mine: list[Sent], their: list[Sent]) -> list[Figure]:
    what = f"{load.count} MR of {load.edge}² ({size / 1e6:.0f} MB)"
    figures = rates(
        "store",
        what,
        "MB/s",
        [size / 1e6 / sent.seconds for sent in mine],
        PEER,
        [size / 1e6 / sent.seconds for sent in their],
    )
    durable = [size / 1e6 / (sent.seconds + sent.flushing) for sent in their]
    rate = [load.count / sent.seconds for sent in mine]
    their_rate = [load.count / sent.seconds for sent in their]
    return [
        *figures,
        Figure(
            part="store",
            what=f"{what}, median, then on disk",
            unit="MB/s",
            ours=median(size / 1e6 / (sent.seconds + sent.flushing) for sent in mine),
            peer=f"{PEER} + sync",
            theirs=median(durable),
            samples=len(mine),
            their_samples=tuple(durable),
        ),
        *rates("store", what, "instances/s", rate, PEER, their_rate)[1:],
    ]


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def write_images(directory: Path, load: Load) -> int:
    """Write one study of four series with new UIDs; return the size of all files in bytes."""
    directory.mkdir()
    pixels = np.random.default_rng(load.edge).integers(0, 4096, (load.edge, load.edge), np.uint16)
    study, series = new_uid(), [new_uid() for _ in range(4)]
    size = 0
    for number in range(load.count):
        ds = _image(load.edge)
        ds.PatientID = f"BENCH{study[-8:]}"
        ds.StudyInstanceUID = study
        ds.SeriesInstanceUID = series[number % 4]
        ds.SeriesNumber = number % 4 + 1
        ds.InstanceNumber = number // 4 + 1
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(new_uid())
        ds.PixelData = np.roll(pixels, number, axis=0).tobytes()
        path = directory / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        size += path.stat().st_size
    return size


def _image(edge: int) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID = MRImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260301"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "090000"
    ds.Modality = "MR"
    ds.Manufacturer = "SPINECHO BENCHMARK"
    ds.PatientName = "BENCH^SYNTHETIC"
    ds.PatientBirthDate = "19800214"
    ds.PatientSex = "O"
    ds.StudyDescription = "MRI brain w/o contrast"
    ds.SeriesDescription = "t1_se_tra"
    ds.BodyPartExamined = "BRAIN"
    ds.SliceThickness = "5"
    ds.RepetitionTime, ds.EchoTime = "500", "9.5"
    ds.FrameOfReferenceUID = "2.25.1"
    ds.ImagePositionPatient = [-120, -120, 0]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [240 / edge, 240 / edge]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = edge
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    return ds
