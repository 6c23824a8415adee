"""UDP links: one datagram carries one message (protocol section 1).

Here are the dialer's end and what the registry needs; ``udp_listener.py`` has the other end. No
message closes a link: the session ends a link from which nothing comes any more.
"""

import os
import socket
from collections.abc import Callable, Sequence

import trio

from meshnode.config import UdpListener as UdpListenerDirective
from meshnode.config import UdpPeer as UdpPeerDirective
from meshnode.mesh.links.base import LinkDialer, Message, dialing
from meshnode.mesh.links.udp_listener import UdpLink, UdpListener
from meshnode.mesh.links.unproven import PREFIX_LENGTH, REQUEST, answer, read_challenge
from meshnode.net.addresses import format_address
from meshnode.net.udp import Address, UdpSocket

LARGEST = 65_507
"""Bytes of the largest datagram over IPv4."""

COOKIE_TRIES = 3
COOKIE_INTERVAL = 0.5
"""How often a dialer asks for a cookie, and the seconds between. A receptor node sends a hello
instead. If nothing comes, the link is opened nevertheless, as one to a receptor node."""


class DialedUdpLink(UdpLink):
    """A link over a socket of its own, connected to a listener."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.getpeername())
        self._socket = UdpSocket(sock, self._survives)
        self._check: Callable[[str], bool] = lambda _: False
        self.errors = 0
        """Errors of the network that the link has survived."""
        self._early: list[bytearray] = []
        """Messages that came before the cookie."""
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

    def check_errors_by(self, check: Callable[[str], bool]) -> None:
        """Have errors of the network checked, once the peer has sent something."""
        self._check = check

    def _survives(self, error: OSError) -> bool:
        """Whether an error of the socket only suggests that the peer is gone.

        It stands for an ICMP message about an earlier datagram. A router on the path may send one
        while routes change, and anybody can forge one.
        """
        text = os.strerror(error.errno) if error.errno else str(error)
        if not (self._heard and self._check(text.lower())):
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
        except OSError as exc:  # the port is closed there, or unreachable
            raise trio.BrokenResourceError(str(exc)) from exc

    async def receive(self) -> list[memoryview]:
        """Return the datagrams that have arrived."""
        self._check_open()
        messages, self._early = self._early, []
        while not messages:
            try:
                messages = self._messages(await self._socket.read())
            except OSError as exc:  # an ICMP message said so
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


class UdpDialer(LinkDialer):
    """Dials one host and port; the name is looked up anew each time.

    A link is opened even if nothing answers: a receptor node may answer later.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.name = f"udp {format_address((host, port))}"

    async def dial(self) -> DialedUdpLink:
        """Open a socket that is connected to the first address that can be."""
        with dialing(self._host, late="no answer to the name"):
            found = await trio.socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
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


async def listen(directive: UdpListenerDirective, tls: None = None) -> list[UdpListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await UdpListener.open(directive.port, directive.bindaddr)


def dialer(directive: UdpPeerDirective, tls: None = None) -> UdpDialer:
    """Return what opens the directive's link; there is no TLS over UDP."""
    return UdpDialer(directive.address.host, directive.address.port)
