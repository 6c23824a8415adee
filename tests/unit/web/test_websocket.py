"""Control sessions over websockets: the same bytes, halves that end, and ends that are none."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from wsproto import Connection, ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from meshnode.config import HttpService
from meshnode.web.frames import TURN
from meshnode.web.guard import App
from meshnode.web.websocket import SUBPROTOCOL, MessageStream
from tests.unit.web.conftest import MakeClient
from tests.unit.web.test_wire import connected


class Socket:
    """The client's end of a websocket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.engine = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.read = b""

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.engine.send(event))

    async def open(self, *spoken: str, path: str = "/api/v1/session", **headers: str) -> Event:
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send(
            Request(
                host="localhost",
                target=path,
                subprotocols=list(spoken),
                extra_headers=named,
                extensions=[PerMessageDeflate()],
            )
        )
        return await self.event()

    async def event(self) -> Event:
        while not self.events:
            self.engine.receive_data(await self.stream.receive_some(65536) or None)
            found = self.engine.events()
            self.events += [event for event in found if not isinstance(event, Ping)]
        return self.events.pop(0)

    async def line(self) -> bytes:
        while b"\n" not in self.read:
            event = await self.event()
            assert isinstance(event, BytesMessage), event
            self.read += event.data
        line, _, self.read = self.read.partition(b"\n")
        return line


@asynccontextmanager
async def websocket(app: App) -> AsyncIterator[tuple[Socket, trio.Event]]:
    async with connected(app) as (stream, ended):
        yield Socket(stream), ended


async def test_a_session_is_the_one_of_a_control_socket(make_client: MakeClient) -> None:
    async with websocket(make_client().app) as (socket, _):
        accepted = await socket.open(SUBPROTOCOL)
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == SUBPROTOCOL
        # What is compressed can be a thousand times as long.
        assert accepted.extensions == []
        assert await socket.line() == b"Receptor Control, node foo"
        await socket.send(BytesMessage(data=b"sta"))
        await socket.send(BytesMessage(data=b"tus\nping bar\n"))
        assert b'"NodeID":"foo"' in (await socket.line()).replace(b" ", b"")
        assert b'"Success":true' in (await socket.line()).replace(b" ", b"")


async def test_a_half_that_ends_ends_the_session_and_closes(
    make_client: MakeClient, autojump_clock: MockClock
) -> None:
    async with websocket(make_client().app) as (socket, ended):
        await socket.open(SUBPROTOCOL)
        await socket.line()
        await socket.send(BytesMessage(data=b"ping bar\n"))
        await socket.line()
        await socket.send(BytesMessage(data=b""))
        last = await socket.event()
        assert isinstance(last, BytesMessage)
        assert last.data == b""
        assert isinstance(await socket.event(), CloseConnection)
        await socket.stream.aclose()
        await ended.wait()


async def test_of_very_many_small_frames_few_are_taken_at_a_time(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    take = Connection.receive_data

    def note(connection: Connection, data: bytes | None) -> None:
        taken.append(len(data or b""))
        take(connection, data)

    async with websocket(make_client().app) as (socket, _):
        await socket.open(SUBPROTOCOL)
        await socket.line()
        many = b"".join(socket.engine.send(Pong()) for _ in range(5000))
        ping = socket.engine.send(BytesMessage(data=b"ping bar\n"))
        monkeypatch.setattr(Connection, "receive_data", note)
        await socket.stream.send_all(many + ping)
        assert b'"Success":true' in (await socket.line()).replace(b" ", b"")
    assert len(taken) >= 50
    assert sorted(taken)[-2] <= TURN * len(many) // 5000


async def test_data_before_the_answer_to_a_websocket_is_no_fault_of_the_node(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with websocket(make_client().app) as (socket, ended):
        head = socket.engine.send(
            Request(host="localhost", target="/api/v1/session", subprotocols=[SUBPROTOCOL])
        )
        await socket.stream.send_all(head + bytes([0x82, 0x80, 0, 0, 0, 0]))
        with suppress(trio.BrokenResourceError):
            while await socket.stream.receive_some():
                pass
        await ended.wait()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_websocket_that_speaks_something_else_is_refused(make_client: MakeClient) -> None:
    for spoken in ((), ("chat",)):
        async with websocket(make_client().app) as (socket, _):
            refused = await socket.open(*spoken)
            assert isinstance(refused, RejectConnection)
            assert refused.status_code == 400


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/units", "/", "/health"])
async def test_a_websocket_elsewhere_is_told_that_there_is_none(
    make_client: MakeClient, path: str
) -> None:
    async with websocket(make_client().app) as (socket, _):
        refused = await socket.open(SUBPROTOCOL, path=path)
        assert isinstance(refused, RejectConnection)
        assert refused.status_code == 404
        assert (b"content-type", b"application/problem+json") in refused.headers
        told = await socket.event()
        assert isinstance(told, RejectData)
        assert json.loads(told.data)["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Authorization": "Bearer x"}, 401)],
)
async def test_whoever_may_not_ask_gets_no_session(
    make_client: MakeClient, headers: dict[str, str], status: int
) -> None:
    async with websocket(make_client().app) as (socket, _):
        refused = await socket.open(SUBPROTOCOL, **headers)
        assert isinstance(refused, RejectConnection)
        assert refused.status_code == status


async def test_nobody_unknown_gets_a_session_where_that_is_said(make_client: MakeClient) -> None:
    app = make_client(HttpService(port=1, allowanonymous=False)).app
    async with websocket(app) as (socket, _):
        refused = await socket.open(SUBPROTOCOL)
        assert isinstance(refused, RejectConnection)
        assert refused.status_code == 401


async def test_without_an_upgrade_the_address_says_what_is_spoken_there(
    make_client: MakeClient,
) -> None:
    reply = await make_client().ask("/api/v1/session")
    assert (reply.status, reply.is_problem) == (426, True)


async def test_text_is_none_of_a_session(make_client: MakeClient) -> None:
    async with websocket(make_client().app) as (socket, _):
        await socket.open(SUBPROTOCOL)
        await socket.line()
        await socket.send(TextMessage(data="status\n"))
        closed = await socket.event()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1002


class Fake:
    """A websocket that has these messages, and remembers what is sent."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return self.messages.pop(0)

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)


DISCONNECT = {"type": "websocket.disconnect", "code": 1006}


def stream_of(pieces: list[bytes], *more: dict[str, Any]) -> MessageStream:
    messages = [{"type": "websocket.receive", "bytes": piece, "text": None} for piece in pieces]
    return MessageStream(Fake([*messages, *more]))  # type: ignore[arg-type]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(1, 30))
def test_bytes_come_out_as_they_went_in_however_they_are_cut(
    pieces: list[bytes], most: int
) -> None:
    async def read() -> None:
        stream = stream_of([*pieces, b""], DISCONNECT)
        found = b""
        while data := await stream.receive_some(most):
            assert len(data) <= most
            found += data
        assert found == b"".join(pieces)
        assert await stream.receive_some(most) == b""
        await stream.wait_refused()

    trio.run(read)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_a_websocket_that_closes_without_an_end_has_broken_off(pieces: list[bytes]) -> None:
    async def read() -> None:
        stream = stream_of(pieces, DISCONNECT)
        for piece in pieces:
            assert await stream.receive_some(64) == piece
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(64)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")

    trio.run(read)
