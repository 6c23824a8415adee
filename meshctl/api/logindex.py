"""The index of a unit's output: when each piece of it came, and the lines that follow from that.

A unit whose work type separates its outputs or has timestamps keeps an ``index`` beside them:
records of 16 bytes, two little-endian numbers of 64 bits each.

* Microseconds since 1970, times two, and one more if the piece is of stderr and not of stdout.
* Where the piece ends in its stream: the bytes of that stream that had come by then.

The records stand in the order in which the pieces came. Times are what the clock of the machine
said, so they go back where that was set back.

Nothing here reads or waits: bytes in, records and lines out, whatever the bytes are. An index may
be shorter than the output or longer: the output is written first, but a power cut may keep the one
and not the other. What has no time is a line all the same.
"""

import struct
from collections import deque
from dataclasses import dataclass
from typing import Final

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
INDEX: Final = "index"
FILES: Final = "files"
"""The files of a unit, by the names that ``work results`` has for them; the last is a tar of what
the job brought back."""

STREAMS: Final = (STDOUT, STDERR)
"""What a command prints, in the order of the numbers in an index."""

RECORD_BYTES: Final = 16

MAX_LINE: Final = 1024 * 1024
"""Bytes of one line; what is longer comes in pieces. A program may print gigabytes without a
newline, and nothing of a line can be shown among others before its end."""

_RECORD = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Record:
    """One piece of output: when it came, in microseconds since 1970, and where it ends."""

    time: int
    stream: str
    end: int

    def encode(self) -> bytes:
        """Return the record as it stands in an index."""
        return _RECORD.pack(self.time << 1 | STREAMS.index(self.stream), self.end)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its newline; without one it is a part of a longer line, or the last of all.

    Attributes:
        stream: STDOUT or STDERR.
        time: when its last byte came, in microseconds since 1970; None where nobody knows.
        is_begin: whether it is the begin of a line, and not what follows of a long one.
    """

    stream: str
    text: bytes
    time: int | None = None
    is_begin: bool = True


class IndexReader:
    """Makes records of the bytes of an index, from its begin on.

    No piece ends where its stream was before, or earlier. From such a record on an index says
    nothing (there are zeros after a power cut, for instance).

    Attributes:
        is_broken: whether the rest is ignored.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._ends = dict.fromkeys(STREAMS, 0)
        self.is_broken = False

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes; return the records that they complete."""
        if self.is_broken:
            return []
        data = self._rest + data
        whole = len(data) - len(data) % RECORD_BYTES
        self._rest = data[whole:]
        records = []
        for stamp, end in _RECORD.iter_unpack(data[:whole]):
            stream = STREAMS[stamp & 1]
            if end <= self._ends[stream]:
                self.is_broken = True
                self._rest = b""
                break
            self._ends[stream] = end
            records.append(Record(stamp >> 1, stream, end))
        return records


class LogLines:
    """Puts the lines of both streams in the order in which they came, each with its time.

    Feed it with the streams and the index, in pieces of any size and order. To hold little, read
    next what it :attr:`awaits`. A unit without an index has its lines in the order of the feeding.

    Args:
        has_index: whether the unit has an index.
        starts: from which byte of a stream on it is fed, where that is not the first.
    """

    def __init__(self, *, has_index: bool = True, starts: dict[str, int] | None = None) -> None:
        begin = starts or {}
        self._index = IndexReader()
        self._records: deque[Record] = deque()
        self._streams = {name: _Stream(name, begin.get(name, 0)) for name in STREAMS}
        self._last = self._streams[STDOUT]
        """The stream whose piece came last."""
        self._is_timed = has_index

    @property
    def awaits(self) -> str | None:
        """The file whose next bytes bring the next lines; None if it is either stream."""
        if not self._is_timed:
            return None
        return self._records[0].stream if self._records else INDEX

    def waiting(self, stream: str) -> int:
        """Return the bytes of a stream that wait for the index to say when they came."""
        return len(self._streams[stream].untimed)

    def feed(self, source: str, data: bytes) -> list[Line]:
        """Take the next bytes of a file; return the lines that can be told now."""
        if source != INDEX:
            self._streams[source].untimed += data
        elif self._is_timed:
            self._records += self._index.feed(data)
        return self._tell()

    def end_index(self) -> list[Line]:
        """Return the lines that the index does not tell of: it has ended, and what is fed from now
        on has no times."""
        lines = self._tell()
        # What is left of the index is about bytes that are not there.
        self._records.clear()
        self._is_timed = False
        return lines + self._tell()

    def finish(self) -> list[Line]:
        """Return the rest of the lines: no more is fed."""
        lines = self.end_index()
        for stream in sorted(self._streams.values(), key=lambda stream: stream is self._last):
            lines += stream.take_rest()
        return lines

    def _tell(self) -> list[Line]:
        lines: list[Line] = []
        while self._records:
            record = self._records[0]
            stream = self._streams[record.stream]
            lines += self._take(stream, record.end - stream.position, record.time)
            if stream.position < record.end:
                return lines
            self._records.popleft()
        self._is_timed &= not self._index.is_broken
        if not self._is_timed:
            for stream in self._streams.values():
                lines += self._take(stream, len(stream.untimed), None)
        return lines

    def _take(self, stream: "_Stream", size: int, time: int | None) -> list[Line]:
        size = min(size, len(stream.untimed))
        if size <= 0:
            return []
        self._last = stream
        return stream.take(size, time)


class _Stream:
    """One stream: what has no time yet, and the line that has no end yet."""

    def __init__(self, name: str, position: int) -> None:
        self._name = name
        self.position = position
        """Where the bytes begin of which it is not known yet when they came."""
        self.untimed = bytearray()
        self._line = bytearray()
        self._time: int | None = None
        self._is_begin = True

    def take(self, size: int, time: int | None) -> list[Line]:
        """Have the next ``size`` bytes have come at ``time``; return the lines that they end."""
        piece = bytes(self.untimed[:size])
        del self.untimed[:size]
        self.position += size
        self._time = time
        lines = []
        start = 0
        while start < size:
            newline = piece.find(b"\n", start)
            end = min(newline + 1 if newline >= 0 else size, start + MAX_LINE - len(self._line))
            self._line += piece[start:end]
            start = end
            if len(self._line) == MAX_LINE or self._line.endswith(b"\n"):
                lines += self.take_rest()
        return lines

    def take_rest(self) -> list[Line]:
        """Return what there is of the line that has no end yet, if there is anything."""
        if not self._line:
            return []
        line = Line(self._name, bytes(self._line), self._time, self._is_begin)
        self._is_begin = line.text.endswith(b"\n")
        self._line.clear()
        return [line]
