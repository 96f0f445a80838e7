"""The machine that the figures belong to."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def describe(directory: Path) -> dict[str, str]:
    """Return what a reader needs to place the figures.

    Parameters
    ----------
    directory : Path
        Where the benchmark keeps its files; its file system is part of what is measured.
    """
    memory = psutil.virtual_memory().total / 2**30
    return {
        "CPU": _cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}",
        "RAM": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "disk": _file_system(directory),
        "load before": load(),
    }


def load() -> str:
    """Return the load average of the last minute: well above 0 before, others were at work."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(directory: Path) -> str:
    """Name device and type of the longest mount point above `directory`."""
    above = [m for m in psutil.disk_partitions(all=True) if directory.is_relative_to(m.mountpoint)]
    if not above:
        return "unknown"
    mount = max(above, key=lambda m: len(m.mountpoint))
    return f"{mount.device} {mount.fstype}"
