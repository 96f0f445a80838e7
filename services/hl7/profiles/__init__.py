"""The profiles: those that are shipped, as TOML files beside this one, and the installation's own.

A shipped one is a starting point and not in force; a file of the same name in the installation's
directory takes its place.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from models.errors import ProfileError
from services.hl7.er7 import Message, Segment
from services.hl7.profile import Declared, Origin, read_profile
from services.hl7.standardising import Standard, Standardiser

log = structlog.get_logger()

SHIPPED: Final = Path(__file__).parent
_MOST_SENDERS: Final = 4096
"""Senders that are remembered; MSH-3 and MSH-4 are the sender's to choose."""

_Seen = tuple[tuple[str, int, int, int], ...]


class Profiles:
    """The profiles in force, read again when a file has changed.

    Parameters
    ----------
    directory : Path
        The installation's own; it need not exist.
    good : Path, optional
        A file that keeps the last good ones, so that a wrong edit does not keep anybody from
        starting anew, at night and after a power cut.
    clock : callable
        Seconds that only go forward.
    look_s : float
        Seconds for which the files are not looked at again.

    Raises
    ------
    ProfileError
        If a file is wrong and no last good ones were kept: to begin without a profile would
        misread its sender's messages.
    """

    def __init__(
        self,
        directory: Path,
        *,
        good: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = 1.0,
    ) -> None:
        self._directory = directory
        self._good = good
        self._clock = clock
        self._look_s = look_s
        self._looking = threading.Lock()
        self._next = clock() + look_s
        self._seen = self._look()
        self._known = self._begin()
        self._force = Force(self._known.values())

    def _begin(self) -> dict[str, Declared]:
        try:
            known = load(self._directory)
        except ProfileError as error:
            if self._good is None or not self._good.exists():
                raise
            log.error("hl7.profiles_refused", reason=str(error), kept="the last good ones")  # noqa: TRY400 (it is no fault of ours)
            return load_kept(self._good)
        self._keep(known)
        return known

    def _keep(self, known: dict[str, Declared]) -> None:
        if self._good is None:
            return
        own = {n: d.text for n, d in known.items() if d.origin == "installed"}
        beside = self._good.with_suffix(".new")
        try:
            self._good.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(own), encoding="utf-8")
            beside.replace(self._good)
        except OSError as error:
            log.warning("hl7.profiles_not_kept", reason=error.strerror)

    def standardised(self, message: Message, raw: bytes) -> Standard:
        """Return the message after its sender's profile, or as it is where none is for it."""
        if self._clock() >= self._next:
            self._look_again()
        return self._force.standardised(message, raw)

    def _look(self) -> _Seen:
        seen = []
        for path in files(self._directory):
            with suppress(FileNotFoundError):  # it went between the two looks
                stat = path.stat()
                seen.append((path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(seen)

    def _look_again(self) -> None:
        if not self._looking.acquire(blocking=False):
            return  # another thread looks; this message still has the profiles of a moment ago
        try:
            self._next = self._clock() + self._look_s
            seen = self._look()
            if seen == self._seen:
                return
            self._seen = seen
            known = load(self._directory)
            self._force = Force(known.values())
            changed = sorted(
                name
                for name in known.keys() | self._known.keys()
                if known.get(name) != self._known.get(name)
            )
            self._known = known
            self._keep(known)
            log.info("hl7.profiles_read", changed=changed)
        except (ProfileError, OSError) as error:
            log.error("hl7.profiles_refused", reason=str(error), kept="the last good ones")  # noqa: TRY400 (it is no fault of ours)
        finally:
            self._looking.release()


class Force:
    """The profiles that are in force together, and whose they turned out to be.

    Of two that are for one sender the first counts.
    """

    def __init__(self, known: Iterable[Declared]) -> None:
        self._active = [Standardiser(declared) for declared in known if declared.profile.active]
        self._of: dict[tuple[str, str, str], Standardiser | None] = {}

    def standardised(self, message: Message, raw: bytes) -> Standard:
        """Return the message after its sender's profile, or as it is where none is for it."""
        chosen = self._for(message.msh)
        return Standard(message) if chosen is None else chosen.standardised(message, raw)

    def _for(self, msh: Segment) -> Standardiser | None:
        sender = (msh.get(3), msh.get(4), msh.get(12))
        try:
            return self._of[sender]
        except KeyError:
            matching = (s for s in self._active if s.declared.profile.sender.matches(*sender))
            chosen = next(matching, None)
            if len(self._of) < _MOST_SENDERS:
                self._of[sender] = chosen
            return chosen


def files(directory: Path) -> list[Path]:
    """Return the profiles of a directory, by name; none where it is not there."""
    return sorted(directory.glob("*.toml")) if directory.is_dir() else []


def read_file(path: Path, origin: Origin) -> Declared:
    """Read one file.

    Raises
    ------
    ProfileError
        If it is wrong, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from None
    return read_profile(data, file=str(path), origin=origin)


def survey(directory: Path) -> tuple[dict[str, Declared], list[str]]:
    """Return every profile that is right, by its name, and what is wrong with the others.

    One of the installation takes the place of a shipped one of the same name.
    """
    known, wrong = _shipped(), []
    for path in files(directory):
        try:
            known[path.stem] = _installed(path)
        except ProfileError as error:
            wrong.append(str(error))
    try:
        require_one_each(known.values())
    except ProfileError as error:
        wrong.append(str(error))
    return known, wrong


def _installed(path: Path) -> Declared:
    declared = read_file(path, "installed")
    if declared.profile.name != path.stem:
        raise ProfileError(
            f"{path}: name is {declared.profile.name!r}, the file's name asks for {path.stem!r}"
        )
    return declared


def load(directory: Path) -> dict[str, Declared]:
    """Return every profile by its name, if all of them are right.

    Raises
    ------
    ProfileError
        If a file is wrong, is not called as the profile in it, or two are for one sender.
    """
    known, wrong = survey(directory)
    if wrong:
        raise ProfileError("\n".join(wrong))
    return known


def load_kept(good: Path) -> dict[str, Declared]:
    """Return the profiles as they were when every file was right.

    Raises
    ------
    ProfileError
        If what was kept cannot be read.
    """
    try:
        own = json.loads(good.read_bytes())
    except (OSError, ValueError):
        raise ProfileError(f"{good}: the last good profiles cannot be read") from None
    return _shipped() | {
        name: read_profile(text.encode(), file=f"{name}.toml (last good)", origin="installed")
        for name, text in own.items()
    }


def _shipped() -> dict[str, Declared]:
    return {path.stem: read_file(path, "shipped") for path in files(SHIPPED)}


def require_one_each(profiles: Iterable[Declared]) -> None:
    """Refuse two profiles in force that some message would match both.

    Raises
    ------
    ProfileError
        Naming both files.
    """
    active = [declared for declared in profiles if declared.profile.active]
    for number, one in enumerate(active):
        for other in active[number + 1 :]:
            if one.profile.sender.overlaps(other.profile.sender):
                raise ProfileError(
                    f"{other.file}: sender: {one.file} is for such a message too; narrow "
                    "application, facility or versions of one of them, or set active = false"
                )
