"""Two linked nodes within one process, and clients and servers on loopback sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Mesh, Mesh]]:
    """Open foo and bar, linked in memory, each with a route to the other."""
    async with open_mesh("foo") as foo, open_mesh("bar") as bar, trio.open_nursery() as nursery:
        for mesh, link in zip((foo, bar), memory_link_pair(), strict=True):
            nursery.start_soon(mesh.run_link, link)
        await foo.wait_reachable("bar")
        await bar.wait_reachable("foo")
        yield foo, bar
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Return all bytes up to the end."""
    data = bytearray()
    while part := await stream.receive_some(65536):
        data += part
    return bytes(data)


async def exchange(stream: trio.abc.HalfCloseableStream, data: bytes) -> bytes:
    """Send and end, and at the same time read to the end."""

    async def send() -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        return await read_all(stream)
    raise AssertionError


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send everything back, and the end after it."""
    async with stream:
        while data := await stream.receive_some(65536):
            await stream.send_all(data)
        await stream.send_eof()


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def tcp_service(nursery: trio.Nursery, handler: Handler = echo) -> str:
    """Serve on a loopback TCP port; return its address."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await handler(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return f"127.0.0.1:{listener.socket.getsockname()[1]}"
