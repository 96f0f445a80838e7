"""The least engine a department can work with, for the simulators' own tests.

It keeps its state in memory but survives `kill` and `revive`, so that the department's patience can
be tried. Made from the libraries alone, like the simulators.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread, Timer

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    EnhancedMRImageStorage,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    MRImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from deployments.installation import free_ports
from services.simulators.header import dataset
from services.simulators.inbox import acknowledge
from services.simulators.mllp import MllpLink, field, segments, take, text_of, wrap


class StandIn:
    """HL7, DICOM and HTTP on ports that stay the same when it comes back."""

    def __init__(self, inbox_port, listener_ports, *, same_association=False, drop_after=None):
        self.inbox_port = inbox_port
        self.listener_ports = listener_ports
        self.same_association = same_association
        self.lock = Lock()
        self.received = []  # control ids, repetitions included
        self.orders = {}  # accession -> fields
        self.steps = {}  # MPPS UID -> Dataset
        self.changes = []  # (MPPS UID, Dataset) of every N-SET
        self.answers = []  # to N-EVENT-REPORTs on the association of the request
        self.instances = {}  # SOP Instance UID -> Dataset
        self.stores = Counter()
        self.reports = {}  # study UID -> list of bodies
        self.acknowledged = {}
        self.critical = frozenset()  # accession numbers that triage raises
        self.keys = {}  # idempotency key -> answer
        self.hl7_port, self.dicom_port, self.http_port = free_ports(*"hdw").values()
        self.kills = 0
        self._drop_after = drop_after
        self.revive()

    # life and death

    def revive(self):
        self._stopping = Event()
        self._listener = socket.create_server(("127.0.0.1", self.hl7_port))
        self._listener.settimeout(0.1)
        self._threads = [Thread(target=self._accept_hl7, daemon=True)]
        self._threads[0].start()
        self.ae = AE("SPINECHO")
        for sop in (
            Verification,
            ModalityWorklistInformationFind,
            ModalityPerformedProcedureStep,
            MRImageStorage,
            EnhancedMRImageStorage,
            StorageCommitmentPushModel,
        ):
            self.ae.add_supported_context(sop)
        self._dicom = self.ae.start_server(
            ("127.0.0.1", self.dicom_port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_ECHO, lambda _: 0),
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_N_CREATE, self._create),
                (evt.EVT_N_SET, self._set),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._action),
            ],
        )
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                engine._http(self, None)

            def do_POST(self):
                engine._http(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_):
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._web = ThreadingHTTPServer(("127.0.0.1", self.http_port), Handler)
        self._threads.append(Thread(target=self._web.serve_forever, args=(0.05,), daemon=True))
        self._threads[-1].start()

    def kill(self):
        """Cut every connection and stop listening, without a word to anybody."""
        self.kills += 1
        self._stopping.set()
        for assoc in self._dicom.active_associations:
            assoc.abort()
        self.ae.shutdown()
        self._web.shutdown()
        self._web.server_close()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    close = kill

    def die_for(self, seconds):
        def perform():
            self.kill()
            Event().wait(seconds)
            self.revive()

        thread = Thread(target=perform, daemon=True)
        thread.start()
        return thread

    # HL7

    def _accept_hl7(self):
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._threads.append(Thread(target=self._serve_hl7, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _serve_hl7(self, sock):
        rest = bytearray()
        with sock:
            sock.settimeout(0.1)
            while not self._stopping.is_set():
                try:
                    raw = take(sock, rest)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if raw is None:
                    return
                self._receive(raw)
                sock.sendall(wrap(acknowledge(raw, "AA")))

    def _receive(self, raw):
        parts = {segment[0]: segment for segment in segments(text_of(raw))}
        with self.lock:
            seen = field(parts["MSH"], 10) in self.received
            self.received.append(field(parts["MSH"], 10))
            if seen or "ORC" not in parts:
                return
            accession = field(parts["OBR"], 18)
            if field(parts["ORC"], 1) == "CA":
                self.orders[accession]["status"] = "CANCELLED"
                return
            self.orders[accession] = {"parts": parts, "status": "SCHEDULED"}

    # DICOM

    def _find(self, event):
        wanted = event.identifier.ScheduledProcedureStepSequence[0].ScheduledStationAETitle
        with self.lock:
            orders = [o for o in self.orders.values() if o["status"] == "SCHEDULED"]
        for order in orders:
            parts = order["parts"]
            obr, pid, orc = parts["OBR"], parts["PID"], parts["ORC"]
            if field(orc, 18) != wanted:
                continue
            when = field(orc, 7).split("^")[3]
            step = dataset(
                {
                    "ScheduledStationAETitle": wanted,
                    "ScheduledProcedureStepStartDate": when[:8],
                    "ScheduledProcedureStepStartTime": when[8:],
                    "Modality": "MR",
                    "ScheduledProcedureStepID": field(obr, 20),
                    "ScheduledProcedureStepDescription": field(obr, 4).split("^")[4],
                }
            )
            yield (
                0xFF00,
                dataset(
                    {
                        "SpecificCharacterSet": "ISO_IR 192",
                        "AccessionNumber": field(obr, 18),
                        "PatientName": field(pid, 5),
                        "PatientID": field(pid, 3).split("^")[0],
                        "PatientBirthDate": field(pid, 7),
                        "PatientSex": field(pid, 8),
                        "StudyInstanceUID": field(parts["ZDS"], 1).split("^")[0],
                        "RequestedProcedureID": field(obr, 19),
                        "RequestedProcedureDescription": field(obr, 4).split("^")[1],
                        "RequestedProcedurePriority": {"S": "STAT", "A": "HIGH", "R": "ROUTINE"}[
                            field(orc, 7).split("^")[5]
                        ],
                        "ScheduledProcedureStepSequence": [step],
                    }
                ),
            )

    def _create(self, event):
        uid = event.request.AffectedSOPInstanceUID
        attributes = event.attribute_list
        with self.lock:
            if uid in self.steps:
                return 0x0111, None
            self.steps[uid] = attributes
            accession = attributes.ScheduledStepAttributesSequence[0].AccessionNumber
            if accession in self.orders:
                self.orders[accession]["status"] = "STARTED"
        return 0x0000, attributes

    def _set(self, event):
        uid = event.request.RequestedSOPInstanceUID
        with self.lock:
            step = self.steps.get(uid)
            if step is None:
                return 0x0112, None
            if step.PerformedProcedureStepStatus != "IN PROGRESS":
                return 0x0110, None
            step.update(event.modification_list)
            self.changes.append((uid, event.modification_list))
        return 0x0000, event.modification_list

    def _store(self, event):
        ds = event.dataset
        ds.file_meta = event.file_meta
        with self.lock:
            self.instances[ds.SOPInstanceUID] = ds
            self.stores[ds.SOPInstanceUID] += 1
            count = self.stores.total()
        if self._drop_after and count >= self._drop_after:
            self._drop_after = None
            event.assoc.abort()
        return 0x0000

    def _action(self, event):
        request = event.action_information
        kept, missing = [], []
        for item in request.ReferencedSOPSequence:
            reference = Dataset()
            reference.update(item)
            if item.ReferencedSOPInstanceUID in self.instances:
                kept.append(reference)
            else:
                reference.FailureReason = 0x0112
                missing.append(reference)
        result = dataset({"TransactionUID": request.TransactionUID})
        if kept:
            result.ReferencedSOPSequence = kept
        if missing:
            result.FailedSOPSequence = missing
        args = (event.assoc, str(event.assoc.requestor.ae_title).strip(), result, bool(missing))
        Timer(0.1, self._report_commitment, args).start()
        return 0x0000, None

    def _report_commitment(self, assoc, title, result, failed):
        model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        kind = 2 if failed else 1
        if self.same_association:
            if assoc.is_established:
                status, _ = assoc.send_n_event_report(result, kind, model, instance)
                self.answers.append(status.get("Status"))
            return
        ae = AE("SPINECHO")
        ae.add_requested_context(model)
        assoc = ae.associate(
            "127.0.0.1",
            self.listener_ports[title],
            ae_title=title,
            ext_neg=[build_role(model, scu_role=False, scp_role=True)],
        )
        if assoc.is_established:
            assoc.send_n_event_report(result, kind, model, instance)
            assoc.release()

    # HTTP

    def _http(self, handler, body):
        key = handler.headers.get("Idempotency-Key")
        if body is None:
            rows = self._reading_list()
            unread = [row for row in rows if row["state"] == "acquired"]
            answered = {row["study_uid"] for row in unread} | self.acknowledged.keys()
            late = [r for r in rows if r["critical"] and r["study_uid"] not in answered]
            status, answer = 200, {"studies": unread, "unacknowledged": late}
        elif key in self.keys:
            status, answer = self.keys[key]
        else:
            uid, action = handler.path.removeprefix("/api/studies/").split("/")
            if action == "reports":
                versions = self.reports.setdefault(uid, [])
                versions.append(body)
                status, answer = 201, {"version": len(versions)}
                self._deliver(uid, body)
            else:
                self.acknowledged[uid] = body["by"]
                status, answer = 200, {}
            self.keys[key] = status, answer
        payload = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(payload)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(payload)

    def _reading_list(self):
        with self.lock:
            done = [s for s in self.steps.values() if s.PerformedProcedureStepStatus == "COMPLETED"]
        rows = []
        for step in done:
            scheduled = step.ScheduledStepAttributesSequence[0]
            order = self.orders.get(scheduled.AccessionNumber)
            if order is None:
                continue
            # stands for triage, which the test decides
            critical = scheduled.AccessionNumber in self.critical
            rows.append(
                {
                    "study_uid": scheduled.StudyInstanceUID,
                    "accession": scheduled.AccessionNumber,
                    "priority": field(order["parts"]["ORC"], 7).split("^")[5],
                    "state": "final" if scheduled.StudyInstanceUID in self.reports else "acquired",
                    "patient_name": str(step.PatientName),
                    "description": scheduled.RequestedProcedureDescription,
                    "critical": critical,
                }
            )
        return sorted(rows, key=lambda r: (not r["critical"], "SAR".index(r["priority"])))

    def _deliver(self, uid, body):
        order = next(
            o for o in self.orders.values() if field(o["parts"]["ZDS"], 1).split("^")[0] == uid
        )
        with MllpLink("127.0.0.1", self.inbox_port) as link:
            link.exchange(oru(order["parts"], uid, body, f"R{len(self.reports)}"))


def oru(parts, uid, body, control_id):
    """A report as v2.5.1 wants it, from the order's own segments."""
    obr = parts["OBR"]
    status = {"preliminary": "P", "final": "F", "corrected": "C"}[body["status"]]
    result = [""] * 26
    result[0:5] = ["OBR", "1", field(obr, 2), field(obr, 3), field(obr, 4)]
    result[18], result[25] = field(obr, 18), status
    lines = [
        f"MSH|^~\\&|ENGINE|RAD|EMR|SIMHOSP|20260301090000||ORU^R01^ORU_R01|{control_id}|P|2.5.1"
        "||||||UNICODE UTF-8",
        "|".join(parts["PID"]),
        "|".join(result),
        f"OBX|1|ST|113014^DICOM Study^DCM||{uid}||||||O",
        f"OBX|2|TX|59776-5^Findings^LN||{body['findings']}||||||{status}",
        f"OBX|3|TX|19005-8^Impression^LN||{body['impression']}||||||{status}",
    ]
    return "".join(f"{line}\r" for line in lines).encode()
