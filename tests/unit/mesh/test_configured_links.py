"""The links of a node become those of another configuration, and those in both live on."""

import dataclasses
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from harness import free_port

from meshnode.config import (
    Address,
    ListenerDirective,
    PeerDirective,
    TcpListener,
    TcpPeer,
    UdpListener,
    UdpPeer,
    WsListener,
    WsPeer,
    parse_address,
    parse_ws_url,
)
from meshnode.errors import ConfigError
from meshnode.mesh.links import registry
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.conditions import ListenerState
from meshnode.mesh.peers.configured import ConfiguredLinks, LinksRefused
from meshnode.mesh.peers.session import PeerSession
from meshnode.security.tlsstore import TlsStore

LOOPBACK = "127.0.0.1"


@pytest.fixture
def ports() -> list[int]:
    """Ports that nobody has, and that nobody else is given."""
    return [free_port() for _ in range(3)]


class Node:
    """A mesh and its links."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.links = ConfiguredLinks(mesh)

    async def apply(self, *directives: ListenerDirective | PeerDirective) -> bool:
        return await self.links.apply(
            [d for d in directives if isinstance(d, ListenerDirective)],
            [d for d in directives if isinstance(d, PeerDirective)],
        )

    def session(self, peer: str) -> PeerSession:
        return self.mesh._link_state.sessions[peer]

    def peers(self) -> set[str]:
        return {connection.peer for connection in self.mesh.status().connections}


@asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [Node(await stack.enter_async_context(open_mesh(name))) for name in names]


def listener(port: int, **more: object) -> TcpListener:
    return TcpListener(port=port, bindaddr=LOOPBACK, **more)


def peer(port: int, **more: object) -> TcpPeer:
    return TcpPeer(address=Address(LOOPBACK, port), **more)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


async def linked(a: Node, b: Node) -> None:
    with trio.fail_after(30):
        await a.mesh.wait_reachable(b.mesh.node_id)
        await b.mesh.wait_reachable(a.mesh.node_id)


async def unlinked(node: Node, other: str) -> None:
    with trio.fail_after(30):
        while other in node.mesh.status().routes:
            await node.mesh.wait_routes_changed()


async def test_what_does_not_change_keeps_its_links(ports: list[int]) -> None:
    async with nodes("foo", "bar", "baz") as (foo, bar, baz):
        await foo.apply(listener(ports[0]))
        await baz.apply(listener(ports[1]))
        await bar.apply(peer(ports[0]), listener(ports[2]))
        await linked(foo, bar)
        session, other_end = bar.session("foo"), foo.session("bar")
        assert await bar.apply(listener(ports[2]), peer(ports[1]), peer(ports[0])) is True
        await linked(bar, baz)
        assert await foo.apply(listener(ports[0]), peer(ports[2])) is True
        assert await foo.apply(listener(ports[0]), peer(ports[2])) is False
        assert await foo.apply(listener(ports[0])) is True
        assert bar.session("foo") is session
        assert foo.session("bar") is other_end


async def test_what_is_gone_is_closed_with_its_links(ports: list[int]) -> None:
    async with nodes("foo", "bar", "baz") as (foo, bar, baz):
        await foo.apply(listener(ports[0]), listener(ports[1]))
        await bar.apply(peer(ports[0]))
        await baz.apply(peer(ports[1]))
        await linked(foo, bar)
        await linked(foo, baz)
        kept = foo.session("baz")
        await foo.apply(listener(ports[1]))
        assert foo.peers() == {"baz"}
        assert foo.session("baz") is kept
        assert not accepts(ports[0])
        assert accepts(ports[1])
        await baz.apply()
        assert baz.peers() == set()
        await unlinked(foo, "baz")


async def test_a_changed_cost_opens_the_links_anew_and_keeps_the_socket(ports: list[int]) -> None:
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]))
        await bar.apply(peer(ports[0]))
        await linked(foo, bar)
        backend = foo.links._accepting[0].handles[0]
        await foo.apply(listener(ports[0], cost=3.0))
        assert foo.peers() == set()
        assert foo.links._accepting[0].handles[0] is backend
        await unlinked(bar, "foo")
        await bar.apply(peer(ports[0], cost=3.0))
        await linked(foo, bar)
        assert foo.mesh.status().known_costs["foo"] == {"bar": 3.0}


KINDS = {
    "tcp": (TcpListener, TcpPeer, parse_address),
    "ws": (WsListener, WsPeer, lambda address: parse_ws_url(f"ws://{address}/")),
    "udp": (UdpListener, UdpPeer, parse_address),
}


@pytest.mark.parametrize(("accept", "dial", "parse"), KINDS.values(), ids=KINDS)
async def test_every_kind_of_link_comes_stays_changes_and_goes(
    ports: list[int],
    accept: type[ListenerDirective],
    dial: type[PeerDirective],
    parse: Callable[[str], Address],
) -> None:
    here = accept(port=ports[0], bindaddr=LOOPBACK)
    there = dial(address=parse(f"{LOOPBACK}:{ports[0]}"))
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(here)
        await bar.apply(there)
        await linked(foo, bar)
        session = foo.session("bar")
        await foo.apply(listener(ports[1]), here)
        await bar.apply(listener(ports[2]), there)
        assert foo.session("bar") is session
        # Another cost: the same socket.
        await foo.apply(dataclasses.replace(here, cost=2.0))
        assert foo.peers() == set()
        await bar.apply(dataclasses.replace(there, cost=2.0))
        await linked(foo, bar)
        # Another address on the same port: the socket makes room for its successor.
        await foo.apply(dataclasses.replace(here, bindaddr="", cost=2.0))
        assert foo.peers() == set()
        await bar.apply()
        await bar.apply(dataclasses.replace(there, cost=2.0))
        await linked(foo, bar)
        await foo.apply()
        assert foo.peers() == set()
        assert foo.links._accepting == []


async def test_a_port_that_cannot_be_had_leaves_all_as_it_was(ports: list[int]) -> None:
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]))
        await bar.apply(peer(ports[0]))
        await linked(foo, bar)
        session = foo.session("bar")
        with socket.socket() as other:
            other.bind((LOOPBACK, ports[1]))
            other.listen()
            with pytest.raises(ConfigError, match=f"{ports[1]}: Address already in use"):
                await foo.apply(listener(ports[2]), listener(ports[1]))
        assert foo.session("bar") is session
        assert accepts(ports[0])
        assert not accepts(ports[2])
        # The old configuration is what the next one is compared with.
        assert await foo.apply(listener(ports[0])) is False


async def test_a_port_passes_to_another_kind_of_listener(ports: list[int]) -> None:
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]))
        await bar.apply(peer(ports[0]))
        await linked(foo, bar)
        await foo.apply(WsListener(port=ports[0], bindaddr=LOOPBACK))
        assert foo.peers() == set()
        async with await trio.open_tcp_stream(LOOPBACK, ports[0]) as stream:
            await stream.send_all(b"GET /nothing HTTP/1.0\r\n\r\n")
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.")


async def test_a_listener_moves_to_all_interfaces_on_its_port(ports: list[int]) -> None:
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]))
        await foo.apply(TcpListener(port=ports[0]))
        await bar.apply(peer(ports[0]))
        await linked(foo, bar)


async def test_a_listener_comes_back_if_its_port_cannot_pass_on(
    ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is freed for its successor, and somebody takes it in between."""
    opening = registry.open_listeners

    async def open_listeners(directive: ListenerDirective, tls: TlsStore) -> list[object]:
        if isinstance(directive, WsListener) and not accepts(ports[0]):
            raise directive.error("port", "taken by somebody else") from OSError("taken")
        return await opening(directive, tls)

    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]), listener(ports[1]))
        await bar.apply(peer(ports[1]))
        await linked(foo, bar)
        session = foo.session("bar")
        freed = f"tcp-listener {LOOPBACK}:{ports[0]}"
        monkeypatch.setattr(registry, "open_listeners", open_listeners)
        new = [WsListener(port=ports[0], bindaddr=LOOPBACK), listener(ports[1]), listener(ports[2])]
        with pytest.raises(LinksRefused, match="taken by somebody else") as refused:
            await foo.apply(*new)
        assert refused.value.disturbed == (
            f"the links of {freed} were dropped, and may be dialled again",
        )
        assert foo.session("bar") is session
        assert accepts(ports[0])
        assert not accepts(ports[2])
        assert await foo.apply(listener(ports[0]), listener(ports[1])) is False


async def test_a_listener_that_is_lost_on_the_way_is_named(
    ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is freed for its successor, and another program keeps it."""
    async with nodes("foo") as (foo,):
        await foo.apply(listener(ports[0]))
        opening = registry.open_listeners

        async def open_listeners(directive: ListenerDirective, tls: TlsStore) -> list[object]:
            if not accepts(ports[0]):
                raise directive.error("port", "taken by somebody else") from OSError("taken")
            return await opening(directive, tls)

        monkeypatch.setattr(registry, "open_listeners", open_listeners)
        with pytest.raises(LinksRefused) as refused:
            await foo.apply(WsListener(port=ports[0], bindaddr=LOOPBACK))
        (text,) = refused.value.disturbed
        assert "was closed and cannot be opened again" in text
        assert "taken by somebody else" in text


async def test_equal_directives_are_counted(ports: list[int]) -> None:
    async with nodes("foo") as (foo,):
        assert await foo.apply(listener(0), listener(0)) is True
        assert await foo.apply(listener(0), listener(0)) is False
        first = foo.links._accepting[0]
        assert await foo.apply(listener(0)) is True
        assert len(foo.links._accepting) == 1
        assert first in foo.links._accepting


async def test_an_asker_who_gives_up_does_not_leave_it_half_done(ports: list[int]) -> None:
    async with nodes("foo", "bar") as (foo, bar):
        await foo.apply(listener(ports[0]))
        await bar.apply(peer(ports[0]))
        await linked(foo, bar)
        with trio.CancelScope() as scope:
            asked = registry.open_listeners

            async def open_and_cancel(directive: ListenerDirective, tls: TlsStore) -> list[object]:
                opened = await asked(directive, tls)
                scope.cancel()
                return opened

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "open_listeners", open_and_cancel)
                await foo.apply(listener(ports[1]))
        assert foo.peers() == set()
        assert not accepts(ports[0])
        assert accepts(ports[1])


async def test_a_listener_that_a_reload_cannot_open_is_reported_until_one_succeeds(
    ports: list[int],
) -> None:
    async with nodes("foo") as (foo,):
        await foo.apply(listener(ports[0]))
        with socket.socket() as other:
            other.bind((LOOPBACK, ports[1]))
            other.listen()
            for _ in range(2):
                with pytest.raises(ConfigError):
                    await foo.apply(listener(ports[0]), listener(ports[1]))
            running, missing = foo.links.report().listeners
        assert (running.directive, running.address) == ("tcp-listener", f"{LOOPBACK}:{ports[0]}")
        assert running.condition.state is ListenerState.LISTENING
        assert missing.address == f"{LOOPBACK}:{ports[1]}"
        assert missing.condition.state is ListenerState.CLOSED
        assert missing.condition.trouble is not None
        assert missing.condition.trouble.text == "cannot listen: the address is in use already"
        await foo.apply(listener(ports[0]))
        assert len(foo.links.report().listeners) == 1


async def test_a_listener_on_several_addresses_is_one_in_the_report(ports: list[int]) -> None:
    async with nodes("foo", "bar", "baz") as (foo, bar, baz):
        await foo.apply(dataclasses.replace(listener(ports[0]), bindaddr=""))
        await bar.apply(peer(ports[0]))
        await baz.apply(peer(ports[0]))
        await linked(foo, bar)
        await linked(foo, baz)
        (report,) = foo.links.report().listeners
        assert report.address == f"*:{ports[0]}"
        assert report.condition.links == 2
        (dialed,) = bar.links.report().peers
        assert (dialed.directive, dialed.condition.node) == ("tcp-peer", "foo")
