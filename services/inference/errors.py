"""What can go wrong around a model.

::

    InferenceError                 base
    ├── ModelError                 we cannot run this model: fix the installation
    │   ├── ModelNotFoundError     no such folder, or a file of it is missing
    │   ├── CardError              the card is not what a card must be
    │   ├── ChecksumError          a file is not the one the card was written for
    │   ├── GoldenCaseError        the model does not reproduce its golden case on this machine
    │   └── ModelRunError          onnxruntime refuses the model or fails on an input
    └── UnassessableError          these images cannot be assessed: the outcome is "abstained"

A `ModelError` reaches the operator; an `UnassessableError` never leaves `assess`.
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of every error of this package; `code` is stable, the message is for people."""

    code = "inference"


class ModelError(InferenceError):
    """A model cannot be trusted or run."""

    code = "model"


class ModelNotFoundError(ModelError):
    """A model's folder or one of its files is missing."""

    code = "model.not_found"


class CardError(ModelError):
    """A model card is unreadable or incomplete."""

    code = "model.card"


class ChecksumError(ModelError):
    """A file's SHA-256 is not the one on the card."""

    code = "model.checksum"


class GoldenCaseError(ModelError):
    """The golden case does not come out as expected."""

    code = "model.golden"


class ModelRunError(ModelError):
    """The runtime cannot load the model or failed while running it."""

    code = "model.run"


class UnassessableError(InferenceError):
    """Images that a model must not or cannot judge; the message is the reason shown to people."""

    code = "images.unassessable"
