"""The process around a warm worker: its command line, its signals, its thread.

The event loop runs off the main thread. Every flow engine on the main thread swaps the process's
SIGTERM handler for one that raises in the middle of whatever is running; off it, SIGTERM stays
ours and a stop can wait for the runs in hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import signal
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, cast

from prefect import Flow
from prefect.settings import get_current_settings

from deployments.warm import WarmWorker


def load_flows(reference: str) -> Mapping[str, Flow[..., Any]]:
    """Load the mapping of flows that ``module:attribute`` names; a callable is called.

    Returns
    -------
    mapping of str to Flow
        By Prefect's flow name, whatever the keys were.
    """
    module, _, attribute = reference.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    flows = cast("Mapping[str, Flow[..., Any]]", found() if callable(found) else found)
    return {flow.name: flow for flow in flows.values()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; a second signal does not wait for runs in hand."""
    parser = argparse.ArgumentParser(prog="deployments.worker", description=__doc__)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--queue", action="append", required=True, dest="queues")
    parser.add_argument("--limit", type=int, default=1)
    parser.add_argument("--name", required=True)
    parser.add_argument("--poll", type=float, default=None, help="seconds between two polls")
    parser.add_argument("--grace", type=float, default=8.0, help="seconds to finish runs in hand")
    parser.add_argument("--flows", default="deployments.catalogue:load_flows")
    options = parser.parse_args(argv)
    flows = load_flows(options.flows)
    poll = options.poll or get_current_settings().worker.query_seconds

    ready = threading.Event()
    stopping: dict[str, Any] = {}
    failures: list[BaseException] = []

    async def serve() -> None:
        stop = asyncio.Event()
        stopping.update(loop=asyncio.get_running_loop(), stop=stop, task=asyncio.current_task())
        ready.set()
        worker = WarmWorker(
            flows=flows,
            pool=options.pool,
            queues=options.queues,
            name=options.name,
            limit=options.limit,
            poll_seconds=poll,
        )
        await worker.serve(stop, grace_seconds=options.grace)

    def thread() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)
        finally:
            ready.set()

    signals: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if "loop" in stopping:
            action = stopping["stop"].set if len(signals) == 1 else stopping["task"].cancel
            with contextlib.suppress(RuntimeError):  # the loop has just closed by itself
                stopping["loop"].call_soon_threadsafe(action)

    running = threading.Thread(target=thread, name="worker-loop")
    running.start()
    ready.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    running.join()
    if failures:
        raise failures[0]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
