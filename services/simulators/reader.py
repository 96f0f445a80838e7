"""A radiologist: takes what the reading list puts first, reads it, signs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx

from services.simulators.header import uid
from services.simulators.patience import UnavailableError, patiently

Status = Literal["preliminary", "final", "corrected"]
UNREAD: Final = frozenset({"acquired"})
NORMAL: Final = (
    "The ventricles are of normal and symmetric size. No midline shift. No mass.",
    "No acute intracranial abnormality.",
)
CRITICAL: Final = (
    "Marked asymmetric enlargement of one lateral ventricle with midline shift.",
    "Unilateral obstructive hydrocephalus with midline shift. Neurosurgery to be informed at once.",
)


class ReadingRoomError(Exception):
    """The engine refused a request of the reading room."""


@dataclass(frozen=True, slots=True)
class Study:
    """One line of the reading list."""

    study_uid: str
    accession: str
    priority: str
    state: str
    patient_name: str
    description: str
    critical: bool


@dataclass(frozen=True, slots=True)
class Signed:
    """One report that was signed, in the order of signing.

    Attributes
    ----------
    waiting
        Study UIDs of the unread studies at the moment of choice, in the list's order.
    """

    study: Study
    status: Status
    version: int
    acknowledged: bool
    waiting: tuple[str, ...]


class Reader:
    """One radiologist at the reading room's HTTP interface.

    Parameters
    ----------
    base_url
        Address of the engine, without a trailing path.
    name
        Who signs.
    opinion
        Turns a study into findings and impression; by default what the list says of it decides.
    patience_s, stop
        As for the scanner.
    """

    def __init__(
        self,
        base_url: str,
        name: str = "TESTREADER^RUTH",
        *,
        opinion: Callable[[Study], tuple[str, str]] | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 120.0,
        stop: Event | None = None,
    ) -> None:
        self.name = name
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s)
        self._opinion = opinion or (lambda study: CRITICAL if study.critical else NORMAL)
        self._patience_s = patience_s
        self._stop = stop
        self._signed: list[Signed] = []
        self._lock = Lock()

    @property
    def signed(self) -> list[Signed]:
        """Everything signed so far, oldest first."""
        with self._lock:
            return list(self._signed)

    def reading_list(self) -> list[Study]:
        """Fetch the list, in reading order."""
        return self._listed("studies")

    def unacknowledged(self) -> list[Study]:
        """Fetch the studies that turned critical after they had been read."""
        return self._listed("unacknowledged")

    def _listed(self, which: str) -> list[Study]:
        body = self._request("GET", "/api/reading-list", None)
        return [
            Study(
                study_uid=str(line["study_uid"]),
                accession=str(line.get("accession") or ""),
                priority=str(line.get("priority") or ""),
                state=str(line["state"]),
                patient_name=str(line.get("patient_name") or ""),
                description=str(line.get("description") or ""),
                critical=bool(line.get("critical")),
            )
            for line in body[which]
        ]

    def read_next(self, status: Status = "final") -> Signed | None:
        """Read and sign the first unread study; None when nothing waits."""
        waiting = [study for study in self.reading_list() if study.state in UNREAD]
        if not waiting:
            return None
        return self.sign(waiting[0], status, tuple(study.study_uid for study in waiting))

    def sign(self, study: Study, status: Status, waiting: tuple[str, ...] = ()) -> Signed:
        """Sign a report on a study, and acknowledge the study's critical result if it has one.

        Raises
        ------
        ReadingRoomError
            If the engine refuses the report or the acknowledgement.
        """
        findings, impression = self._opinion(study)
        report = {
            "status": status,
            "findings": findings,
            "impression": impression,
            "author": self.name,
        }
        body = self._request("POST", f"/api/studies/{study.study_uid}/reports", report)
        if study.critical:
            self.acknowledge(study)
        done = Signed(study, status, int(body["version"]), study.critical, waiting)
        with self._lock:
            self._signed.append(done)
        return done

    def acknowledge(self, study: Study) -> None:
        """Say that the critical result has been seen, and by whom."""
        self._request("POST", f"/api/studies/{study.study_uid}/acknowledgement", {"by": self.name})

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        headers = {}
        if body is not None:
            # the answer may be lost after the report was filed; the key lets the engine see that
            key = uid(path, self.name, *sorted(body.items()))
            headers["Idempotency-Key"] = key.rsplit(".", 1)[1]

        def attempt() -> dict[str, Any]:
            try:
                response = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                raise UnavailableError(f"{method} {path}: {error}") from error
            if response.status_code in (408, 425, 429) or response.status_code >= 500:
                raise UnavailableError(f"{method} {path}: {response.status_code}")
            if not response.is_success:
                raise ReadingRoomError(f"{method} {path} was answered {response.status_code}")
            parsed: dict[str, Any] = response.json() if response.content else {}
            return parsed

        return patiently(attempt, patience_s=self._patience_s, stop=self._stop)
