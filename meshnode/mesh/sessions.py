"""One link from its opening to its end: drives the protocol's Peering over a real link."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import trio

from meshnode.errors import ProtocolError
from meshnode.logs import subject_logger
from meshnode.mesh.linkfigures import LinkFigures
from meshnode.mesh.links.base import Link, Message
from meshnode.mesh.sendqueue import BatchSize, SendQueue
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import (
    REJECT_MESSAGE,
    MessageType,
    RoutingUpdate,
    ServiceAdvertisement,
    peek_update,
)
from meshnode.protocol.peering import (
    Action,
    Apply,
    Close,
    Established,
    LinkPolicy,
    Peering,
    Refuse,
    SendHello,
)

SEND_TIMEOUT = 21.0
"""Seconds that one send may take: a peer that reads nothing for as long as it may be silent is
dead, and what waits for it must not pile up."""

FLUSH_TIMEOUT = 1.0
"""Seconds to deliver the last words (a reject message, the end of streams) to a peer: long enough
for any link that works, and a node that is told to stop does so within 2 s."""


class SessionOwner(Protocol):
    """What a session tells the mesh; every call is quick and does not block."""

    def connected_peers(self) -> Collection[str]:
        """Return the peers that established sessions exist to."""
        ...

    def hello(self) -> bytes:
        """Return an own routing update as a message."""
        ...

    def word_to_refused(self, update: RoutingUpdate) -> bytes | None:
        """Return what a peer that is refused with this update should know besides."""
        ...

    def link_up(self, session: "Session") -> None:
        """Note that the session is established."""
        ...

    def link_down(self, session: "Session") -> None:
        """Note that an established session has ended."""
        ...

    def knows_update(self, update_id: str) -> bool:
        """Whether :meth:`routing_update` would ignore an update with this ID."""
        ...

    def routing_update(self, session: "Session", update: RoutingUpdate) -> None:
        """Take an update that the peer may send."""
        ...

    def knows_advertisement(self, raw: bytes) -> bool:
        """Whether :meth:`advertisement` would ignore this message."""
        ...

    def advertisement(self, session: "Session", advert: ServiceAdvertisement, raw: bytes) -> None:
        """Take a service advertisement."""
        ...

    def data(self, messages: Sequence[memoryview]) -> None:
        """Take data messages.

        Raises:
            ProtocolError: one is malformed.
        """
        ...


class _Ended(Exception):
    """The session is over.

    ``fault`` says that somebody should look at why; ``rejected_by_us`` that the peer is owed a
    reject message.
    """

    def __init__(self, reason: str, *, fault: bool = False, rejected_by_us: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.rejected_by_us = rejected_by_us


def _how_it_broke(exc: Exception) -> str:
    cause = exc.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"the link broke: {cause.strerror.lower()}"
    return "the link broke"


class Session:
    """A link and what is known of the node at its other end."""

    def __init__(
        self, link: Link, policy: LinkPolicy, owner: SessionOwner, own_id: str, idle_timeout: float
    ) -> None:
        self._link = link
        self._owner = owner
        self._queue = SendQueue()
        self._batch_size = BatchSize()
        self._sending = False
        """Whether the next to send is the writer: it is at it, or the link has a rest for it."""
        self._peering = Peering(own_id, policy, trio.current_time(), idle_timeout)
        self._log = subject_logger("link", link.name)
        self._scope = trio.CancelScope()
        self._ended: str = ""
        self.failure = ""
        """Why the link did not come up; before its end, why the one before it did not."""
        self._since = self._up_at = 0.0
        self._sent_messages = self._sent_bytes = 0
        self._received_messages = self._received_bytes = 0
        self.probed = float("-inf")
        """When the link was last measured, by trio's clock."""
        self.round_trip: float | None = None
        """Seconds to the peer and back, as measured last; None if it did not answer."""

    @property
    def peer(self) -> str:
        """The node at the other end; empty until the link is established."""
        return self._peering.peer

    @property
    def cost(self) -> float:
        """What the link costs."""
        return self._peering.cost

    @property
    def name(self) -> str:
        """The link's kind and address."""
        return self._link.name

    def figures(self) -> LinkFigures:
        """Return what there is to say about the established link now."""
        kind, _, address = self._link.name.partition(" ")
        return LinkFigures(
            kind=kind,
            address=address,
            since=self._since,
            uptime=trio.current_time() - self._up_at,
            sent_messages=self._sent_messages,
            sent_bytes=self._sent_bytes,
            received_messages=self._received_messages,
            received_bytes=self._received_bytes,
            dropped=self._queue.dropped,
            round_trip=self.round_trip,
        )

    @property
    def was_established(self) -> bool:
        """Whether the link ever came up."""
        return self._peering.established

    # --- sending -----------------------------------------------------------------------------

    def send_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped because the link is behind."""
        return self._queue.put_data(message)

    def send_data_now(self, messages: Sequence[Message]) -> None:
        """Queue data messages, and send as much as the link takes without being waited for.

        No task has to wake for that. What the link does not take is sent as ever, or dropped.
        """
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
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._end(_how_it_broke(exc))
            return
        self._sent_messages += len(messages)
        self._sent_bytes += size
        if self._sending:
            self._queue.wake()

    def send_routing(self, message: Message) -> None:
        """Queue a message that must arrive, or end a link that is hopelessly behind."""
        if len(message) > MAX_MESSAGE:
            # Written anew by us, an update of a node with very many links may no longer fit.
            self._log.error("a routing message of %d bytes cannot be sent", len(message))
            return
        if not self._queue.put_routing(message):
            self._end("the peer does not read")

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        return self._queue.has_room

    async def wait_room(self) -> None:
        """Wait until a local sender may go on, or the link is gone."""
        await self._queue.wait_room()

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._scope.cancel()

    # --- the conversation --------------------------------------------------------------------

    async def run(self) -> str:
        """Hold the conversation until it ends; returns why it did.

        Whatever the peer does ends this session only.
        """
        reason, fault = "this node is stopping", False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                with self._scope:
                    ended = await self._converse()
                    reason, fault = ended.reason, ended.fault
                    if ended.rejected_by_us:
                        self._queue.put_routing(REJECT_MESSAGE)
                reason = self._ended or reason
                self._queue.close()
                nursery.cancel_scope.deadline = trio.current_time() + FLUSH_TIMEOUT
        finally:
            self._queue.close()
            if self._peering.established:
                self._owner.link_down(self)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT):
                await self._link.aclose()
        self._log_end(reason, fault)
        self.failure = "" if self._peering.established else reason
        return reason

    def _log_end(self, reason: str, fault: bool) -> None:
        if self._peering.established:
            log = self._log.warning if fault else self._log.info
        else:
            # A peer that is away for a day is one event, over UDP too, where dialing succeeds.
            log = self._log.debug if reason == self.failure else self._log.warning
        log("closed (%s): %s", self.peer or "peer unknown", reason)

    async def _converse(self) -> _Ended:
        ended: list[_Ended] = []

        async def until_ended(part: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
            try:
                await part()
            except _Ended as exc:
                ended.append(exc)
            except ProtocolError as exc:
                ended.append(_Ended(f"the peer broke the protocol: {exc}", fault=True))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                ended.append(_Ended(_how_it_broke(exc)))
            scope.cancel()

        # Our hello goes before anything that the peer's makes us send.
        self._do_what_is_due()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_ended, self._watch_time, nursery.cancel_scope)
            await until_ended(self._read, nursery.cancel_scope)
        return ended[0] if ended else _Ended(self._ended)

    async def _read(self) -> None:
        while True:
            # No name is given to what was received: the link reads into the same buffer again
            # once nobody looks at messages in it.
            self._take(await self._link.receive())

    def _take(self, messages: list[memoryview]) -> None:
        if not messages:
            raise _Ended("the peer closed the link")
        self._peering.received(trio.current_time())
        self._received_messages += len(messages)
        self._received_bytes += sum(map(len, messages))
        data: list[memoryview] = []
        for message in messages:
            if message[0] == MessageType.DATA:
                data.append(message)
            else:
                self._take_data(data)
                data = []
                self._handle(message)
        self._take_data(data)

    def _take_data(self, messages: list[memoryview]) -> None:
        if messages and self._peering.established:
            self._owner.data(messages)

    async def _watch_time(self) -> None:
        while True:
            await trio.sleep_until(self._peering.next_deadline())
            self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        action = self._peering.on_timer(trio.current_time())
        if action is not None:
            self._act(action, None)

    async def _write(self) -> None:
        size = self._batch_size
        while (batch := await self._queue.take_batch(size.bytes)) is not None or self._sending:
            self._sending = True
            started = trio.current_time()
            try:
                with trio.fail_after(SEND_TIMEOUT):
                    await self._link.send(batch or ())
            except trio.TooSlowError:
                self._end(f"the peer read nothing for {SEND_TIMEOUT:g} s")
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._end(_how_it_broke(exc))
                return
            self._sending = False
            size.learn(trio.current_time() - started)
            if batch:
                self._sent_messages += len(batch)
                self._sent_bytes += sum(map(len, batch))

    # --- what arrives ------------------------------------------------------------------------

    def _handle(self, message: memoryview) -> None:
        kind = message[0]
        if kind == MessageType.ROUTE:
            if not self._is_another_copy(message):
                self._judge(RoutingUpdate.decode(message))
        elif kind == MessageType.ADVERTISEMENT:
            raw = bytes(message)
            if self._peering.established and not self._owner.knows_advertisement(raw):
                self._owner.advertisement(self, ServiceAdvertisement.decode(raw), raw)
        elif kind == MessageType.REJECT:
            raise _Ended("the peer rejected us", fault=True)
        else:
            self._log.debug("ignored a message of unknown type %d", kind)

    def _is_another_copy(self, message: memoryview) -> bool:
        """Whether this update came over another link before, so that nothing would follow from it.

        What the peer says about itself is always judged: our link depends on it.
        """
        peeked = peek_update(message) if self._peering.established else None
        return (
            peeked is not None
            and peeked[0] != self._peering.peer
            and self._owner.knows_update(peeked[1])
        )

    def _judge(self, update: RoutingUpdate) -> None:
        for action in self._peering.on_update(update, self._owner.connected_peers()):
            self._act(action, update)

    def _act(self, action: Action, update: RoutingUpdate | None) -> None:
        match action:
            case SendHello():
                self.send_routing(self._owner.hello())
            case Established(peer, cost):
                self._log.info("established with %s, cost %g", peer, cost)
                self._since, self._up_at = time.time(), trio.current_time()
                self._owner.link_up(self)
            case Apply() if update is not None:
                self._owner.routing_update(self, update)
            case Refuse(reason):
                self._explain_refusal(update)
                raise _Ended(f"we rejected it: {reason}", fault=True, rejected_by_us=True)
            case Close(reason):
                raise _Ended(reason)

    def _explain_refusal(self, update: RoutingUpdate | None) -> None:
        word = self._owner.word_to_refused(update) if update and not self.was_established else None
        if word is not None:
            # It takes nothing from us before it knows who we are.
            self.send_routing(self._owner.hello())
            self.send_routing(word)

    def close(self, reason: str) -> None:
        """End the session from outside."""
        self._end(reason)
