"""Models in a folder: ``NAME/VERSION/{card.json, model.onnx, golden.npz}``.

A model is usable only after its files matched the checksums on its card and its golden case came
out as recorded, on this machine, with this onnxruntime.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import models
from models.errors import (
    CardError,
    ChecksumError,
    GoldenCaseError,
    ModelNotFoundError,
    ModelRunError,
)
from services.inference.card import Card, parse_card

MODELS: Final = Path(models.__file__ or "").parent / "triage"


class TriageModel:
    """A verified model, ready to run; made by `load`."""

    def __init__(self, card: Card, session: Any) -> None:
        self.card = card
        self._session = session

    def run(self, volume: NDArray[np.float32]) -> Mapping[str, float]:
        """Run the model on one volume.

        Parameters
        ----------
        volume
            Axes (z, y, x) on the card's grid; arbitrary units, ``grid.outside`` outside the scan.

        Returns
        -------
        Mapping
            Output name to value, in the card's units.

        Raises
        ------
        ValueError
            If the volume has another shape.
        ModelRunError
            If the runtime fails or an output is not a finite number.
        """
        if volume.shape != self.card.grid.shape:
            raise ValueError(f"volume must have the shape {self.card.grid.shape}")
        names = list(self.card.outputs)
        feed = {self.card.input_name: np.ascontiguousarray(volume[None, None], dtype=np.float32)}
        try:
            values = [float(np.squeeze(out)) for out in self._session.run(names, feed)]
        except Exception as error:  # the runtime's errors share no base class
            raise ModelRunError(f"{self.card.identity} failed to run: {error}") from error
        if not np.isfinite(values).all():
            raise ModelRunError(f"{self.card.identity} returned a value that is no number")
        return dict(zip(names, values, strict=True))


def versions(name: str, *, folder: Path = MODELS) -> list[str]:
    """Return the versions of a model that lie in the folder, oldest first."""
    found = [path.parent.name for path in (folder / name).glob("*/card.json")]
    return sorted((v for v in found if _order(v)), key=_order)


def _order(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()


def load(name: str, version: str | None = None, *, folder: Path = MODELS) -> TriageModel:
    """Load a model, verify its files and run its golden case.

    Parameters
    ----------
    name
        Folder name of the model.
    version
        Its version; the newest one by default.
    folder
        Where the models lie.

    Raises
    ------
    ModelNotFoundError
        If there is no such model or one of its files is missing.
    CardError
        If the card is unreadable or belongs to another model.
    ChecksumError
        If a file is not the one on the card.
    GoldenCaseError
        If the golden case comes out otherwise.
    ModelRunError
        If onnxruntime cannot load or run the model.
    """
    if version is None:
        known = versions(name, folder=folder)
        if not known:
            raise ModelNotFoundError(f"no version of the model {name!r} in {folder}")
        version = known[-1]
    home = folder / name / version
    try:
        card = parse_card(_read(home / "card.json").decode())
    except UnicodeDecodeError as error:
        raise CardError(f"the card of {name}@{version} is not UTF-8") from error
    if (card.name, card.version) != (name, version):
        raise CardError(f"the card in {home} is that of {card.identity}")
    # the bytes that were verified are the bytes that are used
    weights = _verified(home, "model.onnx", card)
    golden = _verified(home, "golden.npz", card)
    model = TriageModel(card, _session(weights, card))
    _prove(model, golden)
    return model


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {path}: {error.strerror}") from error


def _verified(home: Path, file: str, card: Card) -> bytes:
    content = _read(home / file)
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256[file]:
        raise ChecksumError(
            f"{file} of {card.identity} has SHA-256 {digest[:12]}…, the card says "
            f"{card.sha256[file][:12]}…: restore the model's folder from its release"
        )
    return content


def _session(weights: bytes, card: Card) -> Any:
    options = onnxruntime.SessionOptions()
    # one small graph: more threads would only take the machine from the listeners
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class
        raise ModelRunError(f"onnxruntime cannot load {card.identity}: {error}") from error


def _prove(model: TriageModel, golden: bytes) -> None:
    card = model.card
    try:
        with np.load(io.BytesIO(golden), allow_pickle=False) as case:
            volumes, expected = case["volumes"], case["expected"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise GoldenCaseError(f"the golden case of {card.identity} is unreadable") from error
    if volumes.shape[1:] != card.grid.shape or expected.shape != (len(volumes), len(card.outputs)):
        raise GoldenCaseError(f"the golden case of {card.identity} does not fit its card")
    for volume, row in zip(volumes, expected, strict=True):
        values = model.run(volume.astype(np.float32))
        for (output, value), wanted in zip(values.items(), row, strict=True):
            if abs(value - wanted) > card.golden_tolerance * max(1.0, abs(wanted)):
                raise GoldenCaseError(
                    f"{output} of {card.identity}'s golden case is {value:.6g} on this machine, "
                    f"not {wanted:.6g}: do not use it here"
                )
