"""What was said, laid over what is stored: silence keeps a value, an empty string deletes it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from models.order import Order, Safety, ScheduledStep
from models.patient import Patient
from services.database.details import default_of

_T = TypeVar("_T", Order, Safety, ScheduledStep, Patient)

_DEFAULTS: Final = {
    kind: {f.name: default_of(f) for f in fields(kind)}
    for kind in (Order, Safety, ScheduledStep, Patient)
}


def overlaid(record: _T, request: Any, names: tuple[str, ...]) -> _T:
    """Return `record` with what `request` says of the named fields (HL7 v2.5.1 §2.5.3.5)."""
    changes = said_of(type(record), request, names)
    return replace(record, **changes) if changes else record


def said_of(kind: type[_T], request: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what `request` says of the named fields of a `kind`."""
    defaults = _DEFAULTS[kind]
    return {
        name: defaults[name] if value == "" else value
        for name in names
        if (value := getattr(request, name)) is not None
    }
