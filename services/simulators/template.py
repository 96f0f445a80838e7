"""A head to deform: the MNI152 brain that nilearn ships, put into a skull, a scalp and a face.

The template is an averaged brain without its head. A triage model, a viewer or a radiologist would
notice, so the missing tissue is drawn once per process from distance fields: dura, the two tables
of the calvarium with diploë between them, scalp fat, skin, and at the base the orbits, sinuses and
muscles. Only the brain is anatomy; the rest is a plausible frame around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from services.simulators.face import draw_head, skin, upsample

Array = NDArray[np.float32]

FIELD_MM: Final = 2
_NEAR_MM: Final = 16
_BUILDING: Final = Lock()
_FRONT_PAD: Final = 16  # the template's box ends at the frontal pole; nose and eyes need room


@dataclass(frozen=True, slots=True)
class Atlas:
    """The undeformed head.

    Attributes
    ----------
    image
        T1-weighted grey values, uint8, axes (x, y, z) in RAS+, 1 mm.
    depth
        Distance below the surface of the brain's envelope in mm, positive inside; axes as above,
        on a grid of `FIELD_MM`.
    ventricles
        Signed distance to the left and the right lateral ventricle in mm, negative inside; axes
        as above, on a grid of `FIELD_MM`.
    origin
        RAS coordinate of voxel (0, 0, 0) of every array, mm.
    """

    image: NDArray[np.uint8]
    depth: Array
    ventricles: tuple[Array, Array]
    origin: tuple[float, float, float]


def _load(kind: str) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    # nilearn is only located, never imported: its import costs seconds and we need a file
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the MNI152 template comes with nilearn: install the extra 'simulators'"
        )
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nibabel.load(Path(spec.origin).parent / "datasets" / "data" / name)
    voxels = np.asarray(image.dataobj, dtype=np.uint8)
    x, y, z = (float(image.affine[axis, 3]) for axis in range(3))
    return np.pad(voxels, ((0, 0), (0, _FRONT_PAD), (0, 0))), (x, y, z)


def _signed_distance(mask: NDArray[np.bool_], spacing: float) -> Array:
    """Distance to the surface of a mask in mm, negative inside."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return np.asarray((outside - inside) * spacing, dtype=np.float32)


def _envelope(brain: NDArray[np.bool_]) -> Array:
    """Signed distance to the brain's smooth hull: its sulci and fissures closed."""
    bridge = (
        14.0  # mm; wider than the Sylvian fissure, narrower than the gap below the temporal lobes
    )
    grown = np.asarray(ndimage.distance_transform_edt(~brain)) * FIELD_MM < bridge
    closed = np.asarray(ndimage.distance_transform_edt(grown)) * FIELD_MM > bridge
    return np.asarray(
        ndimage.gaussian_filter(_signed_distance(closed | brain, FIELD_MM), 1.2), dtype=np.float32
    )


def _lateral_ventricle(csf: NDArray[np.bool_], origin: tuple[float, float, float]) -> Array:
    """Signed distance to the lateral ventricle of the side x > 0, on the coarse grid."""
    x, y, z = (
        np.arange(count, dtype=np.float32) + start
        for count, start in zip(csf.shape, origin, strict=True)
    )
    # the box keeps the third ventricle and the cisterns, which touch it, out of the component
    box = (
        ((x > 2) & (x < 36))[:, None, None]
        & ((y > -52) & (y < 32))[None, :, None]
        & ((z > -4) & (z < 30))[None, None, :]
    )
    labels, _ = ndimage.label(csf & box)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    ventricle = labels == int(sizes.argmax())
    coarse = _signed_distance(ventricle[::FIELD_MM, ::FIELD_MM, ::FIELD_MM], FIELD_MM)
    # the wall itself deserves the fine grid; far from it a millimetre is nothing
    near = tuple(
        slice(
            max(0, int(where.min()) - _NEAR_MM) // FIELD_MM * FIELD_MM, int(where.max()) + _NEAR_MM
        )
        for where in np.nonzero(ventricle)
    )
    fine = _signed_distance(ventricle[near], 1.0)[::FIELD_MM, ::FIELD_MM, ::FIELD_MM]
    corner = tuple(
        slice(part.start // FIELD_MM, part.start // FIELD_MM + count)
        for part, count in zip(near, fine.shape, strict=True)
    )
    coarse[corner] = fine
    return np.asarray(ndimage.gaussian_filter(coarse, 0.4), dtype=np.float32)


def atlas() -> Atlas:
    """Give the head; the first call takes a few seconds, later ones nothing."""
    # the cache alone would let two scanners build it side by side
    with _BUILDING:
        return _build()


@lru_cache(maxsize=1)
def _build() -> Atlas:
    t1, origin = _load("t1")
    white, _ = _load("wm")
    brain = t1 > 0
    coarse_brain = brain[::FIELD_MM, ::FIELD_MM, ::FIELD_MM]
    envelope = _envelope(coarse_brain)
    to_brain = np.asarray(
        ndimage.gaussian_filter(_signed_distance(coarse_brain, FIELD_MM), 0.7), dtype=np.float32
    )
    hull, gap, surface = (
        upsample(field, FIELD_MM, t1.shape)
        for field in (envelope, to_brain, skin(envelope, origin, FIELD_MM))
    )
    image = draw_head(t1, hull, gap, surface, origin)
    right = _lateral_ventricle(brain & (white < 60) & (t1 < 115), origin)
    # the template is exactly symmetric, but its box is not: x runs from -98 to 98 in 197 voxels
    left = right[::-1].copy()
    return Atlas(image, -envelope, (left, right), origin)
