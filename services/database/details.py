"""Values that are told on and never asked for, packed into one JSON column.

Only what differs from its default is written: most orders say little, and a small row is fast.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from datetime import date
from typing import Any

from models.patient import Code, Issuer, PersonName


def pack(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the named fields of a dataclass as JSON values, without those at their default."""
    by_name = {f.name: f for f in fields(record)}
    packed = {}
    for name in names:
        value = getattr(record, name)
        if value != default_of(by_name[name]):
            packed[name] = _plain(value)
    return packed


def unpack(packed: dict[str, Any]) -> dict[str, Any]:
    """Return what `pack` was given, ready to be handed to the dataclass."""
    return {name: _typed(name, value) for name, value in packed.items()}


def default_of(field: Field[Any]) -> Any:
    """Return what a dataclass field is when nobody says anything."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    if isinstance(value, PersonName):
        return {"pn": str(value)}
    if isinstance(value, Code):
        return {"code": [value.value, value.meaning, value.scheme]}
    if isinstance(value, Issuer):
        return {"hd": [value.namespace, value.universal_id, value.universal_type]}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    return value


def _typed(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "pn":
        return PersonName.parse(inner)
    if kind == "code":
        return Code(value=inner[0], meaning=inner[1], scheme=inner[2])
    if kind == "hd":
        return Issuer(*inner)
    if kind == "date":
        return date.fromisoformat(inner)
    raise ValueError(f"{name} was packed by a later version")
