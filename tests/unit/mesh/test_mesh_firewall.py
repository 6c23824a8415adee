"""Firewalls on nodes of a mesh: what passes, what is answered, what is silent."""

import pytest
import trio
from mesh_helpers import line

from meshnode.errors import MeshTimeout, Unreachable
from meshnode.mesh.dataplane import FirewallCounts
from meshnode.mesh.mesh import Mesh
from meshnode.policies import Action, NamePattern, Rule

REJECTED = "blocked by firewall"


def rule(action: str, **patterns: str) -> Rule:
    return Rule(Action(action), **{key: NamePattern.parse(p) for key, p in patterns.items()})


async def assert_rejected_at_once(mesh: Mesh, node: str, service: str, reporter: str) -> None:
    start = trio.current_time()
    with pytest.raises(Unreachable, match=REJECTED) as caught:
        await mesh.dial(node, service)
    assert caught.value.reporter == reporter
    assert trio.current_time() == start


@pytest.mark.parametrize("where", ["foo", "mid", "bar"])
async def test_a_dialer_learns_at_once_which_node_rejects_it(autojump_clock, where):
    async with line("foo", "mid", "bar") as nodes:
        foo, _, bar = nodes
        async with await bar.listen("secret"), await bar.listen("open") as listener:
            (node,) = (n for n in nodes if n.node_id == where)
            node.set_firewall([rule("reject", from_node="foo", to_node="bar", to_service="secret")])
            await assert_rejected_at_once(foo, "bar", "secret", where)
            assert node.status().firewall == FirewallCounts(rejected=1, dropped=0)
            stream = await foo.dial("bar", "open")
            await stream.send_all(b"hello")
            assert await (await listener.accept()).receive_some(10) == b"hello"


@pytest.mark.parametrize("where", ["foo", "mid", "bar"])
async def test_a_ping_and_a_traceroute_say_who_rejects_them(autojump_clock, where):
    async with line("foo", "mid", "bar") as nodes:
        foo = nodes[0]
        (node,) = (n for n in nodes if n.node_id == where)
        node.set_firewall([rule("reject", to_node="bar", to_service="ping")])
        start = trio.current_time()
        with pytest.raises(Unreachable, match=REJECTED) as caught:
            await foo.ping("bar")
        assert caught.value.reporter == where
        last = [hop async for hop in foo.traceroute("bar")][-1]
        assert (last.from_node, last.error) == (where, REJECTED)
        assert trio.current_time() == start


async def test_a_node_that_rejects_everything_still_says_so(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, bar):
        bar.set_firewall([rule("reject")])
        await assert_rejected_at_once(foo, "bar", "control", "bar")
        mid.set_firewall([rule("reject")])
        await assert_rejected_at_once(foo, "bar", "control", "mid")
        # bar's own messages end at bar itself.
        await assert_rejected_at_once(bar, "foo", "control", "bar")


async def test_messages_of_a_node_to_itself_are_judged_too(autojump_clock):
    async with line("foo", "bar") as (foo, _):
        foo.set_firewall([rule("reject", from_node="foo", to_node="foo")])
        with pytest.raises(Unreachable, match=REJECTED):
            await foo.ping("localhost")


async def test_what_is_dropped_is_counted_and_never_answered(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, _):
        mid.set_firewall([rule("drop", from_node="foo")])
        with pytest.raises(MeshTimeout):
            await foo.ping("bar")
        # The nodes' own measuring of their links is dropped and counted too.
        assert mid.status().firewall.rejected == 0
        assert mid.status().firewall.dropped >= 1


async def test_what_this_node_drops_of_its_own_is_not_sent(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        foo.set_firewall([rule("drop", to_service="ping")])
        with pytest.raises(MeshTimeout):
            await foo.ping("bar")
        dropped = foo.status().firewall.dropped
        assert dropped >= 1
        with pytest.raises(MeshTimeout):
            await bar.ping("foo")
        assert foo.status().firewall.dropped > dropped


async def test_a_rejected_notice_is_not_answered_by_another(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, bar):
        mid.set_firewall([rule("reject", to_service="unreach")])
        arrived = []
        deliver = bar._router._take_notice
        bar._router._take_notice = lambda message: (
            arrived.append(bytes(message)),
            deliver(message),
        )
        with pytest.raises(MeshTimeout):
            await foo.dial("bar", "nosuch")
        assert mid.status().firewall.rejected > 0
        assert arrived == []


async def test_new_rules_hold_for_streams_that_are_open(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, bar), await bar.listen("chat") as listener:
        stream = await foo.dial("bar", "chat")
        await stream.send_all(b"hello")
        await (await listener.accept()).receive_some(10)
        mid.set_firewall([rule("reject", from_node="foo")])
        await stream.send_all(b"more")
        with pytest.raises(trio.BrokenResourceError, match=REJECTED):
            await stream.receive_some(1)


async def test_without_rules_everything_passes_again(autojump_clock):
    async with line("foo", "mid", "bar") as (foo, mid, _):
        mid.set_firewall([rule("reject")])
        with pytest.raises(Unreachable):
            await foo.ping("bar")
        assert mid.status().firewall.rejected >= 1
        mid.set_firewall([])
        assert mid.status().firewall is None
        assert (await foo.ping("bar")).from_node == "bar"
