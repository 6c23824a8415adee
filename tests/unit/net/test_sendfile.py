"""What a client at a bare socket is sent reaches it as it is, whichever way it goes there."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from meshnode.net.sendfile import BLOCK, READ_BLOCK, BareSocket, is_cached, read_part

PATIENCE = 600.0
CONTENT = bytes(range(256)) * (3 * BLOCK // 256)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """A file of three blocks, just written."""
    path = tmp_path / "stdout"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def connected(family: socket.AddressFamily) -> tuple[trio.SocketStream, trio.SocketStream]:
    if family == socket.AF_UNIX:
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = socket.create_connection(server.getsockname())
            far, _ = server.accept()
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (near, far))


async def send_without_end(
    stream: trio.SocketStream, descriptor: int, timeout: float = PATIENCE
) -> None:
    while True:
        await BareSocket(stream.socket, timeout).send_file(descriptor, 0, BLOCK)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@pytest.mark.parametrize("start", [0, 1, BLOCK + 7])
async def test_a_slow_client_gets_all_bytes_once_and_in_order(descriptor, family, start) -> None:
    near, far = connected(family)
    received = b""

    async def read_in_small_pieces() -> None:
        nonlocal received
        async with far:
            while piece := await far.receive_some(10_000):
                received += piece

    async with near, trio.open_nursery() as nursery:
        nursery.start_soon(read_in_small_pieces)
        sender, position = BareSocket(near.socket, PATIENCE), start
        while position < len(CONTENT):
            sent = await sender.send_file(descriptor, position, len(CONTENT) - position)
            assert sent
            position += sent
        await near.send_eof()
    assert received == CONTENT[start:]


async def test_one_call_sends_a_block_at_most(descriptor) -> None:
    near, far = connected(socket.AF_UNIX)
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, far)
        assert await BareSocket(near.socket, PATIENCE).send_file(descriptor, 0, 2 * BLOCK) == BLOCK
        await near.send_eof()


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
async def test_a_client_that_went_away_is_a_broken_stream(descriptor, family) -> None:
    near, far = connected(family)
    await far.aclose()
    async with near:
        with pytest.raises(trio.BrokenResourceError):
            await send_without_end(near, descriptor)


async def test_a_client_that_goes_away_while_it_is_waited_for_is_a_broken_stream(
    descriptor,
) -> None:
    near, far = connected(socket.AF_UNIX)

    async def leave() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await far.aclose()

    async with near, trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        with pytest.raises(trio.BrokenResourceError):
            await send_without_end(near, descriptor)


async def test_a_client_that_takes_nothing_is_waited_for_no_longer_than_said(descriptor) -> None:
    near, far = connected(socket.AF_UNIX)
    async with near, far:
        with pytest.raises(trio.TooSlowError):
            await send_without_end(near, descriptor, 0.01)


async def test_only_the_stream_of_a_socket_is_one() -> None:
    near, far = memory_stream_pair()
    assert BareSocket.of(near, PATIENCE) is None
    near, far = connected(socket.AF_UNIX)
    async with near, far:
        assert BareSocket.of(near, PATIENCE) is not None


async def test_what_the_socket_takes_goes_at_once_and_no_more() -> None:
    near, far = connected(socket.AF_UNIX)
    async with far:
        async with near:
            bare, sent = BareSocket(near.socket, PATIENCE), 0
            while count := bare.send_now(CONTENT[sent : sent + 30_000]):
                sent += count
        assert await receive_all(far) == CONTENT[:sent]


async def test_it_receives_what_comes_and_the_end() -> None:
    near, far = connected(socket.AF_UNIX)
    async with near, far:
        bare = BareSocket(near.socket, PATIENCE)
        await far.send_all(b"some more")
        assert await bare.receive_some(4) == b"some"
        assert await bare.receive_some(100) == b" more"
        await far.send_eof()
        assert await bare.receive_some(100) == b""


async def test_a_client_that_has_reset_its_connection_is_a_broken_stream() -> None:
    near, far = connected(socket.AF_INET)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await far.aclose()
    async with near:
        with pytest.raises(trio.BrokenResourceError):
            await BareSocket(near.socket, PATIENCE).receive_some(10)
        with pytest.raises(trio.BrokenResourceError):
            BareSocket(near.socket, PATIENCE).send_now(b"too late")


async def test_what_is_not_in_memory_is_not_sent_by_the_kernel(descriptor, monkeypatch) -> None:
    monkeypatch.setattr("meshnode.net.sendfile.is_cached", lambda *_: False)
    near, far = connected(socket.AF_UNIX)
    async with far:
        async with near:
            assert await BareSocket(near.socket, PATIENCE).send_file(descriptor, 0, 10) is None
        assert await receive_all(far) == b""


async def test_a_file_that_cannot_be_sent_is_left_to_be_read() -> None:
    near, far = connected(socket.AF_UNIX)
    reading, writing = os.pipe()  # is_cached says no: a pipe has no positions
    async with near, far:
        assert await BareSocket(near.socket, PATIENCE).send_file(reading, 0, 10) is None
    os.close(reading)
    os.close(writing)


def test_what_lies_beyond_the_end_is_not_cached(descriptor) -> None:
    assert not is_cached(descriptor, len(CONTENT) - 1, 2)
    assert not is_cached(descriptor, len(CONTENT), 1)


@pytest.mark.parametrize("cached", [True, False])
async def test_a_part_is_read_as_it_is(descriptor, monkeypatch, cached) -> None:
    monkeypatch.setattr("meshnode.net.sendfile.is_cached", lambda *_: cached)
    assert await read_part(descriptor, 7, 10) == CONTENT[7:17]
    assert await read_part(descriptor, 1, BLOCK) == CONTENT[1 : 1 + READ_BLOCK]
    assert await read_part(descriptor, len(CONTENT) - 3, 10) == CONTENT[-3:]
    assert await read_part(descriptor, len(CONTENT), 10) == b""
