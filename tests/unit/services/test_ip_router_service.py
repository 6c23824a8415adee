"""An ip-router over a mesh, with an interface in the hands of the test."""

import errno
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import trio
from service_helpers import two_nodes

from meshnode.config.service_directives import IpRouter
from meshnode.mesh.mesh import Mesh
from meshnode.services import interface, ip_router
from meshnode.services.ip_router import IpRouterService
from meshnode.services.ip_routes import advertised_tags

PACKET = b"\x45" + bytes(15) + b"\x0a\x09\x02\x01"
"""For 10.9.2.1, which bar leads to."""


class FakeTun:
    """An interface: ``put`` is what the kernel sends out by it, ``sent`` what comes in."""

    opened: list["FakeTun"]

    def __init__(self) -> None:
        self.name, self.index = "mesh0", 7
        self.put, self._packets = trio.open_memory_channel[bytes | OSError](1000)
        self.sent: list[bytes] = []
        self.refuses: OSError | None = None
        self.closed = False

    async def receive(self) -> bytes:
        packet = await self._packets.receive()
        if isinstance(packet, OSError):
            raise packet
        return packet

    def send(self, packet: bytes) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.sent.append(packet)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def interfaces(monkeypatch) -> list[FakeTun]:
    """The interfaces that were made."""
    made: list[FakeTun] = []

    def open_one(name: str) -> FakeTun:
        made.append(FakeTun())
        return made[-1]

    monkeypatch.setattr(ip_router.Tun, "open", open_one)
    monkeypatch.setattr(ip_router, "SETTLE", 0.01)
    for question in ("set_up", "add_point_to_point", "add_route", "delete_route"):
        monkeypatch.setattr(interface, question, lambda *args: None)
    return made


@pytest.fixture
async def world(interfaces) -> AsyncIterator[tuple[Mesh, Mesh, IpRouterService]]:
    """foo has an ip-router of the network lan."""
    async with two_nodes() as (foo, bar), trio.open_nursery() as nursery:
        directive = IpRouter(networkname="lan", localnet=ip_network("10.9.1.0/30"))
        service = IpRouterService(directive, foo)
        await nursery.start(service.run)
        yield foo, bar, service
        nursery.cancel_scope.cancel()


def routes_of_bar():
    return advertised_tags("lan", ip_network("10.9.2.0/30"), [])


async def until(condition) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.01)


async def test_whatever_a_router_sends_goes_to_the_kernel_or_is_counted(world, interfaces):
    _, bar, service = world
    (tun,) = interfaces
    with bar.open_datagrams("lan", tags=routes_of_bar()) as far:
        await until(lambda: "bar" in service.table.nodes)
        strange = [b"", b"\x45", b"\x60" * 3, bytes(65_000), b"\xff" * 20]
        for packet in strange:
            await far.send_to("foo", "lan", packet)
        await until(lambda: len(tun.sent) == len(strange))
        tun.refuses = OSError(errno.EINVAL, "Invalid argument")
        for packet in strange:
            await far.send_to("foo", "lan", packet)
        await until(
            lambda: service.drops.counts["the kernel refused it: invalid argument"] == len(strange)
        )
        tun.refuses = None
        await far.send_to("foo", "lan", PACKET)
        await until(lambda: tun.sent[-1] == PACKET)


async def test_who_is_no_router_of_the_network_sends_nothing_to_the_kernel(world, interfaces):
    _, bar, service = world
    with bar.open_datagrams("lan") as stranger:
        await stranger.send_to("foo", "lan", PACKET)
        await until(lambda: service.drops.counts.total() == 1)
    assert interfaces[0].sent == []


async def test_whatever_the_kernel_sends_goes_to_its_router_or_is_counted(world, interfaces):
    _, bar, service = world
    (tun,) = interfaces
    with bar.open_datagrams("lan", tags=routes_of_bar()) as far:
        await until(lambda: "bar" in service.table.nodes)
        for packet in (b"", b"\x45", b"\x60" + bytes(39), b"\x45" + bytes(19), PACKET):
            tun.put.send_nowait(packet)
        assert (await far.receive()).payload == PACKET
        assert service.drops.counts == {"no router leads there": 4}


async def test_an_interface_that_somebody_removes_is_made_again(
    world, interfaces, monkeypatch, caplog
):
    _, bar, service = world
    monkeypatch.setattr(ip_router, "REOPEN_PAUSE", 0.01)
    with bar.open_datagrams("lan", tags=routes_of_bar()) as far:
        interfaces[0].put.send_nowait(OSError(errno.EBADFD, "File descriptor in bad state"))
        await until(lambda: len(interfaces) == 2)
        assert interfaces[0].closed
        await until(lambda: "bar" in service.table.nodes)
        await far.send_to("foo", "lan", PACKET)
        await until(lambda: interfaces[1].sent == [PACKET])
    assert "the interface mesh0 is gone: File descriptor in bad state" in caplog.text


async def test_a_kernel_that_has_no_room_now_is_asked_again(world, interfaces, monkeypatch):
    foo, bar, _ = world
    answers = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EEXIST, "File exists")]
    asked: list[str] = []

    def add(index: int, network: object) -> None:
        asked.append(str(network))
        if answers:
            raise answers.pop(0)

    monkeypatch.setattr(interface, "add_route", add)
    with (
        bar.open_datagrams("lan", tags=routes_of_bar()),
        bar.open_datagrams("one", tags={"type": "x"}),
    ):
        await until(lambda: asked)
        with bar.open_datagrams("two", tags={"type": "x"}):  # the mesh changes
            await until(lambda: len(asked) == 2)
        with bar.open_datagrams("three", tags={"type": "x"}):  # taken for there, though it failed
            await until(lambda: any(a.service == "three" for a in foo.status().advertisements))
            await trio.sleep(ip_router.SETTLE)
    assert asked == ["10.9.2.0/30"] * 2
