"""How a received file becomes durable: temporary file, fsync, atomic rename, directory fsync.

After `land` has returned, a power cut at any instant leaves the whole file under its final name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from models.errors import Conflict
from services.archive.part10 import digest_of


def sync(path: Path) -> None:
    """Force a file's bytes, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync(directory.parent)


def land(received: Path, target: Path, digest: str) -> None:
    """Move a received file to its final name, durably.

    Parameters
    ----------
    received : Path
        On the same file system as `target`, or it is copied there first.
    target : Path
        May exist already with this very content: a transaction that failed after landing leaves
        the file, and the sender sends again. It is kept and `received` is dropped.
    digest : str
        SHA-256 over the data set of `received`.

    Raises
    ------
    Conflict
        If `target` exists with other content; neither file is touched.
    """
    make_directory(target.parent)
    if target.exists():
        with target.open("rb") as stream:
            if digest_of(stream) != digest:
                raise Conflict(f"{target.name} exists with other content")
        sync(target)
        sync(target.parent)
        received.unlink()
        return
    if received.stat().st_dev != target.parent.stat().st_dev:
        near = target.with_name(target.name + ".part")
        shutil.copyfile(received, near)
        received.unlink()
        received = near
    sync(received)
    received.chmod(0o640)
    received.replace(target)
    sync(target.parent)


def sweep(incoming: Path) -> int:
    """Remove what a killed process left half received; return how many files that were.

    None of them was acknowledged: an acknowledged file has left this directory.
    """
    leftovers = [path for path in incoming.glob("*") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
