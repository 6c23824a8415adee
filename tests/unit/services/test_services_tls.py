"""Services with TLS on the mesh, and on the sockets that they lead to or from."""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from service_helpers import echo, exchange, tcp_service, two_nodes
from tls_makers import authority, ends, good_ends, other_authority

from meshnode.config import parse_address
from meshnode.config.service_directives import (
    CommandService,
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.config.tls_directives import TlsClient as TlsClientDirective
from meshnode.config.tls_directives import TlsServer as TlsServerDirective
from meshnode.errors import HandshakeRefused, TlsRefused
from meshnode.mesh.mesh import Mesh
from meshnode.net.tls import TlsStream, dial_tls
from meshnode.security.tls import TlsSettings
from meshnode.security.tlsstore import TlsChange, TlsStore, TlsUse
from meshnode.services import make_service

DATA = bytes(range(256)) * 500


def store(
    servers: Mapping[str, TlsSettings] | None = None,
    clients: Mapping[str, TlsSettings] | None = None,
) -> TlsStore:
    found = TlsStore()
    file = Path("unused")
    uses = [
        *(
            TlsUse(TlsServerDirective(name=name, cert=file, key=file), settings)
            for name, settings in (servers or {}).items()
        ),
        *(
            TlsUse(TlsClientDirective(name=name), settings)
            for name, settings in (clients or {}).items()
        ),
    ]
    found.apply(TlsChange({(type(use.directive), use.directive.name): use for use in uses}))
    return found


MESH = ends(
    server=authority().issue("bar", nodes=["bar"]), client=authority().issue("foo", nodes=["foo"])
)
"""Node foo dials, node bar listens."""

NEAR = store(clients={"mesh": MESH.client})
FAR = store(servers={"mesh": MESH.server})


@dataclass
class World:
    foo: Mesh
    bar: Mesh
    nursery: trio.Nursery
    streams: list[trio.abc.HalfCloseableStream] = field(default_factory=list)

    async def start(self, directive, mesh: Mesh, tls: TlsStore):
        service = make_service(directive, mesh, tls)
        await self.nursery.start(lambda task_status: service.run(task_status=task_status))
        return service

    async def tcp_server(self, tls: TlsStore, **names: str) -> int:
        directive = TcpServer(
            port=0, bindaddr="127.0.0.1", remotenode="bar", remoteservice="echo", **names
        )
        return (await self.start(directive, self.foo, tls)).ports[0]

    async def tcp_client(self, tls: TlsStore, address: str = "", **names: str) -> None:
        where = parse_address(address or await tcp_service(self.nursery, echo))
        await self.start(TcpClient(service="echo", address=where, **names), self.bar, tls)

    async def connect(self, port: int) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", port))
        return self.streams[-1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with two_nodes() as (foo, bar), trio.open_nursery() as nursery:
        world = World(foo, bar, nursery)
        yield world
        for stream in world.streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


@contextmanager
def heard(text: str) -> Iterator[trio.Event]:
    """Yield an event that is set when a warning with this text is logged."""
    said = trio.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                said.set()

    ear = Ear(logging.WARNING)
    log = logging.getLogger("meshnode")
    log.addHandler(ear)
    yield said
    log.removeHandler(ear)


async def test_a_tcp_proxy_has_tls_on_the_mesh(world):
    await world.tcp_client(FAR, tlsserver="mesh")
    port = await world.tcp_server(NEAR, tlsclient="mesh")
    assert await exchange(await world.connect(port), DATA) == DATA
    with pytest.raises(HandshakeRefused, match="insecure connection to secure service"):
        await world.foo.dial("bar", "echo")


async def test_a_tcp_server_speaks_tls_with_its_own_clients(world):
    await world.tcp_client(TlsStore())
    port = await world.tcp_server(store(servers={"own": good_ends().server}), tlsserver="own")
    tls = await dial_tls(await world.connect(port), good_ends().client, "localhost")
    assert await exchange(tls, DATA) == DATA
    await tls.aclose()
    plain = await world.connect(port)
    with heard("does not speak TLS") as said:
        await plain.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with trio.fail_after(60):
            await said.wait()


async def test_a_tcp_client_speaks_tls_to_the_address_that_it_leads_to(world):
    async def serve(stream: trio.SocketStream) -> None:
        tls = TlsStream(stream, good_ends().server)
        await tls.shake_hands()
        await echo(tls)

    address = await tcp_service(world.nursery, serve)
    await world.tcp_client(store(clients={"own": good_ends().client}), address, tlsclient="own")
    port = await world.tcp_server(TlsStore())
    assert await exchange(await world.connect(port), DATA) == DATA


async def test_a_tcp_client_does_not_talk_to_an_address_of_another_name(world, caplog):
    wrong = ends(server=other_authority().issue("else"))

    async def serve(stream: trio.SocketStream) -> None:
        with pytest.raises((TlsRefused, trio.BrokenResourceError)):
            await TlsStream(stream, wrong.server).shake_hands()
        await stream.aclose()

    address = await tcp_service(world.nursery, serve)
    await world.tcp_client(store(clients={"own": wrong.client}), address, tlsclient="own")
    port = await world.tcp_server(TlsStore())
    client = await world.connect(port)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    assert f"cannot connect to {address}: the server's certificate (CN=else)" in caplog.text


async def test_unix_sockets_have_tls_on_the_mesh(world, tmp_path):
    await world.tcp_client(TlsStore())  # what answers
    inner, outer = str(tmp_path / "inner"), str(tmp_path / "outer")
    plain = UnixSocketServer(filename=inner, remotenode="bar", remoteservice="echo")
    await world.start(plain, world.bar, TlsStore())
    await world.start(UnixSocketClient(service="unix", filename=inner, tls="mesh"), world.bar, FAR)
    leads = UnixSocketServer(filename=outer, remotenode="bar", remoteservice="unix", tls="mesh")
    await world.start(leads, world.foo, NEAR)
    client = await trio.open_unix_socket(outer)
    world.streams.append(client)
    assert await exchange(client, DATA) == DATA
    with pytest.raises(HandshakeRefused):
        await world.foo.dial("bar", "unix")


async def test_a_command_service_has_tls_on_the_mesh(world):
    directive = CommandService(service="hello", command=("echo", "hello"), tls="mesh")
    await world.start(directive, world.bar, FAR)
    async with await world.foo.dial("bar", "hello", lambda: MESH.client) as stream:
        assert b"hello" in await stream.receive_some()
    with pytest.raises(HandshakeRefused):
        await world.foo.dial("bar", "hello")
