"""Connections: HTTP as bytes, and clients that are slow, endless or gone."""

import json
import logging
import os
import re
import struct
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import h2.config
import h2.connection
import h2.events
import h11
import pytest
import trio
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, open_stream_to_socket_listener, wait_all_tasks_blocked

from meshnode.config import HttpService
from meshnode.control.places import Place
from meshnode.logs import subject_logger
from meshnode.shares import Holder
from meshnode.web.frames import BURST
from meshnode.web.guard import MAX_HEADERS, SEND_TIMEOUT, App, Guard
from meshnode.web.identity import IDLE_TIMEOUT, Connection, Identifier
from meshnode.web.origins import Origins
from meshnode.web.server import Server
from meshnode.web.session import FILES
from meshnode.web.wire import ANSWER_TIMEOUT, HEADER_TIMEOUT
from tests.unit.web.asgi import NEAR
from tests.unit.web.conftest import MakeClient

CHUNKED = (
    b"POST /api/v1/units HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

GET = b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[tuple[trio.SocketStream, trio.Event]]:
    """Return the client's end of a connection to an application, and when that has ended."""
    theirs, ours = (trio.SocketStream(one) for one in trio.socket.socketpair())
    ended = trio.Event()

    async def serve() -> None:
        place = Place(Holder("test"))
        await Server(app).serve(ours, Connection(NEAR, place), subject_logger("test"))
        ended.set()

    async with trio.open_nursery() as nursery, theirs:
        nursery.start_soon(serve)
        yield theirs, ended
        nursery.cancel_scope.cancel()


async def read_to_end(stream: trio.SocketStream) -> bytes:
    found = b""
    while data := await stream.receive_some(65536):
        found += data
    return found


async def test_a_client_that_is_gone_before_it_is_spoken_to_is_no_fault(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await open_stream_to_socket_listener(listener)
        ours = await listener.accept()
        client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await wait_all_tasks_blocked(0.05)
        connection = Connection(NEAR, Place(Holder("test")))
        await Server(make_client().app).serve(ours, connection, subject_logger("test"))
    assert "broke off" not in caplog.text


async def test_requests_follow_each_other_on_one_connection(make_client: MakeClient) -> None:
    async with connected(make_client().app) as (stream, _):
        for _ in range(3):
            await stream.send_all(GET)
            answer = b""
            while b"127.0.0.1:4000" not in answer:
                answer += await stream.receive_some(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("path", [b"/", b"/api/v1/status", b"/api/v1/openapi.json", b"/nothing"])
async def test_who_says_at_once_that_it_asks_for_nothing_more_has_whole_answers(
    make_client: MakeClient, path: bytes, count: int
) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
    async with connected(make_client().app) as (stream, ended):
        await stream.send_all(request * count)
        await stream.send_eof()
        rest = await read_to_end(stream)
        for _ in range(count):
            head, _, rest = rest.partition(b"\r\n\r\n")
            [size] = re.findall(rb"content-length: (\d+)", head)
            assert len(rest) >= int(size) > 0
            rest = rest[int(size) :]
        assert rest == b""
        await ended.wait()


async def test_who_may_be_gone_is_waited_for_no_longer_than_an_answer_takes(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, ended):
        await stream.send_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.send_eof()
        with trio.fail_after(2 * ANSWER_TIMEOUT):
            assert b"event: start" in await read_to_end(stream)
            await ended.wait()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 3 * MAX_HEADERS + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * MAX_HEADERS, b"431"),
        # All of them come in one piece.
        (b"GET /" + b"x" * MAX_HEADERS + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET /?" + b"x" * MAX_HEADERS + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (GET[:-2] + b"a: " + b"b" * MAX_HEADERS + b"\r\n\r\n", b"431"),
        (GET[:-2] + b"a: b\r\n" * (MAX_HEADERS // 6) + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        # A request that is being answered already, when its body turns out to be none.
        (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * MAX_HEADERS, b"431"),
        (CHUNKED + b"2\r\n{}\r\n0\r\na" + b"b" * 3 * MAX_HEADERS, b"431"),
        (CHUNKED + b"zz\r\n", b"400"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\x00: b\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_or_too_long_is_answered_and_ends_the_connection(
    make_client: MakeClient, sent: bytes, status: bytes, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, ended):
        await stream.send_all(sent)
        await stream.send_eof()
        head, _, body = (await read_to_end(stream)).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert b"\r\ncontent-type: application/problem+json" in head
        assert b"\r\ncontent-security-policy: " in head
        assert json.loads(body)["status"] == int(status)
        await ended.wait()


async def test_a_body_with_two_ends_is_refused_and_nothing_behind_it_is_taken_for_a_request(
    make_client: MakeClient,
) -> None:
    sent = (
        b"POST /api/v1/units HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with connected(make_client().app) as (stream, ended):
        await stream.send_all(sent + GET)
        answer = await read_to_end(stream)
        # Hypercorn may close the connection before the refusal is written, for what follows it.
        assert not answer or answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") <= 1
        # Else the node waits a while for what still comes.
        await stream.aclose()
        await ended.wait()


async def test_headers_that_do_not_come_cost_a_connection_a_short_time(
    make_client: MakeClient, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(make_client().app) as (stream, ended):
        began = trio.current_time()
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        while not ended.is_set():
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"a: b\r\n")
            with trio.move_on_after(1):
                await ended.wait()
        assert trio.current_time() - began < HEADER_TIMEOUT + 5
    assert "headers were not there" in caplog.text


async def test_a_connection_that_says_nothing_ends(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with connected(make_client().app) as (stream, ended):
        began = trio.current_time()
        assert await read_to_end(stream) == b""
        await ended.wait()
        assert trio.current_time() - began < IDLE_TIMEOUT + 5


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_refusal_is_read_by_a_client_that_goes_on_sending_its_body(
    make_client: MakeClient, autojump_clock: MockClock, chunked: bool
) -> None:
    how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
    piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n" if chunked else b"x" * 0x8000
    async with connected(make_client().app) as (stream, ended), trio.open_nursery() as nursery:

        async def send() -> None:
            head = (
                b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            try:
                await stream.send_all(head + how + b"\r\n\r\n")
                for _ in range(3000):
                    await stream.send_all(piece)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(send)
        answer = b""
        while b"not-found" not in answer:
            answer += await stream.receive_some(65536)
        assert answer.startswith(b"HTTP/1.1 404 ")
        await ended.wait()
        nursery.cancel_scope.cancel()


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """An application whose response never ends, until it cannot be sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


async def test_a_node_that_stops_waits_for_no_client_that_does_not_read() -> None:
    async with connected(guarded(endless)) as (stream, ended):
        await stream.send_all(GET)
        await stream.receive_some(1)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()


async def test_a_client_that_reads_nothing_is_given_up_after_a_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(guarded(endless)) as (stream, ended):
        await stream.send_all(GET)
        await ended.wait()
    assert "has read nothing" in caplog.text


# --- HTTP/2 ---------------------------------------------------------------------------------------


class Http2:
    """A client of HTTP/2 that knows that the other end speaks it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.engine = h2.connection.H2Connection(h2.config.H2Configuration())
        self.events: list[h2.events.Event] = []

    async def begin(self) -> None:
        self.engine.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.engine.data_to_send())

    async def ask(self, path: str, method: str = "GET", *, end: bool = True, **more: str) -> int:
        number = self.engine.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "localhost"),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        self.engine.send_headers(number, headers, end_stream=end)
        await self.flush()
        return number

    async def wait(self, wanted: Callable[[h2.events.Event], bool]) -> h2.events.Event:
        while True:
            for event in self.events:
                if wanted(event):
                    return event
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self.events += self.engine.receive_data(data)
            await self.flush()

    async def status(self, number: int) -> int:
        event = await self.wait(
            lambda e: isinstance(e, h2.events.ResponseReceived) and e.stream_id == number
        )
        return int(dict(event.headers)[b":status"])  # type: ignore[attr-defined]

    async def end(self, number: int) -> None:
        await self.wait(lambda e: isinstance(e, h2.events.StreamEnded) and e.stream_id == number)


async def test_many_requests_are_answered_on_one_connection_of_http_2(
    make_client: MakeClient,
) -> None:
    async with connected(make_client().app) as (stream, _):
        client = Http2(stream)
        await client.begin()
        numbers = [await client.ask("/api/v1/status") for _ in range(20)]
        for number in numbers:
            assert await client.status(number) == 200
            await client.end(number)


async def test_what_comes_behind_very_many_frames_of_one_piece_is_answered(
    make_client: MakeClient,
) -> None:
    async with connected(make_client().app) as (stream, _):
        client = Http2(stream)
        client.engine.initiate_connection()
        for _ in range(BURST // 2):
            client.engine.increment_flow_control_window(1)
        number = await client.ask("/api/v1/status")
        assert await client.status(number) == 200
        await client.end(number)


async def test_a_refused_body_on_http_2_leaves_the_connection_to_others(
    make_client: MakeClient,
) -> None:
    async with connected(make_client().app) as (stream, _):
        client = Http2(stream)
        await client.begin()
        number = await client.ask("/nothing", "POST", end=False, content_type="application/json")
        for _ in range(3):
            client.engine.send_data(number, b"x" * 16000)
            await client.flush()
        client.engine.send_data(number, b"", end_stream=True)
        await client.flush()
        assert await client.status(number) == 404
        await client.end(number)
        assert await client.status(await client.ask("/api/v1")) == 200


async def test_streams_that_are_reset_again_and_again_end_the_connection(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with (
        connected(make_client().app) as (stream, ended),
        trio.open_nursery() as nursery,
    ):
        client = Http2(stream)
        await client.begin()

        async def read() -> None:
            with suppress(trio.BrokenResourceError):
                await read_to_end(stream)

        nursery.start_soon(read)
        with suppress(trio.BrokenResourceError):
            for _ in range(BURST + 100):
                client.engine.reset_stream(await client.ask("/api/v1/status"))
                await client.flush()
        await ended.wait()
    assert "carry nothing" in caplog.text


UPGRADE = (
    b"GET /api/v1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
)
BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


@pytest.mark.parametrize(
    "beginning",
    [
        *([BEGIN[:cut], BEGIN[cut:]] for cut in (0, 1, 13, 14, 20, 24, 30)),
        [GET, BEGIN],
        [GET + BEGIN],
        [UPGRADE, BEGIN],
        [UPGRADE + BEGIN],
        [UPGRADE, BEGIN[:2], BEGIN[2:]],
    ],
)
async def test_frames_are_counted_however_a_connection_comes_to_http_2(
    make_client: MakeClient,
    beginning: list[bytes],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    idle = b"\0\0\x05\x02\0\0\0\0\x01" + bytes(5)
    async with (
        connected(make_client().app) as (stream, ended),
        trio.open_nursery() as nursery,
    ):

        async def read() -> None:
            with suppress(trio.BrokenResourceError):
                await read_to_end(stream)

        nursery.start_soon(read)
        began = trio.current_time()
        with suppress(trio.BrokenResourceError):
            for part in beginning:
                await stream.send_all(part)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(100):
                await stream.send_all(idle * BURST)
        await ended.wait()
        assert trio.current_time() - began < IDLE_TIMEOUT
    assert "carry nothing" in caplog.text or "begin with it" in caplog.text


@pytest.mark.parametrize("cut", [1, 13, 14, 20])
async def test_no_request_is_taken_for_a_flood_where_the_beginning_is_cut(
    make_client: MakeClient, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(make_client().app) as (stream, ended):
        await stream.send_all(BEGIN[:cut])
        await trio.testing.wait_all_tasks_blocked()
        # Were the frames not told apart, this one would be full of empty ones.
        await stream.send_all(BEGIN[cut:] + b"\0\x40\0\xfa\0\0\0\0\0" + bytes(16384))
        await stream.receive_some(65536)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
    assert caplog.text == ""


async def test_a_client_may_ask_for_http_2_by_an_upgrade(make_client: MakeClient) -> None:
    async with connected(make_client().app) as (stream, _):
        client = Http2(stream)
        client.engine.initiate_upgrade_connection()
        await stream.send_all(UPGRADE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        await client.flush()
        client.events += client.engine.receive_data(rest)
        assert await client.status(1) == 200
        assert await client.status(await client.ask("/api/v1")) == 200


async def test_nothing_is_sent_for_a_stream_that_its_client_has_reset() -> None:
    lost = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await endless(scope, receive, send)
        except trio.BrokenResourceError:
            lost.set()
            raise

    async with connected(guarded(app)) as (stream, ended):
        client = Http2(stream)
        await client.begin()
        number = await client.ask("/api/v1")
        assert await client.status(number) == 200
        client.engine.reset_stream(number)
        await client.flush()
        await lost.wait()
        assert not ended.is_set()


@pytest.mark.parametrize("fault", [RuntimeError("ours"), trio.BrokenResourceError("cut short")])
async def test_a_response_that_is_not_whole_is_broken_off(fault: Exception) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise fault

    async with connected(guarded(app)) as (stream, _):
        await stream.send_all(GET)
        answer = await read_to_end(stream)
        assert answer.endswith(b"4\r\nhalf\r\n")
    async with connected(guarded(app)) as (stream, ended):
        client = Http2(stream)
        await client.begin()
        number = await client.ask("/")
        await client.wait(lambda e: isinstance(e, h2.events.StreamReset) and e.stream_id == number)
        assert not ended.is_set()


def guarded(app: App) -> App:
    directive = HttpService(port=1)
    return Guard(app, Identifier(directive), Origins())


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
FRAME = st.builds(
    lambda kind, flags, stream, payload: (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    ),
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 5),
    st.binary(max_size=20)
    | st.just(b"\x82\x84\x86\x41\x01a")
    | st.just(b"\x82\x44\x01\xff\x86\x41\x01a"),
)
HEADER = st.builds(
    lambda name, value: name + b": " + value + b"\r\n",
    st.sampled_from([b"Host", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Connection",
                     b"Expect", b"HTTP2-Settings", b"Authorization", b"Origin", b"Range"]),
    st.sampled_from([b"localhost", b"5", b"chunked", b"h2c", b"websocket", b"upgrade", b"close",
                     b"100-continue", b"AAMAAABk", b"bytes=0-"]) | st.binary(max_size=8),
)  # fmt: skip
REQUEST = st.builds(
    lambda method, target, headers, body: (
        method
        + b" "
        + target
        + b" HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(headers)
        + b"\r\n"
        + body
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PRI", b"\xff"]),
    st.sampled_from([b"/", b"*", b"/api/v1/session", b"/%ff", b"/%00", b"http://x/", b"/api/v1"])
    | st.binary(max_size=8),
    st.lists(HEADER, max_size=4),
    st.binary(max_size=20),
)


@settings(max_examples=100)
@given(
    st.binary(max_size=200)
    | st.lists(REQUEST, max_size=3).map(b"".join)
    | st.lists(FRAME, max_size=8).map(lambda frames: PREFACE + b"".join(frames))
)
def test_whatever_a_client_sends_ends_at_most_its_connection(sent: bytes) -> None:
    app = guarded(echo)

    async def send() -> None:
        async with connected(app) as (stream, ended):
            with suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
                await stream.send_eof()
                await read_to_end(stream)
            await ended.wait()

    with records_of("meshnode") as records:
        trio.run(send, clock=MockClock(autojump_threshold=0))
    assert [record for record in records if record.levelname == "ERROR"] == []


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with what it was sent."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def records_of(name: str) -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def test_the_version_that_is_driven_is_the_one_that_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    pinned = project["project"]["optional-dependencies"]["web"]
    assert f"hypercorn[trio]=={version('hypercorn')}" in pinned


def test_what_is_touched_of_hypercorn_is_there() -> None:
    touched = {
        HTTPStream: {"closed", "stream_id"},
        WSStream: {"closed", "stream_id"},
        H2Protocol: {"connection", "stream_buffers"},
    }
    for cls, names in touched.items():
        assert names <= set(cls.__init__.__code__.co_names) | set(cls.__annotations__)


class FileApp:
    """An application whose response has parts of a file between other bytes."""

    def __init__(self, descriptor: int, count: int, length: int | None) -> None:
        self.descriptor = descriptor
        self.count = count
        self.length = length

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = []
        if self.length is not None:
            headers = [(b"content-length", b"%d" % self.length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        assert (FILES in scope["extensions"]) == (scope["http_version"] == "1.1")
        for offset in (0, 10):
            await send({"type": "http.response.body", "body": b"<", "more_body": True})
            part = {"file": self.descriptor, "offset": offset, "count": self.count}
            await send({"type": FILES, **part, "more_body": True})
        await send({"type": "http.response.body", "body": b">"})


@pytest.fixture
def sent_file(tmp_path: Path) -> Iterator[int]:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 8192)
    descriptor = os.open(file, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("has_length", [True, False])
async def test_parts_of_files_are_parts_of_the_body(sent_file: int, has_length: bool) -> None:
    count = 2_000_000
    app = FileApp(sent_file, count, 2 * count + 3 if has_length else None)
    async with connected(guarded(app)) as (stream, _):
        await stream.send_all(GET.replace(b"Host", b"Connection: close\r\nHost"))
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("host", "localhost")]))
        client.send(h11.EndOfMessage())
        client.receive_data(await read_to_end(stream))
        client.receive_data(b"")
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            body += event.data if isinstance(event, h11.Data) else b""
        first, second = (os.pread(sent_file, count, offset) for offset in (0, 10))
        assert body == b"<" + first + b"<" + second + b">"


async def test_a_file_that_ends_before_breaks_the_response_off(sent_file: int) -> None:
    async with connected(guarded(FileApp(sent_file, 3_000_000, None))) as (stream, ended):
        await stream.send_all(GET)
        with suppress(trio.BrokenResourceError):
            assert not (await read_to_end(stream)).endswith(b"0\r\n\r\n")
        await ended.wait()


async def test_a_request_that_is_there_may_take_as_long_as_it_takes(
    autojump_clock: MockClock,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(20 * HEADER_TIMEOUT)
        await echo(scope, receive, send)

    async with connected(guarded(app)) as (stream, _):
        for _ in range(2):
            await stream.send_all(GET)
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                answer += await stream.receive_some(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_stream_whose_client_grants_nothing_is_reset_after_a_time(
    autojump_clock: MockClock,
) -> None:
    taken = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            nonlocal taken
            await send(message)
            taken += 1

        await endless(scope, receive, counted)

    async with connected(guarded(app)) as (stream, ended):
        client = Http2(stream)
        await client.begin()
        number = await client.ask("/")
        await client.wait(lambda e: isinstance(e, h2.events.StreamReset) and e.stream_id == number)
        assert taken < 5
        assert trio.current_time() < SEND_TIMEOUT + 5
        await ended.wait()
        assert trio.current_time() < SEND_TIMEOUT + IDLE_TIMEOUT + 10


async def test_all_of_a_long_response_comes_to_a_client_of_http_2_that_grants_room() -> None:
    piece = bytes(range(256)) * 256

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(40):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with connected(guarded(app)) as (stream, _):
        client = Http2(stream)
        await client.begin()
        number = await client.ask("/")
        body, has_ended = b"", False
        while not has_ended:
            for event in client.engine.receive_data(await stream.receive_some(65536)):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                    client.engine.acknowledge_received_data(event.flow_controlled_length, number)
                has_ended = has_ended or isinstance(event, h2.events.StreamEnded)
            await client.flush()
        assert body == piece * 40
