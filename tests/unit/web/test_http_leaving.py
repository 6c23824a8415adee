"""A node that stops: what its clients are told, and how long it waits for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection

from meshnode.control.events import EventHub
from meshnode.control.places import Place
from meshnode.logs import subject_logger
from meshnode.shares import Holder
from meshnode.web.guard import App
from meshnode.web.identity import Connection
from meshnode.web.leaving import GRACE, LAST_WORDS, Leaving
from meshnode.web.server import Server
from meshnode.web.websocket import SUBPROTOCOL
from tests.unit.web.asgi import NEAR
from tests.unit.web.conftest import MakeClient
from tests.unit.web.test_websocket import Socket
from tests.unit.web.test_wire import GET, Http2, guarded, read_to_end

EVENTS = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"

Leave = Callable[[], Awaitable[None]]


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[tuple[trio.SocketStream, Leave]]:
    """Return a client's end of a connection, and what has its service leave."""
    theirs, ours = (trio.SocketStream(one) for one in trio.socket.socketpair())
    leaving, server = Leaving(), Server(app)
    connection = Connection(NEAR, Place(Holder("test")), leaving)

    async with trio.open_nursery() as nursery, theirs:
        nursery.start_soon(server.serve, ours, connection, subject_logger("test"))
        await wait_all_tasks_blocked()
        yield theirs, lambda: server.leave(leaving, nursery)
        nursery.cancel_scope.cancel()


class Gate:
    """An application that answers when it is told to."""

    def __init__(self, *, begins: bool = False) -> None:
        self.begins = begins
        self.asked, self.opened = trio.Event(), trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": []}
        part = {"type": "http.response.body", "body": b"first ", "more_body": True}
        self.asked.set()
        if self.begins:
            await send(start)
            await send(part)
            await self.opened.wait()
        else:
            await self.opened.wait()
            await send(start)
            await send(part)
        await send({"type": "http.response.body", "body": b"last"})


async def test_an_idle_connection_ends_at_once(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, leave):
        await stream.send_all(GET)
        answer = b""
        while b"127.0.0.1:4000" not in answer:
            answer += await stream.receive_some(65536)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await leave()
        assert await read_to_end(stream) == b""
        assert trio.current_time() == began


@pytest.mark.parametrize("begins", [False, True])
async def test_a_response_is_whole_and_the_last_one_of_its_connection(
    autojump_clock: MockClock, begins: bool
) -> None:
    gate = Gate(begins=begins)
    async with connected(guarded(gate)) as (stream, leave), trio.open_nursery() as nursery:
        await stream.send_all(GET)
        await gate.asked.wait()
        await wait_all_tasks_blocked()
        nursery.start_soon(leave)
        await wait_all_tasks_blocked()
        gate.opened.set()
        head, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
        # Where the head was on its way already, nothing more can be said in it.
        assert (b"connection: close" in head.lower()) is not begins
        assert body.endswith(b"last\r\n0\r\n\r\n")


async def test_events_end_whole_and_at_once(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client(hub=EventHub()).app) as (stream, leave):
        await stream.send_all(EVENTS)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            answer = await read_to_end(stream)
            assert trio.current_time() == began
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("reads", [False, True])
async def test_a_request_that_goes_on_is_broken_off_after_a_time(
    autojump_clock: MockClock, reads: bool
) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await trio.sleep(0.1)

    async with connected(guarded(endless)) as (stream, leave), trio.open_nursery() as nursery:
        await stream.send_all(GET)
        await stream.receive_some(1)
        began = trio.current_time()
        if reads:
            nursery.start_soon(read_to_end, stream)
        await leave()
        assert trio.current_time() - began == pytest.approx(GRACE + LAST_WORDS)
        nursery.cancel_scope.cancel()


async def test_a_websocket_is_told_that_the_node_stops(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, leave), trio.open_nursery() as nursery:
        socket = Socket(stream)
        await socket.open(SUBPROTOCOL)
        assert b"foo" in await socket.line()
        nursery.start_soon(leave)
        event = await socket.event()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1001, "the node stops")


# --- HTTP/2 ---------------------------------------------------------------------------------------


class Frames(Http2):
    """A client of HTTP/2 that keeps to no more than frames: its engine ends at GOAWAY."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.rest = b""

    async def next(self, *kinds: type[Frame]) -> Frame:
        """Return the next frame of these kinds. Raises EOFError."""
        while True:
            while len(self.rest) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self.rest[:9]))
                if len(self.rest) < 9 + length:
                    break
                frame.parse_body(memoryview(self.rest[9 : 9 + length]))
                self.rest = self.rest[9 + length :]
                if isinstance(frame, kinds):
                    return frame
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self.rest += data


async def test_an_idle_connection_of_http_2_is_told_and_ends(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, leave):
        client = Frames(stream)
        await client.begin()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await leave()
        told = await client.next(GoAwayFrame)
        assert isinstance(told, GoAwayFrame)
        assert (told.error_code, told.last_stream_id) == (0, 0)
        with pytest.raises(EOFError):
            await client.next(DataFrame)
        assert trio.current_time() == began


@pytest.mark.parametrize("begins", [False, True])
async def test_streams_of_http_2_end_and_no_new_one_begins(
    autojump_clock: MockClock, begins: bool
) -> None:
    gate = Gate(begins=begins)
    async with connected(guarded(gate)) as (stream, leave), trio.open_nursery() as nursery:
        client = Frames(stream)
        await client.begin()
        number = await client.ask("/api/v1")
        await gate.asked.wait()
        nursery.start_soon(leave)
        told = await client.next(GoAwayFrame)
        assert isinstance(told, GoAwayFrame)
        assert (told.error_code, told.last_stream_id) == (0, number)
        late = await client.ask("/api/v1")
        refused = await client.next(RstStreamFrame)
        assert isinstance(refused, RstStreamFrame)
        assert (refused.stream_id, refused.error_code) == (late, ErrorCodes.REFUSED_STREAM)
        gate.opened.set()
        if not begins:
            assert (await client.next(HeadersFrame)).stream_id == number
        body = b""
        while "END_STREAM" not in (part := await client.next(DataFrame)).flags:
            assert isinstance(part, DataFrame)
            body += part.data
        assert body.endswith(b"last")
        began = trio.current_time()
        await stream.aclose()
    assert trio.current_time() == began
