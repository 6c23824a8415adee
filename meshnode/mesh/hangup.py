"""Whether a client is still there after it has ended its direction.

The end of a client's bytes may mean "that was all, now answer" or that the client was killed. A
unix socket tells the two apart at once: the kernel reports a hang-up when the other end is closed,
and none when only its sending direction is. TCP cannot: a killed client's kernel sends the same
packet, and only what is sent to it later is answered by a reset. A stream of the mesh says so by
itself, since it is reset and not ended.
"""

import select
import socket

import trio

from meshnode.mesh.streams import MeshStream

LOOK_AGAIN = 1.0
"""Seconds between two looks at a client where there is no descriptor to wait with."""


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
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, MeshStream):
        await stream.wait_refused()
    elif isinstance(stream, trio.SocketStream):
        await _wait_socket(stream.socket.fileno())
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
