"""Rendered images (PS3.18 §10.4.1.1.3): one frame as a person sees it, PNG or JPEG."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from models.errors import InvalidValue, NotAcceptable
from services.archive.tiers import Tiers
from services.dicomweb.retrieve import Stored

TYPES = {"image/jpeg": "JPEG", "image/png": "PNG"}


def render(
    tiers: Tiers,
    stored: Stored,
    number: int,
    media_type: str,
    parameters: Mapping[str, str],
) -> bytes:
    """Return frame `number` (from 1), windowed, in `media_type`.

    Parameters
    ----------
    parameters : mapping
        ``window=center,width[,function]``, ``viewport=width,height``, ``quality=1…100``.

    Raises
    ------
    NotAcceptable
        If the object has no pixels or they cannot be decoded.
    InvalidValue
        If a parameter is no such thing.
    """
    window = _numbers(parameters, "window", 2)
    viewport = _numbers(parameters, "viewport", 2)
    quality = _numbers(parameters, "quality", 1)
    with tiers.open(stored.tier, stored.path) as stream:
        dataset = dcmread(stream)
    if "Rows" not in dataset:
        raise NotAcceptable("the object has no pixels", location="path")
    try:
        pixels = pixel_array(dataset, index=number - 1)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError) as error:
        raise NotAcceptable(
            f"transfer syntax {stored.syntax} cannot be decoded here", location="path"
        ) from error
    if dataset.get("SamplesPerPixel", 1) == 1:
        pixels = _grey(pixels, _frame_view(dataset, number - 1), window)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = 255 - pixels
    elif pixels.dtype != np.uint8:
        pixels = (pixels >> (dataset.BitsStored - 8)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if viewport:
        picture.thumbnail((max(1, int(viewport[0])), max(1, int(viewport[1]))))
    target = BytesIO()
    options: dict[str, Any] = {}
    if media_type == "image/jpeg":
        options["quality"] = min(100, max(1, int(quality[0]))) if quality else 90
    picture.save(target, TYPES[media_type], **options)
    return target.getvalue()


def _numbers(parameters: Mapping[str, str], name: str, least: int) -> list[float]:
    text = parameters.get(name, "")
    if not text:
        return []
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts[:2]]
    except ValueError:
        numbers = []
    if len(numbers) < least or not all(np.isfinite(numbers)):
        raise InvalidValue(f"{name} takes {least} numbers separated by commas", location=name)
    if name == "viewport" and not all(1 <= n <= 8192 for n in numbers):
        raise InvalidValue("a viewport has between 1 and 8192 pixels a side", location=name)
    return numbers


def _frame_view(dataset: Dataset, index: int) -> Dataset:
    """Gather rescale and window of one frame; Enhanced MR keeps them in functional groups."""
    view = Dataset()
    groups = []
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(keyword) or []
        at = index if keyword.startswith("Per") else 0
        if at < len(items):
            groups.append(items[at])
    sources = [dataset]
    for group in groups:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            sources += list(group.get(keyword) or [])[:1]
    for source in sources:
        for keyword in (
            *("RescaleSlope", "RescaleIntercept", "RescaleType"),
            *("WindowCenter", "WindowWidth", "ModalityLUTSequence"),
        ):
            if keyword in source:
                view[keyword] = source[keyword]
    return view


def _grey(pixels: Any, view: Dataset, window: list[float]) -> Any:
    try:
        values = apply_modality_lut(pixels, view).astype(np.float64)
    except (ValueError, TypeError, AttributeError, KeyError):
        values = pixels.astype(np.float64)
    if not window:
        window = _stored_window(view)
    if not window:
        low, high = np.percentile(values, (0.5, 99.5))
        window = [float(low + high) / 2, float(high - low)]
    center, width = window[0], max(window[1], 1.0)
    # PS3.3 C.11.2.1.2.1, function LINEAR
    scaled = ((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5) * 255
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _stored_window(view: Dataset) -> list[float]:
    window = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = view.get(keyword)
        if value is None or value == "":
            return []
        try:
            window.append(float(value[0] if hasattr(value, "append") else value))
        except (ValueError, TypeError, IndexError):
            return []
    return window if window[1] > 0 else []
