"""TCP links: each message behind a 2-byte little-endian length (reference section 1)."""

from collections.abc import Sequence

import trio

from meshnode.config import TcpListener as TcpListenerDirective
from meshnode.config import TcpPeer as TcpPeerDirective
from meshnode.config import split_address
from meshnode.errors import ProtocolError
from meshnode.mesh.links.addresses import format_address, peer_address
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message
from meshnode.protocol.framing import FrameDecoder, encode_frames

READ_SIZE = 256 * 1024
"""Bytes asked for in one read: some 16 of the largest messages, so that busy links batch."""

DIAL_TIMEOUT = 15.0
"""Seconds for name lookup and connection; the kernel's own limit is minutes."""

BACKLOG = 256
"""Connections that may wait to be accepted, as when a whole site reconnects at once."""


class TcpLink(Link):
    """A link over one connected TCP stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder()
        self.name = f"tcp {peer_address(stream)}"

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages as one write."""
        await self._stream.send_all(encode_frames(messages))

    async def receive(self) -> list[memoryview]:
        """Return all messages that the next read completes."""
        while True:
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                if not self._decoder.at_boundary:
                    raise ProtocolError("the link ended in the middle of a message")
                return []
            messages = self._decoder.feed(data)
            if messages:
                return messages

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()


class TcpListener(LinkListener):
    """Accepts TCP links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        address = listener.socket.getsockname()
        self.name = f"tcp {format_address(address)}"
        self.port: int = address[1]

    @classmethod
    async def open(cls, port: int, bind_address: str = "127.0.0.1") -> list["TcpListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        listeners = await trio.open_tcp_listeners(port, host=bind_address or None, backlog=BACKLOG)
        return [cls(listener) for listener in listeners]

    async def accept(self) -> TcpLink:
        """Wait for the next connection."""
        return TcpLink(await self._listener.accept())

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class TcpDialer(LinkDialer):
    """Dials one host and port; the name is looked up anew each time."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.name = f"tcp {format_address((host, port))}"

    async def dial(self) -> TcpLink:
        """Connect, trying the host's addresses as RFC 8305 says."""
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                return TcpLink(await trio.open_tcp_stream(self._host, self._port))
        except trio.TooSlowError:
            raise OSError(f"no connection within {DIAL_TIMEOUT:g} s") from None
        except UnicodeError as exc:
            raise OSError(f"{self._host} is no name that could be looked up") from exc


async def listen(directive: TcpListenerDirective) -> list[TcpListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await TcpListener.open(directive.port, directive.bindaddr)


def dialer(directive: TcpPeerDirective) -> TcpDialer:
    """Return what opens the directive's link."""
    return TcpDialer(*split_address(directive.address))
