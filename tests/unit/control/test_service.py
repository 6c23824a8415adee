"""The service accepts and serves: its bounds, failing accepts, what one session costs others."""

import errno
import logging
import resource
from collections import deque

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from meshnode.control.places import MAX_LEAVING, Bounds
from meshnode.control.registry import Command, ControlSession
from meshnode.control.service import ControlListener, ControlService

GREETING = b"Receptor Control, node foo\n"


class ScriptedListener(trio.abc.Listener[trio.abc.HalfCloseableStream]):
    """Hands out streams and raises errors as it is told to."""

    def __init__(self) -> None:
        self._script: deque[trio.StapledStream | Exception] = deque()
        self._changed = trio.Event()
        self.closed = False

    def add(self, item: trio.StapledStream | Exception) -> None:
        self._script.append(item)
        self._changed.set()

    def dial(self) -> trio.StapledStream:
        ours, theirs = memory_stream_pair()
        self.add(theirs)
        return ours

    async def accept(self) -> trio.StapledStream:
        await trio.lowlevel.checkpoint()
        while not self._script:
            self._changed = trio.Event()
            await self._changed.wait()
        item = self._script.popleft()
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@pytest.fixture
def listener() -> ScriptedListener:
    return ScriptedListener()


@pytest.fixture
def bounds() -> Bounds | None:
    """Bounds of every kind; None for those of this process."""
    return None


@pytest.fixture
async def running(nursery, registry, listener, bounds) -> ControlService:
    service = ControlService("foo", registry, lambda kind: bounds or Bounds.of(kind))
    await nursery.start(service.run, [ControlListener("tcp", "here", listener)])
    return service


async def read_line(stream: trio.StapledStream) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = await stream.receive_some(1)
        if not piece:
            break
        data += bytes(piece)
    return data


async def test_clients_are_served_side_by_side(running, listener) -> None:
    one, two = listener.dial(), listener.dial()
    assert await read_line(two) == GREETING
    assert await read_line(one) == GREETING
    await two.send_all(b"ping\n")
    assert await read_line(two) == b"ERROR: no ping target\n"


async def test_running_out_of_descriptors_only_delays_a_client(
    running, listener, caplog, autojump_clock
) -> None:
    for _ in range(3):
        listener.add(OSError(errno.EMFILE, "Too many open files"))
    assert await read_line(listener.dial()) == GREETING
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == ["control tcp here: cannot accept for now: Too many open files"]


async def test_a_session_that_fails_costs_no_other(running, listener, registry) -> None:
    async def fail(session: ControlSession) -> None:
        raise RuntimeError

    registry.register(Command("fail", lambda rest: fail, lambda body: fail))
    one, two = listener.dial(), listener.dial()
    await one.send_all(b"fail\n")
    assert await read_line(one) == GREETING
    assert await read_line(one) == b"ERROR: internal error: RuntimeError\n"
    assert await read_line(two) == GREETING
    assert await read_line(listener.dial()) == GREETING


@pytest.mark.parametrize("bounds", [Bounds(most=1, of_one=1)])
async def test_one_client_too_many_is_told_so_and_closed(running, listener) -> None:
    one = listener.dial()
    assert await read_line(one) == GREETING
    two = listener.dial()
    assert await read_line(two) == b"ERROR: too many sessions; try again later\n"
    assert await two.receive_some() == b""
    await one.aclose()
    await wait_all_tasks_blocked()
    assert await read_line(listener.dial()) == GREETING


@pytest.mark.parametrize("bounds", [Bounds(most=0, of_one=0)])
async def test_a_refused_client_that_is_gone_already_is_no_fault(running, listener) -> None:
    await listener.dial().aclose()
    assert await read_line(listener.dial()) == b"ERROR: too many sessions; try again later\n"


@pytest.mark.parametrize("bounds", [Bounds(most=0, of_one=0)])
async def test_a_refused_client_whose_stream_fails_costs_no_other(
    running, listener, caplog
) -> None:
    async def fail() -> None:
        raise RuntimeError("the engine is broken")

    _, theirs = memory_stream_pair()
    theirs.send_stream.send_all_hook = fail
    listener.add(theirs)
    assert await read_line(listener.dial()) == b"ERROR: too many sessions; try again later\n"
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert messages == ["session tcp#1: cannot close an unknown client"]


@pytest.mark.parametrize("bounds", [Bounds(most=0, of_one=0)])
async def test_refused_clients_that_do_not_read_are_bounded(
    running, nursery, autojump_clock
) -> None:
    """Some are told and waited for, the rest are closed at once."""
    streams = [lockstep_stream_pair() for _ in range(MAX_LEAVING + 10)]
    for _, theirs in streams:
        nursery.start_soon(running.serve, theirs, "mesh", "mallory")
    await wait_all_tasks_blocked()
    words = [await ours.receive_some() for ours, _ in streams]
    assert words.count(b"") == 10


@pytest.mark.parametrize("bounds", [Bounds(most=1, of_one=1)])
async def test_the_bound_counts_each_kind_apart(running, listener, nursery) -> None:
    assert await read_line(listener.dial()) == GREETING
    ours, theirs = memory_stream_pair()
    nursery.start_soon(running.serve, theirs, "unix", "operator")
    assert await read_line(ours) == GREETING


async def test_clients_of_a_socket_leave_descriptors_to_the_rest_of_the_node(
    running, monkeypatch, nursery
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3, 3))
    refusal = b"ERROR: too many sessions; try again later\n"
    for kind, expected in (("tcp", [GREETING, refusal]), ("mesh", [GREETING] * 2)):
        for line in expected:  # a stream of the mesh has no descriptor
            ours, theirs = memory_stream_pair()
            nursery.start_soon(running.serve, theirs, kind, "a client")
            assert await read_line(ours) == line


async def test_the_end_of_the_service_closes_listeners_and_sessions(registry, listener) -> None:
    client = listener.dial()
    async with trio.open_nursery() as nursery:
        service = ControlService("foo", registry)
        await nursery.start(service.run, [ControlListener("tcp", "here", listener)])
        assert await read_line(client) == GREETING
        nursery.cancel_scope.cancel()
    assert listener.closed
    assert await client.receive_some() == b""


async def test_a_listener_that_was_closed_ends_without_noise(registry, listener, caplog) -> None:
    listener.add(trio.ClosedResourceError())
    await ControlService("foo", registry).run([ControlListener("mesh", "control", listener)])
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []
