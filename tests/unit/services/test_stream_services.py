"""TCP and unix sockets through two nodes of a mesh."""

import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from service_helpers import echo, exchange, read_all, tcp_service, two_nodes
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from meshnode.config import Address, parse_address
from meshnode.config.service_directives import (
    TcpClient,
    TcpServer,
    UnixSocketClient,
    UnixSocketServer,
)
from meshnode.errors import MeshError
from meshnode.logs import subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.net.addresses import Lookups
from meshnode.net.sockets import CannotListen, FromNode
from meshnode.services import forwarder
from meshnode.services.forwarder import StreamServer
from meshnode.services.sockets import (
    TcpClientProxy,
    TcpServerProxy,
    UnixClientProxy,
    UnixServerProxy,
)
from meshnode.shares import Holder

DATA = random.Random(3).randbytes(300_000)


@dataclass
class World:
    """foo has a tcp-server that leads to the service ``echo`` of bar."""

    foo: Mesh
    bar: Mesh
    nursery: trio.Nursery
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def tcp_server(self, service: str = "echo", node: str = "bar") -> int:
        directive = TcpServer(port=0, bindaddr="127.0.0.1", remotenode=node, remoteservice=service)
        server = TcpServerProxy(directive, self.foo)
        await self.nursery.start(lambda task_status: server.run(task_status=task_status))
        return server.ports[0]

    async def tcp_client(self, address: str, service: str = "echo") -> None:
        client = TcpClientProxy(
            TcpClient(service=service, address=parse_address(address)), self.bar
        )
        await self.nursery.start(lambda task_status: client.run(task_status=task_status))

    async def connect(self, port: int) -> trio.SocketStream:
        self.clients.append(await trio.open_tcp_stream("127.0.0.1", port))
        return self.clients[-1]

    async def meet_reset(self, port: int) -> None:
        """Connect and wait to be reset, which may be before we know that we are connected."""
        with trio.fail_after(60), pytest.raises((OSError, trio.BrokenResourceError)):
            await (await self.connect(port)).receive_some()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with two_nodes() as (foo, bar), trio.open_nursery() as nursery:
        world = World(foo, bar, nursery)
        yield world
        for client in world.clients:
            await client.aclose()
        nursery.cancel_scope.cancel()


async def through_tcp(world: World, handler=echo) -> trio.SocketStream:
    await world.tcp_client(await tcp_service(world.nursery, handler))
    return await world.connect(await world.tcp_server())


async def test_bytes_and_ends_pass_exactly(world: World):
    assert await exchange(await through_tcp(world), DATA) == DATA


async def test_a_server_may_answer_after_the_end_of_the_question(world: World):
    async def count(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"%d" % len(await read_all(stream)))

    assert await exchange(await through_tcp(world, count), DATA) == b"300000"


async def test_a_client_may_go_on_after_the_servers_end(world: World):
    got: list[bytes] = []
    done = trio.Event()

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.send_eof()
        got.append(await read_all(stream))
        done.set()

    client = await through_tcp(world, greet)
    assert await read_all(client) == b"hello"
    await client.send_all(b"still here")
    await client.send_eof()
    await done.wait()
    assert got == [b"still here"]


async def test_fifty_connections_at_once_do_not_mix(world: World):
    await world.tcp_client(await tcp_service(world.nursery))
    port = await world.tcp_server()
    answers: dict[int, bool] = {}

    async def one(number: int) -> None:
        data = random.Random(number).randbytes(40_000)
        answers[number] = await exchange(await world.connect(port), data) == data

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    assert answers == dict.fromkeys(range(50), True)


async def test_both_kinds_are_advertised_with_receptors_tags(world: World, tmp_path):
    await world.tcp_client("localhost:80", "web")
    unix = UnixSocketClient(service="db", filename=str(tmp_path / "s"))
    service = UnixClientProxy(unix, world.bar)
    await world.nursery.start(lambda task_status: service.run(task_status=task_status))
    await world.foo.ping("bar")
    adverts = {a.service: a for a in world.foo.status().advertisements}
    assert {(a.node_id, a.conn_type) for a in adverts.values()} == {("bar", 1)}
    assert {"type": "TCP Proxy", "address": "localhost:80"}.items() <= adverts["web"].tags.items()
    tags = {"type": "Unix Proxy", "filename": str(tmp_path / "s")}
    assert tags.items() <= adverts["db"].tags.items()


@pytest.mark.parametrize("node", ["bar", "nowhere"])
async def test_a_client_is_reset_at_once_when_there_is_no_such_service_or_node(
    world: World, node: str, caplog
):
    await world.meet_reset(await world.tcp_server("nosuch", node))
    (line,) = [r.getMessage() for r in caplog.records if "closed the connection" in r.message]
    assert line.partition("closed the connection of ")[2].partition(": ")[2] == (
        "service unknown: service nosuch of node bar"
        if node == "bar"
        else "no route to node nowhere; known nodes: bar"
    )


async def test_a_client_is_reset_when_nobody_listens_behind_the_service(world: World, caplog):
    with socket.socket() as holder:  # whose port nobody else is given
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        await world.tcp_client(address)
        await world.meet_reset(await world.tcp_server())
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert lines[0].endswith(f"of foo: cannot connect to {address}: Connection refused")


async def test_a_reset_at_one_end_is_a_reset_at_the_other(world: World):
    async def break_off(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of som")
        await stream.receive_some()
        await forwarder.reset(stream)

    client = await through_tcp(world, break_off)
    assert await client.receive_some() == b"half of som"
    await client.send_all(b"go")
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


async def test_a_reader_that_stalls_holds_up_its_writer_and_nobody_else(world: World):
    go_on = trio.Event()
    received = 0

    async def stall(stream: trio.SocketStream) -> None:
        nonlocal received
        if await stream.receive_some(1) == b"e":
            await echo(stream)
            return
        await go_on.wait()
        received = 1 + len(await read_all(stream))
        await stream.aclose()

    client = await through_tcp(world, stall)
    port = client.socket.getpeername()[1]
    sent = 0
    most = 64 * 1024 * 1024
    while sent < most:
        with trio.move_on_after(2) as stalled:
            await client.send_all(DATA)
            sent += len(DATA)
        if stalled.cancelled_caught:
            break
    # Sockets, the stream's credit, what waits to be sent, a chunk in each pump; not the 64 MiB.
    assert sent < most / 2
    assert await exchange(await world.connect(port), b"e" + DATA) == DATA
    go_on.set()
    await client.aclose()
    while not received:
        await trio.sleep(0.01)


async def test_one_too_many_is_reset_and_room_is_used_again(world: World, caplog):
    async def hold(stream, client: str) -> None:
        await stream.receive_some()
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = StreamServer(subject_logger("test"), hold, most=2)
    await world.nursery.start(server.run, [listener])
    port = listener.socket.getsockname()[1]
    first, second = await world.connect(port), await world.connect(port)
    for _ in range(3):
        await world.meet_reset(port)
    assert sum("refused" in r.message for r in caplog.records) == 1
    await first.aclose()
    await second.send_all(b"done")
    assert await second.receive_some() == b""
    third = await world.connect(port)
    await third.send_all(b"x")
    assert await third.receive_some() == b""


class Streams(trio.abc.Listener[trio.abc.HalfCloseableStream]):
    """Hands out what it is given."""

    def __init__(self) -> None:
        self.put, self._given = trio.open_memory_channel[trio.abc.HalfCloseableStream](100)

    async def accept(self) -> trio.abc.HalfCloseableStream:
        return await self._given.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Meshy(trio.abc.HalfCloseableStream, FromNode):
    """A stream from a node; closing it may fail."""

    def __init__(
        self,
        stream: trio.StapledStream,
        peer_node: str,
        error: Exception | None,
        branch: str = "",
    ) -> None:
        self.peer_node = peer_node
        self.holder = Holder(peer_node, branch)
        self._stream = stream
        self._error = error

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()
        if self._error is not None:
            raise self._error
        await trio.lowlevel.checkpoint()


def stream_from(node: str, error: Exception | None = None) -> tuple[trio.StapledStream, Meshy]:
    ours, theirs = memory_stream_pair()
    return ours, Meshy(theirs, node, error)


ERRORS = st.sampled_from(
    [
        OSError(24, "Too many open files"),
        OSError("no number"),
        MeshError("no route to node"),
        trio.BrokenResourceError("lost"),
        trio.ClosedResourceError(),
        trio.BusyResourceError(),
        RuntimeError("can't start new thread"),
        ValueError("half a surrogate pair"),
        KeyError(7),
        AssertionError(),
        ExceptionGroup("two", [OSError(5, "x"), ValueError()]),
    ]
)


@given(st.lists(st.tuples(st.none() | ERRORS, st.none() | ERRORS), min_size=1, max_size=6))
def test_nothing_that_serving_or_closing_a_client_raises_ends_the_service(clients):
    served: list[str] = []

    async def main() -> None:
        async def serve(stream: Meshy, client: str) -> None:
            served.append(client)
            if (error := errors[client]) is not None:
                raise error

        errors: dict[str, Exception | None] = {}
        listener = Streams()
        server = StreamServer(subject_logger("test"), serve)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listener])
            for number, (error, closing) in enumerate([*clients, (None, None)]):
                errors[f"node {number}"] = error
                await listener.put.send(stream_from(f"node {number}", closing)[1])
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert served == [f"node {number}" for number in range(len(clients) + 1)]


@given(ERRORS)
def test_nothing_that_refusing_a_client_raises_ends_the_service(error):
    async def main() -> None:
        listener = Streams()
        server = StreamServer(subject_logger("test"), echo, most=0)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listener])
            await listener.put.send(stream_from("mallory", error)[1])
            ours, theirs = stream_from("alice")
            await listener.put.send(theirs)
            assert await ours.receive_some() == b""
            nursery.cancel_scope.cancel()

    trio.run(main)


async def test_one_node_leaves_places_to_others(nursery):
    async def hold(stream: Meshy, client: str) -> None:
        await stream.send_all(b"welcome")
        await stream.receive_some()
        await stream.aclose()

    listener = Streams()
    server = StreamServer(subject_logger("test"), hold, most=6, of_one=4)
    await nursery.start(server.run, [listener])

    async def is_served(node: str) -> bool:
        ours, theirs = stream_from(node)
        await listener.put.send(theirs)
        kept.append(ours)
        return await ours.receive_some() == b"welcome"

    kept: list[trio.StapledStream] = []
    assert [await is_served("mallory") for _ in range(6)] == [True] * 4 + [False] * 2
    assert [await is_served("alice") for _ in range(3)] == [True] * 2 + [False]
    await kept[0].aclose()
    await wait_all_tasks_blocked()
    assert await is_served("alice")


async def test_a_name_that_cannot_be_looked_up_costs_its_connection(
    world: World, caplog, monkeypatch
):
    async def run_sync(*args, **options):
        raise RuntimeError("can't start new thread")

    trio.socket.set_custom_hostname_resolver(Lookups())
    await world.tcp_client("name.example:80")
    port = await world.tcp_server()
    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        await world.meet_reset(port)
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert lines[0].endswith("cannot connect to name.example:80: Resource temporarily unavailable")


async def test_a_port_that_is_taken_is_named(world: World):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        directive = TcpServer(
            port=port, bindaddr="127.0.0.1", remotenode="bar", remoteservice="echo"
        )
        with pytest.raises(CannotListen) as caught:
            await TcpServerProxy(directive, world.foo).run()
    assert caught.value.parameter == "port"
    assert caught.value.problem == f"127.0.0.1:{port}: Address already in use"


async def test_a_service_name_that_is_taken_is_named(world: World):
    await world.tcp_client("localhost:80", "web")
    with pytest.raises(CannotListen) as caught:
        await TcpClientProxy(TcpClient(service="web", address=Address("a", 1)), world.bar).run()
    assert (caught.value.parameter, caught.value.problem) == (
        "service",
        "web: service web is already listening",
    )


async def test_a_unix_socket_leads_to_a_unix_socket(world: World, tmp_path):
    near, far = str(tmp_path / "near"), str(tmp_path / "far")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(far)
    listener.listen()  # closed by serve_listeners
    sockets = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    world.nursery.start_soon(trio.serve_listeners, echo, [sockets])
    server = UnixSocketServer(
        filename=near, remotenode="bar", remoteservice="db", permissions=0o660
    )
    for service in (
        UnixClientProxy(UnixSocketClient(service="db", filename=far), world.bar),
        UnixServerProxy(server, world.foo),
    ):
        await world.nursery.start(lambda task_status, run=service.run: run(task_status=task_status))
    assert (tmp_path / "near").stat().st_mode & 0o777 == 0o660
    assert await exchange(await trio.open_unix_socket(near), DATA) == DATA


@pytest.mark.parametrize("sent", [b"", b"half of a payload", DATA])
async def test_a_unix_client_that_is_gone_has_not_ended_its_bytes(world: World, tmp_path, sent):
    """It was killed, perhaps half way; the far end must not take what came for all there is."""
    ends: list[str] = []
    got = trio.Event()
    done = trio.Event()

    async def restore(stream: trio.SocketStream) -> None:
        received = 0
        try:
            while data := await stream.receive_some():
                received += len(data)
                if received == len(sent):
                    got.set()
            ends.append("end")
        except trio.BrokenResourceError:
            ends.append("broken")
        done.set()

    await world.tcp_client(await tcp_service(world.nursery, restore), "restore")
    near = str(tmp_path / "near")
    server = UnixSocketServer(filename=near, remotenode="bar", remoteservice="restore")
    service = UnixServerProxy(server, world.foo)
    await world.nursery.start(lambda task_status: service.run(task_status=task_status))
    client = await trio.open_unix_socket(near)
    await client.send_all(sent)
    if sent:
        await got.wait()
    client.socket.close()
    await done.wait()
    assert ends == ["broken"]


async def test_a_unix_client_may_go_once_it_has_its_answer(world: World, tmp_path):
    ends: list[bytes] = []
    done = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"answer")
        await stream.send_eof()
        ends.append(await read_all(stream))
        done.set()

    await world.tcp_client(await tcp_service(world.nursery, answer), "answer")
    near = str(tmp_path / "near")
    server = UnixSocketServer(filename=near, remotenode="bar", remoteservice="answer")
    service = UnixServerProxy(server, world.foo)
    await world.nursery.start(lambda task_status: service.run(task_status=task_status))
    client = await trio.open_unix_socket(near)
    assert await read_all(client) == b"answer"
    await client.send_all(b"thanks")
    client.socket.close()
    await done.wait()
    assert ends == [b"thanks"]


async def test_a_unix_socket_that_is_not_there_ends_the_connection(world: World, tmp_path, caplog):
    far = str(tmp_path / "far")
    service = UnixClientProxy(UnixSocketClient(service="db", filename=far), world.bar)
    await world.nursery.start(lambda task_status: service.run(task_status=task_status))
    stream = await world.foo.dial("bar", "db")
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert f"cannot connect to {far}: No such file or directory" in caplog.text


async def test_a_stopped_service_leaves_nothing_behind(world: World, tmp_path):
    near = tmp_path / "near"
    server = UnixServerProxy(
        UnixSocketServer(filename=str(near), remotenode="bar", remoteservice="echo"), world.foo
    )
    client = TcpClientProxy(TcpClient(service="echo", address=Address("127.0.0.1", 1)), world.bar)
    async with trio.open_nursery() as nursery:
        for service in (server, client):
            await nursery.start(lambda task_status, run=service.run: run(task_status=task_status))
        await world.foo.ping("bar")
        assert near.exists()
        assert len(world.foo.status().advertisements) == 1
        nursery.cancel_scope.cancel()
    await world.foo.ping("bar")
    assert not near.exists()
    assert world.foo.status().advertisements == ()


async def test_nodes_that_a_peer_invents_leave_connections_to_the_rest_of_the_mesh() -> None:
    served: list[str] = []

    async def serve(stream: Meshy, client: str) -> None:
        served.append(client)
        await trio.sleep_forever()

    listener = Streams()
    server = StreamServer(subject_logger("test"), serve, 32, 24)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        for number in range(40):
            far = Meshy(memory_stream_pair()[1], f"invented {number}", None, "10.0.0.66")
            await listener.put.send(far)
        await wait_all_tasks_blocked()
        assert len(served) == 30
        await listener.put.send(Meshy(memory_stream_pair()[1], "alice", None, "10.0.0.1"))
        await wait_all_tasks_blocked()
        assert served[-1] == "alice"
        nursery.cancel_scope.cancel()
