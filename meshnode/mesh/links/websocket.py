"""Websocket links: one binary websocket message carries one message (protocol section 1).

wsproto speaks the websocket protocol; here are input and output, and the bounds.
"""

import contextlib
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import trio
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError as WebsocketError

from meshnode.config import WsListener as WsListenerDirective
from meshnode.config import WsPeer as WsPeerDirective
from meshnode.config import WsUrl
from meshnode.errors import ProtocolError, TlsRefused
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message, dialing
from meshnode.mesh.links.upgrade import accept_upgrade, ask_upgrade
from meshnode.net.addresses import PeerAddress, format_address, peer_address
from meshnode.net.sockets import open_tcp_listeners
from meshnode.protocol.framing import MAX_MESSAGE

if TYPE_CHECKING:
    from meshnode.net.tls import TlsStream
    from meshnode.security.tls import TlsSource

READ_SIZE = 64 * 1024
"""Bytes asked for in one read."""

FRAMES_AT_ONCE = 512
"""Frames handled before other tasks run: some milliseconds. A read of messages seldom has more, but
one of pings has ten thousand."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds that a client has for its request; a receptor node waits as long."""

CLOSE_TIMEOUT = 0.2
"""Seconds to hand a close frame to the system; that waits only for a peer that does not read."""


class WebsocketLink(Link):
    """A link over one websocket; an accepted one does its handshake when it is first used."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        address: PeerAddress,
        websocket: Connection | None,
        path: str = "/",
        tls: "TlsStream | None" = None,
    ) -> None:
        """Make a link of a dialed ``websocket``, or of a client that has yet to ask for one.

        ``tls`` is the stream itself, where that is over TLS.
        """
        self.name = f"{'ws' if tls is None else 'wss'} {address.text}"
        self.holder = address.holder
        self._stream = stream
        self._tls = tls
        self._path = path
        self._websocket = websocket
        self._opening = trio.Lock()
        self._writing = trio.Lock()
        self._fault: ProtocolError | TlsRefused | None = None
        self._partial = bytearray()
        self._pong: bytes | None = None
        self._left = False
        self._has_more = False
        """Whether frames that have arrived may not have been taken yet."""
        self._closed = False
        self._certify()

    # --- opening -----------------------------------------------------------------------------

    async def opened(self) -> None:
        """Do the handshake with a client."""
        await self.open()

    async def open(self) -> Connection:
        """Do the handshake with the client, once; a link is usable without calling this.

        Raises:
            ProtocolError: the client did not ask for a websocket, or not in time; it was told.
            TlsRefused: TLS was refused, here or there.
            trio.BrokenResourceError: the connection is gone.
            trio.ClosedResourceError: this end closed it.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if self._websocket is not None:
            return self._websocket
        async with self._opening:
            if self._fault is None and self._websocket is None:
                try:
                    if self._tls is not None:
                        await self._tls.shake_hands()
                        self._certify()
                    with trio.fail_after(HANDSHAKE_TIMEOUT):
                        self._websocket = await accept_upgrade(self._stream, self._path)
                except (ProtocolError, TlsRefused) as exc:
                    self._fault = exc
                except trio.TooSlowError:
                    self._fault = ProtocolError(
                        f"no websocket handshake within {HANDSHAKE_TIMEOUT:g} s"
                    )
        if self._websocket is None:
            assert self._fault is not None
            raise self._fault
        return self._websocket

    def _certify(self) -> None:
        certificate = None if self._tls is None else self._tls.certificate
        self.certified = () if certificate is None else certificate.node_ids

    # --- sending -----------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages as one write."""
        try:
            websocket = await self.open()
        except (ProtocolError, TlsRefused):
            return  # receive() raises it
        async with self._writing:
            self._check_open(websocket)
            await self._stream.send_all(b"".join(_encode(websocket, m) for m in messages))
            await self._send_pong(websocket)

    def _check_open(self, websocket: Connection) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if websocket.state is not ConnectionState.OPEN:
            raise trio.BrokenResourceError

    async def _send_pong(self, websocket: Connection) -> None:
        """Answer the newest ping, which is enough (RFC 6455 section 5.5.3); needs the lock."""
        while self._pong is not None and websocket.state is ConnectionState.OPEN:
            payload, self._pong = self._pong, None
            await self._stream.send_all(websocket.send(Pong(payload)))

    # --- receiving ---------------------------------------------------------------------------

    async def receive(self) -> list[memoryview]:
        """Return the messages that the next read completes: all, or those of its first frames."""
        websocket = await self.open()
        while True:
            if self._has_more:
                await trio.lowlevel.checkpoint()
            messages = self._take(websocket)
            # Not while somebody writes, who will send the pong: a reader that waits for the writer
            # could wait for a peer that waits for this reader.
            if self._pong is not None and not (self._has_more or self._writing.locked()):
                async with self._writing:
                    await self._send_pong(websocket)
            if messages or self._left:
                return messages
            if self._has_more:
                continue
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                if self._partial:
                    raise ProtocolError("the link ended in the middle of a message")
                return []
            try:
                websocket.receive_data(bytes(data))
            except WebsocketError as exc:
                raise ProtocolError(f"no websocket frame: {exc}") from exc

    def _take(self, websocket: Connection) -> list[memoryview]:
        messages: list[memoryview] = []
        count = 0
        for event in islice(websocket.events(), FRAMES_AT_ONCE):
            count += 1
            if isinstance(event, BytesMessage | TextMessage):
                self._add(event, messages)
            elif isinstance(event, Ping):
                self._pong = bytes(event.payload)
            elif isinstance(event, CloseConnection):
                # A close event in state OPEN is no close frame: wsproto found an error.
                if websocket.state is ConnectionState.OPEN:
                    raise ProtocolError(f"no websocket frame: {event.reason}")
                self._left = True
        self._has_more = count == FRAMES_AT_ONCE
        return messages

    def _add(self, event: BytesMessage | TextMessage, messages: list[memoryview]) -> None:
        # A receptor node takes text for a message too.
        self._partial += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._partial) > MAX_MESSAGE:
            raise ProtocolError(f"a websocket message of more than {MAX_MESSAGE} bytes")
        if event.message_finished:
            if not self._partial:
                raise ProtocolError("a websocket message of length zero")
            messages.append(memoryview(self._partial))
            self._partial = bytearray()

    # --- closing -----------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connection, with a close frame if it can be sent at once."""
        was_closed, self._closed = self._closed, True
        try:
            if self._websocket is not None and not was_closed and not self._writing.locked():
                await self._send_close_frame(self._websocket)
        finally:
            await self._stream.aclose()

    async def _send_close_frame(self, websocket: Connection) -> None:
        if websocket.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return
        frame = websocket.send(CloseConnection(CloseReason.NORMAL_CLOSURE))
        with (
            trio.move_on_after(CLOSE_TIMEOUT),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self._stream.send_all(frame)


def _encode(websocket: Connection, message: Message) -> bytes:
    if not 1 <= len(message) <= MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(message)} bytes cannot be sent")
    return websocket.send(BytesMessage(bytes(message)))


# --- opening links -------------------------------------------------------------------------------


class WebsocketListener(LinkListener):
    """Accepts websocket links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(
        self, listener: trio.SocketListener, path: str, tls: "TlsSource | None" = None
    ) -> None:
        """``tls`` has the settings of a ``tls-server``, None for links without TLS."""
        self._listener = listener
        self._path = path
        self._tls = tls
        address = listener.socket.getsockname()
        self.name = f"{'ws' if tls is None else 'wss'} {format_address(address)}{path}"
        self.port: int = address[1]

    @classmethod
    async def open(
        cls,
        port: int,
        bind_address: str = "127.0.0.1",
        path: str = "/",
        tls: "TlsSource | None" = None,
    ) -> list["WebsocketListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        listeners = await open_tcp_listeners(bind_address, port)
        return [cls(listener, path, tls) for listener in listeners]

    async def accept(self) -> WebsocketLink:
        """Wait for the next connection; whether it asks for a websocket shows when it is used."""
        stream = await self._listener.accept()
        address = peer_address(stream)
        if self._tls is None:
            return WebsocketLink(stream, address, None, self._path)
        from meshnode.net.tls import TlsStream  # noqa: PLC0415 - only where TLS is asked for

        tls = TlsStream(stream, self._tls())
        return WebsocketLink(tls, address, None, self._path, tls)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class WebsocketDialer(LinkDialer):
    """Dials one URL; the name is looked up anew each time."""

    def __init__(
        self,
        url: WsUrl,
        extra_header: tuple[str, str] | None = None,
        tls: "TlsSource | None" = None,
    ) -> None:
        """``tls`` has the settings of a ``tls-client``, for URLs with ``wss://``."""
        self._url = url
        self._tls = tls
        self.name = f"{'ws' if tls is None else 'wss'} {url.host_and_port}{url.target}"
        scheme = "http" if tls is None else "https"
        self._headers = [(b"Origin", f"{scheme}://{url.host_and_port}".encode("ascii"))]
        if extra_header is not None:
            name, value = extra_header
            if name.lower() == "origin":
                self._headers.clear()
            self._headers.append((name.encode("ascii"), value.encode("utf-8")))

    async def dial(self) -> WebsocketLink:
        """Connect, and do the handshake."""
        try:
            with dialing(self._url.host):
                socket = await trio.open_tcp_stream(self._url.host, self._url.port)
                tls = None
                if self._tls is not None:
                    from meshnode.net.tls import dial_tls  # noqa: PLC0415 - as above

                    tls = await dial_tls(socket, self._tls(), self._url.host)
                stream = tls or socket
                try:
                    websocket = await ask_upgrade(stream, self._url, self._headers)
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
        except trio.BrokenResourceError as exc:
            # The text, if any, is what the server's TLS says of us.
            raise OSError(
                str(exc) or "the connection broke during the websocket handshake"
            ) from None
        except WebsocketError as exc:
            raise OSError(f"the websocket handshake failed: {exc}") from exc
        return WebsocketLink(stream, peer_address(socket), websocket, tls=tls)


async def listen(
    directive: WsListenerDirective, tls: "TlsSource | None"
) -> list[WebsocketListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await WebsocketListener.open(directive.port, directive.bindaddr, directive.path, tls)


def dialer(directive: WsPeerDirective, tls: "TlsSource | None") -> WebsocketDialer:
    """Return what opens the directive's link."""
    return WebsocketDialer(directive.address, directive.extraheader, tls)
