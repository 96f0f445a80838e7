"""Orders that come over FHIR, by the intake of every other: all of a request, or none of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from models.errors import DuplicateKey, IllegalMove
from models.order import Order, ScheduledStep
from models.order_control import OrderAction
from models.patient import Issuer, Patient
from models.priority import Priority
from models.request import OrderRequest
from models.study import new_id
from services.database.store import UnitOfWork
from services.fhir.identifiers import Systems
from services.fhir.order_r5 import as_r4
from services.fhir.order_reading import Reader
from services.fhir.order_resource import order_status, task_id
from services.fhir.refusal import refusal
from services.fhir.transaction import KEPT, Entry, references, rewritten
from services.workflow.fhir_shown import digest_of, shown_order
from services.workflow.intake import study_of
from services.workflow.order_control import take_orders
from services.workflow.patients import take_patient
from services.workflow.resource_lookup import Lookup

Resource = dict[str, Any]
_A = OrderAction
_MANAGED: Final = frozenset({"id", "status"})
_KEPT_ON_UPDATE: Final = frozenset(
    {"action", "control", "placer_number", "placer_authority", "parent_number", "sender", "steps"}
    | {"warnings", "accession", "study_uid", "requested_procedure_id", "status"}
)
_REVOKING: Final = frozenset({"revoked", "entered-in-error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a request did.

    Attributes
    ----------
    study_id : str, optional
        The study under which the message is shown; the first one when there are several.
    patients : tuple of str
        Values of the identifiers by which the message is found.
    """

    study_id: str | None = None
    patients: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()


class Transaction:
    """Applies the entries of one request inside one unit of work."""

    def __init__(
        self,
        uow: UnitOfWork,
        systems: Systems,
        entries: Sequence[Entry],
        *,
        base: str,
        release: str,
        message_id: int,
    ) -> None:
        self._uow = uow
        self._entries = entries
        self._release = release
        self._message_id = message_id
        self._lookup = Lookup(uow, systems, entries, base=base, release=release)
        self._systems = systems
        self._patients: dict[int, Patient] = {}
        self._studies: list[str] = []
        self._numbers: list[str] = []
        self._accessions: list[str] = []

    def apply(self) -> Done:
        """Create and update everything; the entries say what became of them.

        Raises
        ------
        PeerError
            Naming the place; the caller takes back what was written.
        """
        for kind, take in (
            ("Patient", self._patient),
            ("ServiceRequest", self._claim),
            ("", self._identify),
        ):
            for entry in self._of(kind):
                if not entry.status:
                    take(entry)
        for entry in self._entries:
            self._lookup.check(entry)
        for entry in self._of("Task"):
            self._steps_order(entry).tasks.append(entry)
        for entry in self._of("ServiceRequest"):
            self._order(entry)
        for entry in self._entries:
            if entry.kind not in {"Patient", "ServiceRequest", "Task"} and entry.status == 201:
                self._keep(entry, entry.made)
        return Done(
            study_id=self._studies[0] if self._studies else None,
            patients=tuple(dict.fromkeys(self._numbers)),
            accessions=tuple(dict.fromkeys(self._accessions)),
        )

    def _of(self, kind: str) -> list[Entry]:
        if kind:
            return [entry for entry in self._entries if entry.kind == kind]
        known = {"Patient", "ServiceRequest", "Task"}
        return [entry for entry in self._entries if entry.kind not in known]

    def _claim(self, entry: Entry) -> None:
        """Settle a condition on an order before anything is made of it."""
        if entry.condition is None:
            return
        self._uow.resources.claim(f"{entry.kind}?{entry.condition}")
        found = self._condition(entry)
        if entry.method == "PUT":
            entry.identity = found
            entry.method = "PUT" if found else "POST"
        elif found is not None:
            entry.made, entry.status = found, 200

    def _condition(self, entry: Entry) -> str | None:
        found = self._lookup.matching(entry.kind, str(entry.condition), entry.where)
        if len(found) > 1:
            raise refusal(
                "multiple-matches",
                f"the condition is met by {len(found)} resources",
                entry.where,
                status=412,
            )
        return found[0] if found else None

    # --- patients

    def _patient(self, entry: Entry) -> None:
        uow = self._uow
        found = entry.identity
        if entry.condition is not None:
            uow.resources.claim(f"{entry.kind}?{entry.condition}")
            found = self._condition(entry)
            if found is not None and entry.method == "POST":
                self._patients[id(entry)] = uow.patients.get(found)
                entry.made, entry.status = found, 200
                return
        known = None
        if found is not None:
            known = uow.patients.known(found)
            if known is None:
                raise _no_such(entry)
        patient, is_new = self._take_patient(entry.resource, entry.where)
        if known is not None and patient.id != known.id:
            raise refusal(
                "conflict",
                "these identifiers are not of the patient whose record is to be updated",
                f"{entry.where}.identifier",
                status=409,
            )
        self._patients[id(entry)] = patient
        entry.made, entry.status = patient.id, 201 if is_new else 200

    def _take_patient(self, resource: Resource, where: str) -> tuple[Patient, bool]:
        reader = Reader(self._systems, self._lookup.resolver(resource.get("contained", [])))
        request = reader.patient(resource, where)
        request = replace(
            request,
            identifiers=tuple(dict.fromkeys(map(self._lookup.named, request.identifiers))),
        )
        is_new = not any(self._uow.patients.known_by(i) for i in request.identifiers)
        patient = take_patient(self._uow, request)
        self._numbers += [i.value for i in request.identifiers]
        return patient, is_new

    def _subject(self, entry: Entry) -> Patient:
        subject, where = entry.resource["subject"], f"{entry.where}.subject"
        reference = subject.get("reference")
        if reference is None:
            number = subject.get("identifier", {})
            patient = self._lookup.known(number) if number.get("value") else None
            if patient is None:
                raise refusal("not-found", "no patient has this identifier here", where)
        elif reference.startswith("#"):
            resolve = self._lookup.resolver(entry.resource.get("contained", []))
            contained = resolve(subject, where) or {}
            if contained.get("resourceType") != "Patient":
                raise _no_patient(where)
            patient, _ = self._take_patient(contained, where)
        else:
            patient = self._referred(reference, where)
        self._numbers += [i.value for i in patient.identifiers]
        return patient

    def _referred(self, reference: str, where: str) -> Patient:
        other = self._lookup.entry(reference)
        if other is not None:
            if other.kind != "Patient":
                raise _no_patient(where)
            return self._patients[id(other)]
        kind, _, identity = self._lookup.local(reference).rpartition("/")
        found = self._uow.patients.known(identity) if kind.endswith("Patient") else None
        if found is None:
            raise _no_patient(where)
        return found

    # --- what an order refers to

    def _identify(self, entry: Entry) -> None:
        if entry.condition is not None:
            self._uow.resources.claim(f"{entry.kind}?{entry.condition}")
            found = self._condition(entry)
            if found is not None:
                entry.made, entry.status = found, 200 if entry.method == "POST" else 201
                return
        if entry.identity is not None:
            if self._uow.resources.find(entry.kind, entry.identity, lock=True) is None:
                raise _no_such(entry)
            entry.made, entry.status = entry.identity, 201
            return
        known = self._same(entry)
        entry.made, entry.status = (new_id(), 201) if known is None else (known, 200)

    def _same(self, entry: Entry) -> str | None:
        """Return what came before with the same content, once it is known what it refers to."""
        entry.status = 201  # whoever refers to it in a circle does not wait for it
        meant = [self._lookup.entry(r["reference"]) for r, _ in references(entry.resource, "")]
        others = [other for other in meant if other is not None and other is not entry]
        for other in others:
            if other.kind in KEPT and not other.status:
                self._identify(other)
        if not all(other.made for other in others):
            return None
        return self._uow.resources.same(
            entry.kind, digest_of(_dumped(self._content(entry.resource)))
        )

    def _keep(self, entry: Entry, identity: str) -> None:
        content = self._content(entry.resource)
        text = _dumped(content)
        self._uow.resources.save(
            entry.kind,
            identity,
            content=text,
            release=self._release,
            digest=digest_of(text),
            identifiers=_tokens(content),
        )

    def _content(self, resource: Resource) -> Resource:
        content = dict(rewritten(resource, self._lookup.local))
        meta = {
            name: value
            for name, value in content.pop("meta", {}).items()
            if name not in {"versionId", "lastUpdated"}
        }
        content.pop("id", None)
        return {**content, "meta": meta} if meta else content

    # --- orders

    def _steps_order(self, entry: Entry) -> Entry:
        reference = entry.resource.get("focus", {}).get("reference", "")
        order = self._lookup.entry(reference)
        if order is None or order.kind != "ServiceRequest" or entry.method != "POST":
            raise refusal(
                "not-supported",
                "a Task is a scheduled step: it comes with the ServiceRequest that is its focus",
                f"{entry.where}.focus",
            )
        return order

    def _order(self, entry: Entry) -> None:
        if entry.status:
            self._answered(entry, self._uow.orders.get(entry.made))
        elif entry.method == "POST":
            self._place(entry)
        else:
            self._update(entry)

    def _place(self, entry: Entry) -> None:
        status = entry.resource.get("status")
        if status not in {"active", "on-hold"}:
            raise refusal(
                "business-rule",
                "only an active order can be placed, or one on hold",
                f"{entry.where}.status",
            )
        patient = self._subject(entry)
        request = self._read(entry, _A.PLACE, "NW")
        # A client that got no answer in time may send it again while the first is under way.
        self._uow.orders.claim(request.placer_number, request.placer_authority)
        known = self._uow.orders.placed_under(request.placer_number, request.placer_authority)
        replaced = self._replaced(entry, request)
        if replaced:
            request = replace(request, action=_A.REPLACEMENT, control="RO")
        studies = take_orders(self._uow, patient, [*replaced, request], message_id=self._message_id)
        order = self._uow.orders.get(str(studies[-1].order_id))
        repeated = order.id in {old.id for old in known}
        if repeated:
            self._refuse_other_content(entry, order)
        elif status == "on-hold":
            self._control(order, patient, request, _A.HOLD, "HD")
        entry.made, entry.status = order.id, 200 if repeated else 201
        self._settled(entry, order)

    def _replaced(self, entry: Entry, request: OrderRequest) -> list[OrderRequest]:
        found = []
        for reference in entry.resource.get("replaces", []):
            local = self._lookup.local(str(reference.get("reference", "")))
            old = self._uow.orders.find(local.removeprefix("ServiceRequest/"))
            if old is None:
                raise refusal(
                    "not-found", "an order that is here is replaced", f"{entry.where}.replaces"
                )
            found.append(_about(old, replace(request, action=_A.REPLACE, control="RP")))
        return found

    def _refuse_other_content(self, entry: Entry, order: Order) -> None:
        row = self._uow.resources.find("ServiceRequest", order.id)
        if row is None or row.content is None:
            return
        same = _dumped(_compared(self._content(entry.resource)))
        if row.release != self._release or _dumped(_compared(json.loads(row.content))) != same:
            raise DuplicateKey(
                "an order with this placer number exists and says otherwise; change it by PUT",
                location="ORC^1^2",
            )

    def _update(self, entry: Entry) -> None:
        uow = self._uow
        uow.resources.find("ServiceRequest", str(entry.identity), lock=True)
        order = uow.orders.find(str(entry.identity))
        if order is None:
            raise _no_such(entry)
        study = study_of(uow, order)
        _, version = shown_order(uow, order, self._release)
        if entry.if_match is not None and _version_of(entry.if_match) != str(version):
            raise refusal(
                "conflict",
                f"the order has version {version} by now: read it again",
                entry.where,
                status=412,
            )
        if entry.resource.get("id", order.id) != order.id:
            raise refusal("value", "the id is not that of the URL", f"{entry.where}.id", status=400)
        patient = self._subject(entry)
        if patient.id != order.patient_id:
            raise refusal("business-rule", "an order keeps its patient", f"{entry.where}.subject")
        request = self._read(entry, _A.CHANGE, "XO")
        if (request.placer_number, request.placer_authority) != (
            order.placer_number,
            order.placer_authority,
        ):
            raise refusal(
                "business-rule", "an order keeps its placer number", f"{entry.where}.identifier"
            )
        request = self._with_deletions(entry, order, _about(order, request))
        self._move(entry, order, patient, request, order_status(order, study))
        entry.made, entry.status = order.id, 200
        self._settled(entry, uow.orders.get(order.id))

    def _move(
        self, entry: Entry, order: Order, patient: Patient, request: OrderRequest, now: str
    ) -> None:
        """Do what the difference between what is and what is said means (HL70119)."""
        wanted = str(entry.resource.get("status"))
        if wanted in _REVOKING:
            if now != "revoked":
                self._control(order, patient, request, _A.CANCEL, "CA")
            return
        if wanted not in {"active", "on-hold", now}:
            raise refusal(
                "business-rule",
                f"a placer does not make an order {wanted}",
                f"{entry.where}.status",
            )
        if wanted != now and now not in {"active", "on-hold"}:
            raise IllegalMove(f"the order is {now}: place a new one", location="ORC^1^1")
        if wanted == "active" and now == "on-hold":
            self._control(order, patient, request, _A.RELEASE, "RL")
        if self._says_otherwise(entry, order):
            take_orders(self._uow, patient, [request], message_id=self._message_id)
        if wanted == "on-hold" and now == "active":
            self._control(order, patient, request, _A.HOLD, "HD")

    def _control(
        self,
        order: Order,
        patient: Patient,
        request: OrderRequest,
        action: OrderAction,
        control: str,
    ) -> None:
        bare = replace(_about(order, request), action=action, control=control)
        take_orders(self._uow, patient, [bare], message_id=self._message_id)

    def _says_otherwise(self, entry: Entry, order: Order) -> bool:
        row = self._uow.resources.find("ServiceRequest", order.id)
        if row is None or row.content is None or row.release != self._release:
            return True
        before = _compared(json.loads(row.content))
        return before != _compared(self._content(entry.resource))

    def _with_deletions(self, entry: Entry, order: Order, request: OrderRequest) -> OrderRequest:
        """An update replaces: what was said before and is not any more is deleted."""
        row = self._uow.resources.find("ServiceRequest", order.id)
        if row is None or row.content is None:
            return request
        content = json.loads(row.content)
        before = replace(entry, resource=content)
        was = self._read(before, _A.CHANGE, "XO")
        gone: dict[str, Any] = {}
        for f in fields(OrderRequest):
            if f.name in _KEPT_ON_UPDATE:
                continue
            said = getattr(was, f.name)
            if getattr(request, f.name) is None and said is not None:
                gone[f.name] = (
                    Issuer()
                    if isinstance(said, Issuer)
                    else Priority.ROUTINE
                    if f.name == "priority"
                    else ""
                )
        return replace(request, **gone)

    def _read(self, entry: Entry, action: OrderAction, control: str) -> OrderRequest:
        resource = entry.resource
        resolve = self._lookup.resolver(resource.get("contained", []))
        is_r5 = self._release == "R5"
        return Reader(self._systems, resolve).order(
            as_r4(resource) if is_r5 else resource,
            [as_r4(t.resource) if is_r5 else t.resource for t in entry.tasks],
            entry.where,
            action=action,
            control=control,
            sender=sender_of(resource),
        )

    def _settled(self, entry: Entry, order: Order) -> None:
        """Keep what asked for the order, and for its steps, in the order of the Tasks."""
        self._keep(entry, order.id)
        for number, inner in enumerate(entry.tasks):
            step = _step_of(order, inner, number)
            inner.made, inner.status = task_id(order, step), entry.status
            self._keep(inner, inner.made)
        self._answered(entry, order)

    def _answered(self, entry: Entry, order: Order) -> None:
        study = study_of(self._uow, order)
        self._studies.append(study.id)
        self._accessions.append(order.accession)
        _, entry.version = shown_order(self._uow, order, self._release)
        for inner in entry.tasks:
            inner.status = inner.status or 200


def sender_of(resource: Resource) -> str:
    """Return who sent an order: its meta.source, without the part that names the request."""
    return str(resource.get("meta", {}).get("source", "")).partition("#")[0][:200] or "FHIR"


def _about(order: Order, request: OrderRequest) -> OrderRequest:
    return replace(
        request,
        placer_number=order.placer_number,
        placer_authority=order.placer_authority,
        study_uid=order.study_uid,
        accession=order.accession,
        requested_procedure_id=order.requested_procedure_id,
    )


def _step_of(order: Order, entry: Entry, number: int) -> ScheduledStep:
    told = {str(i.get("value", "")) for i in entry.resource.get("identifier", [])}
    named = next((step for step in order.steps if step.sps_id in told), None)
    by_id = sorted(order.steps, key=lambda step: step.sps_id)
    return named or by_id[min(number, len(by_id) - 1)]


def _compared(content: Resource) -> Resource:
    return {name: value for name, value in content.items() if name not in _MANAGED}


def _tokens(content: Resource) -> list[str]:
    listed = content.get("identifier", [])
    listed = listed if isinstance(listed, list) else [listed]
    return [f"{i.get('system', '')}|{i['value']}" for i in listed if "value" in i]


def _dumped(content: Resource) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _version_of(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')


def _no_such(entry: Entry) -> Exception:
    return refusal(
        "not-supported",
        "there is none with this id, and ids are given here: create it by POST",
        entry.where,
        status=405,
    )


def _no_patient(where: str) -> Exception:
    return refusal("not-found", "the subject is no patient who is known here", where)
