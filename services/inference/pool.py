"""The model in a warm process of its own, so that no event loop ever waits for arithmetic.

One job runs at a time. A job that takes too long is answered "timed out" and its process killed; a
process that dies under a job is replaced and the job tried once more. Either way the caller gets
an `Assessment` and the next job a fresh process.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from models.errors import ModelError, ModelRunError
from services.inference.assessment import Assessment

if TYPE_CHECKING:
    from ctypes import c_int

    # onnxruntime belongs in the model's process only
    from services.inference.registry import TriageModel

_START_SECONDS: Final = 60.0  # a cold disk and a busy machine included


class ModelProcess:
    """One model, loaded and verified in one child process.

    Parameters
    ----------
    name, version
        Which model; the newest version by default.
    folder
        Where the models lie; those that come with Spinecho by default.
    timeout_s
        How long one study may take before it is answered "timed out".

    Raises
    ------
    ModelError
        If the model is missing, altered or does not reproduce its golden case here.

    Notes
    -----
    The child is spawned, not forked: the parent has threads and sockets. Use it as a context
    manager, or call `close`. The child ends by itself when its parent is killed.
    """

    def __init__(
        self,
        name: str,
        version: str | None = None,
        *,
        folder: Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError("timeout_s must be positive")
        self._which = (name, version, folder)
        self._timeout_s = timeout_s
        # a single thread: it hands jobs over one by one and waits, so nobody else has to
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._context = multiprocessing.get_context("spawn")
        # written by the child before anything can go wrong in it; without a lock, which a child
        # that is killed would keep
        self._pid = self._context.RawValue("i", 0)
        self._executor: ProcessPoolExecutor | None = None
        try:
            self._thread.submit(self._start).result()
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> str:
        """``name@version`` of the loaded model."""
        return self._model

    @property
    def pid(self) -> int:
        """Process that runs the model at the moment."""
        return int(self._pid.value)

    def submit(self, paths: Sequence[Path]) -> Future[Assessment]:
        """Queue one study; the time-out counts from the start of its own work."""
        return self._thread.submit(self._run, tuple(paths))

    def assess(self, paths: Sequence[Path]) -> Assessment:
        """Assess one study and wait for it."""
        return self.submit(paths).result()

    async def assess_async(self, paths: Sequence[Path]) -> Assessment:
        """Assess one study without blocking the event loop.

        Cancelling it takes a study out of the queue; one that is being worked on is finished.
        """
        return await asyncio.wrap_future(self.submit(paths))

    def close(self) -> None:
        """Finish the job under way and end the process; queued jobs are cancelled."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> ProcessPoolExecutor:
        name, version, folder = self._which
        self._executor = executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=self._context,
            initializer=_prepare,
            initargs=(name, version, folder, self._pid),
        )
        try:
            self._model = executor.submit(_introduce).result(_START_SECONDS)
        except (BrokenProcessPool, FutureTimeoutError) as error:
            self._discard()
            raise ModelRunError(f"the process of the model {name!r} does not start") from error
        return executor

    def _discard(self) -> None:
        """Kill the process; one that is stuck in native code hears nothing milder."""
        for child in multiprocessing.active_children():
            if child.pid == self._pid.value:
                child.kill()
                child.join()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def _run(self, paths: tuple[Path, ...]) -> Assessment:
        reason = ""
        for _ in range(2):
            try:
                executor = self._executor or self._start()
                return executor.submit(_assess, paths).result(self._timeout_s)
            except FutureTimeoutError:
                reason = f"timed out after {self._timeout_s:g} s"
                self._discard()
                break  # a study that takes that long would take as long again
            except BrokenProcessPool:
                reason = "the model's process crashed twice"
                self._discard()
            except ModelError as error:  # it started once, so the installation changed under us
                reason = str(error)
                self._discard()
                break
        # the next study should not pay for this one's end
        with contextlib.suppress(RuntimeError):  # we are closing
            self._thread.submit(self._restart)
        return Assessment(outcome="abstained", failed=True, reason=reason, model=self._model)

    def _restart(self) -> None:
        # if it fails, the next study tries again and tells why
        with contextlib.suppress(ModelError):
            if self._executor is None:
                self._start()


# Below: the child's side.

_state: dict[str, TriageModel | ModelError] = {}


def _prepare(name: str, version: str | None, folder: Path | None, pid: c_int) -> None:
    pid.value = os.getpid()
    # Ctrl-C reaches the whole group; the parent decides when this process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    from services.inference import registry

    try:
        # an error raised here would only be seen as a broken pool, so it is kept and told later
        _state["model"] = registry.load(name, version, folder=folder or registry.MODELS)
    except ModelError as error:
        _state["model"] = error


def _follow_parent() -> None:
    """End with the parent: a pool's worker waits on a pipe that it holds open itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _loaded() -> TriageModel:
    model = _state["model"]
    if isinstance(model, ModelError):
        raise model
    return model


def _introduce() -> str:
    return _loaded().card.identity


def _assess(paths: tuple[Path, ...]) -> Assessment:
    from services.inference.assess import assess

    return assess(_loaded(), paths)
