"""From files to one volume: headers first, then the pixels of the chosen series, slice by slice.

A slice is shrunk to about the canonical grid's spacing as soon as it is decoded, so that memory
holds one full slice and a small volume, however large the series is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels

from models.errors import UnassessableError
from services.inference.series import HEADER_TAGS, SeriesChoice
from services.inference.stack import Plane

Volume = NDArray[np.float32]

_TARGET_MM: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Headers of the files that are DICOM.

    Attributes
    ----------
    paths, datasets
        One path and one data set without pixels per readable file, in the order given.
    unreadable
        How many files are DICOM but could not be read.
    """

    paths: tuple[Path, ...]
    datasets: tuple[Dataset, ...]
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeVolume:
    """A volume on the scanner's own grid, shrunk to voxels of about 4 mm.

    Attributes
    ----------
    voxels
        Axes (slice, row, column), arbitrary units.
    affine
        4 x 4, maps (slice, row, column, 1) to LPS millimetres.
    """

    voxels: Volume
    affine: NDArray[np.float64]


def read_headers(paths: Sequence[Path]) -> Headers:
    """Read what `choose_series` needs from every file; files that are not DICOM are passed over."""
    good: list[Path] = []
    datasets: list[Dataset] = []
    unreadable = 0
    for path in paths:
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        except InvalidDicomError:
            continue
        except Exception:  # noqa: BLE001 - whatever a broken file does to the parser, it is broken
            unreadable += 1
            continue
        if "SOPInstanceUID" not in dataset or "StudyInstanceUID" not in dataset:
            unreadable += 1
            continue
        good.append(path)
        datasets.append(dataset)
    return Headers(paths=tuple(good), datasets=tuple(datasets), unreadable=unreadable)


def read_volume(headers: Headers, choice: SeriesChoice) -> NativeVolume:
    """Decode the chosen series.

    Raises
    ------
    UnassessableError
        If nothing was chosen or any of its slices cannot be decoded.
    """
    stack = choice.stack
    if stack is None:
        raise UnassessableError(choice.refusal)
    factors = [max(1, int(_TARGET_MM / mm + 0.25)) for mm in stack.spacing_mm]
    size = [n // f for n, f in zip((len(stack.planes), *stack.shape), factors, strict=True)]
    if min(size) < 2:
        raise UnassessableError("the chosen series is too thin to be a volume")
    voxels = np.zeros(size, dtype=np.float32)
    used = size[0] * factors[0]
    where = {(p.header, p.frame): place for place, p in enumerate(stack.planes[:used])}
    for plane, pixels in _decode(stack.planes[:used], headers, choice):
        if pixels.shape != stack.shape:
            raise UnassessableError("the pixel data of the chosen series have another size")
        small = _shrink(pixels, factors[1], factors[2])
        small = small * np.float32(plane.slope) + np.float32(plane.intercept)
        voxels[where[plane.header, plane.frame] // factors[0]] += small / np.float32(factors[0])
    if not np.isfinite(voxels).all():
        raise UnassessableError("the chosen series holds values that are no numbers")
    affine = stack.affine.copy()
    # a voxel of several is centred between them
    affine[:3, 3] += stack.affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= np.array(factors)
    return NativeVolume(voxels=voxels, affine=affine)


def _shrink(pixels: NDArray[Any], down: int, across: int) -> Volume:
    rows, columns = pixels.shape[0] // down, pixels.shape[1] // across
    blocks = pixels[: rows * down, : columns * across].reshape(rows, down, columns, across)
    # summed along rows first: contiguous, and fast even for whole numbers
    return np.asarray(blocks.mean(axis=3, dtype=np.float32).mean(axis=1, dtype=np.float32))


def _decode(
    planes: Sequence[Plane], headers: Headers, choice: SeriesChoice
) -> Iterator[tuple[Plane, NDArray[Any]]]:
    files: dict[int, list[Plane]] = {}
    for plane in planes:
        files.setdefault(plane.header, []).append(plane)
    broken = 0
    error: Exception | None = None
    for member, wanted in files.items():
        path = headers.paths[choice.headers[member]]
        wanted.sort(key=lambda plane: plane.frame)
        try:
            frames = iter_pixels(path, indices=[plane.frame for plane in wanted])
            yield from zip(wanted, frames, strict=True)
        except Exception as caught:  # noqa: BLE001 - decoders fail in ways of their own
            broken, error = broken + 1, caught
    if error is not None:
        raise UnassessableError(
            f"the pixel data of {broken} of {len(files)} files of the chosen series cannot be "
            f"decoded ({type(error).__name__})"
        ) from error
