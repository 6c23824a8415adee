"""A fake mesh, and a client at the other end of a control session."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import memory_stream_pair

from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import CommandRegistry
from meshnode.control.service import ControlListener, ControlService
from meshnode.errors import MeshTimeout, NoRoute
from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.mesh.links.base import LinkFigures
from meshnode.protocol.routing import ServiceAdvertisement, WorkType

GREETING = b"Receptor Control, node foo\n"


@dataclass(frozen=True)
class FakeLink:
    peer: str
    cost: float
    figures: LinkFigures | None = None


@dataclass(frozen=True)
class FakeStatus:
    node_id: str = "foo"
    connections: tuple[FakeLink, ...] = (FakeLink("bar", 1.0), FakeLink("baz", 1.5))
    routes: dict[str, str] = field(default_factory=lambda: {"bar": "bar", "baz": "baz"})
    known_costs: dict[str, dict[str, float]] = field(
        default_factory=lambda: {"foo": {"bar": 1.0, "baz": 1.5}, "bar": {"foo": 1.0}}
    )
    advertisements: tuple[ServiceAdvertisement, ...] = (
        ServiceAdvertisement(
            node_id="bar",
            service="control",
            time="2026-11-22T03:00:00.123456789Z",
            conn_type=1,
            tags={"type": "Control Service"},
            work_types=(WorkType("echo", False),),
        ),
    )
    firewall: FirewallCounts | None = None
    drops: DropCounts = field(default_factory=DropCounts)


@dataclass(frozen=True)
class FakePing:
    from_node: str
    seconds: float
    error: str | None = None


@dataclass
class FakeMesh:
    """foo, linked to bar: every other node is unknown. ``services`` serve what is dialed on bar."""

    node_id: str = "foo"
    services: dict[str, Callable[[trio.StapledStream], Awaitable[None]]] = field(
        default_factory=dict
    )
    nursery: trio.Nursery | None = None
    silent: bool = False

    def status(self) -> FakeStatus:
        return FakeStatus()

    def epoch_of(self, node: str) -> int | None:
        return None

    async def ping(self, node: str) -> FakePing:
        await trio.lowlevel.checkpoint()
        if self.silent:
            raise MeshTimeout("timeout")
        if node == "localhost":
            node = "foo"
        if node not in {"foo", "bar"}:
            raise NoRoute(node)
        return FakePing(node, 0.000312513)

    async def traceroute(self, node: str) -> AsyncGenerator[FakePing, None]:
        yield FakePing("foo", 0.00026361)
        if node == "bar":
            yield FakePing("bar", 0.000362438)
        elif node != "foo":
            yield FakePing("foo", 0.000005278, "no route to node")

    async def dial(
        self, node: str, service: str, tls: object = None
    ) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        if node != "bar" or service not in self.services:
            raise NoRoute(node)
        assert self.nursery is not None
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.services[service], theirs)
        return ours


class Client:
    """The client's end of a session."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def line(self) -> bytes:
        """The next line of the server, with its newline; what is left at the end."""
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                break
            self._buffer += bytes(data)
        line, newline, self._buffer = self._buffer.partition(b"\n")
        return line + newline

    async def rest(self) -> bytes:
        """All that comes until the server ends the session."""
        while data := await self.stream.receive_some():
            self._buffer += bytes(data)
        rest, self._buffer = self._buffer, b""
        return rest

    async def ask(self, data: bytes) -> bytes:
        """Send, end our side, and return all answers."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all, data)
                answer = await self.rest()
        assert not scope.cancelled_caught
        return answer

    async def _send_all(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # a server that has heard enough may close first


OpenClient = Callable[..., "AsyncIterator[Client]"]


@pytest.fixture
def mesh() -> FakeMesh:
    return FakeMesh()


@pytest.fixture
def registry(mesh: FakeMesh) -> CommandRegistry:
    async def nothing_changed() -> None:
        await trio.lowlevel.checkpoint()

    registry = CommandRegistry()
    register_mesh_commands(registry, mesh, nothing_changed)
    return registry


class DeafListener(trio.abc.Listener[trio.StapledStream]):
    """A listener that no client comes by."""

    async def accept(self) -> trio.StapledStream:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def running(
    service: ControlService,
    listener: ControlListener,
    *,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Run a service, for what it does by itself."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await service.run([listener])


@pytest.fixture
def open_client(mesh: FakeMesh, registry: CommandRegistry) -> OpenClient:
    """``async with open_client() as client``: a session, its greeting already read."""

    @asynccontextmanager
    async def open_client(kind: str = "unix", greeted: bool = True) -> AsyncIterator[Client]:
        service = ControlService("foo", registry)
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            mesh.nursery = nursery
            listener = ControlListener("mesh", "nobody", DeafListener())
            watch = await nursery.start(running, service, listener)
            nursery.start_soon(service.serve, theirs, kind, "tester")
            client = Client(ours)
            if greeted:
                assert await client.line() == GREETING
            yield client
            await ours.aclose()
            watch.cancel()

    return open_client
