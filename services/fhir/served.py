"""What is served: the rows that the router and the CapabilityStatement are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select

from services.database.store import UnitOfWork
from services.fhir.parameters import Parameter
from services.fhir.versions import Version

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a request works with."""

    uow: UnitOfWork
    version: Version
    base: str
    """Absolute URL below which everything is served, without a slash at its end."""
    wado_root: str | None = None
    """Absolute URL of the DICOMweb service, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a search can be sorted by.

    Parameters
    ----------
    by : ColumnElement
        Never NULL: the last value of a page is where the next one begins.
    read : callable
        Makes the value from its text, and raises ValueError.
    """

    by: ColumnElement[Any]
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """How a type is searched.

    Parameters
    ----------
    source : Select
        Where its rows come from and what holds for all of them; its columns do not matter.
    key : ColumnElement
        The id of a resource, unique in `source`.
    default : str
        The order of a search that asks for none, ``-`` before a descending one.
    load : callable
        Makes the resources with these ids, in their order.
    includes : mapping of str to callable
        Name of a reference → the literal references of a resource under it.
    """

    source: Select[Any]
    key: ColumnElement[str]
    parameters: Mapping[str, Parameter]
    orders: Mapping[str, Order]
    default: str
    load: Callable[[Call, Sequence[str]], list[Resource]]
    includes: Mapping[str, Callable[[Resource], list[str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation on a type, such as ``Patient/$match``.

    Parameters
    ----------
    reads : bool
        It is a GET whose parameters are in the query; otherwise a POST of a resource.
    perform : callable
        Takes the call, and the query's parameters or the body.
    """

    name: str
    definition: str
    reads: bool
    perform: Callable[[Call, Any], Resource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One resource type.

    Parameters
    ----------
    read : callable
        Takes the call and an id; raises `UnknownKey`.
    vread : callable, optional
        Takes the call, an id and a version; raises `UnknownKey`.
    writes : tuple of str
        The interactions that change it, ``create`` and ``update``.
    """

    kind: str
    read: Callable[[Call, str], Resource]
    search: Searched
    vread: Callable[[Call, str, str], Resource] | None = None
    operations: tuple[Operation, ...] = ()
    writes: tuple[str, ...] = ()
    documentation: str = ""
