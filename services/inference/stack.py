"""The geometry of a series: which frames, in which order, make one volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.errors import UnassessableError

Vector = NDArray[np.float64]

_SAME_DIRECTION: Final = 1e-2  # greatest difference of direction cosines within one stack
_SAME_PLACE_MM: Final = 0.05  # positions are written with rounding
_GREATEST_STEP: Final = 1.5  # of the usual distance between slices: beyond it one is missing
_MOST_FRAMES: Final = 20_000
_LARGEST_SIDE: Final = 4096

# by one of these a series of several volumes is taken apart; in the order they are tried
_VOLUME_TAGS: Final = ("TemporalPositionIdentifier", "EchoNumbers", "AcquisitionNumber")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One slice.

    Attributes
    ----------
    header
        Index of its instance among the headers given to `stack`.
    frame
        Index of its frame within the instance.
    slope, intercept
        Take stored values to the scanner's output; Philips changes them from slice to slice.
    """

    header: int
    frame: int
    slope: float
    intercept: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One volume of parallel slices.

    Attributes
    ----------
    planes
        Along the normal of the slices.
    shape
        Rows and columns of every slice.
    affine
        4 x 4, maps (slice, row, column, 1) to the patient's LPS millimetres (PS3.3 C.7.6.2.1.1).
    spacing_mm
        Distance between slices, rows and columns.
    volumes
        How many volumes the series holds; this is the first complete one.
    """

    planes: tuple[Plane, ...]
    shape: tuple[int, int]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    volumes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    plane: Plane
    order: tuple[Any, ...]  # of acquisition
    volume: tuple[Any, ...]  # values of _VOLUME_TAGS
    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]


def stack(headers: Sequence[Dataset]) -> Stack:
    """Arrange a series.

    Parameters
    ----------
    headers
        Data sets of one series without pixel data, single-frame or Enhanced, in any order.

    Raises
    ------
    UnassessableError
        If the headers do not describe at least two parallel, evenly spaced slices of one size.
    """
    if not headers:
        raise UnassessableError("holds no image")
    sizes = {(_whole(h, "Rows"), _whole(h, "Columns")) for h in headers}
    if len(sizes) > 1:
        raise UnassessableError("has slices of different size")
    shape = sizes.pop()
    if not all(1 < side <= _LARGEST_SIDE for side in shape):
        raise UnassessableError("has an impossible number of rows or columns")
    placed: list[_Placed] = []
    for index, header in enumerate(headers):
        placed.extend(_frames(index, header))
        if len(placed) > _MOST_FRAMES:
            raise UnassessableError(f"has more than {_MOST_FRAMES} frames")
    volumes = _volumes(placed)
    return _arrange(_first_complete(volumes), shape, len(volumes))


def _whole(header: Dataset, keyword: str) -> int:
    try:
        return int(header.get(keyword, 0))
    except (TypeError, ValueError) as error:
        raise UnassessableError(f"has an unreadable {keyword}") from error


def _numbers(owner: Dataset, keyword: str, count: int) -> Vector:
    try:
        values = np.array([float(v) for v in owner[keyword].value], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UnassessableError(f"lacks a readable {keyword}") from error
    if values.shape != (count,) or not np.isfinite(values).all():
        raise UnassessableError(f"lacks a readable {keyword}")
    return values


def _frames(index: int, header: Dataset) -> list[_Placed]:
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [_place(index, 0, header, lambda _: header)]
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    placed = []
    for number, own in enumerate(header.PerFrameFunctionalGroupsSequence):

        def group(keyword: str, own: Dataset = own) -> Dataset:
            # a macro stands in the frame's own group or in the shared one, PS3.3 C.7.6.16.1
            items = own.get(keyword) or shared[0].get(keyword)
            return items[0] if items else Dataset()

        placed.append(_place(index, number, header, group))
    if len(placed) != _whole(header, "NumberOfFrames"):
        raise UnassessableError("has another number of frames than of functional groups")
    return placed


def _place(index: int, frame: int, header: Dataset, group: Callable[[str], Dataset]) -> _Placed:
    direction = _numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2)
    row, column = direction[:3], direction[3:]
    skewed = abs(float(row @ column)) > _SAME_DIRECTION
    if skewed or not np.allclose([row @ row, column @ column], 1, atol=_SAME_DIRECTION):
        raise UnassessableError("has an ImageOrientationPatient that is no rotation")
    if spacing.min() <= 0:
        raise UnassessableError("has a PixelSpacing that is not positive")
    content = group("FrameContentSequence")
    values = group("PixelValueTransformationSequence")
    slope, intercept = (values.get(key) for key in ("RescaleSlope", "RescaleIntercept"))
    return _Placed(
        plane=Plane(
            header=index,
            frame=frame,
            slope=1.0 if slope is None else float(slope),
            intercept=0.0 if intercept is None else float(intercept),
        ),
        order=(_sortable(header.get("InstanceNumber")), index, frame),
        volume=(
            content.get("TemporalPositionIndex") or content.get("TemporalPositionIdentifier"),
            group("MREchoSequence").get("EffectiveEchoTime") or content.get("EchoNumbers"),
            content.get("AcquisitionNumber") or content.get("FrameAcquisitionNumber"),
        ),
        position=_numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        row=row,
        column=column,
        spacing=(float(spacing[0]), float(spacing[1])),
    )


def _sortable(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _volumes(placed: list[_Placed]) -> list[list[_Placed]]:
    """Take a series apart into volumes that have at most one slice at every place."""
    first = placed[0]
    for other in placed:
        same = np.allclose(other.row, first.row, atol=_SAME_DIRECTION) and np.allclose(
            other.column, first.column, atol=_SAME_DIRECTION
        )
        if not same:
            raise UnassessableError("has slices of several orientations")
        if not np.allclose(other.spacing, first.spacing, rtol=1e-3):
            raise UnassessableError("has slices of several pixel spacings")
    placed = sorted(placed, key=lambda p: p.order)
    normal = np.cross(first.row, first.column)
    heights = np.array([float(p.position @ normal) for p in placed])
    places = _places(heights)
    if len(set(places)) == len(placed):
        return [placed]
    for which in range(len(_VOLUME_TAGS)):
        groups: dict[Any, list[int]] = {}
        for number, one in enumerate(placed):
            groups.setdefault(str(one.volume[which]), []).append(number)
        if all(len({places[n] for n in group}) == len(group) for group in groups.values()):
            return [[placed[n] for n in group] for group in groups.values()]
    # nothing tells them apart: every volume takes the next unused slice at every place
    rounds: list[list[_Placed]] = []
    seen: dict[int, int] = {}
    for one, place in zip(placed, places, strict=True):
        turn = seen[place] = seen.get(place, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(one)
    return rounds


def _places(heights: Vector) -> list[int]:
    """Return the number of every slice's position along the normal, counted from the lowest."""
    order = np.argsort(heights, kind="stable")
    steps = np.concatenate([[0.0], np.diff(heights[order])]) > _SAME_PLACE_MM
    numbers = np.empty(len(heights), dtype=int)
    numbers[order] = np.cumsum(steps)
    return [int(number) for number in numbers]


def _first_complete(volumes: list[list[_Placed]]) -> list[_Placed]:
    most = max(len(volume) for volume in volumes)
    return next(volume for volume in volumes if len(volume) == most)


def _arrange(volume: list[_Placed], shape: tuple[int, int], volumes: int) -> Stack:
    if len(volume) < 2:
        raise UnassessableError("has a single slice")
    first = volume[0]
    normal = np.cross(first.row, first.column)
    volume = sorted(volume, key=lambda p: float(p.position @ normal))
    heights = [float(p.position @ normal) for p in volume]
    steps = [b - a for a, b in pairwise(heights)]
    usual = float(np.median(steps))
    if max(steps) > _GREATEST_STEP * usual:
        raise UnassessableError(f"lacks a slice: a gap of {max(steps):.1f} mm")
    # the step from slice to slice may lean: it follows the positions, not the normal
    across = (volume[-1].position - volume[0].position) / (len(volume) - 1)
    affine = np.eye(4)
    affine[:3, 0] = across
    affine[:3, 1] = first.column * first.spacing[0]  # the column's direction leads along rows
    affine[:3, 2] = first.row * first.spacing[1]
    affine[:3, 3] = volume[0].position
    return Stack(
        planes=tuple(p.plane for p in volume),
        shape=shape,
        affine=affine,
        spacing_mm=(usual, *first.spacing),
        volumes=volumes,
    )
