"""A ServiceRequest and what it refers to → the patient and the order that are asked for.

It makes the records that HL7 intake makes, as `order_mapping` says; nothing of ours is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from models.order_control import OrderAction
from models.patient import Code, Issuer, PersonName
from models.request import OrderRequest, PatientRequest, StepRequest
from services.fhir.codes import DCM, LOINC, SCHEMES, SNOMED
from services.fhir.identifiers import PLACER, Systems, of_type, study_uid
from services.fhir.order_mapping import (
    CLASSES,
    ORDER,
    PATIENT,
    PRIORITIES,
    STEP,
    Kind,
    Row,
)
from services.fhir.refusal import refusal
from services.hl7.fields import is_uid

Resource = dict[str, Any]
Resolve = Callable[[Mapping[str, Any], str], Resource | None]
"""Gives what a Reference means, or None where nobody here can know; refuses an unknown one."""

ORDER_INTENTS: Final = frozenset(
    {"order", "original-order", "reflex-order", "filler-order", "instance-order"}
)
_IMAGING: Final = frozenset({(SNOMED, "363679005"), (SNOMED, "103693007")})
_SH, _LO = 16, 64
_UNLIMITED: Final = frozenset({"visit_reason"})
_DESIGNATORS: Final = {SNOMED: "SCT", **{s: d for d, s in SCHEMES.items() if s != SNOMED}}
_MAIDEN: Final = "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName"
_WEIGHT: Final = frozenset({"29463-7", "3141-9"})
_HEIGHT: Final = frozenset({"8302-2", "3137-7"})
_PREGNANCY: Final = "82810-3"
_PREGNANT: Final = {"60001007": 1, "102874004": 2, "77386006": 3, "261665006": 4}
_KG: Final = {"kg": 1.0, "g": 0.001, "[lb_av]": 0.45359237}
_M: Final = {"m": 1.0, "cm": 0.01, "[in_i]": 0.0254}


class Reader:
    """Reads the resources of one request.

    Parameters
    ----------
    systems : Systems
        What the site calls the issuers of numbers.
    resolve : callable
        Follows references.
    """

    def __init__(self, systems: Systems, resolve: Resolve) -> None:
        self._systems = systems
        self._resolve = resolve

    def patient(self, patient: Resource, expression: str) -> PatientRequest:
        """Read a Patient.

        Raises
        ------
        Refusal
            If it has no identifier: nobody could tell it from another.
        """
        numbers = [i for i in patient.get("identifier", []) if str(i.get("value", "")).strip()]
        if not numbers:
            raise refusal(
                "required", "a patient needs an identifier with a value", f"{expression}.identifier"
            )
        gender = patient.get("gender")
        maiden = next(
            (e.get("valueString") for e in patient.get("extension", []) if e["url"] == _MAIDEN),
            None,
        )
        sorted_first = {
            **patient,
            "name": _first(patient.get("name", []), lambda n: n.get("use") == "official"),
            "communication": _first(
                patient.get("communication", []), lambda c: c.get("preferred") is True
            ),
        }
        said = self._said(PATIENT, {"Patient": sorted_first}, [])
        return PatientRequest(
            identifiers=tuple(
                dict.fromkeys(self._systems.patient_identifier(number) for number in numbers)
            ),
            sex=None if gender is None else {"male": "M", "female": "F"}.get(gender, "O"),
            mother_name=None if maiden is None else PersonName(family=maiden),
            **said,
        )

    def order(
        self,
        request: Resource,
        tasks: Sequence[Resource],
        expression: str,
        *,
        action: OrderAction,
        control: str,
        sender: str,
    ) -> OrderRequest:
        """Read a ServiceRequest with the Tasks that are its scheduled steps.

        Raises
        ------
        Refusal
            Naming the place.
        """
        _require_imaging_order(request, expression)
        identifiers = request.get("identifier", [])
        placer = next(of_type(identifiers, PLACER), None)
        if placer is None:
            raise refusal(
                "required",
                "an order needs its placer order number: an identifier of type PLAC, or of none",
                f"{expression}.identifier",
            )
        encounter = None
        if "encounter" in request:
            encounter = self._resolve(request["encounter"], f"{expression}.encounter")
        roots = {"ServiceRequest": request, "Encounter": _referrer_first(encounter)}
        warnings: list[str] = []
        values = self._said(ORDER, roots, warnings, expression)
        if "procedure" not in values:
            raise refusal("required", "an order needs a procedure", f"{expression}.code")
        uid = study_uid(identifiers)
        if uid is not None and not is_uid(uid):
            warnings.append("the Study Instance UID sent is no UID; one of ours takes its place")
            uid = None
        number = values.pop("placer_number")
        steps = [
            StepRequest(**self._said(STEP, {**roots, "Task": task}, warnings, expression))
            for task in tasks or ({},)
        ]
        return OrderRequest(
            action=action,
            control=control,
            placer_number=number,
            placer_authority=self._systems.issuer(placer).name,
            study_uid=uid,
            sender=sender,
            steps=tuple(steps),
            **values,
            **self._supporting(request, expression),
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def _said(
        self,
        rows: Sequence[Row],
        roots: Mapping[str, Resource],
        warnings: list[str],
        expression: str = "Patient",
    ) -> dict[str, Any]:
        found = {}
        for row in rows:
            for path in row.paths:
                root, *names = path.split(".")
                elements = list(self._walk(roots.get(root, {}), names, expression))
                value = self._read(row, elements, path, expression, warnings)
                if value is not None:
                    found[row.name] = value
                    break
            told = found.get(row.name)
            if isinstance(told, str) and len(told) > _LO and row.name not in _UNLIMITED:
                warnings.append(
                    f"{row.paths[0]} has {len(told)} characters, DICOM shows {_LO} of them"
                )
        return found

    def _walk(self, value: Any, names: list[str], expression: str) -> Iterator[Any]:
        if isinstance(value, list):
            for inner in value:
                yield from self._walk(inner, names, expression)
        elif not names:
            yield value
        elif isinstance(value, dict):
            name, _, kind = names[0].partition("[")
            if "reference" in value and name not in value:
                value = self._resolve(value, expression) or {}
            inner = value.get(name)
            if kind and inner:
                inner = list(of_type(inner, kind.rstrip("]").replace("_", " ")))
            if inner is not None:
                yield from self._walk(inner, names[1:], expression)

    def _read(
        self, row: Row, elements: list[Any], path: str, expression: str, warnings: list[str]
    ) -> Any:
        if row.kind is Kind.DEVICE:
            titles = [t for e in elements if (t := self._device(e, expression))]
            fitting = [t for t in titles if _fits(t, path, warnings)]
            return "\\".join(fitting) or None
        for element in elements:
            value = self._value(row.kind, element, path, expression, warnings)
            if value is not None:
                return value
        return None

    def _value(
        self, kind: Kind, element: Any, path: str, expression: str, warnings: list[str]
    ) -> Any:
        if kind is Kind.TEXT:
            return element or None
        if kind is Kind.CONCEPT_TEXT:
            return concept_text(element) or None
        if kind is Kind.CODE:
            return self._code(element)
        if kind is Kind.NAME:
            return human_name(element)
        if kind is Kind.PERSON:
            return self._person(element, expression)
        if kind is Kind.ORGANIZATION:
            return self._organization(element, expression)
        if kind is Kind.PLACE:
            return self._place(element, expression) or None
        if kind is Kind.ADDRESS:
            return _address(element) or None
        if kind is Kind.ISSUER:
            issuer = self._systems.issuer(element)
            return issuer if issuer != Issuer() else None
        if kind is Kind.DATE:
            return _date(element)
        if kind is Kind.TIME:
            return _time(element)
        if kind is Kind.PRIORITY:
            return PRIORITIES[element]
        if kind is Kind.CLASS:
            return CLASSES.get(element.get("code", ""))
        if kind is Kind.MODALITY:
            return next((c["code"] for c in _codings(element) if c.get("system") == DCM), None)
        value = str(element.get("value", ""))
        if kind is Kind.STRICT and len(value) > _SH:
            raise refusal(
                "too-long",
                f"{len(value)} characters; DICOM SH allows {_SH}",
                f"{expression}.{path.partition('.')[2].partition('[')[0]}",
            )
        if kind is Kind.SHORT and not _fits(value, path, warnings):
            return None
        return value or None

    def _code(self, element: Mapping[str, Any]) -> Code | None:
        coding = next((c for c in _codings(element) if c.get("code")), {})
        meaning = coding.get("display") or element.get("text") or ""
        if not (coding or meaning):
            return None
        system = coding.get("system", "")
        scheme = self._systems.scheme(system) or _DESIGNATORS.get(system) or "L"
        return Code(value=coding.get("code", ""), meaning=meaning, scheme=scheme)

    def _person(self, reference: Mapping[str, Any], expression: str) -> PersonName | None:
        target = self._resolve(reference, expression)
        kind = target["resourceType"] if target else reference.get("type", "")
        if kind == "PractitionerRole" and target and "practitioner" in target:
            return self._person(target["practitioner"], expression)
        if kind not in {"", "Practitioner", "PractitionerRole", "Patient", "RelatedPerson"}:
            return None
        if target is not None:
            named = next((n for n in map(human_name, target.get("name", [])) if n), None)
            if named is not None:
                return named
        shown = reference.get("display")
        return PersonName(family=shown) if shown and (kind or _is_no_device(reference)) else None

    def _organization(self, reference: Mapping[str, Any], expression: str) -> str | None:
        target = self._resolve(reference, expression)
        if target is None:
            return reference.get("display") if reference.get("type") == "Organization" else None
        if target["resourceType"] == "PractitionerRole" and "organization" in target:
            inner = target["organization"]
            return self._organization(inner, expression) or inner.get("display")
        return target.get("name") if target["resourceType"] == "Organization" else None

    def _place(self, reference: Mapping[str, Any], expression: str) -> str:
        target = self._resolve(reference, expression)
        if target is None or target["resourceType"] != "Location":
            return str(reference.get("display", ""))
        own = str(target.get("name", ""))
        outer = self._place(target["partOf"], expression) if "partOf" in target else ""
        return "^".join(part for part in (outer, own) if part)

    def _device(self, reference: Mapping[str, Any], expression: str) -> str:
        target = self._resolve(reference, expression)
        if target is None:
            is_device = reference.get("type") == "Device"
            number = reference.get("identifier", {}).get("value") or reference.get("display", "")
            return str(number) if is_device else ""
        if target["resourceType"] != "Device":
            return ""
        return str(next((i["value"] for i in target.get("identifier", []) if "value" in i), ""))

    def _supporting(self, request: Resource, expression: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        allergies, alerts = [], []
        for number, reference in enumerate(request.get("supportingInfo", [])):
            target = self._resolve(reference, f"{expression}.supportingInfo[{number}]")
            kind = None if target is None else target["resourceType"]
            if target is None or kind is None:
                continue
            if kind == "AllergyIntolerance":
                allergies.append(concept_text(target.get("code", {})))
            elif kind in {"Condition", "Flag"}:
                alerts.append(concept_text(target.get("code", {})))
            elif kind == "Device":
                types = target.get("type", {})
                alerts.append(concept_text(types[0] if isinstance(types, list) else types))
            elif kind == "Observation":
                told |= _observed(target)
        for name, texts in (("allergies", allergies), ("medical_alerts", alerts)):
            if any(texts):
                told[name] = "; ".join(dict.fromkeys(t for t in texts if t))
        return told


def human_name(name: Mapping[str, Any]) -> PersonName | None:
    """Read a HumanName: the second and later given names are the middle name, as in HL7 XPN."""
    given = name.get("given", [])
    parts = {
        "family": name.get("family", ""),
        "given": given[0] if given else "",
        "middle": " ".join(given[1:]),
    }
    if not any(parts.values()):
        return PersonName(family=name["text"]) if name.get("text") else None
    return PersonName(
        **parts, prefix=" ".join(name.get("prefix", [])), suffix=" ".join(name.get("suffix", []))
    )


def concept_text(concept: Mapping[str, Any]) -> str:
    """Return a CodeableConcept or a Coding in words, its code where it has none."""
    codings = _codings(concept)
    shown = next((c["display"] for c in codings if c.get("display")), "")
    code = next((c["code"] for c in codings if c.get("code")), "")
    return str(shown or concept.get("text") or code)


def _codings(concept: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "coding" in concept:
        return list(concept["coding"])
    return [dict(concept)] if "code" in concept else []


def _require_imaging_order(request: Resource, expression: str) -> None:
    if request.get("intent") not in ORDER_INTENTS:
        raise refusal(
            "business-rule",
            "a proposal, plan, directive or option is no order; nothing is scheduled for it",
            f"{expression}.intent",
        )
    if request.get("doNotPerform"):
        raise refusal(
            "business-rule",
            "an order not to perform something cannot be on a worklist",
            f"{expression}.doNotPerform",
        )
    if "specimen" in request:
        raise refusal(
            "not-supported", "what is done to a specimen is no imaging", f"{expression}.specimen"
        )
    codings = [c for concept in request.get("category", []) for c in _codings(concept)]
    known = [c for c in codings if c.get("system") in {SNOMED, DCM}]
    if known and not any(
        c["system"] == DCM or (c["system"], c.get("code")) in _IMAGING for c in known
    ):
        raise refusal("not-supported", "this is no imaging order", f"{expression}.category")


def _referrer_first(encounter: Resource | None) -> Resource:
    if encounter is None:
        return {}
    referrers = [
        p
        for p in encounter.get("participant", [])
        if any(c.get("code") == "REF" for t in p.get("type", []) for c in _codings(t))
    ]
    return {**encounter, "participant": referrers}


def _observed(observation: Resource) -> dict[str, Any]:
    codes = {c.get("code") for c in _codings(observation["code"]) if c.get("system") == LOINC}
    quantity = observation.get("valueQuantity", {})
    for name, wanted, units in (("weight_kg", _WEIGHT, _KG), ("height_m", _HEIGHT, _M)):
        unit = str(quantity.get("code") or quantity.get("unit", ""))
        if codes & wanted and unit in units and "value" in quantity:
            return {name: round(float(quantity["value"]) * units[unit], 3)}
    if _PREGNANCY in codes:
        for coding in _codings(observation.get("valueCodeableConcept", {})):
            if coding.get("code") in _PREGNANT:
                return {"pregnancy_status": _PREGNANT[coding["code"]]}
    return {}


def _address(address: Mapping[str, Any]) -> str:
    line = [*address.get("line", []), "", ""]
    rest = (address.get(name, "") for name in ("city", "state", "postalCode", "country"))
    return "^".join((line[0], line[1], *rest)).rstrip("^")


def _date(text: str) -> date | None:
    padded = text[:10] + "-01-01"[len(text[:10]) - 4 :] if len(text) < 10 else text[:10]
    return date.fromisoformat(padded)


def _time(element: Any) -> datetime | None:
    if isinstance(element, dict):
        element = element.get("start") or next(iter(element.get("event", [])), None)
    if not element:
        return None
    text = str(element)
    if "T" not in text:
        text = _date(text).isoformat()  # type: ignore[union-attr]
    # Without an offset, which only a date may lack, it is local time, as in HL7.
    return datetime.fromisoformat(text).astimezone(UTC)


def _first(listed: list[Any], wanted: Callable[[Any], bool]) -> list[Any]:
    return sorted(listed, key=lambda one: not wanted(one))


def _fits(text: str, where: str, warnings: list[str]) -> bool:
    if len(text) > _SH:
        warnings.append(f"{where} has {len(text)} characters, DICOM allows {_SH}; not used")
    return len(text) <= _SH


def _is_no_device(reference: Mapping[str, Any]) -> bool:
    kind = str(reference.get("reference", "")).rpartition("/")[0].rpartition("/")[2]
    return kind in {"", "Practitioner", "PractitionerRole"}
