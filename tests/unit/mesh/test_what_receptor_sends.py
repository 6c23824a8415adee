"""Nothing that receptor nodes send meets a bound: recorded messages, and a mesh of a thousand."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from hostile import forge
from hostile.frames import decode_frames
from mesh_helpers import join, meshes
from simulation import cheap_nodes, node_names, ring_with_chords

from meshnode.mesh.dataplane import DropCounts
from meshnode.mesh.links.memory import MemoryLink, memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.messages import HEADER_LENGTH, DataHeader, MessageType, Unreachable
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement

DATA = Path(__file__).parents[2] / "data"
UNREACH = b"unreach".ljust(8, b"\0")

NODES = 1000
LINKS = 2000
WORK_TYPES = 300
"""Work types of each tenth node; the others have three."""

UPDATES_EVERY = 10.0
ADVERTS_EVERY = 60.0
MINUTES = 2.5


def recorded() -> Iterator[tuple[str, bytes]]:
    """Yield every message of the recorded sessions and of the vectors, with where it is from."""
    for path in sorted((DATA / "captures").glob("*.bin")):
        for number, message in enumerate(decode_frames(path.read_bytes())):
            yield f"{path.name} {number}", bytes(message)
    for number, frame in enumerate(json.loads((DATA / "wire-vectors.json").read_text())["frames"]):
        (message,) = decode_frames(bytes.fromhex(frame["hex"]))
        yield f"wire-vectors {number}", bytes(message)


def test_every_recorded_message_is_decoded_whole():
    kinds = dict.fromkeys(MessageType, 0)
    for origin, message in recorded():
        kind = MessageType(message[0])
        kinds[kind] += 1
        if kind is MessageType.ROUTE:
            text = RoutingUpdate.decode(message).encode()
        elif kind is MessageType.ADVERTISEMENT:
            text = ServiceAdvertisement.decode(message).encode()
        elif kind is MessageType.DATA:
            DataHeader.decode(message)
            if message[28:36] == UNREACH:
                text = b"\0" + Unreachable.decode(message[HEADER_LENGTH:]).encode()
                message = b"\0" + message[HEADER_LENGTH:]
            else:
                continue
        else:
            continue
        # Nothing was left out, cut short or put into other words.
        assert json.loads(text[1:]) == json.loads(message[1:]), origin
    assert min(kinds[k] for k in (MessageType.DATA, MessageType.ROUTE)) > 20
    assert kinds[MessageType.ADVERTISEMENT] > 4


def work_types(count: int) -> list[dict[str, object]]:
    return [{"WorkType": f"ansible-runner-{n:03}", "Secure": n % 2 == 0} for n in range(count)]


@dataclass
class ReceptorMesh:
    """What a receptor node says that is linked to a mesh of receptor nodes, second by second."""

    chance: random.Random = field(default_factory=lambda: random.Random(1))
    sequence: int = 0

    def __post_init__(self) -> None:
        self.names = node_names(NODES)
        self.hub = self.names[0]
        self.peers: dict[str, dict[str, float]] = {name: {} for name in self.names}
        for (one, other), cost in ring_with_chords(NODES, LINKS).items():
            self.peers[one][other] = self.peers[other][one] = cost

    def update(self, name: str) -> bytes:
        """Return a node's next update, as the hub forwards it."""
        self.sequence += 1
        return forge.update(
            name,
            UpdateID="".join(self.chance.choices(forge.LETTERS, k=8)),
            UpdateSequence=self.sequence,
            Connections=self.peers[name],
            ForwardingNode=self.hub,
        )

    def advert(self, name: str) -> bytes:
        """Return the advertisement of a node's control service."""
        count = WORK_TYPES if self.names.index(name) % 10 == 0 else 3
        self.sequence += 1
        moment = f"2026-11-22T03:{self.sequence // 60_000:02}:{self.sequence // 1000 % 60:02}"
        return forge.advert(
            name,
            "control",
            Time=f"{moment}.{self.sequence % 1000:03}Z",
            WorkCommands=work_types(count),
        )

    def second(self, number: int) -> list[bytes]:
        """Return what comes within that second: each node has its own beat."""
        said = [self.update(n) for n in self.names[number % int(UPDATES_EVERY) :: 10]]
        said += [self.advert(n) for n in self.names[number % int(ADVERTS_EVERY) :: 60]]
        self.chance.shuffle(said)
        return said


@asynccontextmanager
async def linked_to(receptors: ReceptorMesh) -> AsyncIterator[tuple[Mesh, Mesh, MemoryLink]]:
    """Yield a node of ours that is linked to the hub, another one behind it, and the hub's end."""
    with cheap_nodes():
        async with meshes("victim", "behind") as (ours, behind), trio.open_nursery() as nursery:
            join(ours, behind)
            near, far = memory_link_pair()
            receptors.peers[receptors.hub]["victim"] = 1.0
            nursery.start_soon(ours.run_link, near)
            nursery.start_soon(drain, far)
            await far.send([receptors.update(receptors.hub)])
            await ours.wait_reachable(receptors.hub)
            yield ours, behind, far
            nursery.cancel_scope.cancel()


async def drain(link: MemoryLink) -> None:
    while await link.receive():
        pass


def assert_all_was_taken(ours: Mesh, behind: Mesh, receptors: ReceptorMesh) -> None:
    for mesh in (ours, behind):
        status = mesh.status()
        assert {*receptors.names} <= status.routes.keys()
        known = {a.node_id: a for a in status.advertisements if a.service == "control"}
        assert {*receptors.names} <= known.keys()
        assert len(known[receptors.hub].work_types or ()) == WORK_TYPES
        assert [c.figures.refused for c in status.connections] == [0] * len(status.connections)
        assert status.drops == DropCounts()


async def test_a_mesh_of_a_thousand_receptor_nodes_meets_no_bound(autojump_clock, caplog):
    receptors = ReceptorMesh()
    async with linked_to(receptors) as (ours, behind, hub):
        for number in range(int(60 * MINUTES)):
            await hub.send(receptors.second(number))
            await trio.sleep(1)
        assert_all_was_taken(ours, behind, receptors)
    assert [r.message for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.parametrize("first", ["updates", "advertisements", "mixed"])
async def test_all_that_a_large_mesh_knows_may_come_at_once(first, autojump_clock, caplog):
    receptors = ReceptorMesh()
    updates = [receptors.update(name) for name in receptors.names]
    adverts = [receptors.advert(name) for name in receptors.names]
    everything = {
        "updates": updates + adverts,
        "advertisements": adverts + updates,
        "mixed": random.Random(2).sample(updates + adverts, 2 * NODES),
    }[first]
    async with linked_to(receptors) as (ours, behind, hub):
        await hub.send(everything)
        await trio.sleep(5)
        assert_all_was_taken(ours, behind, receptors)
    assert [r.message for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []
