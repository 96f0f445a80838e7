"""The hospital's EMR: it registers, orders and cancels; its inbox receives the reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from threading import Event, Lock
from types import TracebackType
from typing import Final, Literal, Self

from services.simulators.inbox import EmrInbox, ReceivedReport
from services.simulators.mllp import (
    Hl7ProtocolError,
    MllpLink,
    escape,
    field,
    segments,
    text_of,
)
from services.simulators.patience import patiently

__all__ = ["AUTHORITY", "Ack", "Emr", "EmrInbox", "Order", "Priority", "ReceivedReport"]

Priority = Literal["S", "A", "R"]

# 2.999 is the arc for examples: no hospital owns it
AUTHORITY: Final = "SIMHOSP&2.999.7.1&ISO"
_REFERRER: Final = "9876^TESTREFERRER^ANNA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order as the EMR writes it.

    Attributes
    ----------
    patient_name
        HL7 XPN, family^given.
    placed, scheduled
        Local wall-clock times; `placed` dates the messages, so that a message sent again is the
        same to the byte.
    """

    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    placer: str
    filler: str
    accession: str
    procedure_id: str
    step_id: str
    study_uid: str
    priority: Priority
    procedure: tuple[str, str]
    reason: str
    station: str
    placed: datetime
    scheduled: datetime

    def registration(self) -> bytes:
        """Write the ADT^A04 that registers the patient, v2.3.1."""
        return self._message(
            "ADT^A04",
            "A",
            [
                f"EVN|A04|{self.placed:%Y%m%d%H%M%S}",
                self._pid(),
                self._pv1(),
            ],
        )

    def new(self) -> bytes:
        """Write the ORM^O01 with order control NW, IHE style with ZDS, v2.3.1."""
        return self._order("NW", "N", "SC")

    def cancellation(self) -> bytes:
        """Write the ORM^O01 with order control CA."""
        return self._order("CA", "C", "CA")

    def _order(self, control: str, suffix: str, status: str) -> bytes:
        timing = f"1^once^^{self.scheduled:%Y%m%d%H%M%S}^^{self.priority}"
        placer, filler = f"{self.placer}^EMR", f"{self.filler}^RIS"
        mnemonic, words = self.procedure
        service = f"{mnemonic}^{escape(words)}^L^{mnemonic}^{escape(words)}^L"
        orc = {
            1: control,
            2: placer,
            3: filler,
            5: status,
            7: timing,
            9: f"{self.placed:%Y%m%d%H%M%S}",
            12: _REFERRER,
            18: self.station,
        }
        obr = {
            1: "1",
            2: placer,
            3: filler,
            4: service,
            16: _REFERRER,
            18: self.accession,
            19: self.procedure_id,
            20: self.step_id,
            24: "MR",
            27: timing,
            30: "WALK",
            31: f"^{escape(self.reason)}",
        }
        return self._message(
            "ORM^O01",
            suffix,
            [
                self._pid(),
                self._pv1(),
                _segment("ORC", orc),
                _segment("OBR", obr),
                f"ZDS|{self.study_uid}^100^Application^DICOM",
            ],
        )

    def _message(self, kind: str, suffix: str, body: list[str]) -> bytes:
        header = _segment(
            "MSH",
            {
                1: "^~\\&",
                2: "EMR",
                3: "SIMHOSP",
                4: "ENGINE",
                5: "RAD",
                6: f"{self.placed:%Y%m%d%H%M%S}",
                8: kind,
                9: f"{self.placer}-{suffix}",
                10: "P",
                11: "2.3.1",
                17: "UNICODE UTF-8",
            },
        )
        return "".join(f"{line}\r" for line in [header, *body]).encode()

    def _pid(self) -> str:
        return _segment(
            "PID",
            {
                1: "1",
                3: f"{self.patient_id}^^^{AUTHORITY}^MR",
                5: self.patient_name,
                7: self.birth_date,
                8: self.sex,
            },
        )

    def _pv1(self) -> str:
        return _segment("PV1", {1: "1", 2: "O", 3: "MRI^^^SIMHOSP", 8: _REFERRER})


def _segment(name: str, fields: dict[int, str]) -> str:
    return "|".join([name, *(fields.get(i, "") for i in range(1, max(fields) + 1))])


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement: MSA-1, MSA-2, the text that came with it, and the whole answer."""

    code: str
    control_id: str
    text: str
    raw: bytes

    @property
    def accepted(self) -> bool:
        """Whether the receiver took responsibility."""
        return self.code in ("AA", "CA")


class Emr:
    """The sending side: one connection, one message at a time, the next after the answer.

    Parameters
    ----------
    host, hl7_port
        Where the engine listens.
    patience_s
        How long a message is tried again while the engine is away.
    stop
        Ends the trying when set.
    """

    def __init__(
        self,
        host: str,
        hl7_port: int,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 120.0,
        stop: Event | None = None,
    ) -> None:
        self._link = MllpLink(host, hl7_port, timeout_s)
        self._patience_s = patience_s
        self._stop = stop
        self._one_at_a_time = Lock()

    def register(self, order: Order) -> Ack:
        """Send ADT^A04."""
        return self.send_raw(order.registration())

    def place(self, order: Order) -> Ack:
        """Send ORM^O01 NW."""
        return self.send_raw(order.new())

    def cancel(self, order: Order) -> Ack:
        """Send ORM^O01 CA."""
        return self.send_raw(order.cancellation())

    def send_raw(self, message: bytes) -> Ack:
        """Send bytes as they are, again and again until there is an answer.

        Raises
        ------
        Hl7ProtocolError
            If the answer has no MSA or acknowledges another message.
        OSError
            If there was no answer within the patience of this EMR.
        """
        with self._one_at_a_time:
            answer = patiently(
                lambda: self._link.exchange(message),
                patience_s=self._patience_s,
                stop=self._stop,
            )
        parts = segments(text_of(answer))
        msa = next((s for s in parts if s[0] == "MSA"), None)
        if msa is None:
            raise Hl7ProtocolError("the answer has no MSA segment")
        sent = segments(text_of(message))
        control_id = field(sent[0], 10) if sent and sent[0][0] == "MSH" else ""
        if control_id and field(msa, 2) != control_id:
            raise Hl7ProtocolError("MSA-2 is not the control id that was sent")
        words = "; ".join("|".join(s[1:]) for s in parts if s[0] == "ERR")
        return Ack(field(msa, 1), field(msa, 2), words or field(msa, 3), answer)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
