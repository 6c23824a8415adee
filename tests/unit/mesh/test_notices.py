"""Messages that fail are answered, but nobody can have a node answer without end."""

from collections.abc import Sequence

import pytest
import trio

from meshnode.mesh.links.base import Message
from meshnode.mesh.mesh import open_mesh
from meshnode.mesh.router import NOTICES_AT_ONCE, NOTICES_PER_SECOND, Router
from meshnode.policies import Action, NamePattern, Rule
from meshnode.protocol.messages import (
    PING_SERVICE,
    UNREACHABLE_SERVICE,
    DataHeader,
    encode_service,
)
from meshnode.protocol.namehash import NameTable


class Hop:
    """Takes what is sent to a peer."""

    def __init__(self, peer: str, holder: str) -> None:
        self.peer = peer
        self.holder = holder
        self.services: list[bytes] = []

    def send_data_now(self, messages: Sequence[Message]) -> None:
        self.services += [bytes(m[20:28]) for m in messages]

    def notices(self) -> int:
        """Return how many notices were sent since the last call."""
        count = self.services.count(UNREACHABLE_SERVICE)
        self.services.clear()
        return count


class Scene:
    """A node between a flooder, whose messages name honest senders, and an honest peer."""

    def __init__(self) -> None:
        self.names = NameTable()
        self.router = Router("foo", self.names)
        self.hop = Hop("bar", "10.0.0.1")
        self.router.set_next_hops({"bar": self.hop, "far": self.hop})

    def message(self, source: str, service: bytes, hops: int = 30, to: str = "foo") -> memoryview:
        header = DataHeader(
            hops,
            self.names.learn(source),
            self.names.learn(to),
            encode_service("asker"),
            service,
        )
        return memoryview(bytearray(header.encode() + b"?"))


NOSUCH = encode_service("nosuch")


def unknown_service(scene: Scene) -> memoryview:
    return scene.message("bar", NOSUCH)


def expired(scene: Scene) -> memoryview:
    return scene.message("bar", NOSUCH, hops=0, to="far")


def rejected(scene: Scene) -> memoryview:
    if not scene.router.has_firewall:
        scene.router.set_firewall([Rule(Action.REJECT, to_service=NamePattern.parse("nosuch"))])
    return scene.message("bar", NOSUCH)


@pytest.mark.parametrize("kind", [unknown_service, expired, rejected])
async def test_a_flood_of_messages_that_fail_is_answered_at_a_bounded_rate(kind, autojump_clock):
    scene = Scene()
    flood = [kind(scene) for _ in range(3 * NOTICES_AT_ONCE)]
    scene.router.handle([memoryview(bytearray(m)) for m in flood], "10.0.0.66")
    assert scene.hop.notices() == NOTICES_AT_ONCE
    assert scene.router.counts.unanswered == 2 * NOTICES_AT_ONCE
    await trio.sleep(1)
    scene.router.handle([memoryview(bytearray(m)) for m in flood], "10.0.0.66")
    assert abs(scene.hop.notices() - NOTICES_PER_SECOND) <= 1
    # Who comes by another link is told, whoever the flood claims to be; so is this node itself.
    scene.router.handle([kind(scene)], "10.0.0.1")
    assert scene.hop.notices() == 1
    scene.router.handle([scene.message("bar", PING_SERVICE)] * 10, "10.0.0.66")
    assert len(scene.hop.services) == 10


async def test_a_flood_of_packets_of_lost_connections_is_answered_at_a_bounded_rate(autojump_clock):
    async with open_mesh("foo") as mesh:
        scene = Scene()
        scene.router, scene.names = mesh._router, mesh._names
        scene.router.set_next_hops({"bar": scene.hop})
        await mesh.listen("service")
        flood = [
            scene.message("bar", encode_service("service")) for _ in range(2 * NOTICES_AT_ONCE)
        ]
        scene.router.handle(flood, "10.0.0.66")
        assert scene.hop.notices() == NOTICES_AT_ONCE
        scene.router.handle(flood[:1], "10.0.0.1")
        assert scene.hop.notices() == 1


async def test_this_node_is_told_of_all_of_its_own_messages_that_fail():
    scene = Scene()
    told = 0

    class Asker:
        def on_unreachable(self, notice, reporter):
            nonlocal told
            told += 1

    scene.router.bind(encode_service("asker"), Asker())
    for _ in range(2 * NOTICES_AT_ONCE):
        scene.router.send(scene.router.own_hash, bytes(scene.message("foo", NOSUCH)))
    assert told == 2 * NOTICES_AT_ONCE
