"""The MLLP listener: any number of messages a connection, in order, committed before answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from models.errors import Malformed
from services.hl7.mllp import Deframer, frame

log = structlog.get_logger()

_T = TypeVar("_T")
Receive = Callable[[bytes, str], bytes | None]
"""(message, peer) → acknowledgement; returns after the commit."""
Keep = Callable[[bytes, str, str], None]
"""(bytes, peer, reason): keeps what never became a message."""


class MllpListener:
    """Serves MLLP (HL7 v2.5.1 App. C) on one address.

    Parameters
    ----------
    receive : callable
        Records and applies a message; called on a worker thread, one at a time per connection.
    keep : callable
        Keeps the bytes of a connection that ended inside a message.
    limit : int
        Largest message in bytes.
    threads : int
        Messages that are committed at the same time.
    stall_s : float
        Seconds without a byte after which an unfinished message is given up.
    """

    def __init__(
        self,
        receive: Receive,
        keep: Keep,
        *,
        limit: int = 16 * 1024 * 1024,
        threads: int = 8,
        stall_s: float = 60,
    ) -> None:
        self._receive = receive
        self._keep = keep
        self._limit = limit
        self._stall_s = stall_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hl7")
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses when `port` is 0."""
        self._server = await asyncio.start_server(self._serve, host, port, backlog=128)
        self.port: int = self._server.sockets[0].getsockname()[1]
        log.info("hl7.listening", host=host, port=self.port)
        return int(self.port)

    async def stop(self) -> None:
        """Take no new connection, finish the messages in hand, and close."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._threads.shutdown()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        host, port, *_ = writer.get_extra_info("peername")
        peer = f"{host}:{port}"
        deframer = Deframer(self._limit)
        reason = "the connection closed inside a message"
        try:
            while True:
                # An idle connection may stay open for hours; an unfinished message may not.
                stall = self._stall_s if deframer.rest else None
                data = await asyncio.wait_for(reader.read(65536), stall)
                if not data:
                    break
                for message in deframer.feed(data):
                    answer = await self._run(self._receive, message, peer)
                    if answer is not None:
                        writer.write(frame(answer))
                        await writer.drain()
        except Malformed as error:
            reason = str(error)
            log.warning("hl7.not_mllp", peer=peer, reason=reason)
        except TimeoutError:
            reason = f"no byte for {self._stall_s:.0f} s inside a message"
        except (ConnectionError, asyncio.CancelledError) as error:
            reason = f"the connection broke: {type(error).__name__}"
        except Exception:
            # Closed without an answer: the sender keeps the message and sends it again.
            log.exception("hl7.failed", peer=peer)
        finally:
            writer.close()
            if deframer.rest.strip():
                await self._leave(deframer.rest, peer, reason)

    async def _leave(self, rest: bytes, peer: str, reason: str) -> None:
        try:
            await self._run(self._keep, rest, peer, reason)
        except Exception:
            log.exception("hl7.fragment_lost", peer=peer, bytes=len(rest))

    async def _run(self, call: Callable[..., _T], *args: bytes | str) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)
