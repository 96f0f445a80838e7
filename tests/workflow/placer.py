"""A placer made of the PyPI ``hl7`` package's MLLP server: it shares no line with ours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import hl7
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server


class Placer:
    """Keeps what it is told and answers AA, or what the test has laid up."""

    def __init__(self) -> None:
        self.told: list[hl7.Message] = []
        self.answers: deque[str] = deque()
        """MSA-1 of the next answers, or ``close`` to hang up unanswered."""
        self.on_message: Callable[[], None] = lambda: None
        self.words = "DOE JANE is locked"
        self.error = ""
        """An ERR segment to go with a refusal."""
        self.connections = 0
        self.port = 0
        self.loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"mllp://127.0.0.1:{self.port}"

    def statuses(self, placer_number: str) -> list[tuple[str, str]]:
        """ORC-5 and OBR-25 of one order, as they came, each control id once."""
        seen = {str(m.segment("MSH")[10]): m for m in self.told}
        return [
            (str(m.segment("ORC")[5]), str(m.segment("OBR")[25]))
            for m in seen.values()
            if str(m.segment("ORC")[2]).split("^")[0] == placer_number
        ]

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                message = await reader.readmessage()
                self.told.append(message)
                self.on_message()
                answer = self.answers.popleft() if self.answers else "AA"
                if answer == "close":
                    break
                msh = message.segment("MSH")
                error = f"{self.error}\r" if self.error else ""
                words = "" if answer in {"AA", "CA"} else self.words
                writer.writeblock(
                    f"MSH|^~\\&|{msh[5]}||{msh[3]}|{msh[4]}|{msh[7]}||ACK|A{msh[10]}|P|{msh[12]}\r"
                    f"MSA|{answer}|{msh[10]}|{words}\r{error}".encode()
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def placer_on(port: int = 0) -> Iterator[Placer]:
    """Run a placer in a thread; port zero takes any that is free."""
    placer = Placer()

    async def start() -> asyncio.Server:
        server: asyncio.Server = await start_hl7_server(
            placer.serve, host="127.0.0.1", port=port, encoding="utf-8"
        )
        placer.port = int(server.sockets[0].getsockname()[1])
        return server

    server = placer.loop.run_until_complete(start())
    thread = Thread(target=placer.loop.run_forever)
    thread.start()

    async def stop() -> None:
        server.close()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield placer
    finally:
        asyncio.run_coroutine_threadsafe(stop(), placer.loop).result(10)
        placer.loop.call_soon_threadsafe(placer.loop.stop)
        thread.join()
        placer.loop.close()
