"""Bytes between two streams, both ways, whatever their ends do."""

import socket

import pytest
import trio
from trio.testing import memory_stream_pair

from meshnode.net.pump import bridge, copy, reset

Stream = trio.StapledStream


async def read_all(stream) -> bytes:
    data = b""
    while part := await stream.receive_some(65536):
        data += part
    return data


class Joined:
    """A bridge between two pairs of memory streams; ``left`` and ``right`` are its users' ends."""

    def __init__(self) -> None:
        self.left, self._near = memory_stream_pair()
        self._far, self.right = memory_stream_pair()
        self.error: trio.BrokenResourceError | None = None
        self.over = trio.Event()

    async def run(self) -> None:
        try:
            await bridge(self._near, self._far)
        except trio.BrokenResourceError as exc:
            self.error = exc
            await reset(self._near)
            await reset(self._far)
        self.over.set()


@pytest.fixture
def joined(nursery) -> Joined:
    joined = Joined()
    nursery.start_soon(joined.run)
    return joined


async def test_bytes_and_ends_go_both_ways_and_each_end_on_its_own(joined: Joined):
    await joined.left.send_all(b"question")
    await joined.left.send_eof()
    assert await read_all(joined.right) == b"question"
    assert not joined.over.is_set()
    await joined.right.send_all(b"answer")
    await joined.right.send_eof()
    assert await read_all(joined.left) == b"answer"
    await joined.over.wait()
    assert joined.error is None


async def test_a_stream_that_breaks_ends_the_bridge_although_the_other_is_silent():
    user, far = memory_stream_pair()
    near = Refusing()
    near.receive_some = _say_then_break(b"half")
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError, match="reset"):
        await bridge(near, far)
    assert await user.receive_some() == b"half"


class Refusing:
    """An end that wants no bytes, and gives what it is told to give."""

    def __init__(self) -> None:
        self.gives, self._given = trio.open_memory_channel[bytes](10)

    async def send_all(self, data: bytes) -> None:
        raise trio.BrokenResourceError("enough")

    async def send_eof(self) -> None:
        raise trio.BrokenResourceError("enough")

    async def receive_some(self, max_bytes: int) -> bytes:
        return await self._given.receive()


async def test_an_end_that_wants_no_more_may_still_give(nursery, autojump_clock):
    user, near = memory_stream_pair()
    far = Refusing()
    over = trio.Event()

    async def run() -> None:
        with pytest.raises(trio.BrokenResourceError, match="enough"):
            await bridge(near, far)
        over.set()

    nursery.start_soon(run)
    for _ in range(3):
        await user.send_all(b"unwanted")
        await trio.testing.wait_all_tasks_blocked()
    await far.gives.send(b"given")
    assert await user.receive_some() == b"given"
    assert not over.is_set()
    await far.gives.send(b"")
    await over.wait()


async def test_the_loss_of_a_stream_is_seen_although_the_other_end_wants_nothing():
    far, near = Refusing(), Refusing()
    near.receive_some = _say_then_break(b"unwanted")
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
        await bridge(near, far)


def _say_then_break(first: bytes):
    parts = [first]

    async def receive_some(max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if parts:
            return parts.pop()
        raise trio.BrokenResourceError("reset")

    return receive_some


async def test_an_end_that_has_given_all_and_gone_is_no_failure(nursery):
    class Gone(Refusing):
        async def receive_some(self, max_bytes: int) -> bytes:
            await trio.lowlevel.checkpoint()
            return b""

    user, near = memory_stream_pair()
    over = trio.Event()

    async def run() -> None:
        await bridge(near, Gone())
        over.set()

    nursery.start_soon(run)
    assert await read_all(user) == b""
    await user.send_eof()
    await over.wait()


async def test_a_reader_that_stalls_holds_up_its_writer(nursery, autojump_clock):
    sender, near = trio.testing.lockstep_stream_pair()
    far, receiver = trio.testing.lockstep_stream_pair()
    nursery.start_soon(copy, near, far)
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await sender.send_all(b"x" * 1024)
            sent += 1

    nursery.start_soon(send)
    await trio.testing.wait_all_tasks_blocked()
    assert sent <= 2
    await receiver.receive_some(1024)
    await trio.testing.wait_all_tasks_blocked()
    assert sent <= 4


async def test_a_reset_socket_tells_its_other_end():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = await trio.open_tcp_stream(*server.getsockname())
        other, _ = server.accept()
        with other:
            await reset(near)
            with pytest.raises(ConnectionResetError):
                other.recv(1)


async def test_an_end_that_is_silent_after_the_others_end_is_given_up(nursery, autojump_clock):
    left, near = memory_stream_pair()
    far, right = memory_stream_pair()
    outcome: list[str] = []

    async def run() -> None:
        try:
            await bridge(near, far, half_open=100)
        except trio.BrokenResourceError as exc:
            outcome.append(str(exc))

    nursery.start_soon(run)
    await trio.sleep(1000)  # both are open: they may be silent
    await left.send_eof()
    for _ in range(3):
        await trio.sleep(99)
        await right.send_all(b"still at it")
    assert outcome == []
    await trio.sleep(101)
    assert outcome == ["half of it had ended, and the other was silent for 100 s"]
