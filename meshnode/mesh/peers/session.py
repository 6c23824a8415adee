"""One link from its opening to its end: drives the protocol's Peering over a real link."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import trio

from meshnode.errors import OutOfBounds, ProtocolError
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Link, Message
from meshnode.mesh.peers.boundary import Boundary, Ended
from meshnode.mesh.peers.greeting import Goodbyes
from meshnode.mesh.peers.linklog import STEADY, Complaints, LinkFigures, LinkLog
from meshnode.mesh.peers.sendqueue import BatchSize, Outgoing, SendQueue
from meshnode.policies import LinkPolicy
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import REJECT_MESSAGE, MessageType
from meshnode.protocol.peering import (
    Action,
    Apply,
    Close,
    Established,
    Peering,
    Refuse,
    SendHello,
)
from meshnode.protocol.routing import CopyDetector, RoutingUpdate, ServiceAdvertisement

SEND_TIMEOUT = 21.0
"""Seconds that one send may take: a peer that reads nothing for as long as it may be silent is
dead, and what waits for it must not pile up."""

DRAINED_BYTES = 64 * 1024
"""Bytes of routing that may still wait when a link is said to have room for more."""

FLUSH_TIMEOUT = 1.0
"""Seconds to deliver the last words (a reject message, the end of streams) to a peer: long enough
for any link that works, and a node that is told to stop does so within 2 s."""


class PeerSessionOwner(Protocol):
    """What a session tells the mesh; every call is quick and does not block."""

    def connected_peers(self) -> Collection[str]:
        """Return the peers that established sessions exist to."""
        ...

    def has_place(self, peer: str, cost: float, expected: bool) -> bool:
        """Whether our updates have room for a link to a peer, and it was ``expected`` or not."""
        ...

    def hello(self) -> bytes:
        """Return an own routing update as a message."""
        ...

    def word_to_refused(self, update: RoutingUpdate) -> bytes | None:
        """Return what a peer that is refused with this update should know besides."""
        ...

    def link_up(self, session: "PeerSession") -> None:
        """Note that the session is established."""
        ...

    def link_down(self, session: "PeerSession") -> None:
        """Note that an established session has ended."""
        ...

    def ask(self, session: "PeerSession") -> None:
        """Send the peer something over this link that it must answer."""
        ...

    def link_drained(self, session: "PeerSession") -> None:
        """Note that the link has room for more routing, as was asked for."""
        ...

    def admits(self, session: "PeerSession", size: int) -> bool:
        """Whether a routing message of that size is to be read, or the peer sends too much."""
        ...

    def knows_update(self, key: int) -> bool:
        """Whether :meth:`routing_update` would ignore an update with this key."""
        ...

    def routing_update(self, session: "PeerSession", update: RoutingUpdate) -> None:
        """Take an update that the peer may send."""
        ...

    def knows_advertisement(self, raw: bytes) -> bool:
        """Whether :meth:`advertisement` would ignore this message."""
        ...

    def advertisement(
        self, session: "PeerSession", advert: ServiceAdvertisement, raw: bytes
    ) -> None:
        """Take a service advertisement."""
        ...

    def data(self, session: "PeerSession", messages: Sequence[memoryview]) -> None:
        """Take data messages that came over a link.

        Raises:
            ProtocolError: one is malformed.
        """
        ...


class PeerSession:
    """A link and what is known of the node at its other end."""

    def __init__(
        self,
        link: Link,
        policy: LinkPolicy,
        owner: PeerSessionOwner,
        own_id: str,
        idle_timeout: float,
        complaints: Complaints | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        self._link = link
        self._owner = owner
        self._queue = SendQueue(outgoing)
        self._batch_size = BatchSize()
        self._sending = False
        """Whether the next to send is the writer: it is at it, or the link has a rest for it."""
        self._peering = Peering(own_id, policy, trio.current_time(), idle_timeout)
        self._log = subject_logger("link", link.name)
        self._copies: CopyDetector | None = None
        self._scope = trio.CancelScope()
        self.boundary = Boundary(self._end, self._log)
        """What is done for the peer is done within this."""
        self._ended: Ended | None = None
        """Why the session is over; the first reason counts."""
        self._life = LinkLog(link.name, link.holder, complaints or Complaints())
        self._agreed = False
        """Whether the peer has said that it is linked to us, as we are to it."""
        self._goodbyes = Goodbyes(lambda: owner.ask(self)) if link.forgeable else None
        link.when_doubtful(self._doubt)
        self.when_established: Callable[[], None] = lambda: None
        """Called when the link comes up."""
        self._since = self._up_at = 0.0
        self._sent_messages = self._sent_bytes = 0
        self._received_messages = self._received_bytes = 0
        self._refused = 0
        self._awaits_room = False
        self.probed = float("-inf")
        """When the link was last measured, by trio's clock."""
        self.round_trip: float | None = None
        """Seconds to the peer and back, as measured last; None if it did not answer."""

    @property
    def peer(self) -> str:
        """The node at the other end; empty until the link is established."""
        return self._peering.peer

    @property
    def holder(self) -> str:
        """The network address of the other end; empty if it has none."""
        return self._link.holder

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
            refused=self._refused,
            round_trip=self.round_trip,
        )

    @property
    def was_established(self) -> bool:
        """Whether the link ever came up."""
        return self._peering.established

    @property
    def has_lasted(self) -> bool:
        """Whether the link was up for so long that nobody seems to refuse it."""
        return self.was_established and trio.current_time() >= self._up_at + STEADY

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
        except Exception as exc:  # noqa: BLE001
            # The boundary again. Whoever sends here is another link, or somebody on this node: it
            # is none of their fault.
            self.boundary.catch(exc)
            return
        self._sent_messages += len(messages)
        self._sent_bytes += size
        if self._sending and not self._queue.leave_rest(len(messages), size):
            self._link.keep_rest()

    def send_routing(self, message: Message) -> None:
        """Queue a message that must arrive, or end a link that is hopelessly behind."""
        if len(message) > MAX_MESSAGE:
            # Written anew by us, an update of a node with very many links may no longer fit.
            self._log.error("a routing message of %d bytes cannot be sent", len(message))
            return
        if not self._queue.put_routing(message):
            self._end(Ended("the peer does not read"))

    def has_routing_room(self, most: int) -> bool:
        """Whether fewer than ``most`` bytes of routing wait; fewer if all links are behind."""
        return self._queue.routing_bytes < self._queue.part(most)

    def call_when_drained(self) -> None:
        """Tell the owner once when the link has room for more routing."""
        self._awaits_room = True

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        return self._queue.has_room

    async def wait_room(self) -> None:
        """Wait until a local sender may go on, or the link is gone."""
        await self._queue.wait_room()

    # --- its end -----------------------------------------------------------------------------

    def close(self, reason: str, *, is_told: bool = False) -> None:
        """End the session from outside; ``is_told``: whoever does so logs it."""
        self._end(Ended(reason, is_told=is_told))

    def _end(self, ended: Ended) -> None:
        self._ended = self._ended or ended
        self._scope.cancel()

    # --- the conversation --------------------------------------------------------------------

    async def run(self) -> str:
        """Hold the conversation until it ends; returns why it did.

        Whatever the peer does ends this session only.
        """
        self._queue.open()
        try:
            with self.boundary:
                await self._converse()
        finally:
            self._queue.close()
            with self.boundary:
                if self._peering.established:
                    self._owner.link_down(self)
            with (
                self.boundary,
                trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT),
            ):
                await self._link.aclose()
            self._queue.clear()
        ended = self._ended or Ended("this node is stopping")
        self._life.ended(self.peer, ended, lasted=self.has_lasted)
        return ended.reason

    async def _converse(self) -> None:
        async with trio.open_nursery() as nursery:
            with self._scope, self.boundary:
                await self._link.opened()
                nursery.start_soon(self._write)
                # Our hello goes before anything that the peer's makes us send.
                self._do_what_is_due()
                async with trio.open_nursery() as listening:
                    listening.start_soon(self._watch_time)
                    if self._goodbyes is not None:
                        listening.start_soon(self._look_into_goodbyes, self._goodbyes)
                    await self._read()
            if self._ended is not None and self._ended.rejected_by_us:
                self._queue.put_routing(REJECT_MESSAGE)
            self._queue.close()
            nursery.cancel_scope.deadline = trio.current_time() + FLUSH_TIMEOUT

    async def _read(self) -> None:
        with self.boundary:
            while True:
                # No name is given to what was received: the link reads into the same buffer again
                # once nobody looks at messages in it.
                self._take(await self._link.receive())

    def _take(self, messages: list[memoryview]) -> None:
        if not messages:
            raise Ended("the peer closed the link")
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
                if self._goodbyes is None:
                    self._handle(message)
                else:
                    self._handle_forgeable(message, self._goodbyes)
        self._take_data(data)

    def _handle_forgeable(self, message: memoryview, goodbyes: Goodbyes) -> None:
        """Take a message that perhaps somebody else has sent in the peer's name."""
        if not self.was_established:
            self._handle(message)
            return
        try:
            self._handle(message)
        except Ended as exc:
            goodbyes.said(exc)
        except ProtocolError as exc:
            self._refuse(exc)
        else:
            goodbyes.denied()

    def _doubt(self, reason: str) -> bool:
        """Look into what speaks for the end of a link that is up; whether it can be looked into."""
        if self._goodbyes is None or not self.was_established:
            return False
        self._goodbyes.said(Ended(f"the link broke: {reason}"))
        return True

    async def _look_into_goodbyes(self, goodbyes: Goodbyes) -> None:
        with self.boundary:
            await goodbyes.run()

    def answered(self) -> None:
        """Note that the peer has answered a ping, whatever way the answer took."""
        if self._goodbyes is not None:
            self._goodbyes.denied()

    def _take_data(self, messages: list[memoryview]) -> None:
        if not (messages and self._peering.established):
            return
        if self._goodbyes is None:
            self._owner.data(self, messages)
            return
        try:
            self._owner.data(self, messages)
        except ProtocolError as exc:
            self._refuse(exc)
        else:
            self._goodbyes.denied()

    async def _watch_time(self) -> None:
        with self.boundary:
            while True:
                await trio.sleep_until(self._peering.next_deadline())
                self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        action = self._peering.on_timer(trio.current_time())
        if action is not None:
            self._act(action, None)

    async def _write(self) -> None:
        with self.boundary:
            size = self._batch_size
            queue = self._queue
            while (
                batch := await queue.take_batch(queue.part(size.bytes))
            ) is not None or self._sending:
                if self._awaits_room and self._queue.routing_bytes <= DRAINED_BYTES:
                    self._awaits_room = False
                    self._owner.link_drained(self)
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
        self._sent_messages += len(batch)
        self._sent_bytes += sum(map(len, batch))

    # --- what arrives ------------------------------------------------------------------------

    def _handle(self, message: memoryview) -> None:
        kind = message[0]
        if kind == MessageType.ROUTE:
            if not self._is_another_copy(message) and self._may_read(message):
                self._take_update(message)
        elif kind == MessageType.ADVERTISEMENT:
            if self._peering.established:
                self._take_advertisement(bytes(message))
        elif kind == MessageType.REJECT:
            raise Ended("the peer rejected us", fault=True)
        else:
            self._log.debug("ignored a message of unknown type %d", kind)

    def _is_another_copy(self, message: memoryview) -> bool:
        """Whether this update came over another link before, so that nothing would follow from it.

        What the peer says about itself is always judged: our link depends on it.
        """
        key = self._copies.key(message) if self._copies is not None else None
        return key is not None and self._owner.knows_update(key)

    def _may_read(self, message: Message) -> bool:
        return not self._peering.established or self._owner.admits(self, len(message))

    def _take_update(self, message: memoryview) -> None:
        try:
            update = RoutingUpdate.decode(message)
        except OutOfBounds as exc:
            if not self._peering.established:
                raise
            self._refuse(exc)
            return
        owner = self._owner
        for action in self._peering.on_update(update, owner.connected_peers(), owner.has_place):
            self._act(action, update)

    def _take_advertisement(self, raw: bytes) -> None:
        if self._owner.knows_advertisement(raw) or not self._may_read(raw):
            return
        try:
            advert = ServiceAdvertisement.decode(raw)
        except ProtocolError as exc:
            # However wrong it is: a receptor node passes on the bytes that it was sent.
            self._refuse(exc)
        else:
            self._owner.advertisement(self, advert, raw)

    def _refuse(self, why: ProtocolError) -> None:
        """Take no notice of a message that somebody beyond the peer may have written."""
        self._refused += 1
        log = self._log.warning if self._refused == 1 else self._log.debug
        log("refused a message, and will only count others: %s", why)

    def _act(self, action: Action, update: RoutingUpdate | None) -> None:
        match action:
            case SendHello():
                self.send_routing(self._owner.hello())
            case Established(peer):
                self._copies = CopyDetector(peer)
                self._since, self._up_at = time.time(), trio.current_time()
                self._owner.link_up(self)
                self.when_established()
            case Apply() if update is not None:
                if update.node_id == self.peer and not self._agreed:
                    self._agreed = True
                    self._life.agreed(self.peer, self.cost)
                self._owner.routing_update(self, update)
            case Refuse(reason):
                self._explain_refusal(update)
                raise Ended(f"we rejected it: {reason}", fault=True, rejected_by_us=True)
            case Close(reason):
                raise Ended(reason)

    def _explain_refusal(self, update: RoutingUpdate | None) -> None:
        word = self._owner.word_to_refused(update) if update and not self.was_established else None
        if word is not None:
            # It takes nothing from us before it knows who we are.
            self.send_routing(self._owner.hello())
            self.send_routing(word)
