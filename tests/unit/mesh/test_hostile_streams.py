"""What a peer sends on a connection that it opened as it should costs that connection at most.

The victim serves three kinds of streams: one whose server heeds no errors but those that streams
are documented to raise, one that is joined to a local stream, and one that never reads. Meanwhile
a friend has a stream of its own there.
"""

import itertools
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hostile_dialer import HostileDialer, frame, reset_stream, stop_sending, stream_frame
from mesh_helpers import all_reach_all, join, line, meshes

from meshnode.config.service_directives import CommandService, TcpClient, UnixSocketClient
from meshnode.errors import MeshError
from meshnode.logs import subject_logger
from meshnode.mesh import backlog, gate
from meshnode.mesh.connections import FIRST_STREAM, LINGER, Connection
from meshnode.mesh.credit import Credit, Ledger
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.quic import HANDSHAKE_TIMEOUT, MeshQuicConnection
from meshnode.mesh.streams import MeshStream
from meshnode.protocol.messages import DataHeader, encode_service
from meshnode.protocol.namehash import name_hash
from meshnode.services.base import Service
from meshnode.services.command import CommandServiceService
from meshnode.services.forwarder import StreamServer, forward_to
from meshnode.services.tcp import TcpClientService
from meshnode.services.unix_socket import UnixSocketClientService

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
        with trio.fail_after(10):
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


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
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


@hypothesis.settings(max_examples=40)
@hypothesis.given(CONVERSATIONS)
def test_no_frames_that_hypothesis_finds_end_a_node_or_another_stream(conversations):
    async def converse(found: Scene, service: str, in_one_go: bool, packets: list[bytes]) -> None:
        dialer = await found.dial(service)
        if in_one_go:
            await dialer.send(packets, settle=False)
        else:
            for packet in packets:
                await dialer.send([packet])
        await dialer.settle()
        dialer.vanish()

    async def main() -> None:
        async with scene() as found:
            async with trio.open_nursery() as nursery:
                for conversation in conversations:
                    nursery.start_soon(converse, found, *conversation)
            await found.assert_unharmed()
            # Nothing of it stays for longer than patience with a silent peer lasts.
            await trio.sleep(LINGER + 1)
            assert not found.connections()
            await found.assert_unharmed()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("stream_id", [2, 6, 446, 3, 1, 5])
async def test_streams_of_other_kinds_than_dialers_open_end_their_connection(
    service, stream_id, autojump_clock
):
    async with scene() as found:
        dialer = await found.dial(service)
        await dialer.send([stream_frame(stream_id, b"\0x", end=True)])
        assert dialer.quic.ended is not None
        assert not found.connections()
        await found.assert_unharmed()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_stream_that_is_refused_before_its_first_byte_is_broken_for_its_server(
    service, autojump_clock
):
    async with scene() as found:
        dialer = await found.dial(service)
        await dialer.send([stop_sending(0)])
        await dialer.send([stream_frame(0, b"\0ping")])
        await trio.sleep(1)
        assert found.connections()
        await found.assert_unharmed()


ODD_OPENINGS = [
    pytest.param([stream_frame(0, b"", end=True)], id="ended-empty"),
    pytest.param([stop_sending(0), stream_frame(0, b"", end=True)], id="refused-and-ended-empty"),
    pytest.param([reset_stream(0)], id="reset"),
    pytest.param([stop_sending(0)], id="refused"),
    pytest.param([stream_frame(0, b"x", 5)], id="begun-in-the-middle"),
    pytest.param([frame(0x15, 444, 0)], id="only-named"),
]


@pytest.mark.parametrize("frames", ODD_OPENINGS)
async def test_a_stream_without_a_byte_is_nobodys_and_keeps_no_connection(frames, autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await dialer.send(frames)
        (connection,) = found.connections()
        assert not connection._streams
        dialer.vanish()
        await trio.sleep(FIRST_STREAM + 1)
        assert not found.connections()
        await found.assert_unharmed()


async def test_streams_opened_empty_without_end_leave_nothing_behind(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        for stream_id in range(0, 4000, 4):
            await dialer.send(
                [stop_sending(stream_id) + stream_frame(stream_id, b"", end=True)],
                settle=stream_id % 80 == 0,
            )
        await dialer.settle()
        (connection,) = found.connections()
        assert not connection._streams
        assert not connection._ending
        assert len(connection._quic._streams) < 60
        assert not connection._quic._stream_consumed


async def test_what_waits_for_a_reader_costs_about_what_it_is_however_small_its_pieces(
    autojump_clock,
):
    async with scene() as found:
        dialer = await found.dial("deaf")
        pieces = [stream_frame(0, b"\0", 0)]
        pieces += [stream_frame(0, b"xy", 1 + 2 * n) for n in range(20_000)]
        await dialer.send(
            [b"".join(pieces[n : n + 1000]) for n in range(0, len(pieces), 1000)], settle=False
        )
        await trio.sleep(0.1)
        ((stream,),) = [c._streams.values() for c in found.connections()]
        assert sum(map(len, stream._incoming)) == 40_000
        assert sum(map(sys.getsizeof, stream._incoming)) < 50_000


async def test_a_node_that_acknowledges_nothing_makes_its_writers_wait(autojump_clock, monkeypatch):
    monkeypatch.setattr(backlog, "IN_FLIGHT_OF_NODE", 500_000)
    monkeypatch.setattr(backlog, "UNSENT_OF_NODE", 400_000)
    async with scene() as found:
        for _ in range(20):
            dialer = await found.dial("deaf")
            await dialer.send(
                [frame(0x10, 2**40) + frame(0x11, 0, 2**40) + stream_frame(0, b"\0")], settle=False
            )
            dialer.vanish()
        await trio.sleep(1)
        connections = found.connections()
        assert len(connections) == 20
        kept = sum(len(c._quic._streams[0].sender._buffer) for c in connections)
        assert 500_000 < kept < 500_000 + 400_000 + 20 * backlog.IN_FLIGHT_LEAST
        (common,) = {c._backlog for c in connections}
        await trio.sleep(LINGER)
        assert not found.connections()
        assert (common.streams, common.in_flight) == (0, 0)
        await found.assert_unharmed()


async def test_a_connection_on_which_no_stream_is_opened_ends(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        for _ in range(int(FIRST_STREAM / 2)):
            await trio.sleep(1)
            assert found.connections()
            await dialer.send([frame(1)])
        await trio.sleep(FIRST_STREAM)
        assert not found.connections()


async def test_a_dialer_that_opens_a_stream_late_but_in_time_is_served(autojump_clock):
    async with scene() as found:
        dialer = await found.dial("strict")
        await trio.sleep(FIRST_STREAM - 1)
        await dialer.send([stream_frame(0, b"\0x")])
        await trio.sleep(2)
        assert found.connections()


# --- before the handshake ------------------------------------------------------------------------


def initials(source: str, number: int) -> Iterator[bytes]:
    """Yield messages that begin connections with the victim, by one who never goes on."""
    client = MeshQuicConnection.client("x", (b"", b""), 0.0, Credit(Ledger(), b""))
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
        assert not victim._streams.gate._unproven.all


async def test_one_node_leaves_places_for_all_others(autojump_clock, monkeypatch):
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 40)
    monkeypatch.setattr(gate, "KEPT_CONNECTIONS", 10)
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
            assert all(connection.has_begun for connection in layer.connections)
            assert layer.gate.connections.all == len(layer.connections)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- the services of a node ----------------------------------------------------------------------


async def tcp_client(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    listeners = await nursery.start(trio.serve_tcp, serve_strictly, 0)
    port = listeners[0].socket.getsockname()[1]
    return TcpClientService(TcpClient(service="svc", address=f"127.0.0.1:{port}"), victim)


async def unix_socket_client(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    path = str(tmp_path / "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    nursery.start_soon(trio.serve_listeners, serve_strictly, [listener])
    return UnixSocketClientService(UnixSocketClient(service="svc", filename=path), victim)


async def command_service(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    return CommandServiceService(CommandService(service="svc", command="cat"), victim)


OPENINGS = [
    pytest.param([stream_frame(2, b"\0x", end=True)], id="unidirectional"),
    pytest.param([stream_frame(0, b"\0x"), stream_frame(2, b"\0x")], id="unidirectional-later"),
    pytest.param([stop_sending(0), stream_frame(0, b"\0x", end=True)], id="refused-first"),
    pytest.param([stream_frame(0, b"\0x") + stop_sending(0)], id="refused"),
    pytest.param([stream_frame(0, b"\0x"), reset_stream(0, 2)], id="reset"),
    pytest.param([stream_frame(0, b"\0x") + reset_stream(0, 2) + stop_sending(0)], id="broken"),
    pytest.param([stream_frame(0, b"\0x") + frame(0x1D, 0, 0)], id="closed"),
]


@pytest.mark.parametrize("make", [tcp_client, unix_socket_client, command_service])
@pytest.mark.parametrize("frames", OPENINGS)
async def test_no_way_to_open_and_leave_a_stream_ends_the_service_behind_it(make, frames, tmp_path):
    async with (
        meshes("victim", "evil") as (victim, evil),
        trio.open_nursery() as locally,
        trio.open_nursery() as nursery,
    ):
        join(victim, evil)
        await all_reach_all([victim, evil])
        service = await make(victim, tmp_path, locally)
        await nursery.start(lambda task_status: service.run(task_status=task_status))
        dialer = HostileDialer(evil, "victim", "svc")
        await dialer.connect()
        await dialer.send(frames)
        async with await evil.dial("victim", "svc") as stream:
            await stream.send_all(b"still there\n")
            got = b""
            with trio.fail_after(10):
                while b"still there" not in got:
                    got += await stream.receive_some()
        nursery.cancel_scope.cancel()
        locally.cancel_scope.cancel()


# --- the engine itself ---------------------------------------------------------------------------

ENTRIES = (
    "receive_datagram",
    "datagrams_to_send",
    "handle_timer",
    "get_timer",
    "next_event",
    "send_stream_data",
    "reset_stream",
    "stop_stream",
    "consume",
    "forget_stream",
    "find_size",
    "close",
    "send_ping",
)
"""Where connections call the engine."""


class BrokenEngine(Exception):
    """What nobody thought of."""


def break_at(quic: MeshQuicConnection, entry: str, turn: int) -> list[str]:
    """Let the engine fail at that call of that kind, and at all that follow.

    Returns what becomes the list of the calls after the failure.
    """
    method, turns, calls = getattr(quic, entry), itertools.count(1), []

    def call(*args, **kwargs):
        if next(turns) < turn:
            return method(*args, **kwargs)
        calls.append(entry)
        raise BrokenEngine

    setattr(quic, entry, call)
    return calls


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.sampled_from(ENTRIES), st.integers(1, 12), st.sampled_from(["server", "client"])
)
def test_an_engine_that_fails_at_any_call_costs_its_connection_only(entry, turn, side):
    failures: list[list[str]] = []
    make = getattr(MeshQuicConnection, side)

    def make_broken(*args, **kwargs):
        quic = make(*args, **kwargs)
        if not failures:
            failures.append(break_at(quic, entry, turn))
        return quic

    async def main() -> None:
        async with scene() as found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MeshQuicConnection, side, make_broken)
                with suppress(MeshError, trio.BrokenResourceError, trio.ClosedResourceError):
                    stream = await found.evil.dial("victim", "strict")
                    await stream.send_all(bytes(50_000))
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
                    await stream.aclose()
            await trio.sleep(LINGER)
            await found.assert_unharmed()
            again = await found.evil.dial("victim", "strict")
            assert await again.receive_some() == b"hello"
        (after,) = failures
        # Only the last words may be tried after a failure, and not those of an engine that failed.
        assert len(after) <= 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_failure_of_the_engine_is_logged_once(autojump_clock, caplog):
    async with scene() as found:
        stream = await found.evil.dial("victim", "strict")
        (connection,) = found.connections()
        break_at(connection._quic, "datagrams_to_send", 1)
        await stream.send_all(b"x")
        await trio.sleep(LINGER)
        assert not found.connections()
    (record,) = [r for r in caplog.records if "engine failed" in r.message]
    assert record.levelname == "ERROR"
    assert "evil" in record.message
