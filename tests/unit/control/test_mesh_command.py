"""The whole mesh as one node sees it, and what other nodes tell when they are asked."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments
from meshnode.control import mesh_asking
from meshnode.control.mesh_asking import (
    ANSWERS_BYTES,
    AT_ONCE,
    KEPT,
    MAX_LINKS,
    NodeAsker,
    read_answer,
)
from meshnode.control.mesh_command import MeshCommand, parse_json, parse_text
from meshnode.control.meshview import Distance, distances
from meshnode.control.registry import CommandRegistry, JsonObject
from meshnode.control.session import Session
from meshnode.errors import CommandError, NoRoute
from meshnode.logs import subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.peers.conditions import ConfiguredPeer, DialHistory, LinksReport
from meshnode.protocol.control import encode_reply
from meshnode.security.access import AccessRules
from meshnode.version import VERSION
from meshnode.work.placement.load import Load, describe_tags, labels_tag
from tests.unit.control.test_mesh_events import SETTLED, Scene, scene

CONNECTION = {
    "NodeID": "baz",
    "Cost": 1,
    "Kind": "tcp",
    "Address": "10.0.0.8:2222",
    "Since": "2026-11-26T11:00:00.000000000Z",
    "Uptime": 5_000_000_000,
    "RoundTrip": 2_000_000,
    "SentMessages": 3,
    "SentBytes": 700,
    "ReceivedMessages": 4,
    "ReceivedBytes": 900,
    "Dropped": 0,
    "Refused": 0,
}
"""A link as a meshnode's ``status`` tells it."""


class Others:
    """Other nodes that answer what they are asked, and count how often."""

    def __init__(self) -> None:
        self.replies: dict[str, object] = {}
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0

    async def ask(self, node: str, command: Mapping[str, Any]) -> JsonObject:
        assert command["command"] == "status"
        self.asked.append(node)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        reply = self.replies.get(node, {"Version": "1.5.0"})
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, dict)
        return reply


async def ask(
    mesh: Mesh,
    request: str | JsonObject = "mesh",
    *,
    others: Others | None = None,
    rules: tuple[str, ...] = (),
    peers: tuple[ConfiguredPeer, ...] = (),
    kind: str = "unix",
    asker: NodeAsker | None = None,
) -> Any:
    """Return the reply of a node; the text of an error."""
    words = [part for rule in rules for part in ("--access-rule", *rule.split(" | "))]
    made = load_arguments(["--local-only", "--node", "foo", *words]).rules
    registry = CommandRegistry(AccessRules(made))
    asker = asker or NodeAsker((others or Others()).ask)
    command = MeshCommand(mesh, registry, lambda: LinksReport(peers), describe_tags, asker)
    registry.register(command.command())
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session(
        theirs,
        kind=kind,  # type: ignore[arg-type]
        peer="tester",
        node_id="foo",
        registry=registry,
        log=subject_logger("test"),
    )
    line = request if isinstance(request, str) else json.dumps(request)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await ours.send_all(line.encode() + b"\n")
        await ours.send_eof()
        data = b"".join([chunk async for chunk in ours])
    [_, reply] = data.decode().splitlines()
    return json.loads(reply) if reply.startswith("{") else reply


@asynccontextmanager
async def line() -> AsyncIterator[Scene]:
    """foo - bar - baz; bar says what it has to do, baz is receptor's."""
    async with scene("foo", "bar", "baz") as (mesh, _):
        mesh.join("foo", "bar", cost=2)
        mesh.join("bar", "baz")
        tags = {"labels": labels_tag({"gpu": "1"}), "load": Load({"cat": 2}, processors=4).to_tag()}
        await mesh.nodes["bar"].listen("control", tags=tags)
        await trio.sleep(SETTLED)
        yield mesh


def by_id(reply: Any) -> dict[str, Any]:
    return {node["id"]: node for node in reply["nodes"]}


async def test_the_whole_mesh_is_told_from_one_node(autojump_clock):
    async with line() as mesh:
        reply = await ask(mesh.foo)
    nodes = by_id(reply)
    assert list(nodes) == ["foo", "bar", "baz"]
    assert (nodes["foo"]["state"], nodes["foo"]["version"]) == ("here", VERSION)
    bar, baz = nodes["bar"], nodes["baz"]
    assert (bar["state"], bar["via"], bar["cost"], bar["hops"]) == ("reachable", "bar", 2, 1)
    assert (baz["via"], baz["cost"], baz["hops"]) == ("bar", 3, 2)
    assert bar["kind"] == "meshnode"
    assert bar["labels"] == {"gpu": "1"}
    assert bar["load"]["running"] == {"cat": 2}
    assert bar["load"]["processors"] == 4
    assert (baz["kind"], baz["load"], baz["version"]) == ("unknown", None, None)
    assert bar["since"] is not None
    links = {(link["a"], link["b"]): link for link in reply["links"]}
    assert links.keys() == {("foo", "bar"), ("bar", "baz")}
    assert links["foo", "bar"]["cost_ab"] == links["foo", "bar"]["cost_ba"] == 2
    assert links["foo", "bar"]["bytes_sent"] > 0
    assert links["bar", "baz"]["bytes_sent"] is None
    assert reply["routes"][1] == {"node": "baz", "via": "bar", "cost": 3, "hops": 2}
    assert reply["services"][0]["service"] == "control"
    assert reply["peers_down"] == []


async def test_a_node_that_is_known_and_not_reached_is_told_as_that(autojump_clock):
    async with scene("foo", "bar") as (mesh, _):
        cut = mesh.join("foo", "bar")
        await trio.sleep(SETTLED)
        cut()
        await trio.sleep(SETTLED)
        bar = by_id(await ask(mesh.foo))["bar"]
    assert (bar["state"], bar["via"], bar["cost"]) == ("unreachable", None, None)


async def test_configured_peers_that_are_down_say_why(autojump_clock):
    history = DialHistory()
    history.dial()
    history.fail("refused: nothing listens on that port")
    history.wait(5)
    peer = ConfiguredPeer("ws-peer", "ws://example.org/", history.condition())
    async with scene("foo") as (mesh, _):
        [down] = (await ask(mesh.foo, peers=(peer,)))["peers_down"]
    assert (down["address"], down["kind"], down["tries"]) == ("ws://example.org/", "ws", 1)
    assert down["reason"] == "refused: nothing listens on that port"
    assert down["since"] < down["next"]


async def test_other_nodes_are_asked_only_on_request_and_tell_of_their_links(autojump_clock):
    others = Others()
    others.replies = {"bar": {"Version": "1.2", "Connections": [CONNECTION]}}
    async with line() as mesh:
        await ask(mesh.foo, others=others)
        assert not others.asked
        reply = await ask(mesh.foo, {"command": "mesh", "detail": True}, others=others)
    assert sorted(others.asked) == ["bar", "baz"]
    nodes = by_id(reply)
    assert (nodes["bar"]["version"], nodes["baz"]["version"]) == ("1.2", "1.5.0")
    assert nodes["bar"]["asked"] is not None
    assert nodes["bar"]["error"] is None
    [link] = [link for link in reply["links"] if link["a"] == "bar"]
    assert (link["rtt"], link["bytes_sent"], link["bytes_received"]) == (0.002, 700, 900)
    assert link["up_since"] == CONNECTION["Since"]


async def test_what_the_far_end_of_a_link_tells_is_turned_round(autojump_clock):
    others = Others()
    others.replies = {"baz": {"Connections": [{**CONNECTION, "NodeID": "bar"}]}}
    async with line() as mesh:
        reply = await ask(mesh.foo, "mesh detail", others=others)
    [link] = [link for link in reply["links"] if link["a"] == "bar"]
    assert (link["bytes_sent"], link["bytes_received"]) == (900, 700)


async def test_a_node_that_does_not_answer_is_told_with_the_reason_and_holds_up_no_other(
    autojump_clock,
):
    others = Others()
    others.replies = {"bar": NoRoute("bar")}
    async with line() as mesh:
        nodes = by_id(await ask(mesh.foo, "mesh detail", others=others))
        assert "no route" in nodes["bar"]["error"]
        assert nodes["baz"]["version"] == "1.5.0"
        others.seconds = 1e6
        nodes = by_id(await ask(mesh.foo, "mesh detail", others=others))
    assert nodes["baz"]["error"] == "no answer within 5 s"


async def test_only_named_nodes_are_asked(autojump_clock):
    others = Others()
    async with line() as mesh:
        request = {"command": "mesh", "detail": True, "nodes": ["baz", "nosuch"]}
        await ask(mesh.foo, request, others=others)
    assert others.asked == ["baz"]


async def test_who_may_not_connect_to_a_node_has_it_asked_nothing(autojump_clock):
    others = Others()
    rules = (
        "action=allow | who=any | do=mesh-status",
        "action=allow | who=any | do=connect | tonode=baz | toservice=control",
    )
    async with line() as mesh:
        nodes = by_id(await ask(mesh.foo, "mesh detail", others=others, rules=rules))
    assert others.asked == ["baz"]
    assert nodes["bar"]["error"] == "permission denied: connect bar control"


async def test_a_client_from_the_mesh_has_nobody_asked(autojump_clock):
    others = Others()
    async with line() as mesh:
        nodes = by_id(await ask(mesh.foo, "mesh detail", others=others, kind="mesh"))
    assert not others.asked
    assert "asks no other nodes" in nodes["bar"]["error"]


async def test_who_may_not_have_the_status_of_the_mesh_does_not_have_its_view(autojump_clock):
    async with scene("foo") as (mesh, _):
        reply = await ask(mesh.foo, rules=("action=allow | who=any | do=ping",))
    assert reply == "ERROR: permission denied: mesh-status"


async def test_many_who_look_at_once_have_each_node_asked_once(autojump_clock):
    others = Others()
    others.seconds = 1.0
    asker = NodeAsker(others.ask)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(asker.answers, ["bar", "baz"])
    assert sorted(others.asked) == ["bar", "baz"]
    await trio.sleep(KEPT + 1)
    await asker.answers(["bar"])
    assert len(others.asked) == 3


async def test_one_who_leaves_while_a_node_is_asked_takes_the_answer_from_nobody(autojump_clock):
    others = Others()
    others.seconds = 2.0
    asker = NodeAsker(others.ask)
    found = {}

    async def leave() -> None:
        with trio.move_on_after(1):
            await asker.answers(["bar"])

    async def stay() -> None:
        found.update(await asker.answers(["bar"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(stay)
    assert found["bar"].version == "1.5.0"


async def test_a_large_mesh_is_asked_some_nodes_at_once_and_not_for_ever(autojump_clock):
    others = Others()
    others.seconds = 1.0
    nodes = [f"node{number}" for number in range(1000)]
    began = trio.current_time()
    answers = await NodeAsker(others.ask).answers(nodes)
    assert others.most_at_once == AT_ONCE
    assert trio.current_time() - began <= mesh_asking.ALL_TIMEOUT
    assert answers.keys() == set(nodes)
    assert {answer.error for answer in answers.values()} == {None, "no answer within 15 s"}


async def test_answers_are_kept_within_their_bytes(autojump_clock):
    others = Others()
    links = [{**CONNECTION, "NodeID": f"{number:0200}"} for number in range(2 * MAX_LINKS)]
    nodes = [f"node{number}" for number in range(20)]
    others.replies = {node: {"Connections": links} for node in nodes}
    asker = NodeAsker(others.ask)
    answers = await asker.answers(nodes)
    assert all(len(answer.links or {}) == MAX_LINKS for answer in answers.values())
    assert sum(answer.size for answer in asker._answers.values()) <= ANSWERS_BYTES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = st.dictionaries(st.sampled_from([*CONNECTION]), JSON)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "Version": JSON,
            "Connections": JSON
            | st.lists(JSON | FIELDS | FIELDS.map(lambda some: {**CONNECTION, **some})),
        },
    )
)
def test_whatever_a_node_answers_is_read_and_can_be_told(reply):
    async def read() -> None:
        answer = read_answer(reply)
        for figures in (answer.links or {}).values():
            assert figures.sent_bytes >= 0
            assert figures.round_trip is None or figures.round_trip >= 0
        encode_reply({"version": answer.version, "links": list(answer.links or ())})

    trio.run(read)


@given(JSON, JSON)
def test_any_request_is_one_or_refused_in_one_line(detail, nodes):
    refusal = ""
    try:
        parse_json({"command": "mesh", "detail": detail, "nodes": nodes})
    except CommandError as error:
        refusal = str(error)
    assert "\n" not in refusal


async def test_a_receptor_node_tells_its_version_and_no_figures_of_links():
    answer = read_answer(
        {"Version": "1.5.0", "Connections": [{"NodeID": "bar", "Cost": 1}], "RoutingTable": {}}
    )
    assert (answer.version, answer.links, answer.error) == ("1.5.0", {}, None)


def test_the_text_form_takes_detail_and_nothing_else():
    assert parse_text("detail").detail
    with pytest.raises(CommandError):
        parse_text("details")


COSTS = st.dictionaries(
    st.sampled_from("fghij"),
    st.dictionaries(st.sampled_from("fghij"), st.integers(1, 9).map(float), max_size=4),
)


@given(COSTS)
def test_how_far_a_node_is_is_the_cheapest_way(costs):
    found = distances("f", costs)
    best = {"f": Distance(0.0, 0)}
    for _ in range(10):
        for node, here in list(best.items()):
            for peer, step in costs.get(node, {}).items():
                there = Distance(here.cost + step, here.hops + 1)
                known = best.get(peer)
                if known is None or (there.cost, there.hops) < (known.cost, known.hops):
                    best[peer] = there
    assert found == best
