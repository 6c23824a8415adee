"""What only websocket links have: HTTP before them, and frames that are not messages."""

import base64
import contextlib
import functools
import hashlib
import struct
from contextlib import asynccontextmanager

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from link_kinds import WS, linked, listening, receive
from malformed import hello
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from meshnode.config import parse_ws_url
from meshnode.errors import ProtocolError
from meshnode.mesh.links import websocket
from meshnode.mesh.links.websocket import WebsocketDialer, WebsocketListener
from meshnode.net.addresses import PeerAddress
from meshnode.protocol.framing import MAX_MESSAGE, encode_frames

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [
    "GET /mesh HTTP/1.1",
    "Host: here:80",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    KEY,
]


def request(*lines: str, without: str = "\0") -> bytes:
    """Return the good request with these lines in place of those of the same name."""
    names = {line.partition(":")[0] for line in lines} | {without}
    kept = [line for line in GOOD if line.partition(":")[0] not in names]
    if lines and lines[0].endswith("HTTP/1.1"):
        kept = kept[1:]
    first = [line for line in lines if line.endswith("HTTP/1.1")] or kept[:1]
    rest = [line for line in [*kept, *lines] if line not in first]
    return "\r\n".join([*first, *rest, "", ""]).encode("latin-1")


@asynccontextmanager
async def raw_client():
    """Yield a bare connection to a listener, and the link that is to come of it."""
    async with listening(WS) as (listener, _):
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        link = await listener.accept()
        try:
            yield stream, link
        finally:
            for end in (stream, link):
                await end.aclose()


async def answer_to(stream, link, data: bytes) -> bytes:
    """Return the head of what the listener answers to ``data``."""
    await stream.send_all(data)

    async def open_link():
        try:
            await link.open()
        except ProtocolError:
            await link.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_link)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = await stream.receive_some()
            assert chunk, f"the answer ended within its head: {answer!r}"
            answer += chunk
    return answer


# --- the handshake -------------------------------------------------------------------------------


async def test_a_request_for_a_websocket_gets_one():
    async with raw_client() as (stream, link):
        answer = await answer_to(stream, link, request())
        assert answer.startswith(b"HTTP/1.1 101 ")
        # The example of RFC 6455 section 1.3.
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer


async def test_a_request_may_come_byte_by_byte():
    async with raw_client() as (stream, link), trio.open_nursery() as nursery:
        nursery.start_soon(link.open)
        for byte in request():
            await stream.send_all(bytes([byte]))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /mesh HTTP/1.0\r\n\r\n", 400),
        (b"POST /mesh HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"not http at all\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\xaa" * 500, 400),
        (encode_frames([hello("bar")]), 400),
        (b"GET /" + b"a" * 70_000, 400),
        (request("Sec-WebSocket-Version: 8"), 426),
        (request(without="Sec-WebSocket-Version"), 400),
        (request(without="Sec-WebSocket-Key"), 400),
        (request(without="Upgrade"), 400),
        (request(without="Host"), 400),
        (request("Connection: \xff"), 400),
        (request("Host: xn--\xff\xfe"), 400),
        (request("GET /other HTTP/1.1"), 404),
        (request("GET /mesh/below HTTP/1.1"), 404),
        (request("GET /mes HTTP/1.1"), 404),
        (request("Origin: http://evil.example"), 403),
        (request("Origin: null"), 403),
        (request("Origin: http://[broken"), 403),
        (request("Origin: http://here:80\r\nUser-Agent: Mozilla/5.0 (X11)"), 403),
        (request("user-agent: Mozilla/4.0"), 403),
    ],
)
async def test_what_is_no_request_for_our_websocket_is_refused_with_its_status(data, status):
    async with raw_client() as (stream, link):
        answer = await answer_to(stream, link, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"\r\nConnection: close\r\n" in answer
        with pytest.raises(trio.ClosedResourceError):
            await link.send([b"x"])


@pytest.mark.parametrize("origin", ["http://here:80", "https://HERE:80"])
async def test_an_origin_that_fits_the_host_is_welcome(origin):
    async with raw_client() as (stream, link):
        answer = await answer_to(stream, link, request(f"Origin: {origin}"))
        assert answer.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("path", "asked", "found"),
    [
        ("/", "/", True),
        ("/", "/anything?x=1", True),
        ("/a/", "/a/b", True),
        ("/a/", "/b", False),
        ("/a", "/a?b", True),
        ("/a", "/ab", False),
    ],
)
async def test_a_path_that_ends_in_a_slash_has_all_below_it(path, asked, found):
    (listener,) = await WebsocketListener.open(0, "127.0.0.1", path)
    stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
    link = await listener.accept()
    answer = await answer_to(stream, link, request(f"GET {asked} HTTP/1.1"))
    assert answer.startswith(b"HTTP/1.1 101 " if found else b"HTTP/1.1 404 ")
    for end in (stream, link, listener):
        await end.aclose()


async def test_a_client_that_asks_for_nothing_is_given_up(autojump_clock):
    near, far = trio.testing.memory_stream_pair()
    link = websocket.WebsocketLink(near, PeerAddress("silent", ""), None)
    with pytest.raises(ProtocolError, match="no websocket handshake within 5 s"):
        await link.receive()
    assert trio.current_time() == pytest.approx(websocket.HANDSHAKE_TIMEOUT, abs=0.1)
    # The reader has said it; the writer has nothing to add.
    await link.send([b"lost"])
    await link.aclose()
    await far.aclose()


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"a"])
async def test_a_request_that_comes_slowly_and_never_ends_is_given_up_in_time(
    piece, autojump_clock
):
    near, far = trio.testing.memory_stream_pair()
    link = websocket.WebsocketLink(near, PeerAddress("slow", ""), None)
    async with trio.open_nursery() as nursery:

        async def dribble() -> None:
            await far.send_all(b"GET / HTTP/1.1\r\n")
            while True:
                await far.send_all(piece)
                await trio.sleep(0.5)

        nursery.start_soon(dribble)
        with pytest.raises(ProtocolError, match="no websocket handshake within 5 s"):
            await link.receive()
        assert trio.current_time() == pytest.approx(websocket.HANDSHAKE_TIMEOUT, abs=0.1)
        nursery.cancel_scope.cancel()
    await link.aclose()


async def test_a_request_with_headers_without_end_is_refused():
    async with raw_client() as (stream, link):
        answer = await answer_to(stream, link, b"GET /mesh HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert answer.startswith(b"HTTP/1.1 4")


async def test_a_client_that_leaves_before_it_asks_is_told_as_that():
    near, far = trio.testing.memory_stream_pair()
    link = websocket.WebsocketLink(near, PeerAddress("hasty", ""), None)
    await far.send_all(b"GET /")
    await far.send_eof()
    with pytest.raises(ProtocolError, match="left before it asked"):
        await link.receive()
    await link.aclose()
    await far.aclose()


# --- the dialer ----------------------------------------------------------------------------------


async def serve_once(listener, answer, seen):
    stream = await listener.accept()
    async with stream:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        seen.append(data.decode())
        await stream.send_all(answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "answered 200"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "answered 103"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Bad accept"),
        (b"Receptor Control, node foo\n", "control service of node foo answers there"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "the other end speaks TLS"),
        (b"\xff" * 100_000, "Bad HTTP"),
        (b"", "closed the connection"),
    ],
)
async def test_a_dialer_says_what_was_wrong_with_the_answer(answer, text):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_once, listener, answer, [])
        with pytest.raises(OSError, match=text):
            await WebsocketDialer(parse_ws_url(f"ws://127.0.0.1:{port}/")).dial()


@pytest.mark.parametrize(
    ("header", "origin"),
    [
        (None, "http://127.0.0.1:{}"),
        (("X-User", "one two"), "http://127.0.0.1:{}"),
        (("Origin", "https://elsewhere"), "https://elsewhere"),
    ],
)
async def test_a_dialer_sends_origin_and_the_extra_header(header, origin):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    seen = []
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve_once, listener, b"HTTP/1.1 404 No\r\n\r\n", seen)
        with pytest.raises(OSError, match="404"):
            await WebsocketDialer(parse_ws_url(f"ws://127.0.0.1:{port}/a?b"), header).dial()
    lines = seen[0].split("\r\n")
    assert lines[0] == "GET /a?b HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert [line for line in lines if line.startswith("Origin")] == [
        f"Origin: {origin.format(port)}"
    ]
    assert header is None or f"{header[0]}: {header[1]}" in lines


async def test_a_dialer_that_gets_no_answer_gives_up(autojump_clock, monkeypatch):
    near, far = trio.testing.memory_stream_pair()

    async def open_stream(host, port):
        return near

    monkeypatch.setattr(trio, "open_tcp_stream", open_stream)
    with pytest.raises(OSError, match="no connection within"):
        await WebsocketDialer(parse_ws_url("ws://foo/")).dial()
    await far.aclose()


# --- frames --------------------------------------------------------------------------------------


@asynccontextmanager
async def client():
    """Yield wsproto's own client, connected to a link of ours by memory streams."""
    near, far = trio.testing.memory_stream_pair()
    link = websocket.WebsocketLink(near, PeerAddress("memory", ""), None)
    peer = WSConnection(ConnectionType.CLIENT)
    await far.send_all(peer.send(Request(host="foo", target="/")))
    await link.open()
    peer.receive_data(bytes(await far.receive_some()))
    assert isinstance(next(peer.events()), AcceptConnection)
    yield link, peer, far
    await link.aclose()
    await far.aclose()


async def test_text_and_fragments_are_messages_too():
    async with client() as (link, peer, stream):
        await stream.send_all(
            peer.send(TextMessage("grüß"))
            + peer.send(BytesMessage(b"one ", message_finished=False))
            + peer.send(Ping(b"between"))
            + peer.send(BytesMessage(b"", message_finished=False))
            + peer.send(BytesMessage(b"message"))
        )
        assert await receive(link, 2) == ["grüß".encode(), b"one message"]


async def test_pings_are_answered_and_a_flood_of_them_by_one_pong():
    async with client() as (link, peer, stream):
        pings = b"".join(peer.send(Ping(b"%d" % number)) for number in range(1000))
        await stream.send_all(pings + peer.send(Pong(b"unasked")) + peer.send(BytesMessage(b"x")))
        assert await receive(link, 1) == [b"x"]
        peer.receive_data(bytes(await stream.receive_some()))
        (pong,) = peer.events()
        assert pong == Pong(b"999")


async def test_a_closing_peer_gets_its_close_frame_back():
    async with client() as (link, peer, stream):
        await stream.send_all(peer.send(BytesMessage(b"bye")) + peer.send(CloseConnection(1001)))
        assert await receive(link, 1) == [b"bye"]
        assert await link.receive() == []
        with pytest.raises(trio.BrokenResourceError):
            await link.send([b"too late"])
        await link.aclose()
        peer.receive_data(bytes(await stream.receive_some()))
        assert isinstance(next(peer.events()), CloseConnection)


def frame(opcode: int, payload: bytes, *, first: int = 0x80, mask: bool = True) -> bytes:
    """Return a frame as a client sends it, masked with zeros."""
    length = len(payload)
    short = length if length < 126 else 126 if length < 65536 else 127
    extended = b"" if short < 126 else struct.pack("!H" if short == 126 else "!Q", length)
    head = bytes([first | opcode, short | (0x80 if mask else 0)])
    return head + extended + (b"\0\0\0\0" if mask else b"") + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(2, b""),
        frame(1, b""),
        frame(2, b"unmasked", mask=False),
        frame(3, b"unknown opcode"),
        frame(2, b"reserved bit", first=0xC0),
        frame(0, b"continues nothing"),
        frame(2, b"begun", first=0) + frame(2, b"begun again"),
        frame(9, b"fragmented ping", first=0),
        frame(9, b"x" * 126),
        frame(1, b"\xff\xfe"),
        frame(8, b"\x03"),
        frame(8, b"\xff\xff"),
        frame(8, b"\x03\xe8\xff"),
        frame(2, bytes(MAX_MESSAGE + 1)),
        frame(2, bytes(MAX_MESSAGE), first=0) + frame(0, b"x"),
        b"\x82\xff" + struct.pack("!Q", 1 << 62) + b"\0\0\0\0" + bytes(100_000),
        b"\x82\xff" + struct.pack("!Q", (1 << 64) - 1) + b"\0\0\0\0" + bytes(100),
        frame(2, b"x" * 100)[:50],
    ],
)
async def test_what_is_no_message_breaks_the_protocol(data):
    async with client() as (link, _, stream):
        await stream.send_all(data)
        await stream.send_eof()
        with pytest.raises(ProtocolError):
            await link.receive()


@pytest.mark.parametrize(
    "tiny",
    [frame(9, b""), frame(10, b""), frame(2, b"x"), frame(1, b"x"), frame(0, b"", first=0)],
    ids=["ping", "pong", "message", "text", "fragment"],
)
async def test_while_thousands_of_frames_of_one_read_are_taken_others_have_their_turns(tiny):
    count = websocket.READ_SIZE // len(tiny) - 20
    is_fragment = tiny[0] == 0
    first = frame(2, b"", first=0) if is_fragment else b""
    last = frame(0 if is_fragment else 2, b"end")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with client() as (link, _, stream), trio.open_nursery() as nursery:
        await stream.send_all(first + count * tiny + last)
        nursery.start_soon(others)
        largest = 0
        while True:
            messages = await link.receive()
            largest = max(largest, len(messages))
            if bytes(messages[-1]) == b"end":
                break
        nursery.cancel_scope.cancel()
    assert largest < 1000
    assert turns > 10


async def test_a_message_of_a_wrong_size_is_not_sent():
    async with linked(WS) as [ends]:
        for end in ends:
            for size in (0, MAX_MESSAGE + 1):
                with pytest.raises(ProtocolError, match="cannot be sent"):
                    await end.send([bytes(size)])


async def test_a_reader_does_not_wait_for_a_blocked_writer():
    async with client() as (link, peer, stream):
        # Nobody takes what is written, as when both ends have full buffers.
        stuck = trio.Event()

        async def never(data):
            stuck.set()
            await trio.sleep_forever()

        link._stream.send_stream.send_all = never
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send, [b"x"])
            await stuck.wait()
            await stream.send_all(peer.send(Ping(b"?")) + peer.send(BytesMessage(b"read me")))
            assert await receive(link, 1) == [b"read me"]
            nursery.cancel_scope.cancel()


async def test_a_rejection_is_no_connection():
    async with raw_client() as (stream, link):
        peer = WSConnection(ConnectionType.CLIENT)
        data = peer.send(Request(host="foo", target="/nowhere"))
        peer.receive_data(await answer_to(stream, link, data))
        rejection = next(peer.events())
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 404


# --- who answers a dialer ------------------------------------------------------------------------

ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: KEY\r\n\r\n"
)


def damaged(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return the bytes with some of them replaced by others."""
    for start, size, instead in changes:
        start %= len(data) + 1
        data = data[:start] + instead + data[start + size :]
    return data


ANSWERS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        damaged,
        st.sampled_from(
            [
                ACCEPTED,
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n" + ACCEPTED,
                ACCEPTED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: x; y=1\r\n\r\n"),
                ACCEPTED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: \xff\r\n\r\n"),
                ACCEPTED + b"\x82\x01a",
                b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000,
            ]
        ),
        st.lists(
            st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)), max_size=3
        ),
    ),
)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(ANSWERS)
def test_whatever_answers_a_dialer_is_a_link_or_an_error_of_the_network(data):
    async def answer(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        key = next(
            line.partition(b": ")[2]
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data.replace(b"KEY", accept))
        await stream.aclose()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
            )
            port = listeners[0].socket.getsockname()[1]
            dialer = websocket.WebsocketDialer(parse_ws_url(f"ws://127.0.0.1:{port}/"))
            try:
                link = await dialer.dial()
            except OSError:
                pass
            else:
                with contextlib.suppress(ProtocolError, trio.BrokenResourceError):
                    while await link.receive():
                        pass
                await link.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What the key is joined with (RFC 6455 section 4.2.2)."""
