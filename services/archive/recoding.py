"""Whether two files are one object in two transfer syntaxes: same attributes, same pixels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.utils import iter_pixels

_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LARGEST_FILE: Final = 1 << 30
_LARGEST_FRAME: Final = 1 << 28
"""Bytes; a larger one is not decoded to answer a question that a person can answer too."""


def same_object(first: Path, second: Path) -> bool:
    """Return whether both files carry the same attributes and, once decoded, the same pixels.

    Only proof counts: what cannot be read, decoded or is too large is not the same. The way of
    writing is left out of it: byte order, explicit VRs, lengths of sequences, padding between
    elements and group lengths (PS3.5 §7, §7.5).
    """
    if max(first.stat().st_size, second.stat().st_size) > _LARGEST_FILE:
        return False
    try:
        one, other = dcmread(first), dcmread(second)
        if _attributes(one) != _attributes(other):
            return False
        frames = zip_longest(_frames(one), _frames(other))
        return all(a is not None and b is not None and np.array_equal(a, b) for a, b in frames)
    except Exception:  # noqa: BLE001 (a decoder may raise anything; then nothing is proven)
        return False


def _attributes(dataset: Dataset) -> bytes:
    """Return everything but the pixels in one canonical encoding, Implicit VR Little Endian."""
    plain = Dataset()
    for element in dataset:
        # Retired group lengths and trailing padding say nothing of the object.
        if element.tag.element == 0 or element.tag == 0xFFFCFFFC or element.keyword in _PIXELS:
            continue
        plain.add(element)
    _settle_lengths(plain)
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = True, True
    # The character set is an attribute of the object and stays what it was.
    write_dataset(out, plain, dataset.get("SpecificCharacterSet", "ISO_IR 6") or "ISO_IR 6")
    return out.getvalue()


def _settle_lengths(dataset: Dataset) -> None:
    for element in dataset:
        element.is_undefined_length = False
        if element.VR == "SQ":
            for item in element.value:
                item.is_undefined_length_sequence_item = False
                _settle_lengths(item)


def _frames(dataset: Dataset) -> Iterator[Any]:
    present = [keyword for keyword in _PIXELS if keyword in dataset]
    if not present:
        return
    size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1))
    if size * (int(dataset.BitsAllocated) // 8 or 1) > _LARGEST_FRAME:
        raise ValueError("a frame is too large to be compared")
    yield from iter_pixels(dataset, raw=True)
