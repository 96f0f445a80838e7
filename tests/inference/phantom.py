"""Heads to judge: the MNI152 brain in a drawn skull, deformed, and fallen ill where asked.

Independent of `services.simulators`, so that the model is tried on two makers' heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from scipy import ndimage

STEP = 2.0  # mm, of the template kept in memory
# directions of a row and of a column, LPS
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}
FLUID = {"t1": 0.25, "t2": 1.0, "flair": 0.12}
# the left lateral ventricle, from the frontal horn to the atrium; |x|, y, z in RAS mm
COURSE = np.array([(9, 32, 4), (12, 15, 14), (14, -5, 20), (19, -25, 19), (26, -42, 8)], float)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Voxels (slice, row, column), int16, and the affine from there to LPS mm."""

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]


@cache
def template() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], Any]:
    """Grey values in [0, 1], the brain, the distance from it, and the RAS mm of voxel 0."""
    spec = find_spec("nilearn")  # located, not imported: its import takes seconds
    assert spec is not None
    assert spec.origin is not None
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nibabel.load(Path(spec.origin).parent / "datasets" / "data" / name)
    pad = 24
    grey = np.pad(np.asarray(image.dataobj, dtype=np.float32) / 255, pad)[::2, ::2, ::2]
    brain = ndimage.binary_fill_holes(grey > 0.05)
    hull = ndimage.binary_closing(brain, iterations=4)
    distance = ndimage.distance_transform_edt(~hull) * STEP
    return grey, brain, distance.astype(np.float32), image.affine[:3, 3] - pad


@cache
def painted(contrast: str) -> NDArray[np.float32]:
    grey, brain, distance, _ = template()
    if contrast == "t1":
        out = np.where(brain, grey, 0)
    elif contrast == "t2":
        out = np.where(brain, np.clip(1.15 - grey, 0.05, 1), 0)
    else:
        out = np.where(brain, np.where(grey > 0.45, 1.05 - 0.3 * grey, grey), 0)
    out[(distance > 5) & (distance < 12)] = 0.85 if contrast == "t1" else 0.5
    out[(distance <= 5) & ~brain] = 0.08
    return out.astype(np.float32)


def waves(rng: np.random.Generator, shape: tuple[int, ...], knots: int, size: float) -> Any:
    field = ndimage.zoom(rng.normal(size=(knots,) * 3), [n / knots for n in shape], order=3)
    return size * field / field.std()


def turn(rng: np.random.Generator, degrees: float) -> NDArray[np.float64]:
    out = np.eye(3)
    for a, b, most in ((1, 2, 1.5 * degrees), (0, 2, degrees), (0, 1, degrees)):
        angle = np.radians(rng.uniform(-most, most))
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        out = out @ step
    return out


@cache
def head(
    seed: int,
    ventricle: str | None = None,
    *,
    contrast: str = "t1",
    plane: str = "axial",
    slices: int = 44,
    slice_mm: float = 4.0,
    matrix: int = 96,
    pixel_mm: float = 2.5,
    degrees: float = 6.0,
    centre: tuple[float, float, float] = (0.0, 17.0, 18.0),
) -> Head:
    """A head; with `ventricle`, "left" or "right", that lateral ventricle is much enlarged."""
    rng = np.random.default_rng(seed)
    row, column = (np.array(direction, dtype=float) for direction in PLANES[plane])
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * slice_mm
    affine[:3, 1], affine[:3, 2] = column * pixel_mm, row * pixel_mm
    shape = (slices, matrix, matrix)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"))
    lps = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3].reshape(3, 1, 1, 1)
    place = lps * np.array([-1, -1, 1]).reshape(3, 1, 1, 1)
    # about the head's own middle
    middle = np.array([0, -17, 18.0]).reshape(3, 1, 1, 1)
    place = np.tensordot(turn(rng, degrees), place - middle, 1) + middle
    place *= rng.uniform(0.95, 1.05, (3, 1, 1, 1))
    place += rng.uniform(-6, 6, (3, 1, 1, 1))
    place += np.stack([waves(rng, shape, 6, 1.5) for _ in range(3)])
    fluid = np.zeros(shape)
    if ventricle:
        place, fluid = fall_ill(rng, place, -1 if ventricle == "left" else 1)
    _, _, _, origin = template()
    voxel = (place - origin.reshape(3, 1, 1, 1)) / STEP
    signal = ndimage.map_coordinates(painted(contrast), voxel, order=1)
    signal = signal * (1 - fluid) + fluid * FLUID[contrast]
    signal *= np.exp(waves(rng, shape, 3, 0.1))
    noise = rng.normal(0, 0.02, (2, *shape))
    signal = np.hypot(signal + noise[0], noise[1])
    return Head(voxels=np.round(signal * 1000).astype(np.int16), affine=affine)


def fall_ill(rng: np.random.Generator, place: Any, sign: int) -> tuple[Any, Any]:
    """Where the tissue came from, and the share of fluid; sign of RAS x of the ill side."""
    width = rng.uniform(11, 14)
    push = rng.uniform(5, 9) * np.exp(
        -((place[0] / 26) ** 2) - ((place[1] + 10) / 55) ** 2 - ((place[2] - 14) / 40) ** 2
    )
    course = np.concatenate([np.linspace(a, b, 12) for a, b in pairwise(COURSE)]) * [sign, 1, 1]
    widths = width * (1 - 0.35 * np.linspace(-1, 1, len(course)) ** 2)
    nearest = np.full(place.shape[1:], np.inf)
    away = np.zeros_like(place)
    radius = np.zeros(place.shape[1:])
    for point, wide in zip(course, widths, strict=True):
        offset = place - point.reshape(3, 1, 1, 1)
        gap = np.sqrt((offset**2).sum(0)) - wide
        closer = gap < nearest
        nearest = np.where(closer, gap, nearest)
        away = np.where(closer, offset, away)
        radius = np.where(closer, wide, radius)
    distance = np.maximum(np.sqrt((away**2).sum(0)), 1e-6)
    before = np.sqrt(np.clip(distance**2 - radius**2, 0, None))
    give = 0.6 * np.clip((50 - distance) / 35, 0, 1)
    moved = place + away / distance * (before - distance) * give
    moved[0] += sign * push
    return moved, np.clip(0.5 - nearest / 2, 0, 1)


def common(**values: Any) -> Dataset:
    ds = Dataset()
    base = {
        "SpecificCharacterSet": "ISO_IR 100",
        "Modality": "MR",
        "PatientName": "Müller^Käthe",
        "PatientID": "P-1",
        "PatientBirthDate": "19500304",
        "PatientSex": "F",
        "StudyInstanceUID": "2.25.100",
        "StudyDate": "20260102",
        "StudyTime": "081500",
        "StudyID": "S1",
        "AccessionNumber": "A-77",
        "ReferringPhysicianName": "Doe^Jane",
        "SeriesInstanceUID": "2.25.101",
        "SeriesNumber": 2,
        "SeriesDescription": "t1 mprage",
        "BodyPartExamined": "HEAD",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "FrameOfReferenceUID": "2.25.102",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    for keyword, value in (base | values).items():
        setattr(ds, keyword, value)
    return ds


def geometry(made: Head, place: int) -> dict[str, Any]:
    steps = made.affine[:3, :3]
    sizes = np.linalg.norm(steps, axis=0)
    row, column = steps[:, 2] / sizes[2], steps[:, 1] / sizes[1]
    return {
        "position": [round(float(v), 4) for v in made.affine[:3, 3] + place * steps[:, 0]],
        "orientation": [float(v) for v in (*row, *column)],
        "spacing": [float(sizes[1]), float(sizes[2])],
        "thickness": float(sizes[0]),
    }


def classic(made: Head, **values: Any) -> list[Dataset]:
    """One MR Image object a slice, in the order of the slices."""
    out = []
    for number, pixels in enumerate(made.voxels):
        where = geometry(made, number)
        ds = common(
            **{
                "SOPClassUID": MRImageStorage,
                "SOPInstanceUID": generate_uid(entropy_srcs=[str(values), str(number)]),
                "InstanceNumber": number + 1,
                "ImagePositionPatient": where["position"],
                "ImageOrientationPatient": where["orientation"],
                "PixelSpacing": where["spacing"],
                "SliceThickness": where["thickness"],
                "Rows": pixels.shape[0],
                "Columns": pixels.shape[1],
            }
            | values
        )
        ds.add_new("PixelData", "OW", pixels.astype("<i2").tobytes())
        out.append(ds)
    return out


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(made: Head, **values: Any) -> Dataset:
    """All slices in one Enhanced MR Image object."""
    where = geometry(made, 0)
    ds = common(
        **{
            "SOPClassUID": EnhancedMRImageStorage,
            "SOPInstanceUID": "2.25.103",
            "InstanceNumber": 1,
            "NumberOfFrames": len(made.voxels),
            "Rows": made.voxels.shape[1],
            "Columns": made.voxels.shape[2],
        }
        | values
    )
    ds.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=where["orientation"])],
            PixelMeasuresSequence=[
                item(PixelSpacing=where["spacing"], SliceThickness=where["thickness"])
            ],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=geometry(made, n)["position"])],
            FrameContentSequence=[item(InStackPositionNumber=n + 1)],
        )
        for n in range(len(made.voxels))
    ]
    ds.add_new("PixelData", "OW", made.voxels.astype("<i2").tobytes())
    return ds


def store(datasets: list[Dataset], folder: Path) -> list[Path]:
    """Write Part 10 files, in an order that says nothing about the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in datasets:
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        if not isinstance(ds, FileDataset) and not hasattr(ds, "file_meta"):
            ds.file_meta = FileMetaDataset()
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return sorted(paths)
