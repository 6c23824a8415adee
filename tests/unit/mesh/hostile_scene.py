"""A node that serves three kinds of streams, an enemy beside it, and a friend with a stream there.

One kind of server heeds no errors but those that streams are documented to raise, one is joined to
a local stream, and one never reads.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hostile_dialer import (
    HostileDialer,
    frame,
    reset_stream,
    stop_sending,
    stream_frame,
)
from mesh_helpers import all_reach_all, join, meshes

from meshnode.logs import subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams import timers
from meshnode.mesh.streams.connection import Connection
from meshnode.mesh.streams.stream import MeshStream
from meshnode.mesh.streams.timers import IDLE_TIMEOUT
from meshnode.services.forwarder import StreamServer, forward_to

SERVICES = ("strict", "joined", "deaf")


async def serve_strictly(stream: MeshStream) -> None:
    """Echo, and greet first; whatever is raised that is not documented ends the test."""
    with suppress(trio.BrokenResourceError):
        await stream.send_all(b"hello")
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()
    await stream.aclose()


async def serve_deafly(stream: MeshStream) -> None:
    """Read nothing, write more than is taken at once, and close in the middle of it."""
    await trio.sleep(0.3)
    with suppress(trio.BrokenResourceError), trio.move_on_after(0.3):
        await stream.send_all(bytes(300_000))
    await trio.aclose_forcefully(stream)


@dataclass(frozen=True, slots=True)
class Scene:
    victim: Mesh
    evil: Mesh
    friend_mesh: Mesh
    friend: MeshStream

    async def assert_unharmed(self) -> None:
        """Check that the friend's stream, opened before all that, still works."""
        with trio.fail_after(60):
            await self.friend.send_all(b"x")
            assert await self.friend.receive_some() == b"x"

    async def dial(self, service: str) -> HostileDialer:
        dialer = HostileDialer(self.evil, "victim", service)
        await dialer.connect()
        return dialer

    def connections(self) -> list[Connection]:
        """Return the victim's connections with the enemy."""
        evil = self.victim._names.learn("evil")
        return [c for c in self.victim._streams.connections if c.peer[0] == evil]


FIRST_STREAM, LINGER, DELIVERY = 6.0, 10.0, 20.0
"""Shorter than they are, since simulated minutes take their time, too."""

ALL_PATIENCE = IDLE_TIMEOUT + LINGER + DELIVERY
"""Seconds after which nothing is left of whatever it was."""


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timers, "FIRST_STREAM", FIRST_STREAM)
        patch.setattr(timers, "LINGER", LINGER)
        patch.setattr(timers, "POOL_IDLE", LINGER)
        patch.setattr(timers, "DELIVERY", DELIVERY)
        async with _scene() as found:
            yield found


@asynccontextmanager
async def _scene() -> AsyncIterator[Scene]:
    async with meshes("victim", "evil", "friend") as nodes, trio.open_nursery() as nursery:
        victim, evil, friend = nodes
        join(victim, evil)
        join(victim, friend)
        await all_reach_all(nodes)

        async def local() -> trio.abc.HalfCloseableStream:
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(serve_strictly, far)
            return near

        async def accept(service: str, serve) -> None:
            listener = await victim.listen(service)
            while True:
                nursery.start_soon(serve, await listener.accept())

        nursery.start_soon(accept, "strict", serve_strictly)
        nursery.start_soon(accept, "deaf", serve_deafly)
        server = StreamServer(subject_logger("joined"), forward_to(local))
        await nursery.start(server.run, [await victim.listen("joined")])
        await trio.testing.wait_all_tasks_blocked()
        stream = await friend.dial("victim", "strict")
        assert await stream.receive_some() == b"hello"
        yield Scene(victim, evil, friend, stream)
        nursery.cancel_scope.cancel()


ALLOWED = st.one_of(
    st.builds(
        stream_frame,
        st.sampled_from([0, 4, 444]),
        st.sampled_from([b"", b"\0", b"\0ping", b"ping", b"x" * 3000]),
        st.sampled_from([0, 0, 0, 1, 5]),
        end=st.booleans(),
    ),
    st.builds(reset_stream, st.sampled_from([0, 4, 444]), st.sampled_from([0, 1, 5])),
    st.builds(stop_sending, st.sampled_from([0, 4, 444])),
    st.builds(frame, st.just(0x11), st.sampled_from([0, 4, 444]), st.sampled_from([0, 2**30])),
    st.builds(frame, st.just(0x15), st.sampled_from([0, 4, 444]), st.just(0)),
    st.builds(frame, st.sampled_from([0x10, 0x12, 0x13, 0x14, 0x16]), st.sampled_from([0, 2**30])),
    st.builds(frame, st.sampled_from([0, 1])),
    st.builds(lambda kind: frame(kind) + bytes(8), st.sampled_from([0x1A, 0x1B])),
    st.builds(
        lambda number, prior: frame(0x18, number, min(number, prior)) + b"\x08" + bytes(24),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    st.builds(frame, st.just(0x19), st.integers(1, 7)),
)
"""Frames that the engine takes, one by one; what they come to together is another matter."""

NUMBERS = st.sampled_from([0, 1, 5, 63, 64, 2**21 - 1, 2**21, 2**21 + 1, 2**30, 2**60, 2**62 - 1])
STREAMS = st.sampled_from([0, 4, 444, 448, 1, 5, 2, 6, 446, 450, 3, 2**62 - 4, 2**62 - 1])

WILD = st.one_of(
    st.builds(stream_frame, STREAMS, st.sampled_from([b"", b"\0x"]), NUMBERS, end=st.booleans()),
    st.builds(stream_frame, STREAMS, st.sampled_from([b"", b"\0x"]), end=st.booleans()),
    st.builds(reset_stream, STREAMS, NUMBERS),
    st.builds(stop_sending, STREAMS),
    st.builds(frame, st.sampled_from([0x10, 0x12, 0x13, 0x14, 0x16, 0x17, 0x19]), NUMBERS),
    st.builds(frame, st.sampled_from([0x11, 0x15]), STREAMS, NUMBERS),
    st.builds(frame, st.sampled_from([2, 3]), NUMBERS, NUMBERS, st.just(0), NUMBERS),
    st.builds(
        lambda number, prior, length: (
            frame(0x18, number, prior) + bytes([length]) + bytes(length + 16)
        ),
        NUMBERS,
        NUMBERS,
        st.sampled_from([0, 1, 8, 20, 21]),
    ),
    st.builds(lambda data: frame(6, 0, len(data)) + data, st.binary(max_size=100)),
    st.builds(
        lambda kind, code, text: frame(kind, code, len(text)) + text,
        st.sampled_from([0x1C, 0x1D]),
        NUMBERS,
        st.binary(max_size=30),
    ),
    st.builds(frame, st.sampled_from([0, 1, 7, 0x1E, 0x30, 0x31, 0x40, 2**62 - 1])),
    st.binary(max_size=30),
)
"""Frames that few engines take."""


def packets(frames: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Return lists of packets of such frames."""
    return st.lists(st.lists(frames, min_size=1, max_size=4).map(b"".join), max_size=5)


CONVERSATIONS = st.lists(
    st.tuples(
        st.sampled_from(SERVICES),
        st.booleans(),
        st.builds(lambda first, last: first + last, packets(ALLOWED), packets(WILD)),
    ),
    min_size=8,
    max_size=8,
)
