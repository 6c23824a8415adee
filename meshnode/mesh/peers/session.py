"""One life of a link to a peer, from its opening to its end.

Theory of operation.

A link comes from a listener or a dialer (``endpoints.py``); it carries whole messages, and nothing
is known of the node at its other end. A :class:`PeerSession` runs it through these states:

    opening --> established --> confirmed --> closed
       |             |                          ^
       +-------------+--------------------------+

*Opening.* The link itself opens first (a websocket handshake, the first byte of a TCP client), so a
scanner that only connects costs nothing more. Then we send a hello, an ordinary routing update, and
again each second until the peer's comes: before we read, since it takes nothing from strangers.

*Judging.* The first update names the peer, and ``protocol.peering`` alone decides, before anything
is stored: a rejected peer leaves no trace. It is sent a reject message.

*Established.* Data may pass. The link state learns of the link first (``link_up``), so that our
next update lists the peer; then the listener (``when_established``), which may end another link.

*Confirmed.* The peer's own update lists us, at the same cost. Only now the link is logged: a peer
that rejects us never comes so far. From here on the peer must go on listing us.

*Closed.* The first reason counts (``ending.py`` has them). Timer and end check stop at once; the
writer has ``FLUSH_TIMEOUT`` for what is queued, such as the reject message, and the reader to hear
whether the peer rejects us. The link state forgets the link, the link is closed, then it is logged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import trio

from meshnode.errors import OutOfBounds, ProtocolError
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Link, LinkFigures
from meshnode.mesh.peers.conditions import Changes, Moment
from meshnode.mesh.peers.ending import Boundary, EndCheck, Ended, LinkLog, RepeatFilter
from meshnode.mesh.peers.sending import LinkSender
from meshnode.mesh.peers.sendqueue import LinkSendBudget
from meshnode.policies import LinkPolicy
from meshnode.protocol import peering
from meshnode.protocol.messages import MessageType
from meshnode.protocol.rejection import Rejection
from meshnode.protocol.routing import CopyDetector, RoutingUpdate, ServiceAdvertisement

FLUSH_TIMEOUT = 1.0
"""Seconds to deliver what is queued at the end: a node that is stopped stops in 2 s."""

LASTING = 30.0
"""Seconds after which a link has lasted: three routing updates. One that ends before has failed."""


class PeerSessionOwner(Protocol):
    """What a session tells the mesh; every call is quick and does not block."""

    changes: Changes
    """Is told when both ends have accepted the link."""

    def connected_peers(self) -> Mapping[str, peering.Linked]:
        """Return the established sessions by peer."""

    def has_place(self, peer: str, cost: float, expected: bool) -> bool:
        """Whether our updates have room for a link to a peer; ``expected`` if configured."""

    def hello(self) -> bytes:
        """Return an own routing update as a message."""

    def messages_for_rejected(self, update: RoutingUpdate) -> Sequence[bytes]:
        """Return what a peer that is rejected with this update should know besides."""

    def link_up(self, session: "PeerSession") -> None:
        """Note that the session is established."""

    def link_down(self, session: "PeerSession") -> None:
        """Note that an established session has ended."""

    def ping(self, session: "PeerSession") -> None:
        """Send the peer something over this link that it must answer."""

    def link_drained(self, session: "PeerSession") -> None:
        """Note that the link has room for more routing, as was asked for."""

    def admits(self, session: "PeerSession", size: int) -> bool:
        """Whether a routing message of that size is to be read, or the peer sends too much."""

    def knows_update(self, key: int) -> bool:
        """Whether :meth:`routing_update` would ignore an update with this key."""

    def routing_update(self, session: "PeerSession", update: RoutingUpdate) -> None:
        """Take an update that the peer may send."""

    def knows_advertisement(self, raw: bytes) -> bool:
        """Whether :meth:`advertisement` would ignore this message."""

    def advertisement(
        self, session: "PeerSession", advert: ServiceAdvertisement, raw: bytes
    ) -> None:
        """Take a service advertisement."""

    def data(self, session: "PeerSession", messages: Sequence[memoryview]) -> None:
        """Take data messages that came over a link. Raises ProtocolError if one is malformed."""


class PeerSession:
    """A link and what is known of the node at its other end."""

    def __init__(
        self,
        link: Link,
        policy: LinkPolicy,
        owner: PeerSessionOwner,
        own_id: str,
        idle_timeout: float,
        repeats: RepeatFilter,
        budget: LinkSendBudget,
    ) -> None:
        self.name, self.holder = link.name, link.holder
        self._link = link
        self._owner = owner
        self._peering = peering.Peering(own_id, policy, trio.current_time(), idle_timeout)
        self._log = subject_logger("link", link.name)
        self._life = LinkLog(link.name, link.holder, repeats)
        self._scope = trio.CancelScope()
        self.boundary = Boundary(self._end, self._log)
        """Whatever is done for the peer is done within this."""
        self._ended: Ended | None = None  # the first reason counts
        self.sender = LinkSender(
            link, budget, self.boundary, self._log, lambda: owner.link_drained(self)
        )
        self._end_check = EndCheck(lambda: owner.ping(self)) if link.forgeable else None
        link.check_errors_by(self._suspect_broken)
        self.when_established: Callable[[], None] = lambda: None
        """Called when the link comes up."""
        self._copies: CopyDetector | None = None
        self.confirmed_at: Moment | None = None
        """When the peer had listed us, and the log said that the link is up."""
        self._up: Moment | None = None
        self._received_messages = self._received_bytes = self._refused = 0
        self.probed = float("-inf")
        """When the link was last measured, by trio's clock."""
        self.round_trip: float | None = None
        """Seconds to the peer and back, as measured last; None if it did not answer."""

    @property
    def peer(self) -> str:
        """The node at the other end; empty until the link is established."""
        return self._peering.peer

    @property
    def epoch(self) -> int:
        """Which life of the peer is at the other end, by its last update; 0 if unknown."""
        return self._peering.epoch

    @property
    def cost(self) -> float:
        """What the link costs."""
        return self._peering.cost

    @property
    def was_established(self) -> bool:
        """Whether the link ever came up."""
        return self._peering.established

    @property
    def has_lasted(self) -> bool:
        """Whether the link was up for so long that neither end seems to reject it."""
        return self._up is not None and self._up.age >= LASTING

    @property
    def end(self) -> Ended | None:
        """Why the session is over; None if it is not, or the node is stopping."""
        return self._ended

    def figures(self) -> LinkFigures:
        """Return what there is to say about the established link now."""
        kind, _, address = self.name.partition(" ")
        assert self._up is not None
        return LinkFigures(
            kind=kind,
            address=address,
            since=self._up.unix,
            uptime=self._up.age,
            sent_messages=self.sender.messages,
            sent_bytes=self.sender.bytes,
            received_messages=self._received_messages,
            received_bytes=self._received_bytes,
            dropped=self.sender.dropped,
            refused=self._refused,
            round_trip=self.round_trip,
        )

    # --- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the link to its end. Whatever the peer does ends this session only."""
        self.sender.open()
        try:
            with self.boundary:
                await self._converse()
        finally:
            self.sender.close()
            with self.boundary:
                if self._peering.established:
                    self._owner.link_down(self)
            deadline = trio.current_time() + FLUSH_TIMEOUT
            with self.boundary, trio.CancelScope(shield=True, deadline=deadline):
                await self._link.aclose()
            self.sender.clear()
        self._life.ended(self.peer, self._ended, lasted=self.has_lasted)

    async def _converse(self) -> None:
        async with trio.open_nursery() as nursery:
            with self._scope, self.boundary:
                await self._link.opened()
                self._peering.certified = self._link.certified
                nursery.start_soon(self.sender.run)
                # Before anything is read: our hello goes before whatever the peer makes us send.
                self._do_what_is_due()
                async with trio.open_nursery() as listening:
                    listening.start_soon(self._watch_time)
                    if self._end_check is not None:
                        listening.start_soon(self._end_check.run, self.boundary)
                    await self._read()
            if (end := self._ended) is not None and end.rejection is not None:
                self.sender.send_routing(end.rejection.encode())
            self.sender.close()
            nursery.cancel_scope.deadline = trio.current_time() + FLUSH_TIMEOUT
            if end is not None and not self.was_established:  # routes lead elsewhere at once
                with self.boundary:
                    await end.hear_answer(self._link)

    async def _watch_time(self) -> None:
        with self.boundary:
            while True:
                await trio.sleep_until(self._peering.next_deadline())
                self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        if (action := self._peering.on_timer(trio.current_time())) is not None:
            self._act(action, None)

    def close(self, reason: str, *, is_logged: bool = False) -> None:
        """End the session from outside; ``is_logged`` if the caller logs it."""
        self._end(Ended(reason, is_logged=is_logged))

    def _end(self, ended: Ended) -> None:
        self._ended = self._ended or ended
        self._scope.cancel()

    # --- a forgeable end ---------------------------------------------------------------------

    def _suspect_broken(self, reason: str) -> bool:
        """Suspect an end that the network reports; False if that cannot be checked."""
        if self._end_check is None or not self.was_established:
            return False
        self._end_check.suspect(Ended(f"the link broke: {reason}"))
        return True

    def answered(self) -> None:
        """Note that the peer has answered a ping, by whatever route."""
        if self._end_check is not None:
            self._end_check.refute()

    # --- what arrives ------------------------------------------------------------------------

    async def _read(self) -> None:
        with self.boundary:
            while True:
                # No variable holds the messages: the link reads into the same buffer again as soon
                # as no view of it is left.
                self._take(await self._link.receive())

    def _take(self, messages: list[memoryview]) -> None:
        if not messages:
            raise Ended("the peer closed the link")
        self._peering.received(trio.current_time())
        self._received_messages += len(messages)
        self._received_bytes += sum(map(len, messages))
        data: list[memoryview] = []
        try:
            for message in messages:
                if message[0] == MessageType.DATA:
                    data.append(message)
                else:
                    # Data before a routing message is handled before it, by the routes of its time.
                    self._take_data(data)
                    data = []
                    if self._end_check is None or not self.was_established:
                        self._handle(message)
                    else:
                        self._handle_forgeable(message, self._end_check)
        except Ended as end:
            end.take_answer(messages)
            raise
        self._take_data(data)

    def _take_data(self, messages: list[memoryview]) -> None:
        if not (messages and self._peering.established):
            return
        try:
            self._owner.data(self, messages)
        except ProtocolError as exc:
            if self._end_check is None:
                raise
            self._refuse(exc)
        else:
            if self._end_check is not None:
                self._end_check.refute()

    def _handle_forgeable(self, message: memoryview, check: EndCheck) -> None:
        """Handle a message that somebody else may have sent in the peer's name."""
        try:
            self._handle(message)
        except Ended as exc:
            if self.confirmed_at is None:
                raise  # the peer goes on sending, and would refute it: a wrong cost would last
            check.suspect(exc)
        except ProtocolError as exc:
            self._refuse(exc)
        else:
            check.refute()

    def _handle(self, message: memoryview) -> None:
        kind = message[0]
        if kind == MessageType.ROUTE:
            if not self._is_another_copy(message):
                self._take_update(message)
        elif kind == MessageType.ADVERTISEMENT:
            if self._peering.established:
                self._take_advertisement(bytes(message))
        elif kind == MessageType.REJECT:
            raise Ended.rejected(Rejection.decode(message), self._peering.guess_why_rejected())
        elif not (self._peering.established or self._link.forgeable):
            # Another protocol: a web page can make its readers' browsers send good frames further
            # on. By UDP such a message may be a meshnode's that still shows its cookie.
            raise ProtocolError(f"it begins with a message of unknown type {kind}")
        else:
            self._log.debug("ignored a message of unknown type %d", kind)

    def _is_another_copy(self, message: memoryview) -> bool:
        """Whether another link brought this update; never the peer's own, which this one needs."""
        key = self._copies.key(message) if self._copies is not None else None
        return key is not None and self._owner.knows_update(key)

    def _take_update(self, message: memoryview) -> None:
        if self._peering.established and not self._owner.admits(self, len(message)):
            return
        try:
            update = RoutingUpdate.decode(message)
        except OutOfBounds as exc:
            if not self._peering.established:
                raise
            self._refuse(exc)
            return
        peers, has_place = self._owner.connected_peers(), self._owner.has_place
        for action in self._peering.on_update(update, peers, has_place):
            self._act(action, update)

    def _take_advertisement(self, raw: bytes) -> None:
        if self._owner.knows_advertisement(raw) or not self._owner.admits(self, len(raw)):
            return
        try:
            advert = ServiceAdvertisement.decode(raw)
        except ProtocolError as exc:
            # Not the peer's fault, however malformed: a receptor node forwards the bytes it gets.
            self._refuse(exc)
        else:
            self._owner.advertisement(self, advert, raw)

    def _refuse(self, why: ProtocolError) -> None:
        """Drop a message that some node beyond the peer may have written."""
        self._refused += 1
        log = self._log.warning if self._refused == 1 else self._log.debug
        log("refused a message, and will only count others: %s", why)

    def _act(self, action: peering.Action, update: RoutingUpdate | None) -> None:
        match action:
            case peering.SendHello():
                self.sender.send_routing(self._owner.hello())
            case peering.Established(peer):
                self.sender.peer = peer
                self._copies = CopyDetector(peer)
                self._up = Moment.now()
                self._owner.link_up(self)
                self.when_established()
            case peering.Apply() if update is not None:
                if update.node_id == self.peer and self.confirmed_at is None:
                    self.confirmed_at = Moment.now()
                    self._life.confirmed(self.peer, self.cost)
                    self._owner.changes.note()
                self._owner.routing_update(self, update)
            case peering.Refuse(rejection):
                if update is not None and not self.was_established:
                    for message in self._owner.messages_for_rejected(update):
                        self.sender.send_routing(message)
                raise Ended.rejecting(rejection)
            case peering.Close(reason):
                raise Ended(reason)
