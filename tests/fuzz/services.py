"""The ordinary mesh, whose victim has a service of each kind that strangers can open."""

import tempfile
from contextlib import AsyncExitStack, suppress

import trio

from fuzz.meshworld import GONE, MeshWorld
from meshnode.config import Address
from meshnode.config.service_directives import (
    CommandService,
    ServiceDirective,
    TcpClient,
    UdpClient,
    UdpServer,
    UnixSocketClient,
)
from meshnode.services import make_service

LOOPBACK = "127.0.0.1"


class ServicesWorld(MeshWorld):
    """Streams lead to programs that send all back, datagrams to nobody."""

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Start programs, and services that lead to them."""
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="mn-fuzz-"))
        (tcp,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
        port = tcp.socket.getsockname()[1]
        path = f"{directory}/s"
        unix = trio.socket.socket(trio.socket.AF_UNIX)
        await unix.bind(path)
        unix.listen()
        self.nursery.start_soon(trio.serve_listeners, _send_back, [tcp, trio.SocketListener(unix)])
        directives: tuple[ServiceDirective, ...] = (
            TcpClient(service="web", address=Address(LOOPBACK, port)),
            UnixSocketClient(service="sock", filename=path),
            CommandService(service="shell", command=("cat",)),
            UdpClient(service="loud", address=Address(LOOPBACK, 9)),
            UdpServer(port=0, bindaddr=LOOPBACK, remotenode="left", remoteservice="loud"),
        )
        for directive in directives:
            service = make_service(directive, self.victim)  # type: ignore[arg-type]
            await self.nursery.start(service.run)


async def _send_back(stream: trio.abc.Stream) -> None:
    with suppress(*GONE):
        async with stream:
            while data := await stream.receive_some(65536):
                await stream.send_all(data)
