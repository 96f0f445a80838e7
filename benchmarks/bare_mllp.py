"""A peer: PyPI's hl7 as MLLP server that acknowledges every message and keeps none."""

from __future__ import annotations

import asyncio
import sys

from hl7.mllp import (  # type: ignore[import-untyped]
    HL7StreamReader,
    HL7StreamWriter,
    start_hl7_server,
)


async def acknowledge(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
    """Answer AA to each message of one connection, as in the library's documentation."""
    try:
        while True:
            message = await reader.readmessage()
            writer.writemessage(message.create_ack())
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await start_hl7_server(acknowledge, "127.0.0.1", port, encoding="utf-8")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
