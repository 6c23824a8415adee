"""What waits to be sent on one link, bounded (design section 3)."""

from collections import deque

import trio

from meshnode.mesh.links.base import Message

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes of data that may wait on one link: 30 ms of a gigabit link. When they are exceeded, data
messages are dropped (their senders retransmit), so that a slow link never fills the memory."""

ROUTING_BYTES = 64 * 1024 * 1024
"""Bytes of routing that may wait on one link. Routing is never dropped: a link that is this far
behind is dead, and is closed."""

LOW_WATER = QUEUE_BYTES // 4
"""Local senders that found the queue half full go on when it has sunk to this."""

BATCH_BYTES = 256 * 1024
"""Bytes joined into one send."""


class SendQueue:
    """The messages of one link that the writer has not taken yet."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._filled = trio.Event()
        self._room = trio.Event()
        self._room.set()
        self._closed = False
        self.dropped = 0
        """Data messages dropped because the queue was full."""

    def put_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped."""
        if self._bytes + len(message) > QUEUE_BYTES or self._closed:
            self.dropped += 1
            return False
        self._put(message)
        return True

    def put_routing(self, message: Message) -> bool:
        """Queue a message that must not be dropped; False means that the link is too far behind."""
        if self._bytes + len(message) > ROUTING_BYTES:
            return False
        if not self._closed:
            self._put(message)
        return True

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._bytes += len(message)
        self._filled.set()
        if self._bytes > QUEUE_BYTES // 2 and self._room.is_set():
            self._room = trio.Event()

    async def take_batch(self) -> list[Message]:
        """Wait for messages and return what one send should carry; [] once closed and empty."""
        while not self._messages:
            if self._closed:
                return []
            self._filled = trio.Event()
            await self._filled.wait()
        batch: list[Message] = []
        size = 0
        while self._messages and size < BATCH_BYTES:
            message = self._messages.popleft()
            size += len(message)
            batch.append(message)
        self._bytes -= size
        if self._bytes <= LOW_WATER:
            self._room.set()
        return batch

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        return self._room.is_set()

    async def wait_room(self) -> None:
        """Wait until a local sender may go on, or the link is gone."""
        await self._room.wait()

    def close(self) -> None:
        """Take nothing more; what is queued may still be taken."""
        self._closed = True
        self._filled.set()
        self._room.set()
