"""The lines that another node's control service sends, and the raw bytes after them.

A far node may send half a line and go on later, or never; or a line without end. What waits here of
a line is small, but for a few places for long ones, which all conversations with a node share.
"""

import contextlib
from collections.abc import Iterator
from weakref import WeakValueDictionary

import trio

from meshnode.errors import MeshError, NoRoute, WorkError

REPLY_TIMEOUT = 60.0
"""Seconds for a reply. The slowest is that of a cancel: grace, kill, sync; and a submit's, when the
other node has a payload to store first. Longer than it matters little: nothing else waits."""

SHORT_LINE = 16 * 1024
"""Bytes that any conversation may leave waiting: a status without the words of a command has some
600, and there may be a conversation for each of thousands of units."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line: a status repeats parameters, of which a command line may hold 1 MiB, and
JSON's escapes can make the sixfold of a part of them."""

LONG_LINES = 4
"""Lines longer than SHORT_LINE that wait of one node at a time, each for REPLY_TIMEOUT at most."""

CHUNK = 1024 * 1024
"""Bytes of payload or results in memory at a time. Each is a hop to a thread, which costs as much
as copying half of it."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class RemoteUnavailable(WorkError):
    """The other node could not be talked to, or the talk broke off: worth another try."""

    def __init__(self, text: str, *, no_route: bool = False) -> None:
        super().__init__(text)
        self.no_route = no_route


class LongLines:
    """The places for long lines, by node."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    def of(self, node: str) -> trio.CapacityLimiter:
        """Return the places of a node, which all who talk to it share."""
        places = self._places.get(node)
        if places is None:
            places = self._places[node] = trio.CapacityLimiter(LONG_LINES)
        return places


class FarLines:
    """What comes by one stream."""

    def __init__(self, stream: trio.abc.ReceiveStream, long_lines: trio.CapacityLimiter) -> None:
        self._stream = stream
        self._long_lines = long_lines
        self._buffer = bytearray()
        self._searched = 0

    async def line(self, seconds: float | None, most: int = MAX_LINE) -> str:
        """Return the next line without its end; one cut off by the end of the stream is none.

        Raises:
            RemoteUnavailable: there is none of at most so many bytes within so many seconds.
        """
        with translated(), trio.CancelScope() as scope:
            if seconds is not None:
                scope.deadline = trio.current_time() + seconds
            line = await self._line(min(most, SHORT_LINE))
            if line is None and most > SHORT_LINE:
                async with self._long_lines:
                    with trio.fail_after(REPLY_TIMEOUT):
                        line = await self._line(most)
            if line is None:
                raise RemoteUnavailable(f"a reply line has more than {most} bytes")
            return line.decode(errors="replace").rstrip("\r")
        raise RemoteUnavailable(f"no reply within {seconds:g} s")

    async def raw(self) -> bytes:
        """Return the next bytes as they are, ``b""`` at their end. Raises RemoteUnavailable."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._searched = 0
            return data
        with translated():
            return bytes(await self._stream.receive_some(CHUNK))

    async def _line(self, most: int) -> bytes | None:
        """Return the next line, None if it is longer than that."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > most:
                return None
            data = await self._stream.receive_some(most)
            if not data:
                raise RemoteUnavailable("the node closed the control session")
            self._buffer += data
        if end > most:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Say in one way that the other node cannot be talked to now."""
    try:
        yield
    except NoRoute as error:
        raise RemoteUnavailable(str(error), no_route=True) from error
    except MeshError as error:
        raise RemoteUnavailable(str(error)) from error
    except trio.TooSlowError as error:
        raise RemoteUnavailable(f"no answer within {REPLY_TIMEOUT:g} s") from error
    except _GONE as error:
        raise RemoteUnavailable(f"the stream broke: {error}") from error
