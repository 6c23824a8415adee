"""UDP links: one datagram carries one message (protocol section 1).

A listener has one socket for all its links and tells them apart by the other end's address. Who
has not shown that it reads at its address has no link: see ``cookies.py`` for meshnodes and
``strangers.py`` for others. No goodbye exists: the session above ends a link from which nothing
comes any more.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from meshnode.config import UdpListener as UdpListenerDirective
from meshnode.config import UdpPeer as UdpPeerDirective
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Greeter, Link, LinkDialer, LinkListener, Message, SharedReader
from meshnode.mesh.links.strangers import (
    ANSWER_TYPE,
    PREFIX_LENGTH,
    REQUEST,
    REQUEST_TYPE,
    CookieJar,
    Proven,
    Strangers,
    answer,
    read_challenge,
)
from meshnode.mesh.links.tcp import DIAL_TIMEOUT
from meshnode.net.addresses import format_address, network_of
from meshnode.net.udp import Address, UdpSocket, bound_sockets

MAX_NEW = 64
"""Links that may wait to be accepted; an accept loop that is at work takes them at once."""

QUEUE_BYTES = 1024 * 1024
"""Bytes that may wait on one link to be received: what a socket's own buffer would hold."""

LISTENER_QUEUE_BYTES = 32 * 1024 * 1024
"""Bytes that may wait on all links of one listener."""

QUEUE_SHARE = 8 * 1024
"""Bytes that may wait on a link whatever waits on others."""

DATAGRAM_OVERHEAD = 256
"""Bytes that a waiting datagram takes beside its own, so that tiny ones are bounded too."""

LARGEST = 65_507
"""Bytes of the largest datagram over IPv4."""

COOKIE_TRIES = 3
COOKIE_INTERVAL = 0.5
"""How often a dialer asks for a cookie, and the seconds between. A receptor node says hello
instead. If nothing comes the link is opened nevertheless, as one to a receptor node: what it says
there is its own affair."""


class _UdpLink(Link):
    """What both ends have in common."""

    forgeable = True

    def __init__(self, address: Address) -> None:
        self.name = f"udp {format_address(address)}"
        self.holder = network_of(str(address[0]))
        self._log = subject_logger("link", self.name)
        self._complained = False

    def _note_lost(self, size: int) -> None:
        # Most are caught up on by who sent them; a routing update that never fits is not.
        if size and not self._complained:
            self._complained = True
            self._log.warning("a message of %d bytes could not be sent as a datagram", size)


class DialedUdpLink(_UdpLink):
    """A link over a socket of its own, connected to a listener."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.getpeername())
        self._socket = UdpSocket(sock, self._bears)
        self._doubt: Callable[[str], bool] = lambda _: False
        self.errors = 0
        """Errors of the network that the link has outlived."""
        self._early: list[bytearray] = []
        """What came while a cookie was waited for."""
        self._cookie: bytes | None = None
        """Goes with each first message until the listener has answered one."""
        self._heard = False
        self._closed = False

    async def ask_for_cookie(self) -> None:
        """Ask until there is one, or anything else has come, or often enough.

        Raises:
            OSError: the other end is not there.
        """
        for _ in range(COOKIE_TRIES):
            await self._socket.write([REQUEST], None)
            with trio.move_on_after(COOKIE_INTERVAL):
                while not (self._early or self._cookie):
                    self._early = self._messages(await self._socket.read())
            if self._early or self._cookie:
                return

    def when_doubtful(self, doubt: Callable[[str], bool]) -> None:
        """Have errors of the network looked into, once the peer has said something."""
        self._doubt = doubt

    def _bears(self, error: OSError) -> bool:
        """Whether an error is no more than a hint that the peer is gone.

        It is news by ICMP about an earlier datagram, which a router between may send for a moment,
        and anybody in the peer's name. The peer itself knows better.
        """
        text = os.strerror(error.errno) if error.errno else str(error)
        if not (self._heard and self._doubt(text.lower())):
            return False
        self.errors += 1
        if self.errors == 1:
            self._log.info("the network says: %s; the peer is asked", text.lower())
        return True

    async def send(self, messages: Sequence[Message]) -> None:
        """Send each message as a datagram."""
        self._check_open()
        if self._cookie is not None and messages:
            messages = _with_cookie(self._cookie, messages)
        try:
            self._note_lost(await self._socket.write(messages, None))
        except OSError as exc:  # the port is closed there, or there is no way
            raise trio.BrokenResourceError(str(exc)) from exc

    async def receive(self) -> list[memoryview]:
        """Return the datagrams that have arrived."""
        self._check_open()
        messages, self._early = self._early, []
        while not messages:
            try:
                messages = self._messages(await self._socket.read())
            except OSError as exc:  # the system was told so after a datagram of ours
                raise trio.BrokenResourceError(str(exc)) from exc
        return [memoryview(data) for data in messages]

    def _messages(self, arrived: list[tuple[Address, bytearray]]) -> list[bytearray]:
        """Return the messages in what has arrived, and take the cookie out."""
        if self._heard:
            return [data for _, data in arrived if data]
        messages: list[bytearray] = []
        for _, data in arrived:
            cookie = read_challenge(data)
            if cookie is not None:
                self._cookie = cookie
            elif data:
                messages.append(data)
        if messages:
            self._heard = True
            self._cookie = None
        return messages

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Close the socket; the other end learns of it when it sends."""
        self._closed = True
        self._socket.close()
        await trio.lowlevel.checkpoint()


def _with_cookie(cookie: bytes, messages: Sequence[Message]) -> list[Message]:
    first = messages[0]
    if PREFIX_LENGTH + len(first) > LARGEST:
        return [answer(cookie, b""), *messages]
    return [answer(cookie, first), *messages[1:]]


class AcceptedUdpLink(_UdpLink):
    """A link to one of the addresses that talk with a listener."""

    def __init__(self, listener: "UdpListener", address: Address) -> None:
        super().__init__(address)
        self.address = address
        self._listener = listener
        self._arrived: deque[bytearray] = deque()
        self._bytes = 0
        self._closed = False

    def put(self, data: bytearray) -> None:
        """Queue a datagram, or drop it: the reader is behind."""
        size = len(data) + DATAGRAM_OVERHEAD
        if self._bytes + size > QUEUE_BYTES:
            return
        if self._listener.take_room(size, always=self._bytes + size <= QUEUE_SHARE):
            self._bytes += size
            self._arrived.append(data)

    async def send(self, messages: Sequence[Message]) -> None:
        """Send each message as a datagram."""
        if self._closed:
            raise trio.ClosedResourceError
        self._note_lost(await self._listener.send_to(messages, self.address))

    async def receive(self) -> list[memoryview]:
        """Return the datagrams that have arrived."""
        try:
            await self._listener.turns.wait(self, lambda: self._arrived or self._closed)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        if self._closed:
            raise trio.ClosedResourceError
        return [memoryview(data) for data in self._take()]

    def _take(self) -> list[bytearray]:
        arrived = list(self._arrived)
        self._arrived.clear()
        self._listener.give_room(self._bytes)
        self._bytes = 0
        return arrived

    async def aclose(self) -> None:
        """Forget the address, which must show again that it is read there."""
        if not self._closed:
            self._closed = True
            self._take()
            self._listener.forget(self)
        await trio.lowlevel.checkpoint()


class UdpListener(LinkListener):
    """Accepts UDP links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(self, sock: socket.socket) -> None:
        address = sock.getsockname()
        self.name = f"udp {format_address(address)}"
        self.port: int = address[1]
        self.turns = SharedReader(self._read)
        self._socket = UdpSocket(sock)
        self._cookies = CookieJar()
        self._strangers: Strangers | None = None
        self._links: dict[Address, AcceptedUdpLink] = {}
        self._new: deque[AcceptedUdpLink] = deque()
        self._room = LISTENER_QUEUE_BYTES
        self._closed = False
        self._log = subject_logger("listener", self.name)

    @classmethod
    async def open(cls, port: int, bind_address: str = "127.0.0.1") -> list["UdpListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        return [cls(sock) for sock in await bound_sockets(bind_address, port)]

    def greet_by(self, greeter: Greeter) -> None:
        """Be told how to speak with those who bring no cookie; they have no links until then."""
        self._strangers = Strangers(greeter, self._take_proven)

    async def accept(self) -> AcceptedUdpLink:
        """Wait for an address that has shown that it is read there, and begins a link."""
        await self.turns.wait(self, lambda: self._new or self._closed)
        if self._closed:
            raise trio.ClosedResourceError
        return self._new.popleft()

    async def aclose(self) -> None:
        """Stop listening; the socket closes with its last link."""
        if not self._closed:
            self._closed = True
            self.turns.wake(self)
            if self._strangers is not None:
                self._strangers.clear()
            for link in list(self._new):
                await link.aclose()
            self._close_if_unused()
        await trio.lowlevel.checkpoint()

    # --- what its links use ------------------------------------------------------------------

    async def send_to(self, messages: Sequence[Message], address: Address) -> int:
        """Send datagrams to an address; returns the size of the largest that got lost."""
        try:
            return await self._socket.write(messages, address)
        except OSError as exc:
            # The socket serves other addresses too. If this one stays away its link gets idle.
            self._log.debug("cannot send to %s: %s", format_address(address), exc.strerror)
            return 0

    def take_room(self, size: int, *, always: bool) -> bool:
        """Count a datagram that waits on some link; False means that there is no room for it."""
        if size > self._room and not always:
            return False
        self._room -= size
        return True

    def give_room(self, size: int) -> None:
        """Count datagrams that wait no more."""
        self._room += size

    def forget(self, link: AcceptedUdpLink) -> None:
        """Drop a link that was closed."""
        del self._links[link.address]
        self.turns.wake(link)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._links:
            self._socket.close()

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        strangers = self._strangers
        if strangers is None or not strangers:
            await self._read_socket()
            return
        with trio.move_on_at(strangers.next_due()):
            await self._read_socket()
        with self._boundary("an answer to a stranger"):
            for address, message in strangers.due(trio.current_time()):
                self._socket.try_to_write(message, address)

    async def _read_socket(self) -> None:
        for address, data in await self._socket.read():
            link = self._links.get(address)
            if link is not None and data and data[0] < REQUEST_TYPE:
                self._put(link, data)
            else:
                with self._boundary("a datagram"):
                    self._take(link, address, data)

    @contextmanager
    def _boundary(self, what: str) -> Iterator[None]:
        """Keep a fault that a datagram brings about from whoever happens to read for all."""
        try:
            yield
        except Exception:  # noqa: BLE001 - what anybody may send must cost no other's link
            self._log.exception("dropped %s: a fault of this node", what)

    def _take(self, link: AcceptedUdpLink | None, address: Address, data: bytearray) -> None:
        """Take what is not just another message of a link."""
        if not data:
            return  # no message; anybody may have sent it in the peer's name
        if data == REQUEST:
            challenge = self._cookies.challenge(address, trio.current_time())
            self._socket.try_to_write(challenge, address)
        elif data[0] == ANSWER_TYPE and len(data) >= PREFIX_LENGTH:
            if link is None and self._cookies.accepts(data, address, trio.current_time()):
                link = self._admit(address)
            if link is not None:
                self._put(link, data[PREFIX_LENGTH:])
        elif link is not None:
            self._put(link, data)
        elif self._strangers is not None and not self._closed:
            self._strangers.take(address, data, trio.current_time())

    def _put(self, link: AcceptedUdpLink, data: bytearray) -> None:
        if data:
            link.put(data)
            self.turns.wake(link)

    def _admit(self, address: Address) -> AcceptedUdpLink | None:
        """Return a new link, if there is room for it."""
        if self._strangers is not None:
            self._strangers.forget(address)
        if self._closed or len(self._new) >= MAX_NEW:
            return None
        link = self._links[address] = AcceptedUdpLink(self, address)
        self._new.append(link)
        self.turns.wake(self)
        return link

    def _take_proven(self, proven: Proven) -> None:
        link = self._links.get(proven.address) or self._admit(proven.address)
        if link is not None:
            self._put(link, bytearray(proven.hello))


class UdpDialer(LinkDialer):
    """Dials one host and port; the name is looked up anew each time.

    Only a meshnode or a receptor node that answers at once is known to be there. From others an
    answer may come later, or none.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.name = f"udp {format_address((host, port))}"

    async def dial(self) -> DialedUdpLink:
        """Open a socket that is connected to the first address that can be."""
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                found = await trio.socket.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_DGRAM
                )
        except trio.TooSlowError:
            raise OSError(f"no answer to the name within {DIAL_TIMEOUT:g} s") from None
        except UnicodeError as exc:
            raise OSError(f"{self._host} is no name that could be looked up") from exc
        fault = OSError(f"{self._host} has no address")
        for family, _, _, _, address in found:
            try:
                return await self._open(family, address)
            except OSError as exc:
                fault = exc
        raise fault

    async def _open(self, family: int, address: Address) -> DialedUdpLink:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(address)
            link = DialedUdpLink(sock)
            await link.ask_for_cookie()
        except BaseException:
            sock.close()
            raise
        return link


async def listen(directive: UdpListenerDirective) -> list[UdpListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await UdpListener.open(directive.port, directive.bindaddr)


def dialer(directive: UdpPeerDirective) -> UdpDialer:
    """Return what opens the directive's link."""
    return UdpDialer(directive.address.host, directive.address.port)
