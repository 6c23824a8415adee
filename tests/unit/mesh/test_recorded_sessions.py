"""Recorded sessions of two receptor nodes, replayed to ours: it takes the place of either one."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from hostile.frames import decode_frames
from mesh_helpers import meshes

from meshnode.mesh.dataplane import DropCounts
from meshnode.mesh.links.memory import MemoryLink, memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.messages import (
    HEADER_LENGTH,
    PING_SERVICE,
    UNREACHABLE_SERVICE,
    DataHeader,
    MessageType,
    Unreachable,
    encode_service,
)
from meshnode.protocol.routing import RoutingUpdate

CAPTURES = Path(__file__).parents[2] / "data" / "captures"
SESSIONS = ("session1", "session2_keylog")
QUIC_INITIAL = 0xC0
"""The upper bits of a QUIC packet that begins a connection: long header, type Initial."""


def recorded(session: str, direction: str) -> list[bytes]:
    """Return what one of the two nodes sent: ``c2s`` is bar to foo, ``s2c`` foo to bar."""
    return [bytes(m) for m in decode_frames((CAPTURES / f"{session}.{direction}.bin").read_bytes())]


def data_of(messages: Iterable[bytes]) -> list[tuple[DataHeader, bytes]]:
    return [(DataHeader.decode(m), m[HEADER_LENGTH:]) for m in messages if m[0] == MessageType.DATA]


async def replay(mesh: Mesh, messages: list[bytes]) -> list[bytes]:
    """Send recorded messages over a link to our node; return all that it sent back."""
    near, far = memory_link_pair()
    answers: list[bytes] = []

    async def listen(link: MemoryLink) -> None:
        while batch := await link.receive():
            answers.extend(bytes(m) for m in batch)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.run_link, near)
        nursery.start_soon(listen, far)
        for message in messages:
            await far.send([message])
            await trio.testing.wait_all_tasks_blocked()
        assert_nothing_refused(mesh)
        nursery.cancel_scope.cancel()
    return answers


def assert_nothing_refused(mesh: Mesh) -> None:
    """Check that a node took all that receptor sent it."""
    status = mesh.status()
    (connection,) = status.connections  # otherwise the link did not survive the session
    assert connection.figures.refused == 0
    assert status.drops == DropCounts()


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize(("node", "direction"), [("foo", "c2s"), ("bar", "s2c")])
async def test_nothing_that_receptor_sent_is_refused(session, node, direction, autojump_clock):
    async with meshes(node) as (mesh,):
        await replay(mesh, recorded(session, direction))


@pytest.mark.parametrize("session", SESSIONS)
async def test_in_the_place_of_the_listener_we_know_the_dialer_as_receptor_did(
    session, autojump_clock
):
    async with meshes("foo") as (foo,):
        near, far = memory_link_pair()
        foo._nursery.start_soon(foo.run_link, near)
        for message in recorded(session, "c2s"):
            await far.send([message])
        await trio.testing.wait_all_tasks_blocked()
        status = foo.status()
        assert [(c.peer, c.cost) for c in status.connections] == [("bar", 1.0)]
        assert status.routes == {"bar": "bar"}
        assert status.known_costs == {"foo": {"bar": 1.0}, "bar": {"foo": 1.0}}
        (advert,) = status.advertisements
        assert (advert.node_id, advert.service) == ("bar", "control")
        assert advert.tags == {"type": "Control Service"}
        assert {w.name for w in advert.work_types or ()} >= {"echo", "cat"}


@pytest.mark.parametrize("session", SESSIONS)
async def test_in_the_place_of_the_dialer_we_answer_as_receptor_did(session, autojump_clock):
    async with meshes("bar") as (bar,):
        await bar.listen("control")
        asked = recorded(session, "s2c")
        answers = data_of(await replay(bar, asked))
        theirs = data_of(recorded(session, "c2s"))
        exact = [d for d in theirs if d[0].source_service in (PING_SERVICE, UNREACHABLE_SERVICE)]
        assert len(exact) >= 3
        for answer in exact:
            assert answer in answers
        for dialer in dialers(asked):
            begun = [p for h, p in answers if h.destination_service == dialer and p]
            assert begun, f"no answer to the connection of {dialer}"
            assert begun[0][0] & QUIC_INITIAL == QUIC_INITIAL


def dialers(asked: list[bytes]) -> set[bytes]:
    """Return the services that dialed ``control``."""
    control = encode_service("control")
    found = {h.source_service for h, _ in data_of(asked) if h.destination_service == control}
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("session", SESSIONS)
async def test_our_side_of_the_opening_is_what_receptor_expects(session, autojump_clock):
    async with meshes("bar") as (bar,):
        answers = await replay(bar, recorded(session, "s2c"))
        updates = [RoutingUpdate.decode(m) for m in answers if m[0] == MessageType.ROUTE]
        assert updates[0].connections == {}
        assert all(u.connections == {"foo": 1.0} for u in updates[1:])
        assert all((u.node_id, u.forwarding_node) == ("bar", "bar") for u in updates)
        sequences = [u.sequence for u in updates]
        assert sequences == sorted(set(sequences))
        assert len({u.epoch for u in updates}) == 1


async def test_the_notice_about_an_unknown_service_is_receptors_to_the_value():
    (notice,) = [
        Unreachable.decode(payload)
        for header, payload in data_of(recorded("session1", "c2s"))
        if header.destination_service == UNREACHABLE_SERVICE
    ][:1]
    assert (notice.from_node, notice.to_node, notice.problem) == ("foo", "bar", "service unknown")
