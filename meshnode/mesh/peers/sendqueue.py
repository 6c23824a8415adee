"""What waits to be sent on one link, bounded."""

from collections import deque
from collections.abc import Callable

import trio

from meshnode.mesh.links.base import Message

# --- What waits to be sent on all links of a node together
#
# Each link has bounds of its own (``sendqueue.py``, ``telling.py``). But there may be thousands
# of links, and whoever has many of them may read none. So beyond a total each link has its part
# only, and what waits does not hold on to more memory than its own bytes.

MAX_WAITING = 16 * 1024 * 1024
"""Bytes that may wait on all links until each has no more than its part of them: four links that
are as far behind as a link may be. With those parts it is twice as much at most, but for the least
that each link has."""

LEAST_WAITING = 16 * 1024
"""Bytes that may wait on a link however many there are: as much as a link's first send carries."""

MAX_LENT = 24
"""Messages that may wait in the space that they were read into, which each of them keeps: half a
megabyte at most. That is for links that are a moment behind; what waits beside them is copied."""


LINK_BYTES = 64 * 1024
"""About what a link takes, beside what waits on it, until it has ended."""


class Outgoing:
    """The budget of one node. ``freed`` is told about how many bytes each ended link has freed."""

    def __init__(self, freed: Callable[[int], None] = lambda size: None) -> None:
        self.waiting = 0
        """Bytes that wait on all links, or are being sent."""
        self._freed = freed
        self._links = 0
        self._lent = 0

    def link_begins(self) -> None:
        """Count a link among those that share the budget."""
        self._links += 1

    def link_ends(self, waited: int) -> None:
        """Count it no more; so many bytes waited on it in the end."""
        self._links -= 1
        self._freed(LINK_BYTES + waited)

    def part(self, most: int) -> int:
        """Return how many bytes may wait on a link that may have ``most`` by itself."""
        if self.waiting < MAX_WAITING:
            return most
        return min(most, max(LEAST_WAITING, MAX_WAITING // max(1, self._links)))

    def may_lend(self, count: int = 1) -> bool:
        """Whether so many more messages may wait where they were read; they are counted then."""
        if self._lent + count > MAX_LENT:
            return False
        self._lent += count
        return True

    def keep(self, message: Message) -> Message:
        """Return a message as it may wait; :meth:`let_go` must be told of it in the end."""
        if type(message) is memoryview and not self.may_lend():
            return bytes(message)
        return message

    def let_go(self, messages: int, size: int) -> None:
        """Note that ``messages`` of those that were lent, and ``size`` bytes, wait no more."""
        self._lent -= messages
        self.waiting -= size


pass  # SELFIMPORT

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes of data that may wait on one link: 30 ms of a gigabit link. When they are exceeded, data
messages are dropped (their senders retransmit), so that a slow link never fills the memory."""

ROUTING_BYTES = 64 * 1024 * 1024
"""Bytes of routing that may wait on one link. Routing is never dropped: a link that is this far
behind is dead, and is closed. What others say is held back long before."""

FULL_WATER, LOW_WATER = QUEUE_BYTES // 2, QUEUE_BYTES // 4
"""Local senders that found more than the first waiting go on when it has sunk to the second."""

BATCH_BYTES = 512 * 1024
"""Bytes joined into one send at most: more gains nothing on any link."""

FIRST_BATCH = 16 * 1024
"""Bytes joined into one send until the link has shown that it takes them quickly. A send has 21 s
to end; with this, a link of 800 bytes a second still lives."""

QUICK_SEND = 0.1
"""Seconds within which a send ends on a link that may be given twice as much."""

SLOW_SEND = 1.0
"""Seconds after which a link is given half as much, so that routing never waits long behind data
that is on its way already."""


class BatchSize:
    """How many bytes one send of a link should carry: grows and shrinks with what it takes."""

    def __init__(self) -> None:
        self.bytes = FIRST_BATCH

    def learn(self, seconds: float) -> None:
        """Take note of how long a send took."""
        if seconds < QUICK_SEND:
            self.bytes = min(self.bytes * 2, BATCH_BYTES)
        elif seconds > SLOW_SEND:
            self.bytes = max(self.bytes // 2, FIRST_BATCH)


class SendQueue:
    """The messages of one link that the writer has not taken yet; routing goes first.

    Routing that overtakes data harms nobody, and a mesh whose links are full of data must still
    learn of changes, of all that may free it.
    """

    def __init__(self, outgoing: Outgoing | None = None) -> None:
        """``outgoing`` is what all links of a node share; without it there are no others."""
        self._routing: deque[Message] = deque()
        self._data: deque[Message] = deque()
        self._routing_bytes = 0
        self._data_bytes = 0
        self._outgoing = outgoing or Outgoing()
        self._lent = 0
        """Messages that wait where they were read."""
        self._lent_sending = self._sending_bytes = 0
        """The same, and bytes, of what was taken and may not have left yet."""
        self._filled = trio.Event()
        self._room = trio.Event()
        self._room.set()
        self._woken = False
        self._closed = False
        self.dropped = 0
        """Data messages dropped because the queue was full."""

    def open(self) -> None:
        """Count among the links that share what may wait, until :meth:`clear`."""
        self._outgoing.link_begins()

    def put_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped."""
        size, waiting = len(message), self._data_bytes
        if self._closed or (waiting and waiting + size > self._outgoing.part(QUEUE_BYTES)):
            self.dropped += 1
            return False
        kept = self._outgoing.keep(message)
        self._lent += kept is message and type(kept) is memoryview
        self._data.append(kept)
        self._data_bytes += size
        self._outgoing.waiting += size
        self._filled.set()
        if self._data_bytes > self._outgoing.part(FULL_WATER) and self._room.is_set():
            self._room = trio.Event()
        return True

    def put_routing(self, message: Message) -> bool:
        """Queue a message that must not be dropped; False means that the link is too far behind."""
        if self._routing_bytes + len(message) > ROUTING_BYTES:
            return False
        if not self._closed:
            self._routing.append(message)
            self._routing_bytes += len(message)
            self._outgoing.waiting += len(message)
            self._filled.set()
        return True

    def part(self, most: int) -> int:
        """Return how many bytes may wait here, ``most`` unless all links together are behind."""
        return self._outgoing.part(most)

    @property
    def routing_bytes(self) -> int:
        """Bytes of routing that wait."""
        return self._routing_bytes

    @property
    def data_bytes(self) -> int:
        """Bytes of data that wait."""
        return self._data_bytes

    def leave_rest(self, messages: int, size: int) -> bool:
        """Have the writer look although nothing is queued: the link has a rest to send.

        Returns:
            Whether so many messages may stay where they were read until then.
        """
        self._sending_bytes += size
        self._outgoing.waiting += size
        may_stay = self._outgoing.may_lend(messages)
        self._lent_sending += messages if may_stay else 0
        self._woken = True
        self._filled.set()
        return may_stay

    async def take_batch(self, limit: int = BATCH_BYTES) -> list[Message] | None:
        """Wait for messages and return what one send should carry; None once closed and empty.

        A batch ends with the first message that reaches ``limit`` bytes. It is empty after
        :meth:`leave_rest`. What is taken counts until :meth:`batch_sent`.
        """
        if not (self._routing or self._data or self._closed or self._woken):
            self._filled = trio.Event()
            await self._filled.wait()
        self._woken = False
        batch: list[Message] = []
        routing, _ = _move(self._routing, batch, limit)
        self._routing_bytes -= routing
        data, lent = _move(self._data, batch, limit - routing)
        self._data_bytes -= data
        self._sending_bytes += routing + data
        self._lent -= lent
        self._lent_sending += lent
        if self._data_bytes <= self._outgoing.part(LOW_WATER):
            self._room.set()
        return batch or (None if self._closed else batch)

    def batch_sent(self) -> None:
        """Note that all that was taken has left."""
        self._outgoing.let_go(self._lent_sending, self._sending_bytes)
        self._lent_sending = self._sending_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._routing or self._data)

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        return self._room.is_set()

    async def wait_room(self) -> None:
        """Wait until a local sender may go on, or the link is gone."""
        await self._room.wait()

    def clear(self) -> None:
        """Drop all that waits: the link is gone."""
        self.close()
        waited = self._sending_bytes + self._routing_bytes + self._data_bytes
        self.batch_sent()
        self._outgoing.let_go(self._lent, self._routing_bytes + self._data_bytes)
        self._lent = self._routing_bytes = self._data_bytes = 0
        self._routing.clear()
        self._data.clear()
        self._outgoing.link_ends(waited)

    def close(self) -> None:
        """Take nothing more; what is queued may still be taken."""
        self._closed = True
        self._filled.set()
        self._room.set()


def _move(source: deque[Message], batch: list[Message], limit: int) -> tuple[int, int]:
    """Move messages to ``batch`` until ``limit`` bytes are reached; returns how many bytes.

    And how many of the messages lie where they were read.
    """
    size = lent = 0
    while source and size < limit:
        message = source.popleft()
        size += len(message)
        lent += type(message) is memoryview
        batch.append(message)
    return size, lent
