"""TCP links: each message behind a 2-byte little-endian length (protocol section 1)."""

import os
from collections.abc import Sequence

import trio

from meshnode.config import TcpListener as TcpListenerDirective
from meshnode.config import TcpPeer as TcpPeerDirective
from meshnode.errors import OtherProtocol, ProtocolError
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message, dialing
from meshnode.net.addresses import format_address, peer_address
from meshnode.net.sockets import open_tcp_listeners
from meshnode.protocol.framing import (
    Buffer,
    FrameReader,
    ReadSpace,
    encode_frames,
    first_frame,
    frame_parts,
    name_stranger,
)

GATHERED = 64
"""Messages that one send gathers where they lie. More of them are small ones, which cost less when
copied together; the kernel takes 1,024 pieces (IOV_MAX) at most, two a message."""

FIRST_BYTE_TIMEOUT = 5.0
"""Seconds for the first byte of a client. Nodes send a hello at once, and a packet that was lost
twice still arrives within that time."""


class TcpLink(Link):
    """A link over one connected TCP stream."""

    def __init__(
        self,
        stream: trio.SocketStream,
        space: ReadSpace,
        *,
        speaks_first: bool = False,
        kind: str = "tcp",
    ) -> None:
        """``speaks_first``: whether the other end must send something before we do."""
        self._stream = stream
        self._socket = stream.socket
        self._frames = FrameReader(space)
        self._unsent: list[Buffer] = []
        self._speaks_first = speaks_first
        self._is_unheard = True
        """Whether no message has come yet."""
        address = peer_address(stream)
        self.name = f"{kind} {address.text}"
        self.holder = address.holder

    can_send_now = True

    has_more = False
    """Whether bytes may be there for the next read although nothing arrives."""

    async def opened(self) -> None:
        """Wait for the first byte of a client: nodes send a hello at once."""
        if not self._speaks_first:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(FIRST_BYTE_TIMEOUT) as silent:
            await trio.lowlevel.wait_readable(self._socket)
        if silent.cancelled_caught:
            raise ProtocolError(f"not a byte within {FIRST_BYTE_TIMEOUT:g} s")

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages, after what :meth:`send_now` has left."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.send_now(messages):
            messages = ()
            await trio.lowlevel.wait_writable(self._socket)

    def send_now(self, messages: Sequence[Message]) -> bool:
        """Send messages as one write, straight from where they lie."""
        if len(messages) > GATHERED:
            self._unsent.append(encode_frames(messages))
        else:
            self._unsent += frame_parts(messages)
        try:
            while self._unsent:
                written = os.writev(self._socket.fileno(), self._unsent)
                self._unsent = _after(self._unsent, written)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise self._lost() from exc
        return True

    def keep_rest(self) -> None:
        """Copy what was not sent."""
        self._unsent = [b"".join(self._unsent)]

    async def receive(self) -> list[memoryview]:
        """Return all messages that the next read completes."""
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            try:
                # Wait first: the next bytes are hardly ever there already.
                if self.has_more:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._socket)
                messages = self._frames.read(self._read_into)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._lost() from exc
            if messages is None:
                if not self._frames.at_boundary:
                    raise ProtocolError("the link ended in the middle of a message")
                return []
            if messages and not self._is_unheard:
                return messages
            # A greeting of another protocol may be as long as its first two bytes say.
            begun = first_frame(messages[0]) if messages else self._frames.begun
            if (stranger := name_stranger(begun)) is not None:
                raise OtherProtocol(stranger)
            if messages:
                self._is_unheard = False
                return messages

    def _read_into(self, space: memoryview) -> int:
        return os.readv(self._socket.fileno(), [space])

    def _lost(self) -> trio.ClosedResourceError | trio.BrokenResourceError:
        closed = self._socket.fileno() < 0
        return trio.ClosedResourceError() if closed else trio.BrokenResourceError()

    async def aclose(self) -> None:
        """Close the connection."""
        self._unsent = []
        await self._stream.aclose()


def _after(buffers: list[Buffer], count: int) -> list[Buffer]:
    """Return what is left of buffers of which ``count`` bytes are done."""
    for i, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[i + 1 :]]
        count -= len(buffer)
    return []


class TcpListener(LinkListener):
    """Accepts TCP links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(self, listener: trio.SocketListener, kind: str = "tcp") -> None:
        self._listener = listener
        self._space = ReadSpace()
        address = listener.socket.getsockname()
        self.name = f"{kind} {format_address(address)}"
        self.port: int = address[1]

    @classmethod
    async def open(cls, port: int, bind_address: str = "127.0.0.1") -> list["TcpListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        listeners = await open_tcp_listeners(bind_address, port)
        return [cls(listener) for listener in listeners]

    async def accept(self) -> TcpLink:
        """Wait for the next connection."""
        stream = await self._listener.accept()
        return TcpLink(stream, self._space, speaks_first=True)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class TcpDialer(LinkDialer):
    """Dials one host and port; the name is looked up anew each time."""

    def __init__(self, host: str, port: int, kind: str = "tcp") -> None:
        self._host = host
        self._port = port
        self._space = ReadSpace()
        self.name = f"{kind} {format_address((host, port))}"

    async def dial(self) -> TcpLink:
        """Connect, trying the host's addresses as RFC 8305 says."""
        with dialing(self._host):
            return TcpLink(await trio.open_tcp_stream(self._host, self._port), self._space)


async def listen(directive: TcpListenerDirective, tls: None = None) -> list[TcpListener]:
    """Listen as the directive says; mesh/links/tls.py does so with TLS.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await TcpListener.open(directive.port, directive.bindaddr)


def dialer(directive: TcpPeerDirective, tls: None = None) -> TcpDialer:
    """Return what opens the directive's link."""
    return TcpDialer(directive.address.host, directive.address.port)
