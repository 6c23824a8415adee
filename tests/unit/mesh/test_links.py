"""One suite for all kinds of link: what the mesh relies on holds for each."""

import itertools
import os
from dataclasses import replace

import pytest
import trio
import trio.testing
from link_kinds import (
    KINDS,
    MEMORY,
    connect,
    every_kind,
    linked,
    listening,
    receive,
    reliable_kinds,
)

from meshnode.config import LINK_DIRECTIVES, Address, ListenerDirective, PeerDirective, parse_ws_url
from meshnode.errors import ConfigError
from meshnode.mesh.links import registry
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.peers import endpoints
from meshnode.policies import LinkPolicy
from meshnode.protocol.routing import RoutingUpdate

ENDLESS = 64 * 1024 * 1024
"""Bytes more than any buffer between two ends takes."""


# --- messages ------------------------------------------------------------------------------------


@every_kind
async def test_messages_arrive_whole_and_in_order_both_ways(kind):
    async with linked(kind) as [(near, far)]:
        messages = [b"a", b"b" * 3000, bytes([7]) * 12_345, b"c"]
        for sender, receiver in ((near, far), (far, near)):
            await sender.send(messages)
            assert await receive(receiver, len(messages)) == messages


@every_kind
async def test_every_byte_may_be_a_message(kind):
    async with linked(kind) as [(near, far)]:
        messages = [bytes([value]) for value in range(256)]
        for sender, receiver in ((near, far), (far, near)):
            for batch in (messages[:100], messages[100:]):
                await sender.send(batch)
                assert await receive(receiver, len(batch)) == batch


@every_kind
async def test_the_largest_message_passes_both_ways(kind):
    async with linked(kind) as [(near, far)]:
        largest = os.urandom(kind.largest)
        for sender, receiver in ((near, far), (far, near)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, [largest, b"after"])
                assert await receive(receiver, 2) == [largest, b"after"]


@reliable_kinds
async def test_nothing_is_lost_while_both_ends_send_at_once(kind):
    batches = [[os.urandom(1 + (n * 257 + m * 31) % 5000) for m in range(50)] for n in range(40)]
    messages = list(itertools.chain.from_iterable(batches))

    async def send_all(link):
        for batch in batches:
            await link.send(batch)

    async def receive_all(link):
        assert await receive(link, len(messages)) == messages

    async with linked(kind) as [(near, far)], trio.open_nursery() as nursery:
        for end in (near, far):
            nursery.start_soon(send_all, end)
            nursery.start_soon(receive_all, end)


@every_kind
async def test_received_messages_can_be_changed_in_place(kind):
    async with linked(kind) as [ends]:
        for sender, receiver in (ends, reversed(ends)):
            await sender.send([b"hops"])
            (message,) = await receiver.receive()
            message[0] = ord("H")
            assert bytes(message) == b"Hops"


@every_kind
async def test_any_kind_of_buffer_can_be_sent(kind):
    async with linked(kind) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            await sender.send([b"one", bytearray(b"two"), memoryview(b"<three>")[1:-1]])
            assert await receive(receiver, 3) == [b"one", b"two", b"three"]


# --- waiting and closing -------------------------------------------------------------------------


@every_kind
async def test_waiting_ends_when_it_is_cancelled(kind):
    async with linked(kind) as [(near, far)]:
        for sender, receiver in ((near, far), (far, near)):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receiver.receive)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught
            await sender.send([b"still works"])
            assert await receive(receiver, 1) == [b"still works"]


@reliable_kinds
async def test_who_sends_to_a_peer_that_does_not_read_waits(kind):
    sent = 0

    async def send_without_end(link):
        nonlocal sent
        while sent < ENDLESS:
            await link.send([bytes(60_000)] * 4)
            sent += 4 * 60_000

    async with linked(kind) as [(near, _far)], trio.open_nursery() as nursery:
        nursery.start_soon(send_without_end, near)
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)
        nursery.cancel_scope.cancel()
    assert sent < ENDLESS


@reliable_kinds
@pytest.mark.parametrize("end", ["dialer", "listener"])
async def test_a_closed_link_ends_for_its_peer(kind, end):
    async with linked(kind) as [(near, far)]:
        closing, other = (near, far) if end == "dialer" else (far, near)
        await closing.send([b"the last word"])
        await closing.aclose()
        assert await receive(other, 1) == [b"the last word"]
        assert await other.receive() == []


@reliable_kinds
async def test_sending_to_who_is_gone_ends_with_a_broken_link(kind):
    async def ask_on(link):
        for _ in range(1000):
            await link.send([b"anybody?"])
            # What was sent has to be refused first.
            await trio.testing.wait_all_tasks_blocked(cushion=0.001)

    async with linked(kind) as [(near, far)]:
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await ask_on(near)


@every_kind
async def test_a_closed_link_cannot_be_used_and_may_be_closed_again(kind):
    async with linked(kind) as [ends]:
        for end in ends:
            await end.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await end.receive()
            with pytest.raises(trio.ClosedResourceError):
                await end.send([b"x"])
            await end.aclose()


@every_kind
async def test_closing_ends_the_wait_of_who_receives(kind):
    async def wait_for_the_end(link):
        with pytest.raises(trio.ClosedResourceError):
            await link.receive()

    async with linked(kind, 2) as [(near, _), (_, far)]:
        for end in (near, far):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_the_end, end)
                await trio.testing.wait_all_tasks_blocked()
                await end.aclose()


# --- listeners -----------------------------------------------------------------------------------


@every_kind
async def test_a_listener_keeps_its_links_apart(kind):
    async with linked(kind, 5) as pairs:
        for number, (near, _) in enumerate(pairs):
            await near.send([b"to %d" % number])
        for number, (_, far) in reversed(list(enumerate(pairs))):
            assert await receive(far, 1) == [b"to %d" % number]
            await far.send([b"from %d" % number])
        for number, (near, _) in enumerate(pairs):
            assert await receive(near, 1) == [b"from %d" % number]


@every_kind
async def test_links_are_received_from_at_the_same_time(kind):
    async def echo(link):
        (message,) = await receive(link, 1)
        await link.send([message])

    async with linked(kind, 5) as pairs, trio.open_nursery() as nursery:
        for _, far in pairs:
            nursery.start_soon(echo, far)
        await trio.testing.wait_all_tasks_blocked()
        for number, (near, _) in reversed(list(enumerate(pairs))):
            await near.send([b"%d" % number])
            assert await receive(near, 1) == [b"%d" % number]


@every_kind
async def test_links_outlive_their_listener(kind):
    async with listening(kind) as (listener, dialer):
        near, far = await connect(listener, dialer)
        await listener.aclose()
        for sender, receiver in ((near, far), (far, near)):
            await sender.send([b"still here"])
            assert await receive(receiver, 1) == [b"still here"]
        for end in (near, far):
            await end.aclose()


@every_kind
async def test_closing_a_listener_ends_the_wait_of_who_accepts(kind):
    async def wait_for_the_end(listener):
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with listening(kind) as (listener, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_the_end, listener)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
        await wait_for_the_end(listener)


@every_kind
async def test_who_accepts_may_give_up_without_losing_a_link(kind):
    async with listening(kind) as (listener, dialer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.accept)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        for end in await connect(listener, dialer):
            await end.aclose()


@every_kind
async def test_links_listeners_and_dialers_have_names_for_people(kind):
    async with listening(kind) as (listener, dialer):
        near, far = await connect(listener, dialer)
        for named in (near, far, listener, dialer):
            assert named.name.startswith(f"{kind.name} ")
        assert listener.name == dialer.name
        for end in (near, far):
            await end.aclose()


# --- under a mesh --------------------------------------------------------------------------------


@every_kind
async def test_two_nodes_talk_over_it(kind):
    data = os.urandom(1_000_000)

    async def serve(listener):
        async with await listener.accept() as stream:
            await stream.send_all(data)

    async with (
        listening(kind) as (listener, dialer),
        open_mesh("foo") as foo,
        open_mesh("bar") as bar,
    ):
        foo.add_listener(listener, LinkPolicy(cost=2.5))
        bar.add_dialer(dialer, LinkPolicy(cost=2.5))
        await bar.wait_reachable("foo")
        assert (await bar.ping("foo")).from_node == "foo"
        (connection,) = bar.status().connections
        assert (connection.peer, connection.cost) == ("foo", 2.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, await foo.listen("data"))
            async with await bar.dial("foo", "data") as stream:
                assert b"".join([chunk async for chunk in stream]) == data


# --- the registry --------------------------------------------------------------------------------


WITH_TLS = {"tcp": "tls", "ws": "wss"}
"""What a kind is called in the names of its links when it has TLS."""


def test_the_suite_and_the_registry_know_the_same_kinds():
    plain = {kind.listener.INFO.name.rpartition("-")[0]: kind for kind in registry.KINDS}
    secure = {WITH_TLS[name] for name, kind in plain.items() if kind.secure}
    assert {kind.name for kind in KINDS} - {"memory"} == set(plain) | secure
    registered = {cls for kind in registry.KINDS for cls in (kind.listener, kind.peer)}
    assert registered == set(LINK_DIRECTIVES)


LISTENERS = [cls for cls in LINK_DIRECTIVES if issubclass(cls, ListenerDirective)]


@pytest.mark.parametrize("directive", LISTENERS, ids=lambda cls: cls.INFO.name)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", ""])
async def test_a_listener_takes_each_form_of_address(directive, address):
    listeners = await registry.open_listeners(directive(0, address))
    assert listeners
    hosts = {listener.name.split()[1].rpartition(":")[0] for listener in listeners}
    assert hosts <= {
        "127.0.0.1": {"127.0.0.1"},
        "::1": {"[::1]"},
        "localhost": {"127.0.0.1", "[::1]"},
        "": {"0.0.0.0", "[::]"},
    }.get(address)
    for listener in listeners:
        await listener.aclose()


@pytest.mark.parametrize("directive", LISTENERS, ids=lambda cls: cls.INFO.name)
async def test_a_listener_that_cannot_be_opened_is_named(directive):
    (listener,) = await registry.open_listeners(directive(0, "127.0.0.1"))
    with pytest.raises(ConfigError, match=f"{directive.INFO.name}: port: cannot listen on"):
        await registry.open_listeners(directive(listener.port, "127.0.0.1"))
    with pytest.raises(ConfigError, match=r"bindaddr: x+ is no name that could be looked up"):
        await registry.open_listeners(directive(0, "x" * 64))
    await listener.aclose()


def test_the_policy_of_a_directive_is_what_it_says():
    for cls in LINK_DIRECTIVES:
        where = 1 if issubclass(cls, ListenerDirective) else parse_ws_url("ws://foo:1/")
        assert cls(where).policy == LinkPolicy()
        strict = cls(where, cost=2.0, allowedpeers=("bar",))
        assert strict.policy.cost_of("bar") == 2
        assert strict.policy.allowed_peers == {"bar"}
        if issubclass(cls, ListenerDirective):
            assert cls(1, nodecost={"bar": 3.0}).policy.cost_of("bar") == 3


FOO = Address("foo", 1)
PEERS = {"tcp-peer": FOO, "udp-peer": FOO, "ws-peer": parse_ws_url("ws://foo:1/")}


@pytest.mark.parametrize(
    "directive",
    [cls for cls in LINK_DIRECTIVES if issubclass(cls, PeerDirective)],
    ids=lambda cls: cls.INFO.name,
)
async def test_a_peer_that_cannot_be_found_is_an_os_error(directive):
    address = replace(PEERS[directive.INFO.name], host="x" * 64)
    with pytest.raises(OSError, match="no name that could be looked up"):
        await registry.make_dialer(directive(address)).dial()


@every_kind
async def test_dialing_where_nobody_listens_says_why(kind):
    async with listening(kind) as (listener, dialer):
        await listener.aclose()
        with pytest.raises(OSError, match=r"connect|accepts|refused"):
            await dialer.dial()


# --- what a node makes of its links --------------------------------------------------------------


async def test_a_silent_link_is_dead_after_the_time_that_the_node_was_told(autojump_clock):
    hello = RoutingUpdate("mute", "i1", 1, 1, {"foo": 1.0}, "mute").encode()
    async with listening(MEMORY) as (listener, dialer), open_mesh("foo", idle_timeout=60) as foo:
        foo.add_listener(listener)
        link = await dialer.dial()
        await link.send([hello])
        await trio.sleep(59)
        assert [connection.peer for connection in foo.status().connections] == ["mute"]
        await trio.sleep(2)
        assert foo.status().connections == ()
        await link.aclose()


@pytest.mark.parametrize("redial", [True, False])
async def test_a_peer_is_dialed_again_unless_it_was_said_not_to(redial, autojump_clock):
    async with listening(MEMORY) as (listener, dialer), open_mesh("foo") as foo:
        foo.add_dialer(dialer, redial=redial)
        first = await listener.accept()
        await first.aclose()
        with trio.move_on_after(60) as scope:
            await (await listener.accept()).aclose()
        assert scope.cancelled_caught == (not redial)


@every_kind
async def test_a_peer_that_stays_away_is_one_line_of_log(kind, caplog, monkeypatch):
    attempts, enough = [], trio.Event()

    def count(failures: int) -> float:
        attempts.append(failures)
        if failures == 5:
            enough.set()
        return 0.0

    monkeypatch.setattr(endpoints, "redial_delay", count)
    async with listening(kind) as (listener, dialer), open_mesh("foo") as foo:
        await listener.aclose()
        dialing = foo.add_dialer(dialer)
        with trio.fail_after(60):
            await enough.wait()
        away = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(away) == 1
        await dialing.aclose()
