"""``connect`` in frames: the node tells a stream that ended from one that broke, both ways."""

from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.control.connect import BROKEN, END, MAX_FRAME, FramedEnd

CONNECT = b'{"command":"connect","node":"bar","service":"backup","framed":true}\n'


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def outcome(answer: bytes) -> tuple[bytes, str | None]:
    """Return the bytes in an answer, and how it ended: "" well, None without a word."""
    data = b""
    while answer:
        length, answer = int.from_bytes(answer[:4]), answer[4:]
        if length == 0:
            assert answer == b""
            return data, ""
        if length & BROKEN:
            assert len(answer) == length ^ BROKEN
            return data, answer.decode()
        data, answer = data + answer[:length], answer[length:]
    return data, None


async def receive_all(stream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_a_whole_stream_ends_with_an_end_both_ways(open_client, mesh):
    received = []

    async def backup(stream):
        received.append(await receive_all(stream))
        await stream.send_all(b"all of it")
        await stream.send_eof()

    mesh.services["backup"] = backup
    async with open_client() as client:
        answer = await client.ask(CONNECT + frame(b"he") + frame(b"llo") + END)
    line, _, rest = answer.partition(b"\n")
    assert line == b"Connecting framed"
    assert outcome(rest) == (b"all of it", "")
    assert received == [b"hello"]


@pytest.mark.parametrize("sent", [b"", b"half"])
async def test_a_stream_that_breaks_is_told_with_the_reason(open_client, mesh, sent):
    class Broken:
        """A stream whose other end resets after some bytes."""

        def __init__(self):
            self.left = sent
            self.closed = trio.Event()

        async def receive_some(self, max_bytes=None):
            await trio.lowlevel.checkpoint()
            if self.left:
                data, self.left = self.left, b""
                return data
            raise trio.BrokenResourceError("bar reset the stream")

        async def send_all(self, data):
            await trio.lowlevel.checkpoint()

        async def send_eof(self):
            await trio.lowlevel.checkpoint()

        async def aclose(self):
            self.closed.set()
            await trio.lowlevel.checkpoint()

    broken = Broken()

    async def dial(node, service, tls=None):
        await trio.lowlevel.checkpoint()
        return broken

    mesh.dial = dial
    async with open_client() as client:
        await client.send(CONNECT)
        assert await client.line() == b"Connecting framed\n"
        assert outcome(await client.rest()) == (sent, "bar reset the stream")
    assert broken.closed.is_set()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0\0",
        frame(b"half")[:-1],
        frame(b"half"),
        (MAX_FRAME + 1).to_bytes(4) + b"x",
        b"GET / HTTP/1.1",
    ],
)
async def test_a_client_that_ends_without_saying_so_breaks_the_stream(open_client, mesh, sent):
    """An end of the connection is no end of the bytes: half of a file must not look whole."""

    async def restore(stream):
        with suppress(trio.BrokenResourceError):
            await receive_all(stream)

    mesh.services["backup"] = restore
    resets = []
    dial = mesh.dial

    async def watched(node, service, tls=None):
        stream = await dial(node, service)
        aclose = stream.aclose

        async def note_reset():
            try:
                await aclose()
            except trio.Cancelled:
                resets.append(True)
                raise

        stream.aclose = note_reset
        return stream

    mesh.dial = watched
    async with open_client() as client:
        await client.ask(CONNECT + sent)
    assert resets


async def test_a_client_that_does_not_ask_gets_plain_bytes(open_client, mesh):
    async def echo(stream):
        await stream.send_all(await receive_all(stream))
        await stream.send_eof()

    mesh.services["backup"] = echo
    for line in (b"connect bar backup\n", CONNECT.replace(b"true", b'"true"')):
        async with open_client() as client:
            assert await client.ask(line + b"\0\0\0\1x") == b"Connecting\n\0\0\0\1x"


class ScriptedSession:
    """What FramedEnd needs of a session, on bytes that come in given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.pieces:
            return b""
        piece = self.pieces[0][:max_bytes]
        self.pieces[0] = self.pieces[0][max_bytes:]
        if not self.pieces[0]:
            self.pieces.pop(0)
        return piece


@given(
    frames=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(1, 7), max_size=60),
    most=st.integers(1, 50),
)
def test_frames_cut_anywhere_are_the_same_bytes(frames, cuts, most):
    wire = b"".join(map(frame, frames)) + END
    pieces = []
    for size in cuts:
        pieces.append(wire[:size])
        wire = wire[size:]
    session = ScriptedSession([piece for piece in (*pieces, wire) if piece])

    async def read() -> bytes:
        end = FramedEnd(session)
        data = b""
        while chunk := await end.receive_some(most):
            assert len(chunk) <= most
            data += chunk
        return data

    assert trio.run(read) == b"".join(frames)
