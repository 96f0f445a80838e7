from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.errors import ChecksumError, ModelNotFoundError
from services.inference import registry
from services.inference.assessment import Assessment
from services.inference.pool import ModelProcess

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def process() -> Iterator[ModelProcess]:
    with ModelProcess("asymmetry", timeout_s=20) as running:
        yield running


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file that whoever opens it waits on, for ever: a pipe that nobody writes to."""
    path = tmp_path / "trap.dcm"
    os.mkfifo(path)
    return path


def until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def hold(trap: Path) -> int:
    """Wait until a process is in the trap; it stays there until the descriptor is closed."""
    opened: list[int] = []

    def caught() -> bool:
        try:
            opened.append(os.open(trap, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody has come to read yet
                raise
        return bool(opened)

    assert until(caught), "the process never opened the file"
    return opened[0]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_it_says_the_same_as_the_model_itself(
    process: ModelProcess, ill_paths: list[Path], ill_assessment: Assessment
) -> None:
    assert process.model == "asymmetry@1.0.0"
    assert process.pid != os.getpid()
    assert process.assess(ill_paths) == ill_assessment


def test_the_event_loop_goes_on_while_it_works(
    process: ModelProcess, ill_paths: list[Path], normal_paths: list[Path]
) -> None:
    async def scene() -> tuple[list[str], float]:
        longest, last = 0.0, time.perf_counter()
        jobs = asyncio.gather(
            *(process.assess_async(paths) for paths in (ill_paths, normal_paths, ill_paths))
        )
        while not jobs.done():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return [found.outcome for found in await jobs], longest

    outcomes, longest = asyncio.run(scene())
    assert outcomes == ["critical", "normal", "critical"]
    assert longest < 0.25


def test_broken_images_are_an_answer_not_an_error(process: ModelProcess, tmp_path: Path) -> None:
    found = process.assess([tmp_path / "absent.dcm"])
    assert (found.outcome, found.failed) == ("abstained", False)


def test_a_killed_process_is_replaced_and_the_study_tried_again(
    process: ModelProcess, trap: Path, ill_paths: list[Path]
) -> None:
    first = process.pid
    waiting = process.submit([trap, *ill_paths])
    held = hold(trap)
    trap.unlink()
    trap.write_text("not DICOM any more")  # the second try gets through
    os.kill(first, signal.SIGKILL)
    os.close(held)
    assert waiting.result(30).outcome == "critical"
    assert process.pid != first
    assert not alive(first)


def test_a_process_killed_twice_gives_up_on_the_study_and_serves_the_next(
    process: ModelProcess, trap: Path, ill_paths: list[Path]
) -> None:
    waiting = process.submit([trap])
    pid = 0
    for _ in range(2):
        assert until(lambda last=pid: process.pid != last)
        held, pid = hold(trap), process.pid
        os.kill(pid, signal.SIGKILL)
        os.close(held)
    found = waiting.result(30)
    assert (found.outcome, found.failed) == ("abstained", True)
    assert "crashed" in found.reason
    assert process.assess(ill_paths).outcome == "critical"


def test_a_study_that_takes_too_long_is_answered_and_the_process_replaced(
    trap: Path, normal_paths: list[Path]
) -> None:
    with ModelProcess("asymmetry", timeout_s=1.5) as process:
        stuck = process.pid
        start = time.perf_counter()
        found = process.assess([trap])
        assert 1.4 < time.perf_counter() - start < 4
        assert (found.outcome, found.failed) == ("abstained", True)
        assert "timed out after 1.5 s" in found.reason
        assert not alive(stuck)
        assert process.assess(normal_paths).outcome == "normal"
        last = process.pid
    assert not alive(last)


def test_an_altered_model_never_starts(tmp_path: Path) -> None:
    home = tmp_path / "asymmetry" / "1.0.0"
    home.mkdir(parents=True)
    for name in ("card.json", "model.onnx", "golden.npz"):
        content = (registry.MODELS / "asymmetry" / "1.0.0" / name).read_bytes()
        (home / name).write_bytes(content + b" " if name == "model.onnx" else content)
    threads = threading.active_count()
    with pytest.raises(ChecksumError):
        ModelProcess("asymmetry", folder=tmp_path)
    with pytest.raises(ModelNotFoundError):
        ModelProcess("asymmetry", "9.9.9", folder=tmp_path)
    assert until(lambda: threading.active_count() <= threads)


def test_a_time_out_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        ModelProcess("asymmetry", timeout_s=0)


PARENT = """
import time
from services.inference.pool import ModelProcess
if __name__ == "__main__":
    process = ModelProcess("asymmetry")
    print(process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    assert until(lambda: not alive(child))


def test_the_parent_does_not_carry_the_runtime(tmp_path: Path) -> None:
    code = (
        "import sys; import services.inference.pool; "
        "sys.exit(any(m in sys.modules for m in ('onnxruntime', 'pydicom', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
