"""Datagrams between services of nodes: unreliable, unordered, up to 65,499 bytes."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from meshnode import errors
from meshnode.mesh.links.base import Message
from meshnode.mesh.router import Router
from meshnode.protocol.messages import (
    MAX_HOPS,
    WIRE_HOPS,
    DataHeader,
    ServiceKey,
    Unreachable,
    decode_service,
    encode_service,
)
from meshnode.protocol.namehash import NameTable
from meshnode.shares import Holder

INBOX = 1000
"""Datagrams that wait to be received before newer ones are dropped, as a UDP socket does."""

ADDRESSES = 256
"""Services last sent to, some 200 bytes each: only notices about these are believed. A notice takes
one round trip, in which few sockets send to more."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram that arrived: who sent it from which service, and its payload."""

    node: str
    service: str
    payload: bytes


class DatagramSocket:
    """A service of this node that sends and receives datagrams. Made by ``Mesh.open_datagrams``."""

    def __init__(self, router: Router, names: NameTable, service: str) -> None:
        self._router = router
        self._names = names
        self.service = service
        self._key = encode_service(service)
        self._inbox: deque[Datagram | errors.Unreachable] = deque()
        self._arrived = trio.Event()
        self._sent_to: OrderedDict[tuple[bytes, ServiceKey], None] = OrderedDict()
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self.dropped = 0
        """Datagrams dropped because nobody received them in time."""
        router.bind(self._key, self)

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the socket is closed."""
        self._on_close = callback

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take a datagram from the router."""
        node = self._names.name(source)
        if node is not None:
            self._put(Datagram(node, decode_service(source_service), bytes(payload)))

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Take a notice about a datagram of ours from the router."""
        if notice.to_node not in self._names:
            return  # nothing was sent there
        if (self._names.learn(notice.to_node), notice.to_service) in self._sent_to:
            self._put(errors.Unreachable(notice.problem, reporter))

    def _put(self, item: Datagram | errors.Unreachable) -> None:
        if len(self._inbox) >= INBOX:
            self.dropped += 1
            return
        self._inbox.append(item)
        self._arrived.set()

    async def send_to(self, node: str, service: str, payload: bytes, hops: int = MAX_HOPS) -> None:
        """Send a datagram; returns when it is queued. ``hops`` is how many links it may take.

        Raises:
            NoRoute: no path to the node is known.
            MessageTooLarge: the payload does not fit.
            ProtocolError: the service name does not fit 8 bytes.
            trio.ClosedResourceError: the socket is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        key = encode_service(service)
        try:
            destination = self._router.resolve(node)
        except errors.NoRoute:
            # Services count what they cannot send by the error's text: it must not change.
            raise errors.NoRoute(node) from None
        header = DataHeader(
            min(hops - 1, WIRE_HOPS), self._router.own_hash, destination, self._key, key
        )
        await self._router.wait_room(destination)
        self._note_sent((destination, key))
        self._router.send(destination, header.encode() + payload)
        await trio.lowlevel.checkpoint()

    def holder_of(self, node: str) -> Holder:
        """Return a node that a datagram came from as a holder of what is scarce here."""
        return self._router.holder_of(self._names.learn(node))

    def _note_sent(self, address: tuple[bytes, ServiceKey]) -> None:
        self._sent_to[address] = None
        self._sent_to.move_to_end(address)
        if len(self._sent_to) > ADDRESSES:
            self._sent_to.popitem(last=False)

    async def receive(self) -> Datagram:
        """Wait for the next datagram.

        Raises:
            Unreachable: a datagram that this socket sent did not arrive.
            trio.ClosedResourceError: the socket was closed.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closed:
                raise trio.ClosedResourceError
            self._arrived = trio.Event()
            await self._arrived.wait()
        item = self._inbox.popleft()
        if isinstance(item, errors.Unreachable):
            raise item
        return item

    def close(self) -> None:
        """Give the service name back."""
        if not self._closed:
            self._closed = True
            self._router.unbind(self._key)
            self._arrived.set()
            if self._on_close is not None:
                self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
