"""What comes from far away, over honest neighbours: it harms neither them nor this node.

A stranger is a peer of the neighbour. What it sends reaches the node that is tested over the
neighbour's link, so a fault that is blamed on the link would cost the innocent neighbour.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
from mesh_helpers import line

from meshnode.mesh.links.memory import MemoryLink, memory_link_pair
from meshnode.mesh.mesh import Mesh
from meshnode.protocol.messages import HEADER_LENGTH, RoutingUpdate
from meshnode.protocol.namehash import name_hash

CONTROL = b"control\0"
PING = b"ping\0\0\0\0"
UNREACHABLE = b"unreach\0"
INITIAL = b"\xc0\0\0\0\1" + bytes(1300)
"""The beginning of a QUIC connection, which says nothing sensible but is long enough for one."""
OTHER_VERSION = b"\xc0\xba\xba\xba\xba" + bytes(1300)
"""A datagram that is answered with the versions that we speak."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The node that is tested, its neighbour, and a stranger behind that, driven by hand."""

    victim: Mesh
    neighbour: Mesh
    stranger: MemoryLink

    async def send(self, *messages: bytes) -> None:
        """Send from the stranger, and wait until all that follows has happened."""
        for message in messages:
            await self.stranger.send([message])
        await trio.sleep(0.01)

    async def assert_unharmed(self) -> None:
        """Check that the one link the victim ever had is up, and that both ends work."""
        with trio.fail_after(5):
            assert (await self.neighbour.ping("victim")).from_node == "victim"
            assert (await self.victim.ping("neighbour")).from_node == "neighbour"
            assert (await self.victim.ping("stranger")).from_node == "stranger"


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with line("victim", "neighbour") as (victim, neighbour):
        near, far = memory_link_pair()
        neighbour._nursery.start_soon(neighbour.run_link, far)
        update = RoutingUpdate("stranger", "hello000", 1, 1, {"neighbour": 1.0}, "stranger")
        await near.send([update.encode()])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                while messages := await near.receive():
                    for message in messages:
                        if message[0] == 0 and message[28:36] == PING:
                            answer = data(PING, bytes(message[20:28]), b"", bytes(message[4:12]))
                            await near.send([answer])

            await victim.wait_reachable("stranger")
            yield Scene(victim, neighbour, near)
            nursery.cancel_scope.cancel()


def data(source: bytes, service: bytes, payload: bytes, to: bytes = name_hash("victim")) -> bytes:
    """Return a data message of the stranger, service names as they stand in a header."""
    message = bytes([0, 29, 0, 0]) + name_hash("stranger") + to + source + service + payload
    assert len(message) == HEADER_LENGTH + len(payload)
    return message


SERVICE_FIELDS = st.binary(min_size=8, max_size=8) | st.sampled_from(
    [
        b"\xff" * 8,
        b"a\0b\0\0\0\0\0",
        b"\0" * 7 + b"x",
        b"\0" * 8,
        b"line\nend",
        b"\xed\xa0\x80\0\0\0\0\0",
    ]
)


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    st.lists(
        st.tuples(
            SERVICE_FIELDS,
            SERVICE_FIELDS | st.sampled_from([CONTROL, PING, UNREACHABLE, b"datagram"]),
            st.sampled_from([INITIAL, OTHER_VERSION, b"", b"\x40" + bytes(50)]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_service_name_that_a_stranger_uses_costs_a_link(messages):
    async def main() -> None:
        async with scene() as found:
            await found.victim.listen("control")
            found.victim.open_datagrams("datagram")
            await found.send(*(data(*message) for message in messages))
            await found.assert_unharmed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("service", [b"\xff" * 8, b"a\0b\0\0\0\0\0", b"line\nend"])
async def test_a_message_of_a_service_that_is_not_text_is_dropped_and_counted(
    service, autojump_clock
):
    async with scene() as found:
        await found.victim.listen("control")
        sent = [data(service, to, INITIAL) for to in (CONTROL, PING, b"nobody\0\0")]
        await found.send(*sent)
        assert found.victim._router.drop_counts.unreadable == len(sent)
        assert not found.victim._streams.connections
        await found.assert_unharmed()
