"""The tissue around the brain: distance fields in, grey values out.

Positions are RAS millimetres of the template; the shapes are ellipsoids and capsules, which at the
resolution of a clinical series pass for orbits, sinuses and bone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Point = tuple[float, float, float]

# T1-weighted grey values, on the template's own 0-255 scale where white matter is about 225
AIR: Final = 0.0
CORTICAL_BONE: Final = 18.0
CSF: Final = 58.0
VENTRICLE: Final = 62.0
MUSCLE: Final = 112.0
SKIN: Final = 128.0
MUCOSA: Final = 135.0
MARROW: Final = 160.0
FAT: Final = 236.0

# thicknesses in mm, counted outwards from the envelope of the brain
_DURA: Final = 1.6
_INNER_TABLE: Final = 3.4
_DIPLOE: Final = 6.4
_OUTER_TABLE: Final = 8.4
_SCALP: Final = 13.8
_SKIN: Final = 1.7


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid of one tissue, drawn on both sides when its centre is off the midline."""

    centre: Point
    radii: Point
    grey: float


@dataclass(frozen=True, slots=True)
class Rod:
    """A capsule of one tissue between two points, drawn on both sides when off the midline."""

    start: Point
    end: Point
    radius: float
    grey: float


# what bulges out of the skull's own outline: face, neck, temples, nose, ears; the last number is
# the radius of the fillet in mm
OUTLINE: Final[tuple[tuple[Point, Point, float], ...]] = (
    ((0, 30, -46), (64, 60, 66), 10),
    ((0, -28, -92), (60, 66, 62), 14),
    ((56, 20, -30), (22, 42, 40), 8),
    ((30, 58, -58), (26, 26, 34), 8),
    ((0, 90, -48), (12, 16, 20), 6),
    ((81, -22, -26), (6, 15, 25), 4),
)

# drawn in this order: later shapes cut into earlier ones
SHAPES: Final[tuple[Blob | Rod, ...]] = (
    # skull base
    Rod((50, -28, -38), (15, -8, -35), 8, 70),
    Blob((54, -36, -44), (10, 13, 14), 48),
    Rod((60, -20, -36), (84, -21, -34), 3, AIR),
    Rod((0, 1, -42), (0, -13, -70), 8, CORTICAL_BONE),
    Rod((0, 1, -42), (0, -13, -70), 6, MARROW),
    Blob((0, 22, -40), (14, 14, 11), CORTICAL_BONE),
    Blob((0, 22, -40), (11.5, 11.5, 9), AIR),
    Rod((0, 12, -40), (0, 33, -40), 1.2, MUCOSA),
    # jaw and cheekbone
    Rod((50, -2, -48), (48, 6, -96), 6.5, CORTICAL_BONE),
    Rod((50, -2, -48), (48, 6, -96), 4, MARROW),
    Rod((52, 56, -47), (69, 4, -43), 4.5, CORTICAL_BONE),
    Rod((52, 56, -47), (69, 4, -43), 2.6, MARROW),
    # nose and sinuses
    Blob((0, 58, -48), (16, 31, 25), CORTICAL_BONE),
    Blob((0, 60, -48), (13, 31, 24), AIR),
    Blob((8, 48, -34), (6.5, 18, 9), 62),
    Rod((7, 38, -57), (7, 78, -57), 4.5, MUCOSA),
    Rod((7, 42, -45), (6, 74, -45), 3, MUCOSA),
    Blob((0, 58, -48), (1.3, 33, 25), MUCOSA),
    Blob((30, 50, -66), (17, 19, 17), CORTICAL_BONE),
    Blob((30, 50, -66), (15.4, 17.4, 15.4), MUCOSA),
    Blob((30, 50, -66), (14, 16, 14), AIR),
    Blob((0, 13, -66), (17, 12, 14), MUCOSA),
    Blob((0, 14, -66), (12, 7, 12), AIR),
    Blob((9, 79, -10), (7, 3.4, 8), AIR),
    # orbits
    Blob((31, 51, -35), (21, 29, 19), CORTICAL_BONE),
    Blob((31, 51, -35), (19, 27, 17), FAT),
    Rod((46, 60, -35), (20, 28, -33), 2.2, MUSCLE),
    Rod((19, 60, -35), (15, 28, -32), 2.2, MUSCLE),
    Rod((33, 60, -24), (18, 28, -29), 2.2, MUSCLE),
    Rod((33, 60, -47), (18, 28, -37), 2.2, MUSCLE),
    Rod((33, 50, -35), (11, 20, -28), 2.4, 160),
    Blob((33, 62, -35), (12.6, 12.6, 12.6), 150),
    Blob((33, 62, -35), (11.2, 11.2, 11.2), 50),
    Blob((33, 70.4, -35), (5, 2.2, 5), 150),
)


def _axis(count: int, start: float, step: float) -> Array:
    return np.arange(count, dtype=np.float32) * np.float32(step) + np.float32(start)


def _ellipsoid(axes: tuple[Array, Array, Array], centre: Point, radii: Point) -> Array:
    """Approximate signed distance to an ellipsoid on a grid, mm."""
    square = sum(
        (((axes[i] - centre[i]) / radii[i]) ** 2).reshape([-1 if i == j else 1 for j in range(3)])
        for i in range(3)
    )
    return np.asarray((np.sqrt(square) - 1) * min(radii), dtype=np.float32)


def _capsule(axes: tuple[Array, Array, Array], rod: Rod) -> Array:
    """Signed distance to a capsule on a grid, mm."""
    start, end = np.asarray(rod.start, np.float32), np.asarray(rod.end, np.float32)
    line = end - start
    offset = [
        (axes[i] - start[i]).reshape([-1 if i == j else 1 for j in range(3)]) for i in range(3)
    ]
    along = sum(offset[i] * line[i] for i in range(3)) / float(line @ line)
    along = np.clip(along, 0, 1)
    square = sum((offset[i] - along * line[i]) ** 2 for i in range(3))
    return np.asarray(np.sqrt(square) - rod.radius, dtype=np.float32)


def skin(envelope: Array, origin: Point, step: float) -> Array:
    """Signed distance to the skin, negative inside the head.

    Parameters
    ----------
    envelope
        Signed distance to the brain's envelope in mm, axes (x, y, z) in RAS+.
    origin, step
        RAS coordinate of the first voxel and the grid's spacing, mm.
    """
    x, y, z = (_axis(n, start, step) for n, start in zip(envelope.shape, origin, strict=True))
    surface = envelope - _SCALP
    for centre, radii, fillet in OUTLINE:
        for sign in _sides(centre[0]):
            shape = _ellipsoid((x, y, z), (sign * centre[0], *centre[1:]), radii)
            blend = np.clip(0.5 + 0.5 * (surface - shape) / fillet, 0, 1)
            surface = surface + (shape - surface) * blend - fillet * blend * (1 - blend)
    return surface.astype(np.float32)


def _sides(offset: float) -> Iterator[float]:
    yield 1.0
    if offset != 0:
        yield -1.0


def upsample(field: Array, step: int, shape: tuple[int, ...]) -> Array:
    """Interpolate a coarse field on a grid finer by `step`; voxel 0 of both grids coincide."""
    result = field
    for axis, count in enumerate(shape):
        at = np.arange(count, dtype=np.float32) / step
        low = np.minimum(at.astype(np.intp), result.shape[axis] - 2)
        share = (at - low).astype(np.float32)
        share = share.reshape([-1 if axis == other else 1 for other in range(3)])
        result = result.take(low, axis) * (1 - share) + result.take(low + 1, axis) * share
    return result


def _mottle(shape: tuple[int, ...], step: int, seed: int) -> Array:
    """Make smooth noise of about unit variance: marrow and muscle are never even."""
    coarse = np.random.default_rng(seed).standard_normal(
        [n // step + 2 for n in shape], dtype=np.float32
    )
    return upsample(coarse * np.float32(1.5), step, shape)


def draw_head(
    brain: NDArray[np.uint8], envelope: Array, to_brain: Array, to_skin: Array, origin: Point
) -> NDArray[np.uint8]:
    """Put a brain into its head.

    Parameters
    ----------
    brain
        T1-weighted grey values, zero outside the brain; axes (x, y, z) in RAS+, 1 mm.
    envelope, to_brain, to_skin
        Signed distances in mm to the brain's envelope, to the brain itself and to the skin,
        negative inside; same grid.
    origin
        RAS coordinate of the first voxel, mm.

    Returns
    -------
    ndarray
        T1-weighted grey values of the whole head, uint8, same grid.
    """
    marrow_noise = _mottle(brain.shape, 4, 1)
    soft_noise = _mottle(brain.shape, 6, 2)
    head = np.where(to_skin > -(5.5 + soft_noise), FAT, MUSCLE + 16 * soft_noise)
    head = head + 4 * marrow_noise
    head = np.where(to_skin > -_SKIN, SKIN, head)
    diploe = 118 + 14 * marrow_noise
    for thickness, grey in (
        (_OUTER_TABLE, CORTICAL_BONE),
        (_DIPLOE, diploe),
        (_INNER_TABLE, CORTICAL_BONE),
        (_DURA, CSF),
    ):
        head = np.where(envelope < thickness, grey, head)
    # below the temporal lobes the envelope bridges bone, not fluid
    head = np.where((envelope < 0) & (to_brain > 3), 60 + 14 * marrow_noise, head)
    head = np.where(to_skin > 0, AIR, head).astype(np.float32)
    _draw_shapes(head, to_brain, to_skin, origin)
    head = np.where(brain > 0, brain, head)
    # the labels above have hard edges; a scanner's point spread has none
    smooth = ndimage.gaussian_filter(head, 0.6, truncate=3)
    return np.asarray(np.clip(np.rint(smooth), 0, 255), dtype=np.uint8)


def _draw_shapes(head: Array, to_brain: Array, to_skin: Array, origin: Point) -> None:
    for shape in SHAPES:
        if isinstance(shape, Blob):
            ends = [shape.centre, shape.centre]
            reach = shape.radii
        else:
            ends = [shape.start, shape.end]
            reach = (shape.radius,) * 3
        for sign in _sides(ends[0][0]):
            corners = np.asarray([(sign * x, y, z) for x, y, z in ends]) - origin
            low = np.maximum(np.floor(corners.min(0) - reach - 2), 0).astype(int)
            high = np.minimum(np.ceil(corners.max(0) + reach + 3), head.shape).astype(int)
            if (low >= high).any():
                continue
            part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            x, y, z = (
                _axis(b - a, a + start, 1.0) for a, b, start in zip(low, high, origin, strict=True)
            )
            axes = (sign * x, y, z)
            if isinstance(shape, Blob):
                distance = _ellipsoid(axes, shape.centre, shape.radii)
            else:
                distance = _capsule(axes, shape)
            share = np.clip(0.5 - distance, 0, 1)
            # nothing grows into the brain and its fluid, nor out of the skin
            share *= np.clip(to_brain[part] - 1.5, 0, 1) * np.clip(-to_skin[part] - 1, 0, 1)
            head[part] += (shape.grey - head[part]) * share
