"""A client that has said all and waits, and one that is gone, send the same end of bytes."""

import select
import socket

import pytest
import trio
from trio.testing import memory_stream_pair

from meshnode.control.registry import Command, CommandRegistry, ControlSession
from meshnode.control.session import Session
from meshnode.logs import subject_logger
from meshnode.mesh.streams.stream import MeshStream
from meshnode.net.pump import has_hung_up, wait_hung_up


def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(s)) for s in (ours, theirs))


class Swallow:
    """A command that takes all bytes, and tells how they ended."""

    def __init__(self) -> None:
        self.outcome = ""
        self.read_all = trio.Event()
        self.lost = False

    async def run(self, session: ControlSession) -> None:
        try:
            while await session.receive_some(100):
                pass
        except trio.BrokenResourceError as error:
            self.outcome = str(error)
            raise
        self.outcome = "all"
        self.read_all.set()
        await session.wait_lost()
        self.lost = True

    def session(self, stream: trio.abc.HalfCloseableStream) -> Session:
        registry = CommandRegistry()
        registry.register(Command("swallow", lambda _: self.run, lambda _: self.run))
        log = subject_logger("session", "test")
        return Session(stream, kind="unix", peer="x", node_id="foo", registry=registry, log=log)


async def test_a_client_that_closes_its_unix_socket_amid_its_bytes_is_noticed() -> None:
    client, theirs = pair()
    swallow = Swallow()
    await client.send_all(b"swallow\nhalf of it")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swallow.session(theirs).run)
        assert await client.receive_some(100) == b"Receptor Control, node foo\n"
        await client.aclose()
    assert swallow.outcome == "the client closed its connection"


async def test_a_client_that_ends_its_side_of_a_unix_socket_has_said_all() -> None:
    client, theirs = pair()
    swallow = Swallow()
    async with client, trio.open_nursery() as nursery:
        nursery.start_soon(swallow.session(theirs).run)
        await client.send_all(b"swallow\nall of it")
        await client.send_eof()
        await swallow.read_all.wait()
        assert swallow.outcome == "all"
        assert not swallow.lost
        await client.aclose()
    assert swallow.lost


async def test_a_half_closed_unix_socket_is_no_hang_up_until_it_is_closed() -> None:
    ours, theirs = pair()
    await theirs.send_eof()
    assert not has_hung_up(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_hung_up, ours)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.aclose()
    assert has_hung_up(ours)
    await ours.aclose()


async def test_a_reset_tcp_connection_is_a_hang_up() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream(*listener.socket.getsockname())
    ours = await listener.accept()
    async with listener, ours, trio.open_nursery() as nursery:
        await client.send_eof()
        assert await ours.receive_some() == b""
        nursery.start_soon(wait_hung_up, ours)
        await trio.testing.wait_all_tasks_blocked()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.aclose()


class Host:
    """A connection under a mesh stream that does nothing."""

    def unsent(self, stream_id: int) -> int:
        return 0

    def release(self, stream_id: int, *, graceful: bool, stop_reading: bool) -> None:
        pass


@pytest.mark.parametrize("loss", ["lose", "refuse_writes"])
async def test_a_mesh_client_that_has_ended_its_side_and_is_lost_later_is_noticed(
    loss: str,
) -> None:
    stream = MeshStream(Host(), 0, "bar", "control")
    stream.feed(b"", True)
    assert await stream.receive_some() == b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_hung_up, stream)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        getattr(stream, loss)("the other end is gone")


async def test_where_nothing_can_tell_nobody_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, ours = memory_stream_pair()
    assert not has_hung_up(ours)
    with pytest.raises(trio.TooSlowError), trio.fail_after(1000):
        await wait_hung_up(ours)


async def test_where_no_descriptor_is_left_a_lost_client_is_noticed_all_the_same(
    monkeypatch, autojump_clock
) -> None:
    def full(**options: int) -> None:
        raise OSError(24, "Too many open files")

    client, theirs = pair()
    monkeypatch.setattr(select, "epoll", full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_hung_up, theirs)
        await trio.sleep(10)
        assert nursery.child_tasks
        await client.aclose()
    await theirs.aclose()
