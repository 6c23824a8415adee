"""Counts the frames of an HTTP/2 connection that ask for work and carry nothing (RFC 9113).

A client may open a stream and reset it at once, as often as it can send: each costs the node a
request, and none counts among the streams that are open. The same holds for pings, settings and
empty frames, which must be answered or looked at. A connection may have some of them.

Of small frames tens of thousands come in one piece, also of a websocket (RFC 6455). So both are
told apart, and handed on some at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from meshnode.protocol.rates import TokenBucket

PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
"""Bytes that a client sends before its first frame."""

HEADER: Final = 9
"""Bytes before the payload of each frame: its length in 3, its type, flags, stream."""

DATA: Final = 0x0
HEADERS: Final = 0x1
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
"""The flag of a frame that is the last of its request: an empty one says just that."""

CARRIERS: Final = frozenset({DATA, HEADERS, CONTINUATION})
"""Frames that carry something of a request, unless they are empty. Others do not, also those of
which we know nothing."""

GRANTED: Final = 512
"""Bytes of a response for which a client may say once that it has room again (WINDOW_UPDATE).
Clients do so at most for each 4 KiB, twice; or twice for each frame, however little it has."""

TURN: Final = 100
"""Frames that are handed on at a time: some give work for 0.1 ms, in which nobody else is served.
What comes of large ones is none the slower for it."""

MESSAGE_HEADER: Final = 2
"""Bytes with which each frame of a websocket begins: what it is, and how long."""

LONGER: Final = {126: 2, 127: 8}
"""Bytes behind these that have the length, where what is said first is one of these."""

MASK: Final = 4
"""Bytes behind that, of all that comes from clients."""

BURST: Final = 1000
"""Such frames at once. A browser that leaves a page resets what it still had open: at most a
hundred streams, of each of some tabs."""

RATE: Final = 100
"""Such frames a second from there on."""


class TooManyFrames(Exception):
    """A client sends so many frames that carry nothing; the text says how many."""


class _Splitter:
    """Tells frames apart in what comes, some at a time."""

    def __init__(self, skip: int, least: int) -> None:
        """Bytes that come before the first frame, and that each header has at least."""
        self._skip = skip
        """Bytes that are of no frame's header."""
        self._least = least
        self._header = bytearray()

    def feed(self, data: bytes, most: int, read: Callable[[bytearray], int | None]) -> int:
        """Look at the next bytes, up to some frames; return at how many of them that ended.

        ``read`` is given a header, and returns how many bytes follow; None if it is not whole.
        """
        at = 0
        while at < len(data) and most:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            part = data[at : at + max(1, self._least - len(self._header))]
            self._header += part
            at += len(part)
            if len(self._header) < self._least:
                continue
            size = read(self._header)
            if size is not None:
                self._skip = size
                self._header.clear()
                most -= 1
        return at


class FrameWatch:
    """Watches what one client sends."""

    def __init__(self, now: float) -> None:
        self._bucket = TokenBucket(RATE, BURST, now)
        self._frames = _Splitter(PREFACE, HEADER)
        self._grants = 0
        """How often the client may say that it has room again."""

    def sent(self, size: int) -> None:
        """Note that so many bytes were sent to the client, at one time."""
        self._grants += 2 + size // GRANTED

    def feed(self, data: bytes, now: float, most: int = TURN) -> int:
        """Look at the next bytes, up to some frames; return at how many of them that ended.

        Raises:
            TooManyFrames
        """
        return self._frames.feed(data, most, partial(self._count, now))

    def _count(self, now: float, header: bytearray) -> int:
        """Return how many bytes follow a header. Raises TooManyFrames."""
        length = int.from_bytes(header[:3], "big")
        kind, flags = header[3], header[4]
        if kind == WINDOW_UPDATE and self._grants:
            self._grants -= 1
            return length
        carries = kind in CARRIERS and (length or flags & END_STREAM)
        if not carries and not self._bucket.take(now):
            raise TooManyFrames(f"more than {BURST} frames of HTTP/2 that carry nothing")
        return length


class MessageWatch:
    """Tells apart the frames of a websocket that one client sends."""

    def __init__(self) -> None:
        self._frames = _Splitter(0, MESSAGE_HEADER)

    def feed(self, data: bytes, most: int = TURN) -> int:
        """Look at the next bytes, up to some frames; return at how many of them that ended."""
        return self._frames.feed(data, most, _size_of)


def _size_of(header: bytearray) -> int | None:
    """Return how many bytes follow the header of a websocket's frame; None if it is not whole."""
    told, masked = header[1] & 0x7F, header[1] & 0x80
    longer = LONGER.get(told, 0)
    if len(header) < MESSAGE_HEADER + longer + (MASK if masked else 0):
        return None
    end = MESSAGE_HEADER + longer
    return int.from_bytes(header[MESSAGE_HEADER:end], "big") if longer else told
