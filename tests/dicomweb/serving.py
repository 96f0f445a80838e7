"""DICOMweb as a client reaches it: a real server, and the parts of what it answers."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydicom import FileDataset, dcmwrite
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicomweb import dicomweb_app
from services.workflow.acquisition import receive_instance

AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
EXPLICIT = {"Accept": 'multipart/related; type="application/dicom"'}


@contextmanager
def served(store: Store, tiers: Tiers) -> Iterator[httpx.Client]:
    """A client of a real server, with the application mounted as the installation does."""
    outer = FastAPI()
    outer.mount("/dicom-web", dicomweb_app(store, tiers))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        config = uvicorn.Config(outer, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/dicom-web/") as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def file_of(ds: FileDataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    if syntax in (RLELossless, JPEG2000Lossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    dcmwrite(target, ds, enforce_file_format=True)
    return target.getvalue()


def keep(store: Store, tiers: Tiers, *files: bytes) -> None:
    for number, data in enumerate(files):
        path = tiers.incoming("test") / f"{number}.dcm"
        path.write_bytes(data)
        receive_instance(store, tiers, path, source_ae="MR1")


def parts(response: httpx.Response) -> list[tuple[str, bytes]]:
    assert response.status_code == 200, response.text
    boundary = response.headers["content-type"].partition("boundary=")[2]
    found = []
    for part in response.content.split(f"--{boundary}".encode())[1:-1]:
        head, _, body = part[2:-2].partition(b"\r\n\r\n")
        found.append((head.decode().partition(": ")[2], body))
    return found
