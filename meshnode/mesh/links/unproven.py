"""Which UDP addresses are proven, so that they may have a link (address validation).

Anybody can write any source address into a datagram. So a listener makes no link to an address
before it knows that whoever uses it also reads what is sent there. Two ways prove that:

*A cookie*, for meshnodes. A dialer asks for one first, which costs the listener no memory and fewer
bytes than it has read, and sends it along with its first messages. A receptor node takes these
datagrams for messages of an unknown type, which it ignores while a link is opening.

*A ping*, for receptor nodes, which have no such messages. Once a node knows who we are it answers a
ping, to a service of ours whose random name only a reader of the ping can know. So an unproven
address is sent a hello, and then a few pings; all together never more than three times the bytes
that came from it.

No input and output, and no clock: ``now`` is in seconds of any clock.
"""

import hashlib
import hmac
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from meshnode.errors import ProtocolError
from meshnode.mesh.links.base import AddressProbe, Message
from meshnode.net.addresses import network_of
from meshnode.protocol.messages import MessageType, ServiceKey
from meshnode.protocol.rates import TokenBucket
from meshnode.protocol.routing import RoutingUpdate
from meshnode.shares import Held

Address = tuple[object, ...]
"""A socket address: host and port, and for IPv6 flow and scope."""

AMPLIFICATION = 3
"""Times the bytes that an unproven address has sent that it is sent at most (as RFC 9000, section
8): this node is of no use for attacks on others' addresses."""

MAX_UNPROVEN = 256
"""Unproven addresses at a time. Each is proven or forgotten after a few seconds."""

KEPT_BYTES = 2 * 1024 * 1024
"""Bytes of hellos that are kept of all of them; an ordinary hello has some hundred bytes."""

READ_AT_ONCE = 100
READ_PER_SECOND = 50.0
"""Hellos of new addresses that are decoded in a burst, and for each second since: one may take half
a millisecond. An address whose hello is dropped sends another."""

STEPS: Final = (0.1, 0.35, 0.6, 1.0, 2.0, 4.0)
"""Seconds after its first datagram at which an unproven address is sent something. The hello comes
first, and not at once: a meshnode may show a cookie meanwhile. Some 100 ms later a receptor node
has a route to us and can answer pings."""

GIVEN_UP = 12.0
"""Seconds after which an unproven address is forgotten; its node gives the link up after ten."""


@dataclass(slots=True, eq=False)
class _Unproven:
    """An address, its newest hello, and what passed each way; sizes in bytes."""

    address: Address
    holder: str
    peer: str
    service: ServiceKey
    began: float
    hello: bytes
    received: int
    sent: int = 0
    got_hello: bool = False
    step: int = 0

    @property
    def due(self) -> float:
        """When it is to be sent something next, or forgotten."""
        return self.began + (STEPS[self.step] if self.step < len(STEPS) else GIVEN_UP)

    def may_get(self, size: int) -> bool:
        """Whether so many bytes may be sent to it."""
        return self.sent + size <= AMPLIFICATION * self.received


@dataclass(frozen=True, slots=True)
class Proven:
    """A proven address; its link begins with this message."""

    address: Address
    hello: bytes


@dataclass(slots=True)
class UnprovenAddresses:
    """The unproven addresses of one listener; ``on_proven`` takes each that a ping has proven."""

    probe: AddressProbe
    on_proven: Callable[[Proven], None]
    _by_address: dict[Address, _Unproven] = field(default_factory=dict)
    _held: Held[_Unproven] = field(default_factory=lambda: Held("oldest"))
    _kept: int = 0
    _readable: TokenBucket = field(
        default_factory=lambda: TokenBucket(READ_PER_SECOND, READ_AT_ONCE, -math.inf)
    )

    def __len__(self) -> int:
        return len(self._by_address)

    # --- what arrives ------------------------------------------------------------------------

    def take(self, address: Address, data: bytes | bytearray, now: float) -> None:
        """Take a datagram of an address to which there is no link."""
        known = self._by_address.get(address)
        if known is not None:
            known.received += len(data)
            if known.service in data:
                self._is_proven(known)
            elif data[0] == MessageType.ROUTE:
                self._keep_hello(known, bytes(data))
        elif data[:1] == bytes([MessageType.ROUTE]) and self._readable.take(now):
            self._add(address, bytes(data), now)

    def forget(self, address: Address) -> None:
        """Drop an address; there is a link to it, or nobody wants one any more."""
        entry = self._by_address.get(address)
        if entry is not None:
            self._remove(entry)

    def clear(self) -> None:
        """Drop all of them."""
        for address in list(self._by_address):
            self.forget(address)

    def _add(self, address: Address, hello: bytes, now: float) -> None:
        try:
            peer = RoutingUpdate.decode(hello).forwarding_node
        except ProtocolError:
            return  # the address may still send a hello
        while self._by_address and (
            len(self) >= MAX_UNPROVEN or self._kept + len(hello) > KEPT_BYTES
        ):
            self._remove(self._held.take_away())
        holder = network_of(str(address[0]))
        service = self.probe.free_service()
        entry = _Unproven(address, holder, peer, service, now, hello, len(hello))
        self._by_address[address] = entry
        self._held.add(holder, entry)
        self._kept += len(hello)
        # By the router: the answer comes over another link if the peer has a cheaper path.
        self.probe.expect_reply(service, lambda: self._is_proven(entry))

    def _keep_hello(self, entry: _Unproven, hello: bytes) -> None:
        """Keep its newest hello, which may list us as a peer already, if there is room."""
        if self._kept + len(hello) - len(entry.hello) <= KEPT_BYTES:
            self._kept += len(hello) - len(entry.hello)
            entry.hello = hello

    def _is_proven(self, entry: _Unproven) -> None:
        self._remove(entry)
        self.on_proven(Proven(entry.address, entry.hello))

    def _remove(self, entry: _Unproven) -> None:
        del self._by_address[entry.address]
        self._held.discard(entry.holder, entry)
        self._kept -= len(entry.hello)
        self.probe.expect_no_reply(entry.service)

    # --- what is sent ------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return when :meth:`due` is to be called next."""
        return min((entry.due for entry in self._by_address.values()), default=math.inf)

    def due(self, now: float) -> list[tuple[Address, bytes]]:
        """Return the datagrams that are due, and whom they are for."""
        sent: list[tuple[Address, bytes]] = []
        for entry in [e for e in self._by_address.values() if e.due <= now]:
            if entry.step >= len(STEPS):
                self._remove(entry)
                continue
            entry.step += 1
            message = self._next_message(entry)
            if entry.may_get(len(message)):
                entry.got_hello = True
                entry.sent += len(message)
                sent.append((entry.address, message))
        return sent

    def _next_message(self, entry: _Unproven) -> bytes:
        if not entry.got_hello:
            return self.probe.hello()
        return self.probe.ping(entry.peer, entry.service)


# --- cookies -------------------------------------------------------------------------------------

REQUEST_TYPE: Final = 0x80
CHALLENGE_TYPE: Final = 0x81
ANSWER_TYPE: Final = 0x82
"""First bytes, where messages have their type, which is 3 at most."""

COOKIE_LENGTH = 8
"""Bytes of a cookie: nobody guesses one of 2^64."""

PREFIX_LENGTH = 1 + COOKIE_LENGTH
"""Bytes before the message in an answer."""

LIFETIME = 30.0
"""Seconds for which a cookie is good, at least; at most twice as long."""

REQUEST: Final = bytes([REQUEST_TYPE]) + bytes(COOKIE_LENGTH)
"""Asks for a cookie; as long as the answer, so that it amplifies nothing."""


def read_challenge(datagram: bytes | bytearray) -> bytes | None:
    """Return the cookie, if this datagram gives one."""
    if len(datagram) == PREFIX_LENGTH and datagram[0] == CHALLENGE_TYPE:
        return bytes(datagram[1:])
    return None


def answer(cookie: bytes, message: Message) -> bytes:
    """Return a message behind the cookie that proves its sender's address."""
    return b"".join((bytes([ANSWER_TYPE]), cookie, message))


class CookieJar:
    """Makes and checks the cookies of one listener, and stores none."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def challenge(self, address: object, now: float) -> bytes:
        """Return the datagram that gives an address its cookie."""
        return bytes([CHALLENGE_TYPE]) + self._cookie(address, int(now // LIFETIME))

    def accepts(self, datagram: bytes | bytearray, address: object, now: float) -> bool:
        """Whether this is an answer with the right cookie for the address that it came from."""
        if len(datagram) < PREFIX_LENGTH or datagram[0] != ANSWER_TYPE:
            return False
        given = bytes(datagram[1:PREFIX_LENGTH])
        period = int(now // LIFETIME)
        return any(
            hmac.compare_digest(given, self._cookie(address, p)) for p in (period, period - 1)
        )

    def _cookie(self, address: object, period: int) -> bytes:
        text = f"{address}|{period}".encode()
        return hashlib.blake2s(text, key=self._secret, digest_size=COOKIE_LENGTH).digest()
