"""The sending half of a link: messages go out at once, or wait in the queue for the writer.

Forwarded data goes out within the call of whoever read it: no task wakes, and nothing is queued,
while the link takes what it is given. Only what it does not take is left to the writer. Because of
that, one of the two may send at a time; ``_sending`` says that it is the writer's turn.
"""

from collections.abc import Callable, Sequence

import trio

from meshnode.logs import SubjectLogger
from meshnode.mesh.links.base import Link, Message
from meshnode.mesh.peers.ending import Boundary, Ended
from meshnode.mesh.peers.sendqueue import BATCH_BYTES, LinkSendBudget, SendQueue
from meshnode.protocol.framing import MAX_MESSAGE

SEND_TIMEOUT = 21.0
"""Seconds that one send may take. A peer that reads nothing for as long as it may be silent is
dead, and what waits for it must not pile up."""

DRAINED_BYTES = 64 * 1024
"""Bytes of routing that may still wait when a link counts as drained."""

FIRST_BATCH = 16 * 1024
"""Bytes of one send until the link has shown that it is fast. A send has 21 s to end, so a link of
800 bytes a second still works."""

QUICK_SEND = 0.1
"""Seconds within which a send must end for the next to carry twice as much."""

SLOW_SEND = 1.0
"""Seconds after which the next send carries half as much: routing must not wait long behind data
that is being sent."""


class BatchSize:
    """How many bytes one send of a link should carry; follows the link's speed."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = FIRST_BATCH

    def learn(self, seconds: float) -> None:
        """Take note of how long a send took."""
        if seconds < QUICK_SEND:
            self.bytes = min(self.bytes * 2, BATCH_BYTES)
        elif seconds > SLOW_SEND:
            self.bytes = max(self.bytes // 2, FIRST_BATCH)


class LinkSender:
    """Sends on one link. A ``NextHop`` for the router once the peer is known.

    Args:
        link: where to.
        budget: what may wait on all links of the node.
        boundary: what errors end.
        log: the link's.
        drained: called once after :meth:`call_when_drained`.
    """

    __slots__ = (
        "_awaits_room",
        "_batch_size",
        "_boundary",
        "_drained",
        "_link",
        "_log",
        "_queue",
        "_sending",
        "bytes",
        "holder",
        "messages",
        "peer",
    )

    def __init__(
        self,
        link: Link,
        budget: LinkSendBudget,
        boundary: Boundary,
        log: SubjectLogger,
        drained: Callable[[], None],
    ) -> None:
        self.peer = ""
        """The node at the other end; empty until the link is established."""
        self.holder = link.holder
        self._link = link
        self._queue = SendQueue(budget)
        self._batch_size = BatchSize()
        self._boundary = boundary
        self._log = log
        self._drained = drained
        self._sending = False
        """Whether the writer must send next: it is sending, or the link has a rest for it."""
        self._awaits_room = False
        self.messages = self.bytes = 0
        """Sent so far."""

    @property
    def dropped(self) -> int:
        """Data messages that the full queue refused."""
        return self._queue.dropped

    # --- data --------------------------------------------------------------------------------

    def send_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped because the link is behind."""
        return self._queue.put_data(message)

    def send_data_now(self, messages: Sequence[Message]) -> None:
        """Send data messages as far as the link takes them at once; queue or drop the others."""
        size = sum(map(len, messages))
        if (
            self._link.can_send_now
            and not self._sending
            and self._queue.is_empty
            and size <= self._batch_size.bytes
        ):
            self._send_now(messages, size)
            return
        for message in messages:
            self._queue.put_data(message)

    def _send_now(self, messages: Sequence[Message], size: int) -> None:
        try:
            self._sending = not self._link.send_now(messages)
        except Exception as exc:  # noqa: BLE001
            # The boundary of this link. The caller serves another link, or a service of this node:
            # the error must not reach it.
            self._boundary.catch(exc)
            return
        self.messages += len(messages)
        self.bytes += size
        if self._sending and not self._queue.leave_rest(len(messages), size):
            self._link.keep_rest()

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        return self._queue.has_room

    async def wait_room(self) -> None:
        """Wait until a local sender may go on, or the link is gone."""
        await self._queue.wait_room()

    # --- routing -----------------------------------------------------------------------------

    def send_routing(self, message: Message) -> None:
        """Queue a message that must arrive; a link that is hopelessly behind ends instead."""
        if len(message) > MAX_MESSAGE:
            # An update of a node with very many links may no longer fit when we encode it anew.
            self._log.error("a routing message of %d bytes cannot be sent", len(message))
            return
        if not self._queue.put_routing(message):
            self._boundary.catch(Ended("the peer does not read"))

    def has_routing_room(self, most: int) -> bool:
        """Whether fewer than ``most`` bytes of routing wait, or than the link's part of all."""
        return self._queue.routing_bytes < self._queue.part(most)

    def call_when_drained(self) -> None:
        """Have ``drained`` called once when the link has room for more routing."""
        self._awaits_room = True

    # --- the writer --------------------------------------------------------------------------

    def open(self) -> None:
        """Count among the links that share the budget, until :meth:`clear`."""
        self._queue.open()

    def close(self) -> None:
        """Take nothing more; what is queued is still sent."""
        self._queue.close()

    def clear(self) -> None:
        """Drop all that waits: the link is gone."""
        self._queue.clear()

    async def run(self) -> None:
        """Send what waits, until closed and all is sent; errors end at the boundary."""
        queue, size = self._queue, self._batch_size
        with self._boundary:
            while (
                batch := await queue.take_batch(queue.part(size.bytes))
            ) is not None or self._sending:
                if self._awaits_room and queue.routing_bytes <= DRAINED_BYTES:
                    self._awaits_room = False
                    self._drained()
                await self._send(batch or [])

    async def _send(self, batch: list[Message]) -> None:
        self._sending = True
        started = trio.current_time()
        try:
            with trio.fail_after(SEND_TIMEOUT):
                await self._link.send(batch)
        except trio.TooSlowError:
            raise Ended(f"the peer read nothing for {SEND_TIMEOUT:g} s") from None
        self._sending = False
        self._queue.batch_sent()
        self._batch_size.learn(trio.current_time() - started)
        self.messages += len(batch)
        self.bytes += sum(map(len, batch))
