"""DCMTK's programs, not the ones of the same name that pynetdicom puts into the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
"""Without it, Nagle's delay in the sender (40 ms an image) hides whatever the receiver does."""


@cache
def find(program: str) -> Path | None:
    """Return where DCMTK's `program` is, or None if DCMTK is not installed."""
    own = {Path(sys.prefix, "bin").resolve(), Path(sys.executable).parent.resolve()}
    elsewhere = [d for d in os.get_exec_path() if d and Path(d).resolve() not in own]
    for directory in dict.fromkeys([*elsewhere, "/usr/bin", "/usr/local/bin"]):
        found = shutil.which(program, path=directory)
        if found is not None and "dcmtk" in _version(found):
            return Path(found)
    return None


def version(program: str) -> str:
    """Return the first line that DCMTK's `program` says about itself."""
    found = find(program)
    return "not installed" if found is None else _version(str(found)).strip("$ ")


@cache
def _version(path: str) -> str:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return next(iter(answer.stdout.splitlines()), "")
