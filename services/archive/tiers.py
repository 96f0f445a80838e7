"""The tiers of the archive and the quarantine: read, copy with proof, delete.

Hot and warm are local directories; cold is any file system that fsspec knows (``file://``,
``s3://``). A file has the same relative path on every tier. Nothing is ever overwritten with other
bytes, and `copy` returns only after the target was read back (rule 8).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import BinaryIO, Final, cast

import fsspec

from models.errors import Conflict, DamagedCopy, Malformed, OutOfResources
from models.tier import Tier
from services.archive import landing
from services.archive.part10 import Header, digest_of
from services.settings import Settings

_CHUNK: Final = 1 << 20


class Tiers:
    """Every place where this installation keeps the bytes of studies.

    Parameters
    ----------
    settings : Settings
        Nothing is created and no connection is made before the first use.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._local = {Tier.HOT: settings.hot_root, Tier.WARM: settings.warm_root}
        self.quarantine_root = settings.home / "archive" / "quarantine"
        self._cold: tuple[fsspec.AbstractFileSystem, str] | None = None

    # --- landing

    def incoming(self, channel: str) -> Path:
        """Return the directory where `channel` receives files, on the hot tier's file system."""
        directory = self.settings.hot_root / "incoming" / channel
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def require_space(self) -> None:
        """Raise `OutOfResources` if the disk is fuller than the configured floor."""
        root = self.settings.hot_root
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free >> 20
        if free < self.settings.disk_floor_mb:
            raise OutOfResources(
                f"{free} MB free below the floor of {self.settings.disk_floor_mb} MB; "
                "free the disk of the hot tier or lower SPINECHO_DISK_FLOOR_MB"
            )

    @staticmethod
    def place(header: Header, digest: str) -> str:
        """Return the relative path of an instance; its UIDs were checked by `read_header`."""
        return f"{header.study_uid}/{header.series_uid}/{header.sop_uid}.{digest[:12]}.dcm"

    def land(self, received: Path, path: str, digest: str) -> None:
        """File a received file on the hot tier, durably.

        A file of other content under this name can only be a damaged orphan, for the name carries
        the digest: it makes room by moving to the quarantine.
        """
        target = self._inside(self.settings.hot_root, path)
        try:
            landing.land(received, target, digest)
        except Conflict:
            with target.open("rb") as stream:
                self.quarantine(target, f"damaged/{digest_of(stream)}.dcm")
            landing.land(received, target, digest)

    def quarantine(self, received: Path, path: str) -> str:
        """Keep a file that cannot be filed; return its path below the quarantine.

        The caller puts a digest of the content into the name, so the same name is the same file.
        """
        target = self._inside(self.quarantine_root, path)
        landing.make_directory(target.parent)
        if target.exists():
            received.unlink()
        elif received.stat().st_dev == target.parent.stat().st_dev:
            landing.sync(received)
            received.replace(target)
        else:
            near = target.with_name(target.name + ".part")
            shutil.copyfile(received, near)
            landing.sync(near)
            near.replace(target)
            received.unlink()
        landing.sync(target)
        landing.sync(target.parent)
        return path

    # --- reading

    def open(self, tier: Tier, path: str) -> BinaryIO:
        """Open a file for reading; it can be sought in."""
        if tier in self._local:
            return self._inside(self._local[tier], path).open("rb")
        files, root = self._cold_files()
        return cast("BinaryIO", files.open(_below(root, path), "rb"))

    def kept(self, path: str) -> Path:
        """Return where a quarantined file lies."""
        return self._inside(self.quarantine_root, path)

    def open_kept(self, path: str) -> BinaryIO:
        """Open a quarantined file for reading."""
        return self.kept(path).open("rb")

    @contextmanager
    def local(self, tier: Tier, path: str) -> Iterator[Path]:
        """Give a file a path of this machine for the length of a ``with`` block."""
        if tier in self._local:
            yield self._inside(self._local[tier], path)
            return
        with (
            self.open(tier, path) as source,
            NamedTemporaryFile(dir=self.incoming("recall"), suffix=".dcm") as near,
        ):
            shutil.copyfileobj(source, near, _CHUNK)
            near.flush()
            yield Path(near.name)

    def exists(self, tier: Tier, path: str) -> bool:
        """Return whether the tier has a file at `path`."""
        if tier in self._local:
            return self._inside(self._local[tier], path).is_file()
        files, root = self._cold_files()
        return bool(files.isfile(_below(root, path)))

    def verify(self, tier: Tier, path: str, digest: str) -> bool:
        """Return whether the file is there and reads back with this digest."""
        try:
            with self.open(tier, path) as stream:
                return digest_of(stream) == digest
        except (FileNotFoundError, NotADirectoryError, Malformed):
            return False

    # --- moving

    def copy(self, source: Tier, target: Tier, path: str, digest: str) -> None:
        """Copy one file to another tier and read the copy back.

        A copy that is there already and reads back well is left alone, so that a migration may be
        repeated from any point.

        Raises
        ------
        DamagedCopy
            If the copy reads back with another digest, or the source no longer has its own.
        """
        if self.verify(target, path, digest):
            return
        with self.open(source, path) as reader:
            if target in self._local:
                self._copy_local(reader, self._inside(self._local[target], path))
            else:
                self._copy_cold(reader, path)
        if not self.verify(target, path, digest):
            raise DamagedCopy(f"a copy to {target} does not read back as its original")

    def copy_all(self, source: Tier, target: Tier, files: Iterable[tuple[str, str]]) -> int:
        """Copy a study's files, given as (path, digest); return how many there are."""
        count = 0
        for path, digest in files:
            self.copy(source, target, path, digest)
            count += 1
        return count

    def delete(self, tier: Tier, path: str) -> None:
        """Delete one file; an absent one is deleted already. The caller has verified the copy."""
        if tier in self._local:
            file = self._inside(self._local[tier], path)
            file.unlink(missing_ok=True)
            for directory in (file.parent, file.parent.parent):
                with suppress(OSError):  # not empty yet, or gone
                    directory.rmdir()
            return
        files, root = self._cold_files()
        with suppress(FileNotFoundError):
            files.rm_file(_below(root, path))

    def _copy_local(self, reader: BinaryIO, target: Path) -> None:
        landing.make_directory(target.parent)
        near = target.with_name(target.name + ".part")
        with near.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _CHUNK)
        landing.sync(near)
        near.replace(target)
        landing.sync(target.parent)

    def _copy_cold(self, reader: BinaryIO, path: str) -> None:
        files, root = self._cold_files()
        name = _below(root, path)
        files.makedirs(str(PurePosixPath(name).parent), exist_ok=True)
        with files.open(name, "wb") as writer:
            shutil.copyfileobj(reader, writer, _CHUNK)
            writer.flush()
            # An object store is durable when the upload is closed; only a file has a descriptor.
            with suppress(UnsupportedOperation, AttributeError, OSError):
                os.fsync(writer.fileno())

    def _cold_files(self) -> tuple[fsspec.AbstractFileSystem, str]:
        if self._cold is None:
            self._cold = fsspec.core.url_to_fs(self.settings.cold_root)
        return self._cold

    @staticmethod
    def _inside(root: Path, path: str) -> Path:
        _check_relative(path)
        return root / path


def _below(root: str, path: str) -> str:
    _check_relative(path)
    return f"{root.rstrip('/')}/{path}"


def _check_relative(path: str) -> None:
    # The last line of defence: paths are made of checked UIDs, but they come back from a database.
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("a path of the archive is relative and stays inside its root")
