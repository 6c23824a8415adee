"""A node that takes work and then says about it whatever it likes.

The node itself is an honest mesh: what lies is its control service.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshnode.mesh.links.tcp import TcpDialer
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.protocol.control import greeting

UNIT = "evilUnit"
"""The ID that every unit gets here."""

CREATED = f"Work unit created with ID {UNIT}. Send stdin data and EOF.\n".encode()
STREAMING = f"Streaming results for work unit {UNIT}\n".encode()
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

Stream = trio.abc.HalfCloseableStream
Answer = Callable[[bytes, Stream], Awaitable[None]]
"""Answers one command line, payload and all, on the stream that it came by."""


async def serve(stream: Stream, node: str, answer: Answer) -> None:
    """Greet a submitter as that node would, and have each of its lines answered."""
    try:
        async with stream:
            await stream.send_all(greeting(node))
            buffer = bytearray()
            while data := await stream.receive_some(65536):
                buffer += data
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    await answer(line, stream)
    except GONE:
        pass  # the submitter has had enough: that is its right


@asynccontextmanager
async def runner(name: str, port: int, answer: Answer) -> AsyncIterator[Mesh]:
    """Be a node of the mesh that takes work, until the context ends."""
    async with open_mesh(name) as mesh, trio.open_nursery() as nursery:
        mesh.add_dialer(TcpDialer("127.0.0.1", port))
        listener = await mesh.listen("control", tags={"type": "Control Service"})

        async def accept() -> None:
            while True:
                nursery.start_soon(serve, await listener.accept(), name, answer)

        nursery.start_soon(accept)
        yield mesh
        nursery.cancel_scope.cancel()
