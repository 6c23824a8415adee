"""No stream ends the service behind it, and no fault of the engine more than a connection."""

import itertools
import socket
from contextlib import suppress

import hypothesis
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
from hostile_scene import (
    ALL_PATIENCE,
    scene,
    serve_strictly,
)
from mesh_helpers import all_reach_all, join, meshes

from meshnode.config import Address
from meshnode.config.service_directives import CommandService, TcpClient, UnixSocketClient
from meshnode.errors import MeshError
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.services.base import Service
from meshnode.services.sockets import TcpClientProxy, UnixClientProxy
from meshnode.services.terminal import TerminalService

# --- the services of a node ----------------------------------------------------------------------


async def tcp_client(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    listeners = await nursery.start(trio.serve_tcp, serve_strictly, 0)
    port = listeners[0].socket.getsockname()[1]
    return TcpClientProxy(TcpClient(service="svc", address=Address("127.0.0.1", port)), victim)


async def unix_socket_client(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    path = str(tmp_path / "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    nursery.start_soon(trio.serve_listeners, serve_strictly, [listener])
    return UnixClientProxy(UnixSocketClient(service="svc", filename=path), victim)


async def command_service(victim: Mesh, tmp_path, nursery: trio.Nursery) -> Service:
    return TerminalService(CommandService(service="svc", command=("cat",)), victim)


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
            with trio.fail_after(60):
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
            await trio.sleep(ALL_PATIENCE)
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
        await trio.sleep(ALL_PATIENCE)
        assert not found.connections()
    (record,) = [r for r in caplog.records if "engine failed" in r.message]
    assert record.levelname == "ERROR"
    assert "evil" in record.message
