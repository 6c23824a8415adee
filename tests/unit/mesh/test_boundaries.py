"""What a peer sends, or somebody beyond it, costs at most the link of who made it.

The node that is tested has three links: to a neighbour that is a node like it, to ``honest``, which
passes on what came from far away, and to ``enemy``.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hostile.anything import GOOD_ADVERT, GOOD_NOTICE, GOOD_UPDATE, bodies
from mesh_helpers import line
from stranger import Stranger, stranger

from meshnode.errors import MeshTimeout, Unreachable
from meshnode.mesh.links.memory import MemoryLink
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.messages import (
    PING_SERVICE,
    UNREACHABLE_SERVICE,
    DataHeader,
    encode_service,
)
from meshnode.protocol.namehash import name_hash

CONTROL = encode_service("control")
INITIAL = b"\xc0\0\0\0\1" + bytes(1300)
"""The beginning of a QUIC connection, which says nothing sensible but is long enough for one."""
OTHER_VERSION = b"\xc0\xba\xba\xba\xba" + bytes(1300)
"""A datagram that is answered with the versions that we speak."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The node that is tested and who is linked to it."""

    victim: Mesh
    neighbour: Mesh
    honest: Stranger
    enemy: Stranger

    @property
    def links(self) -> dict[str, object]:
        return dict(self.victim._link_state.sessions)

    def refused(self, peer: str) -> int:
        """Return how many messages the victim has refused on a link."""
        (link,) = (c for c in self.victim.status().connections if c.peer == peer)
        return link.figures.refused


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        victim, neighbour = await stack.enter_async_context(line("victim", "neighbour"))
        honest = await stack.enter_async_context(stranger(victim, "honest"))
        enemy = await stack.enter_async_context(stranger(victim, "enemy"))
        await victim.listen("control")
        yield Scene(victim, neighbour, honest, enemy)


async def say(peer: Stranger, *messages: bytes) -> None:
    """Send messages, each by itself, and wait until all that follows has happened."""
    for message in messages:
        try:
            await peer.say(message)
        except trio.BrokenResourceError:  # the link was ended for the one before
            break
    await trio.sleep(0.01)


async def assert_alive(found: Scene) -> None:
    """Check that the node and its honest neighbour serve each other."""
    with trio.fail_after(60):
        assert (await found.neighbour.ping("victim")).from_node == "victim"
        assert (await found.victim.ping("neighbour")).from_node == "neighbour"


def data(
    payload: bytes = b"",
    *,
    source: str = "enemy",
    to: str = "victim",
    sender: bytes = UNREACHABLE_SERVICE,
    service: bytes = UNREACHABLE_SERVICE,
    hops: int = 29,
) -> bytes:
    header = DataHeader(hops, name_hash(source), name_hash(to), sender, service)
    return header.encode() + payload


# --- any conversation ----------------------------------------------------------------------------

NODES = st.sampled_from(["victim", "neighbour", "honest", "enemy", "nobody"])
SERVICES = st.binary(min_size=8, max_size=8) | st.sampled_from(
    [CONTROL, PING_SERVICE, UNREACHABLE_SERVICE, b"\xff" * 8, b"a\0b".ljust(8, b"\0")]
)


def objects(kind: int, good: dict[str, Any], **own: object) -> st.SearchStrategy[bytes]:
    return bodies(good | own).map(lambda body: bytes([kind]) + body)


def updates(peer: str) -> st.SearchStrategy[bytes]:
    """Return updates of a peer that lists the victim, or in another node's name."""
    own = {"ForwardingNode": peer, "Connections": {"victim": 1.0, "other": 2.5}}
    return st.one_of(
        objects(1, GOOD_UPDATE, NodeID=peer, **own),
        objects(1, GOOD_UPDATE, NodeID="far", **own),
    )


NOTICES = st.builds(
    data,
    bodies(GOOD_NOTICE | {"FromNode": "victim", "FromService": "control", "ToNode": "enemy"}),
    source=NODES,
)
DATA = st.builds(
    data,
    st.sampled_from([INITIAL, OTHER_VERSION, b"", b"\x40" + bytes(50), b"{}"]),
    source=NODES,
    to=NODES,
    sender=SERVICES,
    service=SERVICES,
    hops=st.integers(0, 255),
)
FROM_FAR = st.one_of(objects(2, GOOD_ADVERT), NOTICES, DATA)
FROM_ENEMY = st.one_of(updates("enemy"), FROM_FAR, st.binary(min_size=1, max_size=60))


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.lists(FROM_FAR, max_size=8), st.lists(FROM_ENEMY, max_size=8))
def test_no_conversation_costs_more_than_the_link_of_who_made_it(from_far, from_enemy):
    async def main() -> None:
        async with scene() as found:
            links = found.links
            await say(found.honest, *from_far)
            await say(found.enemy, *from_enemy)
            await assert_alive(found)
            for peer in ("neighbour", "honest"):
                assert found.links[peer] is links[peer]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- services ------------------------------------------------------------------------------------

NOT_TEXT = [b"\xff" * 8, b"a\0b".ljust(8, b"\0"), b"line\nend", b"\xed\xa0\x80".ljust(8, b"\0")]


@pytest.mark.parametrize("sender", NOT_TEXT)
async def test_a_message_of_a_service_that_is_not_text_is_dropped_and_counted(
    sender, autojump_clock
):
    async with scene() as found:
        links = found.links
        found.victim.open_datagrams("datagram")
        to = (CONTROL, PING_SERVICE, UNREACHABLE_SERVICE, encode_service("datagram"), b"nobody\0\0")
        for payload in (INITIAL, OTHER_VERSION):
            await say(found.honest, *(data(payload, sender=sender, service=s) for s in to))
        assert found.victim.status().drops.unreadable == 2 * len(to)
        assert found.links == links
        assert not found.victim._streams.connections
        await assert_alive(found)


@pytest.mark.parametrize("service", NOT_TEXT)
async def test_a_message_to_a_service_that_is_not_text_is_dropped_and_not_answered(
    service, autojump_clock
):
    async with scene() as found:
        links = found.links
        await say(
            found.honest,
            data(sender=CONTROL, service=service),
            data(sender=CONTROL, service=service, to="neighbour", hops=0),
        )
        assert found.victim.status().drops.unreadable == 2
        assert found.links == links
        assert not [m for m in found.enemy.data if m[20:28] == UNREACHABLE_SERVICE]


# --- routing updates -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["NodeID", "UpdateID", "ForwardingNode"])
async def test_a_lone_surrogate_in_an_update_ends_that_link_and_is_logged_once(
    key, caplog, autojump_clock
):
    async with scene() as found:
        links = found.links
        update = GOOD_UPDATE | {"NodeID": "enemy", "ForwardingNode": "enemy"}
        update |= {"Connections": {"victim": 1.0}, key: "\ud800"}
        await say(found.enemy, b"\1" + json.dumps(update).encode())
        assert found.links.keys() == links.keys() - {"enemy"}
        assert sum(key in text for text in caplog.messages) == 1
        await assert_alive(found)


@pytest.mark.parametrize(
    "change",
    [
        {"UpdateID": "u" * 65},
        {"UpdateID": ""},
        {"NodeID": "n" * 256},
        {"NodeID": "far\nnode"},
    ],
)
async def test_an_update_out_of_bounds_costs_its_message_when_an_honest_peer_passes_it_on(
    change, autojump_clock
):
    async with scene() as found:
        links = found.links
        update = GOOD_UPDATE | {"NodeID": "far", "ForwardingNode": "honest"} | change
        await say(found.honest, b"\1" + json.dumps(update).encode())
        assert found.links == links
        assert found.refused("honest") == 1
        assert "far" not in found.victim._link_state.topology.nodes


async def test_an_opening_with_a_name_out_of_bounds_is_refused(autojump_clock):
    async with line("victim", "neighbour") as (victim, _):
        with trio.move_on_after(1) as waited:
            await stranger(victim, "n" * 256).__aenter__()
        assert waited.cancelled_caught
        assert victim._link_state.sessions.keys() == {"neighbour"}


# --- advertisements ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"NodeID": "\ud800"},
        {"Service": "\ud800"},
        {"Service": "ninechars"},
        {"Tags": {"\ud800": "x"}},
        {"Tags": {"type": "\udfff"}},
        {"WorkCommands": [{"WorkType": "\ud800", "Secure": True}]},
        {"Time": "yesterday"},
        {"WorkCommands": [{"WorkType": f"type-{i}", "Secure": True} for i in range(1000)]},
    ],
)
async def test_an_advertisement_that_is_not_right_is_dropped_and_goes_no_further(
    change, autojump_clock
):
    async with scene() as found:
        links = found.links
        good = b"\2" + json.dumps(GOOD_ADVERT | {"NodeID": "honest"}).encode()
        bad = b"\2" + json.dumps(GOOD_ADVERT | {"NodeID": "honest"} | change).encode()
        await say(found.honest, bad)
        assert found.links == links
        assert found.refused("honest") == 1
        assert bad not in found.enemy.heard
        await say(found.honest, good)
        assert good in found.enemy.heard


# --- notices -------------------------------------------------------------------------------------


def notice(**changes: object) -> bytes:
    good = {"FromNode": "victim", "FromService": "svc", "ToNode": "enemy", "ToService": "there"}
    return json.dumps(GOOD_NOTICE | good | changes).encode()


@pytest.mark.parametrize("key", ["FromNode", "FromService", "ToNode", "ToService", "Problem"])
async def test_a_notice_with_a_lone_surrogate_is_dropped_and_counted_and_not_answered(
    key, autojump_clock
):
    async with scene() as found:
        links = found.links
        await say(found.honest, data(notice(**{key: "a\ud800"})))
        assert found.links == links
        assert found.victim.status().drops.notices == 1
        assert not [m for m in found.enemy.data if m[20:28] == UNREACHABLE_SERVICE]


@pytest.mark.parametrize(
    ("reporter", "changes"),
    [
        ("enemy", {"FromNode": "neighbour"}),
        ("enemy", {"ToNode": "invented"}),
        ("enemy", {"ToNode": "neighbour"}),
        ("invented", {"ToNode": "neighbour", "Problem": "message expired"}),
        ("neighbour", {"ToService": "other"}),
        ("neighbour", {"ToNode": "honest"}),
        ("neighbour", {"FromService": "other"}),
    ],
)
async def test_a_notice_is_not_believed_unless_it_fits_a_message_that_was_sent(
    reporter, changes, autojump_clock
):
    async with scene() as found:
        with found.victim.open_datagrams("svc") as socket:
            await socket.send_to("neighbour", "there", b"x")
            with pytest.raises(Unreachable):
                await socket.receive()  # it is true: nobody is there
            forged = notice(**{"ToNode": "neighbour"} | changes)
            await say(found.enemy, data(forged, source=reporter))
            with trio.move_on_after(1) as waited:
                await socket.receive()
            assert waited.cancelled_caught


@pytest.mark.parametrize("problem", ["message expired", "blocked by firewall"])
async def test_a_node_on_the_way_may_say_why_a_message_went_no_further(problem, autojump_clock):
    async with scene() as found:
        with found.victim.open_datagrams("svc") as socket:
            await socket.send_to("enemy", "there", b"x")
            await say(found.enemy, data(notice(Problem=problem), source="neighbour"))
            with pytest.raises(Unreachable, match=problem) as caught:
                await socket.receive()
            assert caught.value.reporter == "neighbour"


async def test_notices_with_invented_names_leave_nothing_in_memory(autojump_clock):
    async with scene() as found:
        names = found.victim._names
        before = len(names._hashes)
        await say(found.enemy, *(data(notice(ToNode=f"node{i}")) for i in range(50)))
        assert len(names._hashes) == before


async def test_a_ping_takes_no_answer_of_another_node_or_service(autojump_clock):
    async with scene() as found:
        async with trio.open_nursery() as nursery:
            outcome = []

            @nursery.start_soon
            async def ping() -> None:
                with pytest.raises(MeshTimeout):
                    await found.victim.ping("honest")
                outcome.append("no answer")

            router = found.victim._router
            before = router._receivers.keys() | set()
            await trio.testing.wait_all_tasks_blocked()
            (service,) = router._receivers.keys() - before
            await say(
                found.enemy,
                data(source="enemy", sender=PING_SERVICE, service=service),
                data(source="honest", sender=CONTROL, service=service),
                data(notice(FromService=service.decode(), ToNode="enemy", ToService="ping")),
            )
        assert outcome


# --- faults of our own ---------------------------------------------------------------------------


def fail(*args: object, **kwargs: object) -> Any:
    raise LookupError("nobody thought of this")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("routing_update", b"\1" + json.dumps(GOOD_UPDATE | {"NodeID": "far"}).encode()),
        ("advertisement", b"\2" + json.dumps(GOOD_ADVERT).encode()),
        ("knows_advertisement", b"\2" + json.dumps(GOOD_ADVERT).encode()),
        ("data", data()),
        ("link_down", bytes([3]) + b"[]"),
    ],
)
async def test_a_fault_in_what_a_peer_brings_about_ends_its_link_and_is_logged_in_one_line(
    method, message, monkeypatch, caplog, autojump_clock
):
    caplog.set_level("DEBUG", "meshnode")
    async with scene() as found:
        links = found.links
        message = message.replace(b'"ForwardingNode": "peer"', b'"ForwardingNode": "enemy"')
        original = getattr(found.victim._link_state, method)

        def fail_for_enemy(*args: Any) -> Any:
            first = args[0]
            if first is links["enemy"] or first == message or first == [message]:
                fail()
            return original(*args)

        monkeypatch.setattr(found.victim._link_state, method, fail_for_enemy)
        await say(found.enemy, message)
        monkeypatch.undo()
        assert all(s.peer != "enemy" for s in found.victim.sessions)
        assert {p: s for p, s in found.links.items() if p != "enemy"} == {
            p: s for p, s in links.items() if p != "enemy"
        }
        await assert_alive(found)
    lines = [r for r in caplog.records if "nobody thought of this" in r.getMessage()]
    traced = [r for r in caplog.records if r.exc_info and r.exc_info[0] is LookupError]
    assert [r.levelname for r in traced] == ["DEBUG"]
    if method == "link_down":
        return  # the link was over already: it ended for what the peer said
    assert [r.levelname for r in lines] == ["WARNING"]


@pytest.mark.parametrize("where", ["send", "send_now", "receive", "aclose"])
async def test_a_fault_of_a_link_ends_that_link_and_not_the_one_that_brought_the_message(
    where, monkeypatch, caplog, autojump_clock
):
    caplog.set_level("DEBUG", "meshnode")
    async with scene() as found:
        links = found.links
        link = found.links["enemy"]._link
        await trio.testing.wait_all_tasks_blocked()
        if where == "send_now":
            monkeypatch.setattr(MemoryLink, "can_send_now", True)
            monkeypatch.setattr(MemoryLink, "send_now", lambda self, messages: False)
        monkeypatch.setattr(link, where, fail)
        to_enemy = data(b"x", source="neighbour", to="enemy", sender=CONTROL, service=CONTROL)
        await say(found.honest, to_enemy)
        await say(found.enemy, data(), bytes([3]) + b"[]")
        monkeypatch.undo()
        assert found.links == {p: s for p, s in links.items() if p != "enemy"}
        traced = [r for r in caplog.records if r.exc_info and r.exc_info[0] is LookupError]
        assert len(traced) == 1
        await assert_alive(found)


@pytest.mark.parametrize("call", ["on_datagram", "on_unreachable"])
async def test_a_fault_of_a_service_costs_no_link_and_is_counted(call, caplog, autojump_clock):
    class Faulty:
        on_datagram: Callable[..., None] = fail
        on_unreachable: Callable[..., None] = fail

    async with scene() as found:
        links = found.links
        found.victim._router.bind(encode_service("svc"), Faulty())
        to_it = {
            "on_datagram": data(b"x", sender=CONTROL, service=encode_service("svc")),
            "on_unreachable": data(notice()),
        }
        await say(found.honest, to_it[call])
        assert found.links == links
        assert found.victim.status().drops.faults == 1
        assert sum("LookupError" in text for text in caplog.messages) == 1
        await assert_alive(found)
