"""Addresses that began to talk with a UDP listener and have not shown that they read there.

Meshnodes show it by a cookie (``cookies.py``) and are not seen here. A receptor node has no such
word. But once it knows who we are it answers a ping, to a service of ours whose name only a reader
of the ping can know. So a stranger is told who we are, and pinged a few times; both together is
never more than three times what came from its address.

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
from meshnode.mesh.links.base import Greeter
from meshnode.net.addresses import network_of
from meshnode.protocol.messages import MessageType, ServiceKey
from meshnode.protocol.routing import RoutingUpdate
from meshnode.shares import Held

Address = tuple[object, ...]
"""A socket address: host and port, and for IPv6 flow and scope."""

AMPLIFICATION = 3
"""Times what an address has sent that is sent to it at most, until it has shown that it reads
there: whoever writes others' addresses into datagrams gains no more (as RFC 9000, section 8)."""

MAX_STRANGERS = 256
"""Strangers at a time. One is known or gone after a few seconds."""

KEPT_BYTES = 2 * 1024 * 1024
"""Bytes of first messages that are kept of all strangers: some hundred bytes of an ordinary one."""

READ_AT_ONCE = 100
READ_PER_SECOND = 50.0
"""Strangers' hellos that are read in a burst, and for each second since: reading one and naming
its node may take half a millisecond. What is not read now may be when it is said again."""

STEPS: Final = (0.1, 0.35, 0.6, 1.0, 2.0, 4.0)
"""Seconds after its first datagram at which a stranger is told something: who we are first, so a
meshnode that shows a cookie meanwhile is spared it. A receptor node has a route to us some 100 ms
after that, and can answer pings then."""

GIVEN_UP = 12.0
"""Seconds after which a stranger is forgotten; its peer gives a link up after ten."""


@dataclass(slots=True, eq=False)
class _Stranger:
    """An address, what it said last of itself, and what passed each way; sizes in bytes."""

    address: Address
    holder: str
    peer: str
    service: ServiceKey
    began: float
    hello: bytes
    received: int
    sent: int = 0
    greeted: bool = False
    step: int = 0

    @property
    def due(self) -> float:
        """When it is to be told something next, or forgotten."""
        return self.began + (STEPS[self.step] if self.step < len(STEPS) else GIVEN_UP)

    def may_get(self, size: int) -> bool:
        """Whether so many bytes may be sent to it."""
        return self.sent + size <= AMPLIFICATION * self.received


@dataclass(frozen=True, slots=True)
class Proven:
    """An address has shown that it reads there; its link begins with this message."""

    address: Address
    hello: bytes


@dataclass(slots=True)
class Strangers:
    """The strangers of one listener; ``on_proven`` takes each that has shown that it reads."""

    greeter: Greeter
    on_proven: Callable[[Proven], None]
    _by_address: dict[Address, _Stranger] = field(default_factory=dict)
    _held: Held[_Stranger] = field(default_factory=lambda: Held("oldest"))
    _kept: int = 0
    _readable: float = READ_AT_ONCE
    _counted_at: float = -math.inf

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
        elif data[:1] == bytes([MessageType.ROUTE]) and self._may_read(now):
            self._meet(address, bytes(data), now)

    def forget(self, address: Address) -> None:
        """Drop an address; there is a link to it, or nobody wants one any more."""
        stranger = self._by_address.get(address)
        if stranger is not None:
            self._remove(stranger)

    def clear(self) -> None:
        """Drop all of them."""
        for address in list(self._by_address):
            self.forget(address)

    def _meet(self, address: Address, hello: bytes, now: float) -> None:
        try:
            peer = RoutingUpdate.decode(hello).forwarding_node
        except ProtocolError:
            return  # nobody's first word; what follows from this address may be
        while self._by_address and (
            len(self) >= MAX_STRANGERS or self._kept + len(hello) > KEPT_BYTES
        ):
            self._remove(self._held.take_away())
        holder = network_of(str(address[0]))
        service = self.greeter.free_service()
        stranger = _Stranger(address, holder, peer, service, now, hello, len(hello))
        self._by_address[address] = stranger
        self._held.add(holder, stranger)
        self._kept += len(hello)
        # The answer may come by another link, if the peer has a cheaper way to us.
        self.greeter.expect(service, lambda: self._is_proven(stranger))

    def _keep_hello(self, stranger: _Stranger, hello: bytes) -> None:
        """Keep its newest word, which may list us as a peer already; there is room for it."""
        if self._kept + len(hello) - len(stranger.hello) <= KEPT_BYTES:
            self._kept += len(hello) - len(stranger.hello)
            stranger.hello = hello

    def _is_proven(self, stranger: _Stranger) -> None:
        self._remove(stranger)
        self.on_proven(Proven(stranger.address, stranger.hello))

    def _remove(self, stranger: _Stranger) -> None:
        del self._by_address[stranger.address]
        self._held.discard(stranger.holder, stranger)
        self._kept -= len(stranger.hello)
        self.greeter.expect_no_more(stranger.service)

    def _may_read(self, now: float) -> bool:
        earned = (now - self._counted_at) * READ_PER_SECOND
        self._readable = min(READ_AT_ONCE, self._readable + earned)
        self._counted_at = now
        if self._readable < 1:
            return False
        self._readable -= 1
        return True

    # --- what is said ------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return when :meth:`due` is to be called next."""
        return min((stranger.due for stranger in self._by_address.values()), default=math.inf)

    def due(self, now: float) -> list[tuple[Address, bytes]]:
        """Return the datagrams that are due, and whom they are for."""
        said: list[tuple[Address, bytes]] = []
        for stranger in [s for s in self._by_address.values() if s.due <= now]:
            if stranger.step >= len(STEPS):
                self._remove(stranger)
                continue
            stranger.step += 1
            message = self._word(stranger)
            if stranger.may_get(len(message)):
                stranger.greeted = True
                stranger.sent += len(message)
                said.append((stranger.address, message))
        return said

    def _word(self, stranger: _Stranger) -> bytes:
        if not stranger.greeted:
            return self.greeter.hello()
        return self.greeter.ping(stranger.peer, stranger.service)


# --- How a meshnode shows over UDP that it reads at the address that its datagrams bear
#
# Anybody may write any source address into a datagram. So whoever dials asks for a cookie first,
# which costs the other end no memory and fewer bytes than it has read, and sends it along with
# the first messages. A receptor node takes these datagrams for messages of an unknown type, which
# it ignores while a link is opening.

REQUEST_TYPE: Final = 0x80
CHALLENGE_TYPE: Final = 0x81
ANSWER_TYPE: Final = 0x82
"""First bytes, where messages have their type (protocol section 2 ends with 3)."""

COOKIE_LENGTH = 8
"""Bytes of a cookie: nobody guesses one of 2^64 by sending datagrams."""

PREFIX_LENGTH = 1 + COOKIE_LENGTH
"""Bytes before the message in an answer."""

LIFETIME = 30.0
"""Seconds for which a cookie is good, at least; at most twice as long."""

REQUEST: Final = bytes([REQUEST_TYPE]) + bytes(COOKIE_LENGTH)
"""Asks for a cookie; as long as the answer, so that nobody makes us send more than was sent."""


def read_challenge(datagram: bytes | bytearray) -> bytes | None:
    """Return the cookie, if this datagram gives one."""
    if len(datagram) == PREFIX_LENGTH and datagram[0] == CHALLENGE_TYPE:
        return bytes(datagram[1:])
    return None


def answer(cookie: bytes, message: bytes | bytearray | memoryview) -> bytes:
    """Return a message that says with a cookie who sends it."""
    return b"".join((bytes([ANSWER_TYPE]), cookie, message))


class CookieJar:
    """Makes and knows the cookies of one listener, and remembers none."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def challenge(self, address: object, now: float) -> bytes:
        """Return the datagram that gives an address its cookie."""
        return bytes([CHALLENGE_TYPE]) + self._cookie(address, int(now // LIFETIME))

    def accepts(self, datagram: bytes | bytearray, address: object, now: float) -> bool:
        """Whether this is an answer with a cookie of the address that it came from."""
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
