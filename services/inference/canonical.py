"""From a scanner's volume to the canonical grid: find the head and straighten it.

The head is found by its outline, its plane of symmetry by comparing it with its own mirror image
everywhere except in the deep brain: what lies there is what the model is to judge, so it must not
decide where the middle is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import UnassessableError
from services.inference.card import Grid, Plausibility
from services.inference.volume import NativeVolume, Volume

Points = NDArray[np.float64]

_STEP: Final = 4.0  # mm; of the working grid
_MOST_POINTS: Final = 128  # a side of the working grid: 51 cm, more than any head scan
_CROWN_CM2: Final = 25.0  # a head's slice is larger, noise and a coil's marker are smaller
_LEVEL_MM: Final = 60.0  # below the crown: where a head is widest, above the ears
_DEPTH_MM: Final = 92.0  # below the crown: what is above the neck and the face in any head
_CENTRE_MM: Final = 52.0  # below the crown: about which the head is turned
_DEEP_CENTRE_MM: Final = 68.0
_DEEP_RADII_MM: Final = (48.0, 60.0, 38.0)  # along x, y, z: kept out of the search for symmetry
_SAMPLES: Final = 6000
_CANDIDATES: Final = 5
_CEILING: Final = 2.5  # of the local mean: fat and vessels count no more than that


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalVolume:
    """A straightened head.

    Attributes
    ----------
    voxels
        Axes (z, y, x), on the model's grid.
    coverage
        Share of the judged region that the scan covers.
    symmetry
        Correlation of the head with its mirror image outside the deep brain.
    yaw_deg, roll_deg, offset_mm
        How the plane of symmetry lay.
    """

    voxels: Volume
    coverage: float
    symmetry: float
    yaw_deg: float
    roll_deg: float
    offset_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The head on the working grid: axes (z, y, x) along LPS, `_STEP` mm."""

    voxels: Volume
    mask: NDArray[np.bool_]
    origin: Points  # LPS of voxel (0, 0, 0), x, y, z
    top: int  # index of the crown's plane
    centre: Points  # x, y, z in voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    yaw: float
    roll: float
    offset: float  # voxels
    symmetry: float


def _normal(yaw: float, roll: float) -> Points:
    """Direction of the plane's normal, towards the patient's left."""
    return np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])


def straighten(native: NativeVolume, grid: Grid, rules: Plausibility) -> CanonicalVolume:
    """Bring a head onto a model's grid.

    Parameters
    ----------
    native
        The scanner's volume, in any orientation.
    grid, rules
        From the model's card.

    Raises
    ------
    UnassessableError
        If what is seen is not plausibly a head, or too little of it is seen.
    """
    head = _find_head(native, rules)
    plane = _symmetry_plane(head)
    if plane.symmetry < rules.min_symmetry:
        raise UnassessableError(
            f"no plane of symmetry was found (correlation {plane.symmetry:.2f}): is this a head?"
        )
    voxels, seen = _resample(native, head, plane, grid)
    coverage = float(seen[_region(grid, rules)].mean())
    if coverage < rules.min_coverage:
        raise UnassessableError(
            f"the scan covers {coverage:.0%} of the region to be judged, "
            f"less than {rules.min_coverage:.0%}"
        )
    return CanonicalVolume(
        voxels=voxels,
        coverage=coverage,
        symmetry=plane.symmetry,
        yaw_deg=float(np.degrees(plane.yaw)),
        roll_deg=float(np.degrees(plane.roll)),
        offset_mm=plane.offset * _STEP,
    )


def interpolate(volume: Volume, index: NDArray[np.floating]) -> tuple[Volume, NDArray[np.bool_]]:
    """Sample a volume linearly.

    Parameters
    ----------
    volume
        Three axes.
    index
        Shape (3, ...): places along the volume's axes, in voxels.

    Returns
    -------
    ndarray
        Values, 0 outside the volume, shape (...).
    ndarray
        Whether a place lies inside; a voxel reaches half a step around its centre.
    """
    inside = np.ones(index.shape[1:], dtype=bool)
    low: list[NDArray[np.intp]] = []
    part: list[Volume] = []
    for axis, size in enumerate(volume.shape):
        place = index[axis]
        inside &= (place >= -0.5) & (place <= size - 0.5)
        place = np.clip(place, 0, size - 1)
        start = np.minimum(place.astype(np.intp), max(size - 2, 0))
        low.append(start)
        part.append((place - start).astype(np.float32))
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    flat = volume.ravel()
    base = low[0] * strides[0] + low[1] * strides[1] + low[2]
    out = np.zeros(inside.shape, dtype=np.float32)
    for corner in range(8):
        step, weight = 0, np.ones((), dtype=np.float32)
        for axis in range(3):
            upper = corner >> axis & 1
            # an axis of one voxel has no upper neighbour
            step += strides[axis] * min(upper, volume.shape[axis] - 1)
            weight = weight * (part[axis] if upper else 1 - part[axis])
        out += weight * flat[base + step]
    return np.where(inside, out, np.float32(0)), inside


def _box(volume: Volume, reach: int) -> Volume:
    """Mean over a cube of 2 * reach + 1 voxels."""
    for axis in range(3):
        pads = [(reach + 1, reach) if a == axis else (0, 0) for a in range(3)]
        sums = np.cumsum(np.pad(volume, pads, mode="edge"), axis=axis, dtype=np.float64)
        upper = np.moveaxis(sums, axis, 0)[2 * reach + 1 :]
        lower = np.moveaxis(sums, axis, 0)[: -2 * reach - 1]
        mean = (upper - lower) / (2 * reach + 1)
        volume = np.moveaxis(mean, 0, axis).astype(np.float32)
    return volume


def _working_grid(native: NativeVolume) -> tuple[Volume, Points]:
    corners = np.array(
        [[k, r, c, 1] for k in (0, 1) for r in (0, 1) for c in (0, 1)], dtype=np.float64
    )
    corners[:, :3] *= np.array(native.voxels.shape) - 1
    places = corners @ native.affine.T
    low = places.min(axis=0)[:3] - _STEP
    size = np.ceil((places.max(axis=0)[:3] + _STEP - low) / _STEP).astype(int) + 1
    if size.max() > _MOST_POINTS:
        raise UnassessableError("the scan is far larger than a head")
    axes = [low[a] + _STEP * np.arange(size[a]) for a in range(3)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    voxels, _ = interpolate(native.voxels, _to_index(native, np.stack([x, y, z])))
    return voxels, low


def _to_index(native: NativeVolume, places: Points) -> Points:
    back = np.linalg.inv(native.affine)
    shift = back[:3, 3].reshape(3, *[1] * (places.ndim - 1))
    return np.asarray(np.tensordot(back[:3, :3], places, 1) + shift)


def _threshold(smooth: Volume) -> float:
    """Signal that parts a head from air."""
    high = float(np.percentile(smooth, 99))
    # the root brings bright fat and dim brain together
    root = np.sqrt(np.clip(smooth, 0, high))
    counts, edges = np.histogram(root[root > 0], bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (sums[-1] * below / below[-1] - sums) ** 2 / (below * (below[-1] - below))
    if not np.isfinite(spread).any():
        raise UnassessableError("the images are empty")
    # Otsu's cut may fall between tissues where there is hardly any air
    return min((0.8 * float(middles[np.nanargmax(spread)])) ** 2, 0.18 * high)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what lies between the first and the last voxel along x and along y."""
    for axis in (1, 2):
        ahead = np.maximum.accumulate(mask, axis=axis)
        back = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
        mask = ahead & back
    return mask


def _find_head(native: NativeVolume, rules: Plausibility) -> _Head:
    voxels, origin = _working_grid(native)
    smooth = _box(voxels, 1)
    mask = _outline(smooth > _threshold(smooth))
    areas = mask.sum(axis=(1, 2)) * (_STEP / 10) ** 2  # cm²
    widest = int(np.argmax(areas))
    if areas[widest] < _CROWN_CM2:
        raise UnassessableError("nothing as large as a head is seen")
    top = widest
    while top + 1 < len(areas) and areas[top + 1] > _CROWN_CM2:
        top += 1
    level = top - round(_LEVEL_MM / _STEP)
    if level < 0 or areas[level] < _CROWN_CM2:
        raise UnassessableError(f"less than {_LEVEL_MM:.0f} mm below the crown is seen")
    ys, xs = np.nonzero(mask[level])
    width, length = float(np.ptp(xs) + 1) * _STEP, float(np.ptp(ys) + 1) * _STEP
    for size, limits in ((width, rules.width_mm), (length, rules.length_mm)):
        if not limits[0] <= size <= limits[1]:
            raise UnassessableError(
                f"what is seen is {width:.0f} mm wide and {length:.0f} mm long: not a whole head"
            )
    if areas[max(0, top - 2)] > rules.max_crown_ratio * areas[level]:
        raise UnassessableError("the crown of the head is not seen")
    lowest = max(0, top - round(_DEPTH_MM / _STEP))
    _, ys, xs = np.nonzero(mask[lowest : top + 1])
    middle = [float(np.percentile(v, 2) + np.percentile(v, 98)) / 2 for v in (xs, ys)]
    return _Head(
        voxels=voxels,
        mask=mask,
        origin=origin,
        top=top,
        centre=np.array([*middle, top - _CENTRE_MM / _STEP]),
    )


def _evened(head: _Head) -> Volume:
    """Take the coil's shading away: signal over its local mean."""
    weight = head.mask.astype(np.float32)
    around = _box(head.voxels * weight, 6) / np.maximum(_box(weight, 6), np.float32(1e-3))
    ratio = head.voxels / np.maximum(around, np.float32(1e-6))
    return _box(np.where(head.mask, np.clip(ratio, 0, _CEILING), np.float32(0)), 1)


def _symmetry_plane(head: _Head) -> _Plane:
    even = _evened(head)
    lowest = max(0, head.top - round(_DEPTH_MM / _STEP))
    zs, ys, xs = np.nonzero(head.mask[lowest : head.top + 1])
    places = np.stack([xs, ys, zs + lowest]).astype(np.float64)
    deep = np.array([*head.centre[:2], head.top - _DEEP_CENTRE_MM / _STEP])
    radii = np.array(_DEEP_RADII_MM) / _STEP
    outer = (((places - deep[:, None]) / radii[:, None]) ** 2).sum(axis=0) > 1
    places = places[:, outer]
    fine = _Mirror(even, places[:, :: max(1, places.shape[1] // _SAMPLES)], head.centre)
    coarse = _Mirror(_box(even, 1), fine.places[:, ::6], head.centre)
    best, lowest_cost = None, np.inf
    for guess in _guesses(coarse):
        found, cost = _descend(fine, guess)
        if cost < lowest_cost:
            best, lowest_cost = found, cost
    if best is None:
        raise UnassessableError("no plane of symmetry was found: is this a head?")
    return _Plane(
        yaw=float(best[0]),
        roll=float(best[1]),
        offset=float(best[2]),
        symmetry=fine.agreement(best),
    )


class _Mirror:
    """Compares a volume with its mirror image at given places (x, y, z), in voxels."""

    def __init__(self, volume: Volume, places: Points, centre: Points) -> None:
        self.places = places
        self._volume = volume
        self._relative = places - centre[:, None]
        self._here, _ = interpolate(volume, places[::-1])

    def _there(self, yaw: float, roll: float, offset: Points) -> Volume:
        """Values at the mirrored places, shape (offsets, places)."""
        normal = _normal(yaw, roll)
        distance = normal @ self._relative - offset[:, None]
        mirrored = self.places[:, None, :] - 2 * normal[:, None, None] * distance
        return interpolate(self._volume, mirrored[::-1])[0]

    def costs(self, yaw: float, roll: float, offsets: Points) -> Volume:
        """Mean absolute difference about planes turned by radians, for every offset in voxels."""
        return np.asarray(np.abs(self._there(yaw, roll, offsets) - self._here).mean(axis=1))

    def cost(self, guess: Points) -> float:
        """Mean absolute difference; guess is yaw, roll and offset."""
        return float(self.costs(guess[0], guess[1], guess[2:])[0])

    def agreement(self, guess: Points) -> float:
        """Correlation."""
        there = self._there(guess[0], guess[1], guess[2:])[0]
        spread = float(self._here.std() * there.std())
        product = (self._here - self._here.mean()) * (there - there.mean())
        return float(product.mean()) / spread if spread > 0 else 0.0


def _guesses(mirror: _Mirror) -> list[Points]:
    """Return the most promising planes of a grid; the true one need not look best yet."""
    angles = np.radians(np.arange(-16.0, 17.0, 4.0))
    offsets = np.arange(-3.0, 3.1, 0.75)
    ranked = []
    for yaw in angles:
        for roll in angles:
            costs = mirror.costs(yaw, roll, offsets)
            place = int(np.argmin(costs))
            ranked.append((float(costs[place]), np.array([yaw, roll, offsets[place]])))
    ranked.sort(key=lambda pair: pair[0])
    return [guess for _, guess in ranked[:_CANDIDATES]]


def _descend(mirror: _Mirror, guess: Points) -> tuple[Points, float]:
    """Walk downhill in ever smaller steps, to a quarter of a millimetre and half a degree."""
    lowest = mirror.cost(guess)
    steps = np.array([np.radians(2), np.radians(2), 0.375])
    while steps[2] > 0.06:
        better = False
        for axis in range(3):
            for sign in (-1, 1):
                trial = guess.copy()
                trial[axis] += sign * steps[axis]
                cost = mirror.cost(trial)
                if cost < lowest:
                    guess, lowest, better = trial, cost, True
        if not better:
            steps = steps / 2
    return guess, lowest


def _axes(grid: Grid) -> tuple[Points, Points, Points]:
    """Coordinates of the grid's planes: from the crown, from the middle, from the midline, mm."""
    z, y, x = (np.arange(size, dtype=np.float64) for size in grid.shape)
    step = grid.spacing_mm
    return (z - z[-1]) * step + grid.above_top_mm, (y - y[-1] / 2) * step, (x - x[-1] / 2) * step


def _region(grid: Grid, rules: Plausibility) -> tuple[NDArray[np.intp], ...]:
    bounds = zip(_axes(grid), rules.region_mm, strict=True)
    return np.ix_(*[np.flatnonzero((axis >= a) & (axis <= b)) for axis, (a, b) in bounds])


def _resample(
    native: NativeVolume, head: _Head, plane: _Plane, grid: Grid
) -> tuple[Volume, NDArray[np.bool_]]:
    left = _normal(plane.yaw, plane.roll)
    up = np.array([0.0, 0.0, 1.0]) - left * left[2]
    up /= np.linalg.norm(up)
    back = np.cross(up, left)
    middle = head.origin + (head.centre + left * plane.offset) * _STEP
    z, y, x = np.meshgrid(*_axes(grid), indexing="ij")
    directions = zip((left, back, up), (x, y, z + _CENTRE_MM), strict=True)
    places = middle.reshape(3, 1, 1, 1) + sum(
        direction.reshape(3, 1, 1, 1) * along for direction, along in directions
    )
    voxels, seen = interpolate(native.voxels, _to_index(native, places))
    return np.where(seen, voxels, np.float32(grid.outside)), seen
