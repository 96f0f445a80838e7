"""Where the EMR receives: an MLLP server that keeps all and can be told to misbehave.

One for reports; `services.simulators.status_inbox` has the one for the status of orders.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Event, Thread
from time import monotonic
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeVar

from services.simulators.mllp import Hl7ProtocolError, field, segments, take, text_of, wrap

Fault = Literal["AE", "AR", "close", "ignore"]
_LOOK_UP_S: Final = 0.2  # how often a waiting thread looks whether it should stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One message as it came in, and what was answered.

    Attributes
    ----------
    kind
        MSH-9.
    problems
        What an EMR would refuse, by field; empty when nothing.
    answered
        AA, AE or AR, or the injected fault ``close`` or ``ignore``.
    """

    control_id: str
    kind: str
    patient_id: str
    placer: str
    filler: str
    accession: str
    status: str
    study_uid: str
    problems: tuple[str, ...]
    answered: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport(Received):
    """One report.

    Attributes
    ----------
    status
        OBR-25: P, F or C.
    text
        The narrative of all OBX, escapes as they came.
    """

    text: str


_Message = TypeVar("_Message", bound=Received)


def read_report(raw: bytes) -> ReceivedReport:
    """Read an ORU^R01 with an EMR's eyes (HL7 v2.5.1 §7.3)."""
    parts = segments(text_of(raw))
    msh = parts[0] if parts else []
    first = {name: next((s for s in parts if s[0] == name), []) for name in ("PID", "OBR")}
    pid, obr = first["PID"], first["OBR"]
    observations = [s for s in parts if s[0] == "OBX"]
    narrative = [field(s, 5) for s in observations if field(s, 2) in ("TX", "FT", "ST")]
    study = next((field(s, 5) for s in observations if field(s, 3).startswith("113014")), "")
    text = "\n".join(words for words in narrative if words and words != study)
    values = {
        "MSH-10": field(msh, 10),
        "PID-3": field(pid, 3).split("^")[0],
        "OBR-2": field(obr, 2).split("^")[0],
        "OBR-3": field(obr, 3).split("^")[0],
        "OBR-18": field(obr, 18),
        "OBX-5": text,
    }
    problems = [f"{name} is empty" for name, value in values.items() if not value]
    kind = field(msh, 9)
    if not kind.startswith("ORU^R01"):
        problems.append("MSH-9 is not ORU^R01")
    if field(obr, 25) not in ("P", "F", "C"):
        problems.append("OBR-25 is not P, F or C")
    return ReceivedReport(
        control_id=values["MSH-10"],
        kind=kind,
        patient_id=values["PID-3"],
        placer=values["OBR-2"],
        filler=values["OBR-3"],
        accession=values["OBR-18"],
        status=field(obr, 25),
        study_uid=study,
        text=text,
        problems=tuple(problems),
        answered="",
        raw=raw,
    )


class Inbox(Generic[_Message]):
    """An MLLP server on a thread of its own.

    Messages that miss something essential are answered AE, those of another kind AR, the rest AA.
    A message that comes again is kept again, so that a test sees it, and answered the same.

    Parameters
    ----------
    read
        How a message is read.
    kinds
        What MSH-9 may begin with.
    port
        Zero for any free port; read it back from `port`.
    """

    def __init__(
        self,
        read: Callable[[bytes], _Message],
        kinds: tuple[str, ...],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._read = read
        self._kinds = kinds
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(_LOOK_UP_S)
        self.host = host
        self.port = int(self._listener.getsockname()[1])
        self._received: list[_Message] = []
        self._faults: deque[Fault] = deque()
        self._changed = Condition()
        self._stop = Event()
        self._threads = [Thread(target=self._accept, name="emr-inbox", daemon=True)]
        self._threads[0].start()

    @property
    def messages(self) -> list[_Message]:
        """Everything received so far, refused and unanswered messages included, oldest first."""
        with self._changed:
            return list(self._received)

    @property
    def accepted(self) -> list[_Message]:
        """What was answered AA, each control id once."""
        return list({m.control_id: m for m in self.messages if m.answered == "AA"}.values())

    @property
    def duplicates(self) -> list[str]:
        """Control ids that were received more than once."""
        counts = Counter(message.control_id for message in self.messages)
        return [control_id for control_id, count in counts.items() if count > 1]

    def fail_next(self, count: int, how: Fault) -> None:
        """Misbehave for the next messages: refuse them, or hang up, or never answer."""
        with self._changed:
            self._faults.extend([how] * count)

    def wait_for(self, enough: Callable[[list[_Message]], bool], timeout_s: float) -> bool:
        """Wait until what was received satisfies a condition; False when time ran out."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while not enough(list(self._received)):
                left = deadline - monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return enough(list(self._received))
        return True

    def close(self) -> None:
        """Stop listening and hang up."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = Thread(target=self._serve, args=(sock,), name="emr-inbox-peer", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        rest = bytearray()
        with sock:
            sock.settimeout(_LOOK_UP_S)
            while not self._stop.is_set():
                try:
                    raw = take(sock, rest)
                except TimeoutError:
                    continue
                except (OSError, Hl7ProtocolError):
                    return
                if raw is None:
                    return
                try:
                    if not self._answer(sock, raw):
                        return
                except OSError:
                    return

    def _answer(self, sock: socket.socket, raw: bytes) -> bool:
        """Keep a message and answer it; False to hang up."""
        message = self._read(raw)
        verdict = "AA"
        if message.problems:
            verdict = "AE" if message.kind.startswith(self._kinds) else "AR"
        with self._changed:
            if self._faults:
                verdict = self._faults.popleft()
            self._received.append(replace(message, answered=verdict))
            self._changed.notify_all()
        if verdict == "close":
            return False
        if verdict != "ignore":
            words = "; ".join(message.problems)
            if verdict != "AA" and not words:
                words = f"patient {message.patient_id} is locked"  # as others do, in clear
            sock.sendall(wrap(acknowledge(raw, verdict, words)))
        return True


class EmrInbox(Inbox[ReceivedReport]):
    """Where reports arrive.

    Parameters
    ----------
    port
        Zero for any free port; read it back from `port`.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(read_report, ("ORU^R01",), host, port)


def acknowledge(raw: bytes, verdict: str, words: str = "") -> bytes:
    """Write the original-mode acknowledgement of a message (HL7 v2.5.1 §2.9)."""
    parts = segments(text_of(raw))
    msh = parts[0] if parts else []
    event = field(msh, 9).split("^")[1:2]
    back = [field(msh, 5), field(msh, 6), field(msh, 3), field(msh, 4)]
    header = ["MSH", "^~\\&", *back, field(msh, 7), "", "^".join(["ACK", *event])]
    header += [f"A{field(msh, 10)}"[:20], field(msh, 11) or "P", field(msh, 12) or "2.5.1"]
    lines = ["|".join(header), f"MSA|{verdict}|{field(msh, 10)}|{words}"]
    return "".join(f"{line}\r" for line in lines).encode()
