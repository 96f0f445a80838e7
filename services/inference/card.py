"""The machine-readable card that comes with every model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from models.errors import CardError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The canonical grid that a model takes: axes (z, y, x) to the crown, the back, the left.

    Attributes
    ----------
    shape
        Points along z, y, x.
    spacing_mm
        Distance between points, the same along every axis.
    above_top_mm
        How far the topmost plane lies above the crown of the head.
    outside
        Value of points outside the scan.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    above_top_mm: float
    outside: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """Which series may be judged at all."""

    modality: str = "MR"
    min_slices: int = 12
    max_spacing_mm: float = 10.0
    min_field_mm: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausibility:
    """What the pixels must look like to be a head.

    Attributes
    ----------
    min_coverage
        Share of the judged region that the scan must cover.
    region_mm
        The judged region: low and high bound along z (from the crown), y and x, mm.
    min_symmetry
        Least correlation of the head with its mirror image outside the judged region.
    width_mm, length_mm
        Least and greatest size of the head, 60 mm below the crown.
    max_crown_ratio
        Greatest area 8 mm below the top of the scan's head over that 60 mm below: a head closes.
    """

    min_coverage: float
    region_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    min_symmetry: float
    width_mm: tuple[float, float]
    length_mm: tuple[float, float]
    max_crown_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model is, what it takes, what it gives and when it may be used."""

    name: str
    version: str
    intended_use: str
    sha256: Mapping[str, str]
    input_name: str
    grid: Grid
    outputs: Mapping[str, str]
    score: str
    threshold: float
    golden_tolerance: float
    eligibility: Eligibility
    plausibility: Plausibility

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def parse_card(text: str) -> Card:
    """Read a card.

    Raises
    ------
    CardError
        If the text is not JSON or a field is missing or of the wrong kind; the field is named.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise CardError(f"the card is not JSON: {error}") from error
    fields = _Fields(raw, "card")
    given, plausible, eligible = (
        fields.section(key) for key in ("input", "plausibility", "eligibility")
    )
    card = Card(
        name=fields.text("name"),
        version=fields.text("version"),
        intended_use=fields.text("intended_use"),
        sha256=fields.section("files").texts(),
        input_name=given.text("name"),
        grid=Grid(
            shape=given.triple("shape"),
            spacing_mm=given.number("spacing_mm"),
            above_top_mm=given.number("above_top_mm"),
            outside=given.number("outside"),
        ),
        outputs=fields.section("outputs").texts(),
        score=fields.text("score"),
        threshold=fields.number("threshold"),
        golden_tolerance=fields.number("golden_tolerance"),
        eligibility=Eligibility(
            modality=eligible.text("modality"),
            min_slices=int(eligible.number("min_slices")),
            max_spacing_mm=eligible.number("max_spacing_mm"),
            min_field_mm=eligible.number("min_field_mm"),
        ),
        plausibility=Plausibility(
            min_coverage=plausible.number("min_coverage"),
            region_mm=plausible.ranges("region_mm"),
            min_symmetry=plausible.number("min_symmetry"),
            width_mm=plausible.pair("width_mm"),
            length_mm=plausible.pair("length_mm"),
            max_crown_ratio=plausible.number("max_crown_ratio"),
        ),
    )
    _check(card)
    return card


def _check(card: Card) -> None:
    if not _VERSION.fullmatch(card.version):
        raise CardError("card.version must be three numbers joined by dots")
    for file in ("model.onnx", "golden.npz"):
        if not _SHA256.fullmatch(card.sha256.get(file, "")):
            raise CardError(f"card.files.{file} must be the file's SHA-256 in lower-case hex")
    if card.score not in card.outputs:
        raise CardError("card.score must be one of card.outputs")
    if not 0 < card.threshold < 1:
        raise CardError("card.threshold must lie between 0 and 1")


class _Fields:
    """Checked access to one level of the card."""

    def __init__(self, raw: Any, path: str) -> None:
        if not isinstance(raw, dict):
            raise CardError(f"{path} must be an object")
        self._raw = raw
        self._path = path

    def _get(self, key: str) -> Any:
        if key not in self._raw:
            raise CardError(f"{self._path}.{key} is missing")
        return self._raw[key]

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise CardError(f"{self._path}.{key} must be a text")
        return value

    def number(self, key: str) -> float:
        return self._numbers([self._get(key)], 1, key)[0]

    def pair(self, key: str) -> tuple[float, float]:
        low, high = self._numbers(self._get(key), 2, key)
        return low, high

    def triple(self, key: str) -> tuple[int, int, int]:
        z, y, x = (int(value) for value in self._numbers(self._get(key), 3, key))
        if min(z, y, x) < 1:
            raise CardError(f"{self._path}.{key} must be positive")
        return z, y, x

    def ranges(
        self, key: str
    ) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        value = self._get(key)
        if not isinstance(value, list) or len(value) != 3:
            raise CardError(f"{self._path}.{key} must be three pairs")
        (a, b), (c, d), (e, f) = (self._numbers(part, 2, key) for part in value)
        return (a, b), (c, d), (e, f)

    def section(self, key: str) -> _Fields:
        return _Fields(self._get(key), f"{self._path}.{key}")

    def texts(self) -> Mapping[str, str]:
        return MappingProxyType({key: self.text(key) for key in self._raw})

    def _numbers(self, value: Any, count: int, key: str) -> list[float]:
        right = isinstance(value, list) and len(value) == count
        if not right or not all(_is_number(part) for part in value):
            raise CardError(f"{self._path}.{key} must be {count} finite number(s)")
        return [float(part) for part in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
