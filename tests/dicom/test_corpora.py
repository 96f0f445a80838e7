"""Other people's files: every vendor and syntax stored and read back, nothing malformed kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom import AE, _config

from models.errors import PeerError
from models.tier import Tier
from services.archive.part10 import digest_of, meta_of
from services.archive.tiers import Tiers
from services.database.store import Store
from services.workflow.acquisition import Disposition, receive_instance
from tests.dicom.conftest import Listener
from tests.dicom.department import CORPORA

DICOM = CORPORA / "dicom"
pytestmark = [
    pytest.mark.skipif(not DICOM.is_dir(), reason="the corpora are not here"),
    pytest.mark.filterwarnings("ignore"),
]
_APART = {"malformed", "mwl"}


def whole_files() -> list[Path]:
    """One file of every folder and transfer syntax, and a few more."""
    chosen: dict[tuple[str, str, int], Path] = {}
    for path in sorted(DICOM.rglob("*")):
        folder = path.relative_to(DICOM).parts[0]
        if not path.is_file() or folder in _APART:
            continue
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                continue
            syntax = meta_of(stream).get(0x0010, "")
        number = sum(1 for f, s, _ in chosen if (f, s) == (folder, syntax))
        if number < 3:
            chosen[folder, syntax, number] = path
    return list(chosen.values())


def test_every_syntax_is_stored_and_read_back_exactly(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # the bytes of the file
    files = whole_files()
    assert len(files) > 40
    sent: list[tuple[Path, int, str, str, str]] = []
    for path in files:
        with path.open("rb") as stream:
            meta, digest = meta_of(stream), digest_of(stream)
        ae = AE(ae_title="CORPUS")
        ae.add_requested_context(meta[0x0002], meta[0x0010])
        assoc = ae.associate("127.0.0.1", listener.port)
        assert assoc.is_established
        status = assoc.send_c_store(path)
        assoc.release()
        assert status.Status in (0x0000, 0xB000), (path.name, hex(status.Status))
        sent.append((path, status.Status, meta[0x0003], meta[0x0010], digest))
    filed = recoded = 0
    for path, answer, sop_uid, syntax, digest in sent:
        with listener.store() as uow:
            row = uow.studies.find_instance(sop_uid)
            kept = uow.holdings.find_kept(sop_uid, digest)
        if row is not None and row.digest == digest:
            assert listener.tiers.verify(Tier(row.tier), row.path, digest)
            filed += 1
        elif answer == 0x0000:  # files of the corpus share UIDs, in other syntaxes
            assert row is not None
            assert row.transfer_syntax != syntax
            first = dcmread(listener.settings.hot_root / row.path)
            assert np.array_equal(first.pixel_array, dcmread(path).pixel_array), path.name
            recoded += 1
        else:
            assert kept is not None, path.name
            with listener.tiers.open_kept(kept.path) as stream:
                assert digest_of(stream) == digest
    assert filed > 20
    assert recoded > 0
    assert len({syntax for *_, syntax, _ in sent}) >= 11


MALFORMED = sorted(p for p in (DICOM / "malformed").glob("*")) if DICOM.is_dir() else []
_REFUSED = {
    "3gb-bulk-data-truncated",
    "MR_truncated.dcm",
    "meta_missing_tsyntax.dcm",
    "no_meta.dcm",
    "rtplan_truncated.dcm",
}


@pytest.mark.parametrize("path", MALFORMED, ids=lambda p: p.name)
def test_malformed_files_are_refused_or_kept_whole_never_half(
    store: Store, tiers: Tiers, path: Path
) -> None:
    received = tiers.incoming("test") / path.name
    shutil.copyfile(path, received)
    size = path.stat().st_size
    try:
        outcome = receive_instance(store, tiers, received, source_ae="CORPUS")
    except PeerError:
        (kept,) = (tiers.quarantine_root / "unreadable").iterdir()
        assert kept.stat().st_size == size
        with store() as uow:
            assert [row.kind for row in uow.studies.desk()] == ["unreadable"]
    else:
        assert path.name not in _REFUSED
        assert outcome.disposition is Disposition.STORED
        (stored,) = tiers.settings.hot_root.rglob("*.dcm")
        assert stored.read_bytes() == path.read_bytes()
        dcmread(stored)
    assert list(tiers.incoming("test").iterdir()) == []
