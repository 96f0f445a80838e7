"""What the references and conditions of a FHIR request mean, among its entries and in our store."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import or_, select

from models.patient import Identifier, Patient
from services.database.store import UnitOfWork
from services.database.tables import imaging_order, study
from services.fhir.codes import DICOM_UID
from services.fhir.identifiers import Systems
from services.fhir.order_r5 import as_r4
from services.fhir.refusal import refusal
from services.fhir.transaction import KEPT, Entry, references, searched_identifier

Resource = dict[str, Any]
_LOCAL: Final = re.compile(r"([A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/\w+)?")
_CONDITIONAL: Final = re.compile(r"([A-Za-z]+)\?(.+)")


class Lookup:
    """Finds what a request refers to.

    Parameters
    ----------
    base : str
        Our own base URL: an absolute reference below it is a local one.
    """

    def __init__(
        self,
        uow: UnitOfWork,
        systems: Systems,
        entries: Sequence[Entry],
        *,
        base: str,
        release: str,
    ) -> None:
        self._uow = uow
        self._systems = systems
        self._base = base
        self._release = release
        self._by_url: dict[str, Entry] = {}
        for entry in entries:
            if entry.full_url:
                self._by_url[entry.full_url] = entry
            if entry.identity:
                self._by_url[f"{entry.kind}/{entry.identity}"] = entry

    def entry(self, reference: str) -> Entry | None:
        """Return the entry of this request that is meant, if any."""
        if reference in self._by_url:
            return self._by_url[reference]
        found = [e for url, e in self._by_url.items() if url.endswith(f"/{reference}")]
        return found[0] if len(found) == 1 and _LOCAL.fullmatch(reference) else None

    def local(self, reference: str) -> str:
        """Return a reference as ``Type/id``, where it means something that is here."""
        if (entry := self.entry(reference)) is not None:
            return f"{entry.kind}/{entry.made}"
        if (match := _CONDITIONAL.fullmatch(reference)) is not None:
            (found,) = self.matching(match[1], match[2], "")
            return f"{match[1]}/{found}"
        return reference

    def resolver(self, contained: Sequence[Resource]) -> Any:
        """Return what follows the references of one resource."""
        inside = {inner.get("id"): inner for inner in contained}

        def resolve(reference: Mapping[str, Any], expression: str) -> Resource | None:
            target = reference.get("reference")
            if target is None:
                return None
            if target.startswith("#"):
                if target[1:] not in inside:
                    raise refusal("not-found", "nothing is contained under this id", expression)
                return self._read(inside[target[1:]], self._release)
            return self._find(str(target), expression)

        return resolve

    def check(self, entry: Entry) -> None:
        """Refuse a resource that refers to something unknown."""
        resolve = self.resolver(entry.resource.get("contained", []))
        for reference, path in references(entry.resource, entry.where):
            resolve(reference, path)

    def matching(self, kind: str, query: str, where: str) -> list[str]:
        """Return the ids of the resources that a condition means.

        Raises
        ------
        Refusal
            400 for a condition that is not understood.
        """
        system, value = searched_identifier(query, where)
        if kind == "Patient":
            return self._patients(system, value)
        if kind == "ServiceRequest":
            return self._orders(system, value)
        return self._uow.resources.identified(kind, f"{system or ''}|{value}")

    def known(self, identifier: Mapping[str, Any]) -> Patient | None:
        """Return the patient that an identifier means."""
        return self._uow.patients.known_by(self.named(self._systems.patient_identifier(identifier)))

    def named(self, identifier: Identifier) -> Identifier:
        """Return an identifier under the name by which its issuer is known here."""
        if not identifier.universal_id or identifier.authority != identifier.universal_id:
            return identifier
        name = self._uow.patients.authority_of(identifier.value, identifier.universal_id)
        return identifier if name is None else replace(identifier, authority=name)

    def _find(self, reference: str, expression: str) -> Resource | None:
        if (entry := self.entry(reference)) is not None:
            return self._read(entry.resource, self._release)
        unknown = refusal("not-found", "this reference leads to nothing here", expression)
        if (conditional := _CONDITIONAL.fullmatch(reference)) is not None:
            kind, query = conditional.groups()
            found = self.matching(kind, query, expression)
            if len(found) != 1:
                raise refusal(
                    "not-found" if not found else "multiple-matches",
                    f"the condition is met by {len(found)} resources",
                    expression,
                    status=412,
                )
            return self._stored(kind, found[0])
        local = reference.removeprefix(f"{self._base}/")
        match = _LOCAL.fullmatch(local)
        if match is None:
            if reference.startswith("urn:"):
                raise unknown
            # Another server's, which is not asked: what is displayed is all that is known.
            return None
        stored = self._stored(match[1], match[2])
        if stored is None:
            raise unknown
        return stored

    def _stored(self, kind: str, identity: str) -> Resource | None:
        uow = self._uow
        if kind in KEPT:
            row = uow.resources.find(kind, identity)
            return None if row is None else self._read(json.loads(row.content), row.release)
        here = {
            "Patient": lambda: bool(uow.patients.known(identity)),
            "ServiceRequest": lambda: uow.orders.find(identity) is not None,
            "Task": lambda: uow.resources.find(kind, identity) is not None,
            "ImagingStudy": lambda: bool(
                uow.studies.select(select(study.c.id).where(study.c.id == identity))
            ),
        }.get(kind)
        return {"resourceType": kind} if here is not None and here() else None

    def _read(self, resource: Resource, release: str) -> Resource:
        return as_r4(resource) if release == "R5" else resource

    def _patients(self, system: str | None, value: str) -> list[str]:
        uow = self._uow
        if system is None:
            return sorted({uow.patients.survivor(i) for i in uow.patients.find_by_value(value)})
        found = self.known({"system": system, "value": value} if system else {"value": value})
        return [] if found is None else [found.id]

    def _orders(self, system: str | None, value: str) -> list[str]:
        own = imaging_order.c
        numbers = or_(
            own.placer_number == value, own.filler_number == value, own.accession == value
        )
        if system == DICOM_UID:
            condition = own.study_uid == value.removeprefix("urn:oid:")
        elif system is None:
            condition = numbers
        else:
            authority = self._systems.of_system(system)
            condition = (own.placer_number == value) & (own.placer_authority == authority)
        rows = self._uow.studies.select(select(own.id).where(condition).order_by(own.id))
        came = (
            []
            if system is None
            else self._uow.resources.identified("ServiceRequest", f"{system}|{value}")
        )
        return list(dict.fromkeys([*(str(row.id) for row in rows), *came]))
