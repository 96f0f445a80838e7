"""The key file of the message store: AES-256-GCM for what is kept, HMAC for what is searched.

One file holds every key, newest last. New texts are sealed with the newest; the older ones stay
readable because each sealed text says which key it needs. Both working keys are derived from the
secret in the file (HKDF, RFC 5869), so that no key serves two algorithms.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from models.errors import DamagedCopy, KeyMissing

FILE: Final = "messages.key"
_HEADER: Final = "# Spinecho message keys, newest last; what they sealed is lost with them.\n"
_NONCE_BYTES: Final = 12
_BLIND_BYTES: Final = 16


class Key:
    """One secret and the two keys derived from it."""

    def __init__(self, secret: bytes) -> None:
        self.id = sha256(b"spinecho key id" + secret).hexdigest()[:12]
        self._secret = secret
        self._cipher = AESGCM(self._derived(b"spinecho message text"))
        self._index = self._derived(b"spinecho message index")

    def seal(self, text: bytes, context: str) -> bytes:
        """Return nonce, ciphertext and tag; it opens only under the same `context`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Return the text.

        Raises
        ------
        DamagedCopy
            If it was changed, or belongs to another context.
        """
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, context.encode())
        except (InvalidTag, ValueError):
            raise DamagedCopy(
                f"{context} does not open with key {self.id}: its bytes were changed"
            ) from None

    def blind(self, kind: str, value: str) -> bytes:
        """Return what stands for `value` in an index: equal for equals, telling nothing else."""
        named = f"{kind}\0{value}".encode()
        return hmac.digest(self._index, named, "sha256")[:_BLIND_BYTES]

    def line(self) -> str:
        """Return the key as it stands in the file."""
        return f"{self.id} {b64encode(self._secret).decode()}\n"

    def _derived(self, purpose: bytes) -> bytes:
        return HKDF(SHA256(), length=32, salt=None, info=purpose).derive(self._secret)


class Keyring:
    """The keys of one installation, read when they are first needed and again when they change."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def current(self, may_create: Callable[[], bool]) -> Key:
        """Return the newest key, which new texts are sealed with.

        Parameters
        ----------
        may_create : callable
            Asked where there is no key file: whether nothing was ever sealed, so that a new key
            is the first one and no lost one is papered over.

        Raises
        ------
        KeyMissing
            If there is no usable key file and none may be made.
        """
        if not self._read():
            if not may_create():
                raise KeyMissing(
                    f"messages are sealed and there is no key file {self.path}; restore it from "
                    "its backup, or set SPINECHO_KEY_DIR to where it is"
                )
            self._create()
            self._read()
        return next(reversed(self._keys.values()))

    def get(self, key_id: str) -> Key:
        """Return the key of this id.

        Raises
        ------
        KeyMissing
            If it is not in the file.
        """
        key = self._keys.get(key_id)
        if key is None and self._read():
            key = self._keys.get(key_id)
        if key is None:
            raise KeyMissing(
                f"key {key_id} is not in {self.path}, and what it sealed cannot be read; restore "
                "the key file from its backup"
            )
        return key

    def all(self) -> list[Key]:
        """Return every key, oldest first; none without a file."""
        self._read()
        return list(self._keys.values())

    def rotate(self) -> Key:
        """Add a new key, which every process seals with from now on, and return it.

        Raises
        ------
        KeyMissing
            If there is no key file yet.
        """
        with self._locked():
            if not self._read():
                raise KeyMissing(f"there is no key file {self.path} yet; the first start makes it")
            key = Key(secrets.token_bytes(32))
            temporary = self._write(*self._keys.values(), key)
            temporary.replace(self.path)
            _sync(self.path.parent)
        self._read()
        return key

    def _read(self) -> bool:
        # Asked for every message: one look at the file, and it is read only where it has changed.
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._stamp = None
            return False
        except OSError as error:
            raise KeyMissing(f"{self.path}: {error.strerror}") from None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return True
        if found.st_mode & 0o037:
            raise KeyMissing(f"{self.path} is open to other accounts; 'chmod 600 {self.path}'")
        try:
            lines = self.path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyMissing(f"{self.path} cannot be read: {type(error).__name__}") from None
        keys = [_key(self.path, n, line) for n, line in enumerate(lines, 1) if _holds_key(line)]
        if not keys:
            raise KeyMissing(f"{self.path} holds no key; restore it from its backup")
        self._keys = {key.id: key for key in keys}
        self._stamp = stamp
        return True

    def _create(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._write(Key(secrets.token_bytes(32)))
        try:
            # A link is made by exactly one of the processes that start at once.
            os.link(temporary, self.path)
            _sync(self.path.parent)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()

    def _write(self, *keys: Key) -> Path:
        temporary = self.path.with_name(f".{FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(_HEADER + "".join(key.line() for key in keys))
            file.flush()
            os.fsync(file.fileno())
        return temporary

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            directory = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise KeyMissing(f"{self.path.parent}: {error.strerror}") from None
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)


def _holds_key(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _key(path: Path, number: int, line: str) -> Key:
    try:
        key_id, encoded = line.split()
        key = Key(b64decode(encoded, validate=True))
    except ValueError:
        raise KeyMissing(f"{path} is damaged in line {number}; restore its backup") from None
    if key.id != key_id:
        raise KeyMissing(f"{path} is damaged in line {number}; restore its backup")
    return key


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
