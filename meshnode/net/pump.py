"""Bytes from one stream to another, both ways: what ``connect`` and every stream service do.

Each direction ends on its own, and no more than a chunk of each is held here.

*Hang-ups.* The end of a client's bytes may mean "that was all, now answer", or that the client was
killed. A unix socket tells the two apart at once: the kernel reports a hang-up when the other end
is closed, and none when only its sending direction is. TCP cannot: a killed client's kernel sends
the same packet, and only what is sent to it later is answered by a reset. A stream of the mesh is
reset then, not ended.
"""

import select
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import trio

from meshnode.net.sockets import bare

LOOK_AGAIN = 1.0
"""Seconds between two looks at a client where there is no descriptor to wait with."""

CHUNK = 64 * 1024
"""Bytes that one direction holds at most: a pipe's or socket buffer's usual size."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing such a socket resets the connection."""


class Source(Protocol):
    """Where bytes come from."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Return bytes, or none at the end; raise BrokenResourceError when there is no end."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    async def send_all(self, data: bytes) -> None:
        """Take bytes; raise BrokenResourceError when they are not wanted."""
        ...

    async def send_eof(self) -> None:
        """Take the end."""
        ...


class End(Source, Sink, Protocol):
    """One end of a bridge: a stream of trio, or what behaves as one."""


class TellsRefusal(ABC):
    """A stream that knows when its other end reads no more, such as one over the mesh."""

    @abstractmethod
    async def wait_refused(self) -> None:
        """Return when nothing that is written has a reader any more."""


async def copy(source: Source, sink: Sink) -> None:
    """Copy until the source ends, and pass its end on.

    Raises:
        trio.BrokenResourceError: the source broke, or the sink wants no more.
    """
    while data := await source.receive_some(CHUNK):
        await sink.send_all(bytes(data))
    await sink.send_eof()


async def bridge(near: End, far: End, *, half_open: float = inf) -> None:
    """Copy both ways until both ends have ended their direction; closes nothing.

    ``half_open`` is the seconds for which one direction may be silent once the other has ended.

    An end that wants no more bytes may still have some to give: the other's are then dropped, not
    left unread, so that its end or its loss is still seen.

    Raises:
        trio.BrokenResourceError: a stream broke, or bytes were dropped. Whoever catches it should
            :func:`reset` both: half of something must not look like all of it.
    """
    state = _Bridge(half_open)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state.run, near, far, nursery.cancel_scope)
        nursery.start_soon(state.run, far, near, nursery.cancel_scope)
    if nursery.cancel_scope.cancelled_caught and state.broken is None:
        state.broken = f"half of it had ended, and the other was silent for {half_open:g} s"
    if state.broken is not None:
        raise trio.BrokenResourceError(state.broken)


@dataclass(slots=True)
class _Bridge:
    """What the two directions know of each other."""

    half_open: float
    broken: str | None = None
    running: int = 2
    refused: list[trio.CancelScope] = field(default_factory=list)

    async def run(self, source: Source, sink: Sink, both: trio.CancelScope) -> None:
        try:
            await self._copy(source, sink, both)
        except trio.BrokenResourceError as exc:
            self.broken = self.broken or str(exc) or "the connection was lost"
            both.cancel()
        self.running -= 1
        self._goes_on(both)
        for scope in self.refused:
            scope.cancel()

    def _goes_on(self, both: trio.CancelScope) -> None:
        """Note that something has happened: the last direction may be silent as long again."""
        both.deadline = trio.current_time() + self.half_open

    async def _copy(self, source: Source, sink: Sink, both: trio.CancelScope) -> None:
        while data := await source.receive_some(CHUNK):
            if self.running < 2:
                self._goes_on(both)
            try:
                await sink.send_all(bytes(data))
            except trio.BrokenResourceError as exc:
                self.broken = str(exc) or "the other end reads no more"
                await self._drain(source)
                return
        try:
            await sink.send_eof()
        except trio.BrokenResourceError as exc:
            # An end that has given all and gone does not wait to hear that this is all.
            if self.running == 2:
                self.broken = str(exc) or "the other end reads no more"

    async def _drain(self, source: Source) -> None:
        """Drop what comes while the other direction lives; then there is nothing left to do."""
        with trio.CancelScope() as scope:
            self.refused.append(scope)
            if self.running < 2:
                return
            while await source.receive_some(CHUNK):
                pass


async def reset(stream: trio.abc.AsyncResource) -> None:
    """Close a stream so that the other end sees that it broke, where its kind can tell.

    A unix socket cannot: its other end sees an ordinary end.
    """
    below = bare(stream)
    if isinstance(below, trio.SocketStream) and below.socket.family != socket.AF_UNIX:
        with suppress(OSError):  # closed or gone already, and that is all that is asked
            below.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    # Below TLS, which would say goodbye, as it does at the end of all.
    await trio.aclose_forcefully(below)


# --- Hang-ups ------------------------------------------------------------------------------------


def has_hung_up(stream: trio.abc.Stream) -> bool:
    """Whether the client at the other end of this stream is known to have closed it."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family != socket.AF_UNIX:
        return False
    return _has_hung_up(stream.socket.fileno())


def _has_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    # No event is asked for: what is told all the same is a hang-up or an error.
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


async def wait_hung_up(stream: trio.abc.Stream) -> None:
    """Return when the client is known to be gone; where nothing can tell, never."""
    below = bare(stream)
    if isinstance(below, TellsRefusal):
        await below.wait_refused()
    elif isinstance(below, trio.SocketStream):
        await _wait_socket(below.socket.fileno())
    else:
        await trio.sleep_forever()


async def _wait_socket(descriptor: int) -> None:
    """Wait for the hang-up alone: after an end of bytes the socket itself is always readable."""
    try:
        waiter = select.epoll(sizehint=1)
    except OSError:  # no descriptor is left
        while not _has_hung_up(descriptor):  # noqa: ASYNC110 - nothing can be waited for
            await trio.sleep(LOOK_AGAIN)
        return
    with waiter as epoll:
        epoll.register(descriptor, 0)
        await trio.lowlevel.wait_readable(epoll.fileno())
