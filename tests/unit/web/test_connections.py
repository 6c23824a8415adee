"""More clients than there are places for: who is let in, who is told why not, and for how long."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshnode import resources
from meshnode.config import HttpService as Directive
from meshnode.control.budgets import SessionBudgets
from meshnode.control.events import EventHub
from meshnode.control.events_command import events_command, mesh_audiences
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.registry import CommandRegistry
from meshnode.control.service import IDLE_CHECK
from meshnode.web import service as serving
from meshnode.web.commands import Commands
from meshnode.web.identity import BRIEF
from meshnode.web.routing import WebNode
from meshnode.web.service import HttpListener, HttpService
from meshnode.web.spool import Spool
from tests.unit.control.conftest import FakeMesh
from tests.unit.web.conftest import nothing_short, refuse_reload
from tests.unit.web.test_http_leaving import EVENTS
from tests.unit.web.test_wire import read_to_end

ASK = b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n"

OF_ONE = 24
"""Connections of one address, of 32 in all; 4 more are for what is short, two of them its own."""

CUSHION = 0.05
"""Seconds for which nothing must happen until all that was sent has come: it passes the network."""

Connect = Callable[[], Awaitable[trio.SocketStream]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 32)


@pytest.fixture
def patient_clock() -> MockClock:
    """Return a clock that jumps when nothing has happened for a while: the network takes some."""
    return MockClock(autojump_threshold=0.1)


@asynccontextmanager
async def running() -> AsyncIterator[Connect]:
    """Run a service, and return what connects to it."""
    registry = CommandRegistry()
    register_mesh_commands(registry, FakeMesh(), refuse_reload)  # type: ignore[arg-type]
    registry.register(events_command(EventHub(), mesh_audiences(registry)))
    commands = Commands("foo", registry, SessionBudgets())
    node = WebNode("foo", "1", commands, nothing_short, Spool(Path("/nonexistent")))
    service = HttpService(Directive(port=1), node)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def connect() -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", port)

    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, [HttpListener("tcp", "here", listener)])
        yield connect
        nursery.cancel_scope.cancel()


async def follow(connect: Connect) -> trio.SocketStream:
    stream = await connect()
    await stream.send_all(EVENTS)
    assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
    return stream


async def ask(connect: Connect, sent: bytes = ASK) -> tuple[bytes, bytes]:
    """Return status and the rest of a response that ends with its connection."""
    stream = await connect()
    await stream.send_all(sent)
    answer = await read_to_end(stream)
    await stream.aclose()
    await settled()
    return answer[9:12], answer.lower()


async def settled() -> None:
    """Return when the service has seen what was closed."""
    await wait_all_tasks_blocked(CUSHION)


async def test_whoever_follows_on_all_places_of_an_address_leaves_a_way_to_ask(few: None) -> None:
    async with running() as connect:
        followers = [await follow(connect) for _ in range(OF_ONE)]
        for _ in range(10):
            status, answer = await ask(connect)
            assert status == b"200"
            assert b"connection: close" in answer
        for stream in followers:
            await stream.aclose()


async def test_what_would_last_is_told_to_come_later(few: None) -> None:
    async with running() as connect:
        followers = [await follow(connect) for _ in range(OF_ONE)]
        status, answer = await ask(connect, EVENTS)
        assert status == b"503"
        assert b"retry-after: 10" in answer
        assert b"too many connections are open" in answer
        await followers.pop().aclose()
        await settled()
        followers.append(await follow(connect))
        for stream in followers:
            await stream.aclose()


async def test_who_finds_no_place_at_all_is_told_so_before_it_asks(
    few: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as connect:
        followers = [await follow(connect) for _ in range(OF_ONE)]
        silent = [await connect(), await connect()]
        await settled()
        status, answer = await ask(connect)
        assert status == b"503"
        assert b"retry-after: 10" in answer
        assert b"application/problem+json" in answer
        for stream in followers + silent:
            await stream.aclose()
    assert "26 connections are open" in caplog.text


async def test_nobody_keeps_a_place_that_is_for_what_is_short(
    few: None, patient_clock: MockClock
) -> None:
    async with running() as connect:
        followers = [await follow(connect) for _ in range(OF_ONE)]
        began = trio.current_time()
        silent, slow = await connect(), await connect()
        while trio.current_time() < began + BRIEF:
            await slow.send_all(b"G")
            await trio.sleep(BRIEF / 2)
        assert await read_to_end(silent) == b""
        await settled()
        status, _ = await ask(connect)
        assert status == b"200"
        for stream in [*followers, silent, slow]:
            await stream.aclose()


@pytest.mark.parametrize(("crowd", "is_trimmed"), [(2, False), (OF_ONE, True)])
async def test_the_memory_of_a_crowd_that_is_gone_is_given_back_to_the_system(
    crowd: int,
    is_trimmed: bool,
    few: None,
    monkeypatch: pytest.MonkeyPatch,
    patient_clock: MockClock,
) -> None:
    trimmed = trio.Event()

    async def trim() -> None:
        trimmed.set()

    monkeypatch.setattr(resources, "trim_memory", trim)
    monkeypatch.setattr(serving, "COST", resources.WORTH_IT // OF_ONE + 1)
    async with running() as connect:
        streams = [await follow(connect) for _ in range(crowd)]
        await trio.sleep(2 * IDLE_CHECK)
        assert not trimmed.is_set()
        for stream in streams:
            await stream.aclose()
        with trio.move_on_after(3 * IDLE_CHECK):
            await trimmed.wait()
    assert trimmed.is_set() is is_trimmed
