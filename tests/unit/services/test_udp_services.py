"""UDP datagrams through two nodes of a mesh."""

import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import trio
from harness import free_port
from hypothesis import given
from hypothesis import strategies as st
from service_helpers import two_nodes

from meshnode.config import Address, parse_address
from meshnode.config.service_directives import UdpClient, UdpServer
from meshnode.errors import MeshError, ProtocolError
from meshnode.logs import subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.router import MAX_PAYLOAD
from meshnode.net.sockets import CannotListen
from meshnode.services import relay as relays
from meshnode.services.base import MOST_REASONS, DropCount
from meshnode.services.relay import AddressTable, Relay
from meshnode.services.udp import UdpClientProxy, UdpServerProxy
from meshnode.shares import Holder


async def udp_socket(port: int | None = None) -> trio.socket.SocketType:
    """Return a loopback socket, connected if it is given a port."""
    opened = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await opened.bind(("127.0.0.1", 0))
    if port is not None:
        await opened.connect(("127.0.0.1", port))
    return opened


async def ask(client: trio.socket.SocketType, question: bytes) -> bytes:
    await client.send(question)
    with trio.fail_after(60):
        return await client.recv(65536)


async def shout(server: trio.socket.SocketType) -> None:
    """Answer each datagram in upper case."""
    while True:
        payload, address = await server.recvfrom(65536)
        await server.sendto(payload.upper(), address)


@dataclass
class World:
    """foo has a udp-server that leads to the service ``dns`` of bar."""

    foo: Mesh
    bar: Mesh
    nursery: trio.Nursery
    sockets: list[trio.socket.SocketType] = field(default_factory=list)

    async def server(self, node: str = "bar", service: str = "dns") -> UdpServerProxy:
        directive = UdpServer(port=0, bindaddr="127.0.0.1", remotenode=node, remoteservice=service)
        server = UdpServerProxy(directive, self.foo)
        await self.nursery.start(lambda task_status: server.run(task_status=task_status))
        return server

    async def client(self, address: str) -> UdpClientProxy:
        service = UdpClientProxy(UdpClient(service="dns", address=parse_address(address)), self.bar)
        await self.nursery.start(lambda task_status: service.run(task_status=task_status))
        return service

    async def socket(self, port: int | None = None) -> trio.socket.SocketType:
        self.sockets.append(await udp_socket(port))
        return self.sockets[-1]

    async def shouter(self) -> UdpClientProxy:
        server = await self.socket()
        self.nursery.start_soon(shout, server)
        return await self.client(f"localhost:{server.getsockname()[1]}")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with two_nodes() as (foo, bar), trio.open_nursery() as nursery:
        world = World(foo, bar, nursery)
        yield world
        nursery.cancel_scope.cancel()
        for opened in world.sockets:
            opened.close()


async def test_each_client_gets_its_own_answers(world: World):
    await world.shouter()
    (port,) = (await world.server()).ports
    clients = [await world.socket(port) for _ in range(20)]
    for turn in range(3):
        for number, client in enumerate(clients):
            assert await ask(client, b"q%d-%d" % (number, turn)) == b"Q%d-%d" % (number, turn)


async def test_a_datagram_as_large_as_a_message_passes_and_a_larger_one_is_counted(world: World):
    await world.shouter()
    server = await world.server()
    client = await world.socket(server.ports[0])
    await client.send(b"x" * (MAX_PAYLOAD + 1))
    assert await ask(client, b"x" * MAX_PAYLOAD) == b"X" * MAX_PAYLOAD
    assert await ask(client, b"") == b""
    assert server.relays[0].drops.counts == {"too large for a message of the mesh": 1}


async def test_the_service_is_advertised_with_receptors_tags(world: World):
    await world.client("localhost:53")
    await world.foo.ping("bar")
    (advert,) = world.foo.status().advertisements
    assert (advert.node_id, advert.service, advert.conn_type) == ("bar", "dns", 0)
    assert advert.tags == {"type": "UDP Proxy", "address": "localhost:53"}


@pytest.mark.parametrize(
    ("node", "why"), [("nowhere", "no route to node nowhere"), ("bar", "service unknown")]
)
async def test_what_cannot_arrive_is_counted_and_logged_now_and_then(
    world: World, caplog, node: str, why: str
):
    server = await world.server(node, "nosuch")
    client = await world.socket(server.ports[0])
    for _ in range(25):
        await client.send(b"?")
    with trio.fail_after(60):
        while server.relays[0].drops.counts[why] < 25:
            await trio.sleep(0.01)
    lines = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    assert [line.split(": ", 1)[1] for line in lines] == [
        f"dropped a datagram: {why}",
        f"dropped 10 datagrams so far: {why}",
    ]


async def test_a_udp_port_where_nobody_listens_costs_only_the_datagram(world: World):
    address = ("127.0.0.1", free_port())
    service = await world.client(f"127.0.0.1:{address[1]}")
    client = await world.socket((await world.server()).ports[0])
    await client.send(b"lost")
    with trio.fail_after(60):
        while not service.relay.drops.counts["connection refused"]:
            await trio.sleep(0.01)
    late = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await late.bind(address)
    world.sockets.append(late)
    world.nursery.start_soon(shout, late)
    assert await ask(client, b"now") == b"NOW"


async def test_this_node_itself_can_have_the_service(world: World):
    with world.foo.open_datagrams("own") as own:
        client = await world.socket((await world.server("localhost", "own")).ports[0])
        await client.send(b"ping")
        datagram = await own.receive()
        await own.send_to(datagram.node, datagram.service, b"pong")
        assert await client.recv(10) == b"pong"


@pytest.mark.parametrize(
    ("family", "local"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
async def test_without_an_address_every_interface_is_listened_on(
    world: World, family: socket.AddressFamily, local: str
):
    await world.shouter()
    server = UdpServerProxy(UdpServer(port=0, remotenode="bar", remoteservice="dns"), world.foo)
    await world.nursery.start(lambda task_status: server.run(task_status=task_status))
    client = trio.socket.socket(family, socket.SOCK_DGRAM)
    world.sockets.append(client)
    try:
        await client.bind((local, 0))
    except OSError:
        pytest.skip(f"this machine has no {local}")
    for port in server.ports:
        await client.sendto(b"hello", (local, port))
    with trio.fail_after(60):
        assert await client.recv(10) == b"HELLO"


async def test_a_port_that_is_taken_is_named(world: World):
    taken = await world.socket()
    port = taken.getsockname()[1]
    directive = UdpServer(port=port, bindaddr="127.0.0.1", remotenode="a", remoteservice="b")
    with pytest.raises(CannotListen) as caught:
        await UdpServerProxy(directive, world.foo).run()
    assert caught.value.problem == f"127.0.0.1:{port}: Address already in use"


async def test_a_service_name_that_is_taken_is_named(world: World):
    await world.client("localhost:53")
    with pytest.raises(CannotListen, match="service dns: service dns is already listening"):
        await UdpClientProxy(UdpClient(service="dns", address=Address("a", 1)), world.bar).run()


# --- the relay by itself, in its own time --------------------------------------------------------


class Far:
    """A correspondent's own socket: what is sent is kept, until ``gate`` is closed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self.gives, self._given = trio.open_memory_channel[bytes](100)
        self.gate = trio.Event()
        self.gate.set()

    async def send(self, payload: bytes) -> None:
        await self.gate.wait()
        self.sent.append(payload)

    async def receive(self) -> bytes:
        return await self._given.receive()

    def close(self) -> None:
        self.closed = True


class Bench:
    """A relay with its two ends in the hands of the test."""

    def __init__(
        self, most: int = 1000, holder_of: Callable[[str], Holder] = lambda a: Holder(a[0])
    ) -> None:
        self.near, self._arrives = trio.open_memory_channel[tuple[str, bytes]](10_000)
        self.fars: dict[str, list[Far]] = {}
        self.answers: list[tuple[str, bytes]] = []
        self.relay: Relay[str] = Relay(
            subject_logger("test"),
            self._open,
            self._answer,
            holder_of,
            most,
        )

    async def _open(self, address: str) -> Far:
        await trio.lowlevel.checkpoint()
        if address == "bad":
            raise OSError(24, "Too many open files")
        self.fars.setdefault(address, []).append(Far())
        return self.fars[address][-1]

    async def _answer(self, address: str, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.answers.append((address, payload))

    async def say(self, *said: tuple[str, bytes]) -> None:
        for item in said:
            self.near.send_nowait(item)
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def bench(nursery) -> Bench:
    bench = Bench(most=2)
    await nursery.start(bench.relay.run, bench._arrives.receive)
    return bench


async def test_who_is_silent_is_forgotten_and_who_is_not_is_kept(bench: Bench, autojump_clock):
    await bench.say(("a", b"1"), ("b", b"1"))
    far = bench.fars["b"][0]
    for _ in range(3):
        await trio.sleep(relays.IDLE_TIMEOUT * 0.6)
        far.gives.send_nowait(b"answer")
        await trio.testing.wait_all_tasks_blocked()
    assert bench.relay.correspondents == ("b",)
    assert bench.fars["a"][0].closed
    assert not far.closed
    assert bench.answers == [("b", b"answer")] * 3
    await bench.say(("a", b"2"))
    assert [f.sent for f in bench.fars["a"]] == [[b"1"], [b"2"]]


async def test_one_too_many_takes_the_place_of_the_one_silent_longest(bench: Bench):
    await bench.say(("a", b"1"), ("b", b"1"))
    await bench.say(("a", b"2"), ("c", b"1"))
    assert bench.relay.correspondents == ("a", "c")
    assert bench.fars["b"][0].closed
    assert bench.fars["a"][0].sent == [b"1", b"2"]


async def test_a_socket_that_takes_nothing_holds_up_nobody_and_costs_a_bounded_queue(bench: Bench):
    await bench.say(("a", b"1"))
    bench.fars["a"][0].gate = trio.Event()
    await bench.say(*[("a", b"x")] * (relays.QUEUE + 11), ("b", b"1"))
    assert bench.relay.drops.counts == {relays.QUEUE_FULL: 10}
    assert bench.fars["b"][0].sent == [b"1"]
    assert bench.relay.waiting == relays.QUEUE
    large = b"x" * 65_000
    await bench.say(*[("b", large)] * 10)
    bench.fars["b"][0].gate = trio.Event()
    await bench.say(*[("b", large)] * 300)
    assert bench.relay.waiting <= relays.MAX_WAITING
    await bench.say(("c", b"1"), ("d", b"1"))
    assert bench.relay.waiting == 0


async def test_a_socket_that_cannot_be_opened_costs_one_datagram(bench: Bench):
    await bench.say(("bad", b"1"), ("a", b"1"))
    assert bench.relay.correspondents == ("a",)
    assert bench.relay.drops.counts == {"too many open files": 1}


async def test_a_correspondent_that_was_answered_and_went_on_outlives_those_that_only_send(
    bench: Bench,
):
    """Whoever only sends may have invented its address."""
    await bench.say(("a", b"1"))
    bench.fars["a"][0].gives.send_nowait(b"answer")
    await trio.testing.wait_all_tasks_blocked()
    await bench.say(("a", b"2"))
    await bench.say(*[(f"{number}", b"flood") for number in range(100)])
    assert bench.relay.correspondents == ("99", "a")
    assert len(bench.fars["a"]) == 1


@pytest.mark.parametrize(
    "error", [ProtocolError("no text"), MeshError("unreachable"), OSError(5, "input/output error")]
)
async def test_no_error_about_a_datagram_ends_the_service(nursery, error: Exception):
    bench = Bench()
    script: list[Exception | tuple[str, bytes]] = [error, ("a", b"1"), error, ("a", b"2")]

    async def receive() -> tuple[str, bytes]:
        await trio.lowlevel.checkpoint()
        if not script:
            await trio.sleep_forever()
        item = script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    await nursery.start(bench.relay.run, receive)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.fars["a"][0].sent == [b"1", b"2"]
    assert bench.relay.drops.counts.total() == 2


async def test_reasons_in_the_words_of_others_are_counted_together(caplog):
    drops = DropCount(subject_logger("test"))
    for number in range(10_000):
        drops.note(f"invented reason {number}")
        drops.note_quietly(f"another one {number}")
    assert len(drops.counts) == MOST_REASONS + 1
    assert drops.counts.total() == 20_000
    assert len(caplog.records) < 2 * MOST_REASONS


# --- the table of addresses ----------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "heard", "prove", "discard"]),
            st.sampled_from("abc"),
            st.integers(0, 5),
        )
    )
)
def test_whatever_comes_the_table_is_bounded_and_shared_out(steps):
    table: AddressTable[str, object] = AddressTable(lambda address: Holder(address[0]), 8, 4)
    proven: set[str] = set()
    kept: dict[str, object] = {}
    for what, holder, number in steps:
        address = f"{holder}{number}"
        match what:
            case "add" if address not in kept:
                item = object()
                evicted = table.add(address, item)
                gone = [a for a, kept_item in kept.items() if kept_item is evicted]
                if evicted is not None:
                    (victim,) = gone
                    own = sum(a[0] == holder for a in kept)
                    # One that is proven gives way only in its own share, or where all are.
                    assert victim not in proven or own == 4 or set(kept) <= proven
                    del kept[victim]
                    proven.discard(victim)
                kept[address] = item
            case "heard":
                table.heard(address)
            case "prove":
                table.prove(address)
                if address in kept:
                    proven.add(address)
            case "discard" if address in kept:
                table.discard(address, object())  # another's: nothing
                table.discard(address, kept.pop(address))
                proven.discard(address)
        assert set(table.addresses) == set(kept)
        assert all(table.get(a) is item for a, item in kept.items())
        assert len(table) <= 8
        assert all(sum(a[0] == h for a in kept) <= 4 for h in "abc")


def test_the_one_silent_longest_makes_room():
    table: AddressTable[str, int] = AddressTable(lambda address: Holder(address[0]), 4, 3)
    for number, address in enumerate(["a1", "a2", "b1", "b2"]):
        table.add(address, number)
    table.heard("a1")
    assert table.add("c1", 5) == 1
    assert table.add("c2", 6) == 2
    for address in table.addresses:
        table.prove(address)
    assert table.add("d1", 7) == 0 or len(table) == 4


def holder_of(address: str) -> Holder:
    """Return that of an address of one letter, the node: m to z are behind mallory's link."""
    return Holder(address, "10.0.0.66" if address >= "m" else "10.0.0.1")


@given(st.lists(st.tuples(st.characters(min_codepoint=0x6D, max_codepoint=0x3000), st.booleans())))
def test_correspondents_of_invented_nodes_leave_places_to_those_of_another_branch(steps):
    table: AddressTable[str, int] = AddressTable(holder_of, 32, 4)
    for number, name in enumerate("ab"):
        table.add(name, number)
        table.prove(name)
    for number, (name, proves) in enumerate(steps):
        if table.get(name) is None:
            table.add(name, number)
        if proves:
            table.prove(name)
    assert len(table) <= 32
    assert (table.get("a"), table.get("b")) == (0, 1)
    crowd = set(table.addresses) - {"a", "b"}
    assert len(crowd) == min(30, len({name for name, _ in steps}))
    for address in crowd:
        table.discard(address, table.get(address))
    assert table.add("z", 0) is None


async def test_what_waits_for_invented_nodes_leaves_room_for_those_of_another_branch(nursery):
    bench = Bench(holder_of=holder_of)
    await nursery.start(bench.relay.run, bench._arrives.receive)
    crowd = [chr(0x100 + number) for number in range(40)]
    await bench.say(*[(name, b"1") for name in (*crowd, "a")])
    for name in (*crowd, "a"):
        bench.fars[name][0].gate = trio.Event()
    await bench.say(*[(name, bytes(65_000)) for name in crowd for _ in range(20)])
    dropped = bench.relay.drops.counts[relays.QUEUE_FULL]
    assert dropped > 0
    assert bench.relay.waiting <= relays.MAX_WAITING * 3 // 4
    await bench.say(*[("a", bytes(65_000))] * 20)
    assert bench.relay.drops.counts[relays.QUEUE_FULL] == dropped
    for name in crowd:
        bench.fars[name][0].gate.set()
    bench.fars["a"][0].gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.relay.waiting == 0
