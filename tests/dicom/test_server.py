"""The listener as a process: killed without warning, stopped politely, refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import MRImageStorage

from deployments.installation import free_port
from models.tier import Tier
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom.sop import VERIFICATION
from services.settings import Settings
from tests.dicom.department import associated, image, place

ROOT = Path(__file__).parents[2]


@contextmanager
def running(settings: Settings, port: int, **more: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SPINECHO_HOME": str(settings.home),
        "SPINECHO_DATABASE_URL": settings.store_url,
        "SPINECHO_DICOM_PORT": str(port),
        "SPINECHO_DISK_FLOOR_MB": "1",
        **more,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "services.dicom.server"],
        env=environment,
        cwd=settings.home,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_listening(port, process)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_listening(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(400):
        if process.poll() is not None:
            return
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_kill_9_loses_nothing_acknowledged_and_doubles_nothing(
    store: Store, settings: Settings
) -> None:
    _, study = place(store)
    images = [image(study.study_uid, number=n, size=128) for n in range(1, 61)]
    acknowledged: list[str] = []
    port = free_port()
    with running(settings, port) as process:
        with associated(port, MRImageStorage) as assoc:
            for number, ds in enumerate(images):
                if number == 25:
                    # in the middle of whatever it does with this one
                    os.kill(process.pid, signal.SIGKILL)
                status = assoc.send_c_store(ds) if assoc.is_established else None
                if status is None or "Status" not in status:
                    break
                acknowledged.append(str(ds.SOPInstanceUID))
        process.wait(10)
    assert 20 <= len(acknowledged) < 60
    tiers = Tiers(settings)
    with store() as uow:
        rows = {row.sop_uid: row for row in uow.studies.instances(study.id)}
    for sop_uid in acknowledged:
        row = rows[sop_uid]
        assert tiers.verify(Tier(row.tier), row.path, row.digest)
    # one that was sent and never answered may be there or not, but never half
    assert len(rows) <= len(acknowledged) + 1

    with running(settings, port) as process:
        with associated(port, MRImageStorage) as assoc:
            for ds in images:
                assert assoc.send_c_store(ds).Status == 0x0000
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with store() as uow:
        rows_after = uow.studies.instances(study.id)
    assert len(rows_after) == 60
    assert all(tiers.verify(Tier(r.tier), r.path, r.digest) for r in rows_after)
    assert len(list(settings.hot_root.rglob("*.dcm"))) == 60
    assert list(tiers.incoming("dicom").iterdir()) == []
    assert not tiers.quarantine_root.exists()


def test_what_was_half_received_is_swept_at_the_start(store: Store, settings: Settings) -> None:
    leftover = Tiers(settings).incoming("dicom") / "tmpabc.dcm"
    leftover.write_bytes(b"half")
    with running(settings, free_port()):
        assert not leftover.exists()


def test_sigterm_lets_an_open_association_end(store: Store, settings: Settings) -> None:
    _, study = place(store)
    port = free_port()
    with running(settings, port) as process:
        with associated(port, MRImageStorage) as assoc:
            assert assoc.send_c_store(image(study.study_uid)).Status == 0x0000
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert assoc.send_c_store(image(study.study_uid, number=2)).Status == 0x0000
        assert process.wait(20) == 0
    with store() as uow:
        assert len(uow.studies.instances(study.id)) == 2
        assert len(uow.outbox.of_study(study.id)) == 1


def test_cleartext_off_loopback_is_refused(store: Store, settings: Settings) -> None:
    with running(settings, free_port(), SPINECHO_HOST="0.0.0.0") as process:
        assert process.wait(20) == 1
        assert "SPINECHO_ALLOW_CLEARTEXT" in process.stdout.read()


def test_a_taken_port_is_said(store: Store, settings: Settings) -> None:
    port = free_port()
    with running(settings, port), running(settings, port) as second:
        assert second.wait(20) == 1
        assert "cannot be used" in second.stdout.read()


def test_no_patient_is_in_the_log(store: Store, settings: Settings) -> None:
    port = free_port()
    with running(settings, port) as process:
        with associated(port, MRImageStorage, VERIFICATION) as assoc:
            _, study = place(store)
            ds = image(study.study_uid)
            ds.PatientName = "SECRET^NAME"
            assert assoc.send_c_store(ds).Status == 0x0000
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert "kept apart" in output
    assert "SECRET" not in output
    assert "0012345" not in output
