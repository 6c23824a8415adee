"""The streams of one connection: what state each is in, and what becomes of its events.

| State | What it means | How it is left |
|---|---|---|
| OPEN | somebody here reads and writes it | its user closes it: DELIVERING; refused: DRAINING |
| DELIVERING | closed here; what it ends with is on its way | the peer has all of it: DRAINING |
| DRAINING | nobody here has it; the peer may still send on it | the engine forgets it: gone |

A stream begins OPEN if we opened it, or when the peer sends its first byte. A stream of the peer
that ends before its first byte begins DRAINING: it is nobody's.

A stream stays in the table until the engine has forgotten it. Only then no frame of its number can
come again; before that, one would be taken for the first of a new stream.

OPEN and DELIVERING streams are *in use*: they keep the connection, and they count as streams in
what may wait to be sent.
"""

import enum
from collections.abc import Callable, Iterator

from aioquic.quic.events import StreamDataReceived

from meshnode.errors import MeshError
from meshnode.mesh.streams.flowcontrol import SendBudget
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import CANCELLED_READ
from meshnode.mesh.streams.stream import MeshStream

STREAM_PREFIX = b"\0"
"""The dialer's first byte on a stream; the listener drops it (protocol section 7)."""

REFUSED = "the other end reads no more"

MOST_STILLBORN = 32
"""Streams that may end before their first byte on a connection that never had another. Who breaks
off its dials has a few; who has only these keeps 50 KiB here for each of its connections, and 2 KiB
for each of its streams, and uses nothing of it."""

NO_STREAM_BEGAN = "all streams ended before their first byte"


class StreamState(enum.Enum):
    """See the head of this module."""

    OPEN = enum.auto()
    DELIVERING = enum.auto()
    DRAINING = enum.auto()


class _Entry:
    __slots__ = ("state", "stream")

    def __init__(self, state: StreamState, stream: MeshStream | None) -> None:
        self.state = state
        self.stream = stream
        """None while DRAINING."""


class StreamTable:
    """The streams of one connection; ``budget`` counts those in use."""

    def __init__(self, quic: MeshQuicConnection, budget: SendBudget) -> None:
        self._quic = quic
        self._budget = budget
        self._entries: dict[int, _Entry] = {}
        self._open = 0
        """Streams that are OPEN."""
        self.in_use = 0
        """Streams that are OPEN or DELIVERING."""
        self._begun = 0
        self._stillborn = 0

    def __iter__(self) -> Iterator[MeshStream]:
        """Yield the streams in use."""
        return (entry.stream for entry in self._entries.values() if entry.stream is not None)

    def wake_writers(self) -> None:
        """Have whoever waits for room look whether there is any, after each transmission."""
        for entry in self._entries.values():
            if entry.stream is not None:
                entry.stream.wake_writers()

    @property
    def has_closed(self) -> bool:
        """Whether there is a stream that is not OPEN."""
        return len(self._entries) > self._open

    @property
    def is_useless(self) -> bool:
        """Whether there were many streams, of which none began."""
        return self._stillborn > MOST_STILLBORN and not self._begun

    def in_state(self, state: StreamState) -> list[int]:
        """Return the numbers of all streams in a state."""
        return [i for i, entry in self._entries.items() if entry.state is state]

    # --- how a stream begins, and who has it ---------------------------------------------------

    def open(self, stream_id: int, stream: MeshStream) -> MeshStream:
        """Add a stream that somebody uses, and return it."""
        self._entries[stream_id] = _Entry(StreamState.OPEN, stream)
        self._open += 1
        self._begun += 1
        self._use(1)
        return stream

    def close(self, stream_id: int) -> None:
        """Note that the user of a stream has closed it."""
        entry = self._entries[stream_id]
        self._leave_open(entry)
        entry.state = StreamState.DELIVERING

    def decline(self, stream_id: int) -> None:
        """Have nothing to do with a stream that the peer opened: the engine is to forget it."""
        if self._quic.is_receiving(stream_id):
            self._quic.stop_stream(stream_id, CANCELLED_READ)
        self._quic.reset_stream(stream_id, CANCELLED_READ)
        self._drain(stream_id)

    def _drain(self, stream_id: int) -> None:
        entry = self._entries.get(stream_id)
        if entry is not None and entry.stream is not None:
            self._leave_open(entry)
            self._use(-1)
        self._entries[stream_id] = _Entry(StreamState.DRAINING, None)

    def _leave_open(self, entry: _Entry) -> None:
        if entry.state is StreamState.OPEN:
            self._open -= 1

    def _use(self, change: int) -> None:
        self.in_use += change
        self._budget.add_streams(change)

    # --- what the peer sends -------------------------------------------------------------------

    def take_data(
        self, event: StreamDataReceived, make: Callable[[int], MeshStream]
    ) -> MeshStream | None:
        """Take bytes of a stream; if these are its first ones, make it and return it."""
        entry = self._entries.get(event.stream_id)
        if entry is None:
            return self._take_first(event, make)
        if entry.stream is not None:
            entry.stream.feed(event.data, event.end_stream)
        else:
            # Nobody will read them. Without credit the peer could not send its last ones.
            self._quic.consume(event.stream_id, len(event.data))
        return None

    def _take_first(
        self, event: StreamDataReceived, make: Callable[[int], MeshStream]
    ) -> MeshStream | None:
        stream_id, data = event.stream_id, event.data
        if data[:1] != STREAM_PREFIX:
            self._stillborn += 1
            self.decline(stream_id)
            return None
        self._quic.consume(stream_id, 1)
        stream = self.open(stream_id, make(stream_id))
        stream.feed(data[1:], event.end_stream)
        if not self._quic.may_write(stream_id):
            # The peer asked for no bytes before it sent the first of its own.
            stream.refuse_writes(REFUSED)
        return stream

    def take_reset(self, stream_id: int) -> None:
        """Take the end of a stream that the peer breaks off."""
        entry = self._entries.get(stream_id)
        if entry is None:
            self._stillborn += 1
            self.decline(stream_id)
        elif entry.stream is not None:
            entry.stream.lose("the other end reset the stream")

    def take_refusal(self, stream_id: int) -> None:
        """Note that the peer reads no more of a stream."""
        entry = self._entries.get(stream_id)
        if entry is not None and entry.stream is not None:
            entry.stream.refuse_writes(REFUSED)

    # --- how a stream ends ---------------------------------------------------------------------

    def settle(self) -> None:
        """Move on the streams that are closed here, as far as the engine has come with them."""
        for stream_id in self.in_state(StreamState.DELIVERING):
            if self._quic.is_flushed(stream_id):
                self._drain(stream_id)
        for stream_id in self.in_state(StreamState.DRAINING):
            if not self._quic.is_known(stream_id):
                del self._entries[stream_id]
                self._quic.forget_stream(stream_id)

    def undelivered(self) -> tuple[int, int]:
        """Return how many streams are DELIVERING, and how many bytes of them."""
        delivering = self.in_state(StreamState.DELIVERING)
        return len(delivering), sum(map(self._quic.undelivered, delivering))

    def give_up_delivery(self) -> None:
        """Break off the streams that are DELIVERING: the peer takes nothing of them."""
        for stream_id in self.in_state(StreamState.DELIVERING):
            self._quic.reset_stream(stream_id, CANCELLED_READ)

    def lose(self, error: MeshError) -> None:
        """Break all streams, and drop them: the connection is over."""
        for stream in self:
            stream.lose(str(error), error)
        self._entries.clear()
        self._open = 0
        self._use(-self.in_use)
