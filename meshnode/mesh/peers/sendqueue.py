"""What waits to be sent on one link, and on all links of a node together, in bounds.

A link has bounds of its own. But there may be thousands of links, and one peer may hold many and
read none of them. So when more than a total waits, each link has only its part of that total. And
a waiting message does not keep more memory than its own bytes, but for a few.
"""

from collections import deque
from collections.abc import Callable

import trio

from meshnode.mesh.links.base import Message

MAX_WAITING = 16 * 1024 * 1024
"""Bytes that may wait on all links before each is held to its part: four full data queues. All
links together then have this once more at most, but for LEAST_WAITING each."""

LEAST_WAITING = 16 * 1024
"""Bytes that may wait on a link however many there are: as many as its first send carries."""

MAX_LENT = 24
"""Messages that may wait as views of the buffer that they were read into; each keeps that whole
buffer alive, half a megabyte. Further ones are copied."""

LINK_BYTES = 64 * 1024
"""About what a link takes until it has ended, besides what waits on it."""

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes of data that may wait on one link: 30 ms of a gigabit link. More data is dropped, as by any
forwarder; streams send it again."""

ROUTING_BYTES = 64 * 1024 * 1024
"""Bytes of routing that may wait on one link. Routing is never dropped: a link that is so far
behind is closed. What others say is held back long before (``flooding.py``)."""

FULL_WATER, LOW_WATER = QUEUE_BYTES // 2, QUEUE_BYTES // 4
"""Local senders wait while more than the first waits, until no more than the second does."""

BATCH_BYTES = 512 * 1024
"""Bytes joined into one send at most: more gains nothing on any link."""


class LinkSendBudget:
    """What may wait on all links of a node; ``freed`` is told what each ended link frees."""

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
        """Stop counting a link on which ``waited`` bytes waited in the end."""
        self._links -= 1
        self._freed(LINK_BYTES + waited)

    def part(self, most: int) -> int:
        """Return how many bytes may wait on one link: ``most``, or less if all links are behind."""
        if self.waiting < MAX_WAITING:
            return most
        return min(most, max(LEAST_WAITING, MAX_WAITING // max(1, self._links)))

    def may_lend(self, count: int = 1) -> bool:
        """Whether so many more messages may wait as views of a read buffer; if so they count."""
        if self._lent + count > MAX_LENT:
            return False
        self._lent += count
        return True

    def keep(self, message: Message) -> Message:
        """Return a message as it may wait: a view that is lent, or a copy. See :meth:`let_go`."""
        if type(message) is memoryview and not self.may_lend():
            return bytes(message)
        return message

    def let_go(self, messages: int, size: int) -> None:
        """Note that ``messages`` views and ``size`` bytes no longer wait."""
        self._lent -= messages
        self.waiting -= size


class SendQueue:
    """The messages of one link that were not sent yet; routing messages go first.

    Routing may overtake data: a mesh whose links are full of data must still learn of changes,
    which may be what relieves it.
    """

    __slots__ = (
        "_budget",
        "_closed",
        "_data",
        "_data_bytes",
        "_filled",
        "_lent",
        "_lent_sending",
        "_room",
        "_routing",
        "_routing_bytes",
        "_sending_bytes",
        "_woken",
        "dropped",
    )

    def __init__(self, budget: LinkSendBudget | None = None) -> None:
        """All links of a node share ``budget``; without one there are no other links."""
        self._routing: deque[Message] = deque()
        self._data: deque[Message] = deque()
        self._routing_bytes = 0
        self._data_bytes = 0
        self._budget = budget or LinkSendBudget()
        self._lent = 0
        """Messages that wait as views of a read buffer."""
        self._lent_sending = self._sending_bytes = 0
        """The same, and bytes, of what was taken and may not be sent yet."""
        self._filled = trio.Event()
        self._room = trio.Event()
        self._room.set()
        self._woken = False
        self._closed = False
        self.dropped = 0
        """Data messages dropped because the queue was full."""

    def open(self) -> None:
        """Count among the links that share what may wait, until :meth:`clear`."""
        self._budget.link_begins()

    def put_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped."""
        size, waiting = len(message), self._data_bytes
        if self._closed or (waiting and waiting + size > self._budget.part(QUEUE_BYTES)):
            self.dropped += 1
            return False
        kept = self._budget.keep(message)
        self._lent += kept is message and type(kept) is memoryview
        self._data.append(kept)
        self._data_bytes += size
        self._budget.waiting += size
        self._filled.set()
        if self._data_bytes > self._budget.part(FULL_WATER) and self._room.is_set():
            self._room = trio.Event()
        return True

    def put_routing(self, message: Message) -> bool:
        """Queue a message that must not be dropped; False means that the link is too far behind."""
        if self._routing_bytes + len(message) > ROUTING_BYTES:
            return False
        if not self._closed:
            self._routing.append(message)
            self._routing_bytes += len(message)
            self._budget.waiting += len(message)
            self._filled.set()
        return True

    def part(self, most: int) -> int:
        """Return how many bytes may wait here, ``most`` unless all links together are behind."""
        return self._budget.part(most)

    @property
    def routing_bytes(self) -> int:
        """Bytes of routing that wait."""
        return self._routing_bytes

    def leave_rest(self, messages: int, size: int) -> bool:
        """Wake the writer although nothing is queued: the link has a rest to send.

        Returns:
            Whether the rest of these messages may wait as views of a read buffer.
        """
        self._sending_bytes += size
        self._budget.waiting += size
        may_stay = self._budget.may_lend(messages)
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
        if self._data_bytes <= self._budget.part(LOW_WATER):
            self._room.set()
        return batch or (None if self._closed else batch)

    def batch_sent(self) -> None:
        """Note that all that was taken is sent."""
        self._budget.let_go(self._lent_sending, self._sending_bytes)
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
        self._budget.let_go(self._lent, self._routing_bytes + self._data_bytes)
        self._lent = self._routing_bytes = self._data_bytes = 0
        self._routing.clear()
        self._data.clear()
        self._budget.link_ends(waited)

    def close(self) -> None:
        """Take nothing more; what is queued may still be taken."""
        self._closed = True
        self._filled.set()
        self._room.set()


def _move(source: deque[Message], batch: list[Message], limit: int) -> tuple[int, int]:
    """Move messages to ``batch`` until ``limit`` bytes are reached; return the bytes and views."""
    size = lent = 0
    while source and size < limit:
        message = source.popleft()
        size += len(message)
        lent += type(message) is memoryview
        batch.append(message)
    return size, lent
