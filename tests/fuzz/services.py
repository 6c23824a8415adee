"""The ordinary mesh, whose victim has a service of each kind that strangers can open."""

import ipaddress
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from fuzz.meshworld import GONE, MeshWorld
from meshnode.config.service_directives import (
    CommandService,
    ServiceDirective,
    TcpClient,
    UdpClient,
    UdpServer,
    UnixSocketClient,
)
from meshnode.services.make import make_service

LOOPBACK = str(ipaddress.IPv4Address("127.0.0.1"))


class ServicesWorld(MeshWorld):
    """Streams lead to programs that send all back, datagrams to nobody."""

    async def prepare(self) -> None:
        """Start programs, and services that lead to them."""
        (tcp,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
        port = tcp.socket.getsockname()[1]
        path = str(Path(self.directory) / "s")
        unix = trio.socket.socket(trio.socket.AF_UNIX)
        await unix.bind(path)
        unix.listen()
        self.nursery.start_soon(trio.serve_listeners, _send_back, [tcp, trio.SocketListener(unix)])
        directives: tuple[ServiceDirective, ...] = (
            TcpClient(service="web", address=f"{LOOPBACK}:{port}"),
            UnixSocketClient(service="sock", filename=path),
            CommandService(service="shell", command="cat"),
            UdpClient(service="loud", address=f"{LOOPBACK}:9"),
            UdpServer(port=0, bindaddr=LOOPBACK, remotenode="left", remoteservice="loud"),
        )
        for directive in directives:
            service = make_service(directive, self.victim)  # type: ignore[arg-type]
            await self.nursery.start(partial(service.run))

    @property
    def directory(self) -> str:
        """A place for sockets that goes with this world."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="mn-fuzz-")
        return self._directory.name

    _directory: tempfile.TemporaryDirectory[str] | None = None

    def clean_up(self) -> None:
        """Remove the directory."""
        if self._directory is not None:
            self._directory.cleanup()


async def _send_back(stream: trio.abc.Stream) -> None:
    with suppress(*GONE):
        async with stream:
            while data := await stream.receive_some(65536):
                await stream.send_all(data)
