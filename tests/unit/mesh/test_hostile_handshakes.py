"""What a peer sends before a connection is up, and what it says of itself, costs nobody else."""

from collections.abc import Iterator
from contextlib import suppress

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from aioquic.buffer import Buffer
from hostile_dialer import (
    HostileDialer,
    frame,
    packet_of,
    stream_frame,
)
from hostile_scene import (
    ALL_PATIENCE,
    CONVERSATIONS,
    Scene,
    scene,
    serve_strictly,
)
from mesh_helpers import line

from meshnode.errors import MeshError
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams import admission
from meshnode.mesh.streams.admission import first_packet
from meshnode.mesh.streams.connection import Connection
from meshnode.mesh.streams.flowcontrol import Credit, CreditPool
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import Address
from meshnode.mesh.streams.timers import HANDSHAKE_TIMEOUT
from meshnode.protocol.messages import DataHeader, ServiceKey, encode_service
from meshnode.protocol.namehash import name_hash
from meshnode.shares import Holder

# --- before the handshake ------------------------------------------------------------------------


def initials(source: str, number: int) -> Iterator[bytes]:
    """Yield messages that begin connections with the victim, by one who never goes on."""
    client = MeshQuicConnection.client("x", (b"", b""), 0.0, Credit(CreditPool(), Holder("")))
    (datagram, _), *_ = client.datagrams_to_send(0.0)
    for count in range(number):
        service = f"f{count}".encode().ljust(8, b"\0")
        header = DataHeader(
            29, name_hash(source), name_hash("victim"), service, encode_service("strict")
        )
        yield header.encode() + datagram


@pytest.mark.parametrize("named", ["evil", "friend"])
async def test_dials_that_lead_to_nothing_cost_little_and_shut_out_nobody(named, autojump_clock):
    async with scene() as found:
        victim = found.victim
        for message in initials(named, 300):
            found.evil._router.send(victim._router.own_hash, message)
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.1)
        assert len(victim._streams.connections) < 50
        # Whoever is at home where answers go to gets in all the same: so does the one whose name
        # was taken in vain.
        for mesh in (found.evil, found.friend_mesh):
            with trio.fail_after(1):
                stream = await mesh._streams.dial("victim", "strict")
                assert await stream.receive_some() == b"hello"
                await stream.aclose()
        await found.assert_unharmed()
        await trio.sleep(HANDSHAKE_TIMEOUT + 1)
        assert len(victim._streams.connections) == 1
        assert not victim._streams.connections.admission._unproven.used


async def test_one_node_leaves_places_for_all_others(autojump_clock, monkeypatch):
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 40)
    monkeypatch.setattr(admission, "KEPT_CONNECTIONS", 10)
    async with scene() as found:
        for _ in range(30):
            dialer = HostileDialer(found.evil, "victim", "strict")
            with trio.move_on_after(0.5):
                await dialer.connect()
                await dialer.send([stream_frame(0, b"\0")], settle=False)
        assert len(found.connections()) == 14
        stream = await found.friend_mesh._streams.dial("victim", "strict")
        assert await stream.receive_some() == b"hello"
        await found.assert_unharmed()


FIRST = next(initials("evil", 1))[36:]


@hypothesis.given(
    st.one_of(
        st.binary(max_size=1300),
        st.builds(
            lambda position, new, size: (
                FIRST[:position] + new + FIRST[position + len(new) :]
            ).ljust(size, b"\0")[:size],
            st.integers(0, 60) | st.integers(0, 1199),
            st.binary(min_size=1, max_size=4),
            st.sampled_from([1199, 1200, 1300, 16_000, 16_001]),
        ),
    )
)
def test_no_datagram_of_a_stranger_is_answered_by_more_than_one_or_remembered_for_nothing(datagram):
    sent: list[bytes] = []

    async def main() -> None:
        async with line("victim", "evil") as (victim, evil):
            await victim.listen("strict")
            await trio.sleep(1)
            key = encode_service("strict")
            layer = victim._streams
            listener = victim._router._receivers[key]
            victim._router.send = lambda destination, message, **kind: sent.append(message)
            listener.on_datagram(evil._router.own_hash, b"stranger", datagram)
            assert len(sent) + len(layer.connections) <= 1
            assert all(connection._quic.has_begun for connection in layer.connections)
            assert layer.connections.admission.connections.used == len(layer.connections)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- what ends say of themselves in the handshake ------------------------------------------------

PARAMETERS = st.dictionaries(
    st.sampled_from([1, 3, 4, 5, 6, 7, 8, 9, 0xA, 0xB, 0xE, 0x20, 0x6D65_7368]),
    st.sampled_from([0, 1, 2, 20, 25, 1200, 16_000, 2**14 - 1, 2**30, 2**60, 2**62 - 1]),
    max_size=6,
)
"""Transport parameters that are numbers: time-outs, limits, sizes."""


def say(quic: MeshQuicConnection, parameters: dict[int, int]) -> None:
    """Have one end say this in its handshake, instead of what it would."""
    honest = quic._serialize_transport_parameters

    def serialize() -> bytes:
        said = honest()
        kept = b""
        buffer = Buffer(data=said)
        while not buffer.eof():
            number = buffer.pull_uint_var()
            value = buffer.pull_bytes(buffer.pull_uint_var())
            if number not in parameters:
                kept += frame(number, len(value)) + value
        for number, value in parameters.items():
            encoded = frame(value)
            kept += frame(number, len(encoded)) + encoded
        return kept

    quic._serialize_transport_parameters = serialize


@hypothesis.settings(max_examples=60)
@hypothesis.given(PARAMETERS, st.sampled_from(["server", "client"]))
def test_whatever_an_end_says_of_itself_costs_its_connection_only(parameters, side):
    make = getattr(MeshQuicConnection, side)
    made: list[MeshQuicConnection] = []

    def make_hostile(*args, **kwargs):
        quic = make(*args, **kwargs)
        if not made:
            made.append(quic)
            say(quic, parameters)
            if side == "client":
                quic._connect(trio.current_time())
        return quic

    async def main() -> None:
        async with scene() as found:
            turns = []
            wait = Connection._wait

            async def count(self):
                turns.append(self)
                await wait(self)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MeshQuicConnection, side, make_hostile)
                patch.setattr(Connection, "_wait", count)
                with suppress(MeshError, trio.BrokenResourceError, trio.ClosedResourceError):
                    stream = await found.evil._streams.dial("victim", "strict")
                    with trio.move_on_after(20):
                        await stream.send_all(bytes(50_000))
                        await stream.send_eof()
                        while await stream.receive_some():
                            pass
                    await stream.aclose()
                await trio.sleep(ALL_PATIENCE)
            # Nothing that it says makes us run in circles.
            assert len(turns) < 20_000
            assert not found.connections()
            await found.assert_unharmed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class HostileService:
    """Answers each dial as it should, and then sends what it likes."""

    def __init__(self, mesh: Mesh, service: str, packets: list[bytes]) -> None:
        self._router, self._key = mesh._router, encode_service(service)
        self._packets = packets
        self._connections: dict[Address, MeshQuicConnection] = {}
        self._router.bind(self._key, self)

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: bytes) -> None:
        peer, now = (source, source_service), trio.current_time()
        quic = self._connections.get(peer)
        if quic is None:
            initial = first_packet(bytes(payload)).initial
            if initial is None:
                return
            quic = self._connections[peer] = MeshQuicConnection.server(
                make_insecure_identity(), Credit(CreditPool(), Holder("")), initial.destination_cid
            )
            quic._local_next_stream_id_bidi = quic._local_next_stream_id_uni = 1 << 62
        was_ready = quic._handshake_confirmed
        quic.receive_datagram(bytes(payload), peer, now)
        answers = [datagram for datagram, _ in quic.datagrams_to_send(now)]
        if quic._handshake_confirmed and not was_ready:
            answers += [packet_of(quic, packet) for packet in self._packets]
        for answer in answers:
            self._router.send_reply(source, self._key, source_service, answer)

    def on_unreachable(self, notice, reporter) -> None:
        pass


@hypothesis.settings(max_examples=20)
@hypothesis.given(CONVERSATIONS)
def test_no_frames_of_a_listener_harm_the_node_that_dials_it(conversations):
    async def dial(found: Scene, service: str) -> None:
        with suppress(MeshError):
            stream = await found.victim._streams.dial("evil", service, share=True)
            with trio.move_on_after(3):
                await serve_strictly(stream)
            await stream.aclose()

    async def main() -> None:
        async with scene() as found:
            async with trio.open_nursery() as nursery:
                for number, (_, _, packets) in enumerate(conversations):
                    HostileService(found.evil, f"h{number}", packets)
                    nursery.start_soon(dial, found, f"h{number}")
                    nursery.start_soon(dial, found, f"h{number}")
            await trio.sleep(ALL_PATIENCE)
            assert not found.connections()
            await found.assert_unharmed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
