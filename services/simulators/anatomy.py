"""One patient's head as T1-weighted voxels, reproducible from a seed, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypedDict, cast, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.simulators.face import VENTRICLE, Array, Point
from services.simulators.template import FIELD_MM, atlas

Pathology = Literal["none", "unilateral_ventricle", "enlarged_ventricles"]
Side = Literal["left", "right", "both"]

WHITE_MATTER: Final = 226.0  # of the template
_REACH_MM: Final = 48.0  # how far from the ventricle's wall the tissue still gives way
_VENTRICLE_DEPTH_MM: Final = (
    14.0  # no ventricle, however large, comes nearer to the brain's surface
)
_CONTROL_MM: Final = 36.0  # spacing of the random deformation's control points
_CONTROLS: Final = (7, 8, 7)  # odd along x, so that the middle one lies on the midline
_CONTROL_ORIGIN: Final[Point] = (-108.0, -134.0, -90.0)


class Truth(TypedDict):
    """What was put into a head, for whoever checks what was found in it."""

    pathology: Pathology
    side: Side | None
    left_ml: float
    right_ml: float
    extra_ml: float
    shift_mm: float


@dataclass(frozen=True, slots=True)
class Volume:
    """A stack of axial slices.

    Attributes
    ----------
    voxels
        Signal in arbitrary units, int16, axes (slice, row, column): towards the head, towards the
        back, towards the patient's left.
    affine
        4 x 4, maps (column, row, slice, 1) to LPS millimetres.
    spacing
        Distance between rows, between columns and between slices, mm.
    brain
        Mask of the brain and its fluid, axes as `voxels`.
    truth
        What is wrong with this head.
    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    brain: NDArray[np.bool_]
    truth: Truth


@dataclass(frozen=True, slots=True)
class _Disease:
    """How far the wall of each lateral ventricle moves outwards (mm)."""

    left: float = 0.0
    right: float = 0.0
    medial_share: float = 0.8

    @property
    def side(self) -> Side | None:
        if self.left and self.right:
            return "both"
        return "left" if self.left else "right" if self.right else None


def _disease(pathology: Pathology, rng: np.random.Generator) -> _Disease:
    if pathology == "none":
        return _Disease()
    growth = float(rng.uniform(7.0, 10.0))
    if pathology == "enlarged_ventricles":
        # both push, so the septum stays where it is and must not be painted over
        return _Disease(0.9 * growth, 0.9 * growth, medial_share=0.1)
    if rng.random() < 0.5:
        return _Disease(left=growth)
    return _Disease(right=growth)


def head(
    seed: int,
    pathology: Pathology = "none",
    *,
    matrix: int = 128,
    slices: int = 50,
    field_mm: float = 240.0,
    slice_mm: float = 3.0,
    tilt_deg: float = 0.0,
    positioning: float = 1.0,
) -> Volume:
    """Make the head of one patient.

    Parameters
    ----------
    seed
        Decides everything; the same seed with another pathology is the same person fallen ill.
    pathology
        ``unilateral_ventricle`` enlarges one lateral ventricle and shifts the midline;
        ``enlarged_ventricles`` enlarges both and shifts nothing.
    matrix
        Rows and columns of a slice.
    slices
        Number of slices, which are contiguous.
    field_mm
        Side of the square field of view, mm.
    slice_mm
        Slice thickness and spacing, mm.
    tilt_deg
        Rotation of the slice plane about the left-right axis, as a technologist tilts it along the
        skull base.
    positioning
        Scales how far the head lies off centre and turned. At 1 the midline is within 0.4 mm and
        0.7 degrees of the scanner's, so that asymmetry means the brain and not the pillow.

    Raises
    ------
    ValueError
        If the pathology is unknown or a size is not positive.
    """
    if pathology not in get_args(Pathology):
        raise ValueError(f"pathology must be one of {get_args(Pathology)}")
    if min(matrix, slices) < 2 or min(field_mm, slice_mm) <= 0:
        raise ValueError("matrix and slices must be at least 2, field_mm and slice_mm positive")
    source = atlas()
    affine = _scan_plane(matrix, slices, field_mm, slice_mm, tilt_deg)
    points, through = _template_points(affine, (slices, matrix, matrix), seed, positioning)
    disease = _disease(pathology, np.random.default_rng([seed, 2]))
    depth = _sample(source.depth, points, source.origin, FIELD_MM)
    cell_ml = (field_mm / matrix) ** 2 * slice_mm / 1000
    deep = [axis[depth > _VENTRICLE_DEPTH_MM] for axis in points]
    before = _fluid_ml(deep, _Disease(), cell_ml)
    after = _fluid_ml(deep, disease, cell_ml) if disease.side else before
    moved, fluid = _fall_ill(points, depth, disease)
    # a slice is the average over its thickness
    grey = np.zeros_like(depth)
    for step in (-0.25, 0.25):
        beside = [axis + np.float32(step * move) for axis, move in zip(moved, through, strict=True)]
        grey += 0.5 * _sample(source.image, beside, source.origin, 1)
    grey += (VENTRICLE - grey) * fluid
    return Volume(
        voxels=_signal(grey, seed),
        affine=affine,
        spacing=(field_mm / matrix, field_mm / matrix, slice_mm),
        brain=depth > 0,
        truth={
            "pathology": pathology,
            "side": disease.side,
            "left_ml": round(after[0], 1),
            "right_ml": round(after[1], 1),
            "extra_ml": round(sum(after) - sum(before), 1),
            "shift_mm": round(_midline_shift(disease), 1),
        },
    )


def _scan_plane(
    matrix: int, slices: int, field_mm: float, slice_mm: float, tilt_deg: float
) -> NDArray[np.float64]:
    """Map (column, row, slice, 1) to LPS mm; the stack is centred on the head."""
    pixel = field_mm / matrix
    cosine, sine = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    affine = np.eye(4)
    affine[:3, 0] = (pixel, 0, 0)
    affine[:3, 1] = (0, pixel * cosine, pixel * sine)
    affine[:3, 2] = (0, -slice_mm * sine, slice_mm * cosine)
    middle = np.array([(matrix - 1) / 2, (matrix - 1) / 2, (slices - 1) / 2])
    # the head's centre in the template, in LPS
    affine[:3, 3] = np.array([0.0, 8.0, 20.0]) - affine[:3, :3] @ middle
    return affine


def _template_points(
    affine: NDArray[np.float64], shape: tuple[int, int, int], seed: int, positioning: float
) -> tuple[list[Array], NDArray[np.float64]]:
    """Find where in the template every voxel comes from, and one slice's step there (RAS mm)."""
    rng = np.random.default_rng([seed, 1])
    # a patient lies nearly straight: more would be the positioning's asymmetry, not the brain's
    roll, yaw, nod = np.radians(rng.uniform(-1, 1, 3) * [0.7, 0.7, 5.0]) * positioning
    offset = rng.uniform(-1, 1, 3) * [0.4, 3.5, 3.5] * positioning
    size = 1 + rng.normal(0, 0.025, 3) + rng.normal(0, 0.02)
    turn = _rotation(1, roll) @ _rotation(2, yaw) @ _rotation(0, nod)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    linear = np.diag(1 / size) @ turn.T @ to_ras @ affine[:3, :3]
    constant = np.diag(1 / size) @ turn.T @ (to_ras @ affine[:3, 3] - offset)
    k, j, i = (np.arange(n, dtype=np.float32) for n in shape)
    straight = [
        (
            np.float32(linear[a, 0]) * i[None, None, :]
            + np.float32(linear[a, 1]) * j[None, :, None]
            + np.float32(linear[a, 2]) * k[:, None, None]
            + np.float32(constant[a])
        )
        for a in range(3)
    ]
    bent = [
        axis + _sample(field, straight, _CONTROL_ORIGIN, _CONTROL_MM / 4)
        for axis, field in zip(straight, _deformation(rng), strict=True)
    ]
    return bent, linear[:, 2]


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    a, b = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def _deformation(rng: np.random.Generator) -> list[Array]:
    """Smooth random displacement (mm) along x, y, z: people differ, their two halves little."""
    fields = []
    for axis in range(3):
        random = rng.standard_normal(_CONTROLS)
        mirrored = random[::-1] * (-1 if axis == 0 else 1)
        lopsided = rng.standard_normal(_CONTROLS)
        control = 2.1 * (random + mirrored) / np.sqrt(2) + 0.5 * lopsided
        dense = ndimage.zoom(control, [(4 * (n - 1) + 1) / n for n in _CONTROLS], order=3)
        fields.append(np.asarray(dense, dtype=np.float32))
    return fields


def _sample(
    field: NDArray[np.uint8] | Array, points: list[Array], origin: Point, step: float
) -> Array:
    """Linear interpolation of a field of the template at RAS points."""
    index = [
        (axis - np.float32(start)) * np.float32(1 / step)
        for axis, start in zip(points, origin, strict=True)
    ]
    # outside the image there is air; a distance field simply ends
    beyond = "constant" if field.dtype == np.uint8 else "nearest"
    out = ndimage.map_coordinates(field, index, output=np.float32, order=1, mode=beyond)
    return cast(Array, out)


@lru_cache(maxsize=2)
def _wall(right: bool) -> tuple[Array, Array, Array, Array]:
    """Signed distance to a lateral ventricle and the direction away from it."""
    distance = atlas().ventricles[int(right)]
    # smoothed, because the ridge inside the ventricle has no direction
    slopes = np.gradient(ndimage.gaussian_filter(distance, 2.0), FIELD_MM)
    length = np.maximum(np.sqrt(sum(slope**2 for slope in slopes)), 0.2)
    x, y, z = (np.asarray(slope / length, dtype=np.float32) for slope in slopes)
    return distance, x, y, z


def _growth(points: list[Array], disease: _Disease, right: bool) -> Array:
    """How far a ventricle's wall has moved at every point, mm; the septum gives way less."""
    amount = disease.right if right else disease.left
    x = points[0] if right else -points[0]
    lateral = np.clip((x + 2) / 14, 0, 1)
    return cast(Array, amount * (disease.medial_share + (1 - disease.medial_share) * lateral))


def _fluid(points: list[Array], disease: _Disease, right: bool) -> Array:
    """Share of ventricular fluid at every point."""
    distance = _sample(_wall(right)[0], points, atlas().origin, FIELD_MM)
    share = np.clip(0.5 - (distance - _growth(points, disease, right)) / 1.6, 0, 1)
    return cast(Array, share)


def _fluid_ml(points: list[Array], disease: _Disease, cell_ml: float) -> tuple[float, float]:
    """Volume of the left and the right lateral ventricle."""
    left, right = (float(_fluid(points, disease, side).sum()) * cell_ml for side in (False, True))
    return left, right


def _fall_ill(points: list[Array], depth: Array, disease: _Disease) -> tuple[list[Array], Array]:
    """Push the tissue away from an enlarged ventricle.

    Returns
    -------
    list of ndarray
        Where every voxel's tissue was before the disease, RAS mm.
    ndarray
        Share of the voxel that the ventricle has taken.
    """
    moved = list(points)
    taken = np.zeros_like(depth)
    for right, amount in ((False, disease.left), (True, disease.right)):
        if not amount:
            continue
        distance, *away = (_sample(f, points, atlas().origin, FIELD_MM) for f in _wall(right))
        growth = _growth(points, disease, right)
        rest = np.clip(1 - (distance - growth) / _REACH_MM, 0, 1)
        # the skull does not give way
        push = growth * np.minimum(rest, 1) ** 2 * np.clip(depth / 15, 0, 1)
        for axis in range(3):
            moved[axis] = moved[axis] - away[axis] * push
        np.maximum(taken, np.clip(0.5 - (distance - growth) / 1.6, 0, 1), out=taken)
    return moved, taken


def _midline_shift(disease: _Disease) -> float:
    """Largest displacement of the septum from the midline at the foramina of Monro, mm."""
    if disease.side in (None, "both"):
        return 0.0
    # from the healthy side: inside the ventricle the way back is not one to one
    x = np.linspace(-25, 25, 401, dtype=np.float32)
    sign = 1 if disease.side == "right" else -1
    shifts = []
    for y in (-4.0, 4.0, 12.0):
        for z in (12.0, 16.0, 20.0):
            line = [sign * x, np.full_like(x, y), np.full_like(x, z)]
            before = _fall_ill(line, np.full_like(x, 40.0), disease)[0][0]
            # the midline is now where the tissue that was at x = 0 lies
            shifts.append(-float(np.interp(0.0, np.maximum.accumulate(sign * before), x)))
    return max(shifts)


def _signal(grey: Array, seed: int) -> NDArray[np.int16]:
    """Record it as a scanner does: contrast, coil shading and Rician noise, arbitrary units."""
    rng = np.random.default_rng([seed, 3])
    # an averaged brain is flatter than a person's; the exponent restores grey against white
    contrast = rng.uniform(1.35, 1.7)
    signal = (np.clip(grey, 0, 255) / WHITE_MATTER) ** np.float32(contrast)
    slopes = rng.normal(0, [0.05, 0.05, 0.015])
    curve = rng.uniform(0.0, 0.12)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in grey.shape]
    k, j, i = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    shading = slopes[0] * k + slopes[1] * j + slopes[2] * i + curve * (k**2 + j**2 + i**2 - 1)
    signal = signal * np.exp(shading).astype(np.float32)
    sigma = rng.uniform(0.012, 0.022)
    noise = rng.standard_normal((2, *grey.shape), dtype=np.float32) * np.float32(sigma)
    magnitude = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
    scale = rng.uniform(700, 1000)
    return np.asarray(np.clip(np.rint(magnitude * scale), 0, 4095), dtype=np.int16)
