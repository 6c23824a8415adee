"""Counts the frames of an HTTP/2 connection that ask for work and carry nothing (RFC 9113).

A client may open a stream and reset it at once, as often as it can send: each costs the node a
request, and none counts among the streams that are open. The same holds for pings, settings and
empty frames, which must be answered or looked at. A connection may have some of them.
"""

from typing import Final

from meshnode.protocol.rates import TokenBucket

PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
"""Bytes that a client sends before its first frame."""

HEADER: Final = 9
"""Bytes before the payload of each frame: its length in 3, its type, flags, stream."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PING: Final = 0x6
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
"""The flag of a frame that is the last of its request: an empty one says just that."""

IDLE: Final = frozenset({PRIORITY, RST_STREAM, SETTINGS, PING})
"""Frames that carry nothing of a request."""

CARRIERS: Final = frozenset({DATA, HEADERS, CONTINUATION})
"""Frames that do, unless they are empty."""

BURST: Final = 1000
"""Such frames at once. A browser that leaves a page resets what it still had open: at most a
hundred streams, of each of some tabs."""

RATE: Final = 100
"""Such frames a second from there on."""


class TooManyFrames(Exception):
    """A client sends so many frames that carry nothing; the text says how many."""


class FrameWatch:
    """Watches what one client sends."""

    def __init__(self, now: float) -> None:
        self._bucket = TokenBucket(RATE, BURST, now)
        self._skip = PREFACE
        """Bytes that are of no frame's header."""
        self._header = bytearray()

    def feed(self, data: bytes, now: float) -> None:
        """Look at the next bytes. Raises TooManyFrames."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            part = data[at : at + HEADER - len(self._header)]
            self._header += part
            at += len(part)
            if len(self._header) == HEADER:
                self._count(now)
                self._header.clear()

    def _count(self, now: float) -> None:
        length = int.from_bytes(self._header[:3], "big")
        kind, flags = self._header[3], self._header[4]
        self._skip = length
        is_empty = kind in CARRIERS and not length and not flags & END_STREAM
        if (is_empty or kind in IDLE) and not self._bucket.take(now):
            raise TooManyFrames(f"more than {BURST} frames of HTTP/2 that carry nothing")
