"""The DICOM listener: Verification, Modality Worklist, MPPS, Storage and Storage Commitment SCP.

Handlers are thin: they turn a request into a call of a use case and its outcome into a status. A
success status leaves only after the use case's commit (rule 1).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import structlog
from pydicom import Dataset
from pynetdicom import AE, _config, dimse_messages, evt

from models.errors import (
    IllegalMove,
    InvalidValue,
    MissingField,
    OutOfResources,
    PeerError,
    SpinechoError,
    answer_to,
)
from models.study import new_uid
from services.archive import landing
from services.archive.tiers import Tiers
from services.database.store import Store
from services.dicom import worklist
from services.dicom.commitment import Committer, caller
from services.dicom.sop import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    MPPS,
    VERIFICATION,
    WORKLIST_FIND,
)
from services.workflow.acquisition import (
    Disposition,
    Reception,
    Reference,
    accept_commitment,
    association_ended,
    begin_exam,
    change_exam,
    receive_instance,
)

log = structlog.get_logger(__name__)

SUCCESS: Final = 0x0000
COERCED: Final = 0xB000
"""Stored, with a warning. PS3.4 Table B.2-1 has no code for "your UID belongs to other bytes": the
object is kept and may be deleted by its sender, but it cannot be retrieved under the identity it
came with; that is what this warning says. A failure would make the scanner send for ever."""
CANCELLED: Final = 0xFE00
OUT_OF_RESOURCES: Final = 0xA700
NOT_MATCHING: Final = 0xA900
FINAL_STATE: Final = 0xA710
"""Error ID (0000,0903) beside 0110H: the MPPS may no longer be updated (PS3.4 F.7.2.2.3)."""

_CHANNEL: Final = "dicom"


def configure_library(incoming: Path) -> None:
    """Set what pynetdicom keeps for the whole process.

    Data sets go to disk as they come, next to where they are filed; any storage SOP class and any
    transfer syntax is taken, private ones too; identifiers of patients stay out of its log.
    """
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # It has no option for the directory: /tmp may be small, and another file system.
    setattr(dimse_messages, "NamedTemporaryFile", partial(NamedTemporaryFile, dir=incoming))  # noqa: B010 (private to it)


class StorageServer:
    """The listener of one installation.

    Parameters
    ----------
    store : Store
    tiers : Tiers
    """

    def __init__(self, store: Store, tiers: Tiers) -> None:
        self._store, self._tiers = store, tiers
        self._settings = tiers.settings
        self._committer = Committer(store, tiers)
        self._receptions: dict[Any, Reception] = {}
        self._server: Any = None

    def start(self) -> int:
        """Listen in the background; return the port."""
        incoming = self._tiers.incoming(_CHANNEL)
        if leftovers := landing.sweep(incoming):
            log.warning("half received files removed", files=leftovers)
        configure_library(incoming)
        ae = AE(ae_title=self._settings.ae_title)
        ae.maximum_pdu_size = 0
        ae.maximum_associations = self._settings.max_associations
        ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = 15, 60, 300
        # Storage needs no entry: `UNRESTRICTED_STORAGE_SERVICE` negotiates it, and the library
        # copies the list for every association (60 ms for all classes and syntaxes).
        for sop_class in (
            *(VERIFICATION, WORKLIST_FIND),
            *(MPPS, COMMITMENT),
        ):
            ae.add_supported_context(sop_class)
        self._ae = ae
        self._server = ae.start_server(
            (self._settings.host, self._settings.dicom_port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._opened),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_CONN_CLOSE, self._closed),
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_C_STORE, self._store_instance),
                (evt.EVT_N_CREATE, self._begin),
                (evt.EVT_N_SET, self._change),
                (evt.EVT_N_ACTION, self._commit),
            ],
        )
        port = int(self._server.socket.getsockname()[1])
        log.info("DICOM listener", ae_title=self._settings.ae_title, port=port)
        return port

    @property
    def busy(self) -> bool:
        """Whether a peer is connected."""
        return any(assoc.is_alive() for assoc in self._server.active_associations)

    def stop_listening(self) -> None:
        """Refuse new connections; established associations go on."""
        self._server.shutdown()

    def close(self) -> None:
        """Stop, aborting what is still open."""
        with suppress(ValueError, OSError):  # it may have stopped listening before
            self._server.shutdown()
        self._ae.shutdown()
        self._committer.close()

    # --- connections

    def _opened(self, event: Any) -> None:
        with suppress(OSError, AttributeError):
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _requested(self, event: Any) -> None:
        primitive = event.assoc.requestor.primitive
        title = primitive.calling_ae_title.strip()
        host = str(event.assoc.requestor.address)
        if not self._known(title, host):
            log.warning("unregistered AE refused", calling=title)
            # PS3.8 Table 9-21: rejected permanent, calling AE title not recognized
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)
            event.assoc.kill()

    def _known(self, title: str, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        if address.is_loopback or getattr(address, "ipv4_mapped", None) in _LOOPBACK:
            return True
        with self._store() as uow:
            peer = uow.peers.find(title)
        if peer is None:
            return False
        try:
            return ipaddress.ip_address(peer.host) == address
        except ValueError:  # registered by name: the AE title decides
            return True

    def _closed(self, event: Any) -> None:
        dimse = event.assoc.dimse
        _discard(getattr(dimse, "message", None), "_data_set_file")
        while True:  # complete, but never served: unacknowledged
            _, message = dimse.get_msg(block=False)
            if message is None:
                break
            _discard(message, "_dataset_file")
        reception = self._receptions.pop(event.assoc, None)
        if reception is None:
            return
        try:
            association_ended(self._store, reception)
        except Exception:
            # Nothing is lost: the sweep finds the studies that were not announced.
            log.exception("association not summed up", association=reception.id)

    # --- services

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        count = 0
        try:
            for status, answer in worklist.find(self._store, event.identifier):
                if event.is_cancelled:
                    yield CANCELLED, None
                    return
                count += 1
                yield status, answer
        except PeerError:
            yield NOT_MATCHING, None
        except Exception:
            log.exception("worklist query failed")
            yield OUT_OF_RESOURCES, None
        log.info("worklist", calling=caller(event.assoc)[0], answers=count)

    def _store_instance(self, event: Any) -> int | Dataset:
        reception = self._receptions.get(event.assoc)
        if reception is None:
            reception = Reception(source_ae=caller(event.assoc)[0])
            self._receptions[event.assoc] = reception
        request = event.request
        expected = Reference(
            sop_class=str(request.AffectedSOPClassUID), sop_uid=str(request.AffectedSOPInstanceUID)
        )
        # Held until the answer is known, so that the summary counts what was stored before it.
        with reception.lock:
            if reception.ended:
                return OUT_OF_RESOURCES
            try:
                received = receive_instance(
                    self._store,
                    self._tiers,
                    Path(event.dataset_path),
                    source_ae=reception.source_ae,
                    reception=reception,
                    expected=expected,
                )
            except OutOfResources as error:
                return _status(OUT_OF_RESOURCES, error)
            except (MissingField, InvalidValue) as error:
                return _status(NOT_MATCHING, error)
            except SpinechoError as error:
                return _status(answer_to(error).dimse, error)
            except Exception:
                # Our fault, whatever it is: the scanner keeps the image and sends it again.
                log.exception("instance not stored", association=reception.id)
                return OUT_OF_RESOURCES
        if received.disposition is Disposition.CONFLICT:
            status = Dataset()
            status.Status = COERCED
            status.ErrorComment = "UID belongs to other content; kept for reconciliation"
            return status
        return SUCCESS

    def _begin(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        # PS3.7 10.1.5.1.4: the SCP names the instance if the SCU does not
        sop_uid = str(event.request.AffectedSOPInstanceUID or new_uid())
        try:
            begin_exam(self._store, sop_uid, event.attribute_list, source_ae=caller(event.assoc)[0])
        except SpinechoError as error:
            return _status(answer_to(error).dimse, error), None
        except Exception:
            log.exception("MPPS not created")
            return 0x0110, None
        answer = Dataset()
        answer.AffectedSOPInstanceUID = sop_uid
        return SUCCESS, None if event.request.AffectedSOPInstanceUID else answer

    def _change(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        try:
            change_exam(
                self._store,
                str(event.request.RequestedSOPInstanceUID),
                event.modification_list,
                source_ae=caller(event.assoc)[0],
            )
        except IllegalMove as error:
            status = _status(answer_to(error).dimse, error)
            status.ErrorID = FINAL_STATE
            return status, None
        except SpinechoError as error:
            return _status(answer_to(error).dimse, error), None
        except Exception:
            log.exception("MPPS not changed")
            return 0x0110, None
        return SUCCESS, None

    def _commit(self, event: Any) -> tuple[int, Dataset | None]:
        if event.action_type != 1:
            return 0x0123, None  # no such action
        if event.request.RequestedSOPInstanceUID != COMMITMENT_INSTANCE:
            return 0x0112, None
        information = event.action_information
        transaction_uid = str(information.get("TransactionUID") or "")
        references = [
            Reference(
                sop_class=str(item.get("ReferencedSOPClassUID") or ""),
                sop_uid=str(item.get("ReferencedSOPInstanceUID") or ""),
            )
            for item in information.get("ReferencedSOPSequence") or []
        ]
        if not references:
            return 0x0115, None  # invalid argument value
        requestor, host = caller(event.assoc)
        try:
            new = accept_commitment(self._store, transaction_uid, references, requestor, host=host)
        except SpinechoError:
            return 0x0115, None
        except Exception:
            log.exception("commitment not recorded")
            return 0x0213, None  # resource limitation
        if new:
            self._committer.answer(transaction_uid, event.assoc)
        else:
            self._committer.refuse(transaction_uid, references, event.assoc)
        return SUCCESS, None


_LOOPBACK: Final = {ipaddress.ip_address("127.0.0.1")}


def _status(code: int, error: SpinechoError) -> Dataset:
    status = Dataset()
    status.Status = code
    # PS3.7 C.4: LO; our messages name fields and shapes, never a patient
    status.ErrorComment = str(error)[:64].replace("\\", "/")
    return status


def _discard(message: Any, attribute: str) -> None:
    file = getattr(message, attribute, None)
    if file is None:
        return
    with suppress(OSError, ValueError):
        file.close()
    Path(file.name).unlink(missing_ok=True)
