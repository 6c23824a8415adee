"""Websocket links: one binary websocket message carries one message (protocol section 1).

wsproto speaks the websocket protocol; here are input and output, and the bounds.
"""

import contextlib
import http
from collections.abc import Sequence
from itertools import islice
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection, ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError as WebsocketError
from wsproto.utilities import RemoteProtocolError

from meshnode.config import WsListener as WsListenerDirective
from meshnode.config import WsPeer as WsPeerDirective
from meshnode.config import WsUrl
from meshnode.errors import ProtocolError
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message, dialing
from meshnode.net.addresses import PeerAddress, format_address, peer_address
from meshnode.net.sockets import open_tcp_listeners
from meshnode.protocol.framing import MAX_MESSAGE, begins_as_frame, name_stranger

READ_SIZE = 64 * 1024
"""Bytes asked for in one read."""

FRAMES_AT_ONCE = 512
"""Frames handled before other tasks run: some milliseconds. A read of messages seldom has more, but
one of pings has ten thousand."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds that a client has for its request; a receptor node waits as long."""

HANDSHAKE_READ = 4096
"""Bytes asked for in one read of the handshake; the HTTP parser bounds the whole at 16 KiB."""

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
    ) -> None:
        """Make a link of a dialed ``websocket``, or of a client that has yet to ask for one."""
        self.name = f"ws {address.text}"
        self.holder = address.holder
        self._stream = stream
        self._path = path
        self._websocket = websocket
        self._handshake = H11Handshake(ConnectionType.SERVER)
        self._opening = trio.Lock()
        self._writing = trio.Lock()
        self._fault: ProtocolError | None = None
        self._partial = bytearray()
        self._pong: bytes | None = None
        self._left = False
        self._has_more = False
        """Whether frames that have arrived may not have been taken yet."""
        self._closed = False

    # --- opening -----------------------------------------------------------------------------

    async def opened(self) -> None:
        """Do the handshake with a client."""
        await self.open()

    async def open(self) -> Connection:
        """Do the handshake with the client, once; a link is usable without calling this.

        Raises:
            ProtocolError: the client did not ask for a websocket, or not in time; it was told.
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
                    with trio.fail_after(HANDSHAKE_TIMEOUT):
                        self._websocket = await self._upgrade()
                except ProtocolError as exc:
                    self._fault = exc
                except trio.TooSlowError:
                    self._fault = ProtocolError(
                        f"no websocket handshake within {HANDSHAKE_TIMEOUT:g} s"
                    )
        if self._websocket is None:
            assert self._fault is not None
            raise self._fault
        return self._websocket

    async def _upgrade(self) -> Connection:
        try:
            request = await self._read_request()
        except RemoteProtocolError as exc:
            hint = exc.event_hint
            status = hint.status_code if isinstance(hint, RejectConnection) else 400
            await self._refuse(status, str(exc))
        except UnicodeError:
            await self._refuse(400, "Header that is not ASCII")
        else:
            if not _matches(request.target, self._path):
                await self._refuse(404, "No websocket here")
            if not _same_origin(request):
                await self._refuse(403, "Origin and Host differ")
            if _is_from_browser(request):
                await self._refuse(403, "A browser is no node")
            await self._stream.send_all(self._handshake.send(AcceptConnection()))
        assert self._handshake.connection is not None
        return self._handshake.connection

    async def _read_request(self) -> Request:
        while True:
            data = await self._stream.receive_some(HANDSHAKE_READ)
            if not data:
                raise ProtocolError("the client left before it asked for a websocket")
            if begins_as_frame(data):
                await self._refuse(400, "A link over TCP; a ws-listener is dialed with ws-peer")
            self._handshake.receive_data(bytes(data))
            for event in self._handshake.events():
                assert isinstance(event, Request)
                return event

    async def _refuse(self, status: int, text: str) -> None:
        # By hand: the parser sends no answer to what it could not parse.
        head = [
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
            "Connection: close",
            "Content-Type: text/plain",
            f"Content-Length: {len(text) + 1}",
        ]
        if status == http.HTTPStatus.UPGRADE_REQUIRED:
            head += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        await self._stream.send_all(("\r\n".join([*head, "", text]) + "\n").encode("ascii"))
        raise ProtocolError(f"no websocket handshake, answered {status}: {text}")

    # --- sending -----------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages as one write."""
        try:
            websocket = await self.open()
        except ProtocolError:
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


def _matches(target: str, path: str) -> bool:
    """Whether a request is for a listener's path; one that ends in / has all below it too."""
    asked = target.partition("?")[0]
    return asked == path or (path.endswith("/") and asked.startswith(path))


def _same_origin(request: Request) -> bool:
    """Whether the request does not come from a page of another site in somebody's browser.

    A receptor node refuses those, too; its dialers and ours send the right Origin.
    """
    origins = [value for name, value in request.extra_headers if name.lower() == b"origin"]
    try:
        hosts = [urlsplit(origin.decode("ascii")).netloc for origin in origins]
    except ValueError:
        return False
    return all(host.lower() == request.host.lower() for host in hosts)


def _is_from_browser(request: Request) -> bool:
    """Whether a browser asks: a page may have its own name, as Origin and Host, lead to us.

    All browsers call themselves Mozilla, and no page can change that.
    """
    agents = [value for name, value in request.extra_headers if name.lower() == b"user-agent"]
    return any(agent.startswith(b"Mozilla/") for agent in agents)


# --- opening links -------------------------------------------------------------------------------


class WebsocketListener(LinkListener):
    """Accepts websocket links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(self, listener: trio.SocketListener, path: str) -> None:
        self._listener = listener
        self._path = path
        address = listener.socket.getsockname()
        self.name = f"ws {format_address(address)}{path}"
        self.port: int = address[1]

    @classmethod
    async def open(
        cls, port: int, bind_address: str = "127.0.0.1", path: str = "/"
    ) -> list["WebsocketListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        listeners = await open_tcp_listeners(bind_address, port)
        return [cls(listener, path) for listener in listeners]

    async def accept(self) -> WebsocketLink:
        """Wait for the next connection; whether it asks for a websocket shows when it is used."""
        stream = await self._listener.accept()
        return WebsocketLink(stream, peer_address(stream), None, self._path)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class WebsocketDialer(LinkDialer):
    """Dials one URL; the name is looked up anew each time."""

    def __init__(self, url: WsUrl, extra_header: tuple[str, str] | None = None) -> None:
        self._url = url
        self.name = f"ws {url.host_and_port}{url.target}"
        self._headers = [(b"Origin", f"http://{url.host_and_port}".encode("ascii"))]
        if extra_header is not None:
            name, value = extra_header
            if name.lower() == "origin":
                self._headers.clear()
            self._headers.append((name.encode("ascii"), value.encode("utf-8")))

    async def dial(self) -> WebsocketLink:
        """Connect, and do the handshake."""
        try:
            with dialing(self._url.host):
                stream = await trio.open_tcp_stream(self._url.host, self._url.port)
                try:
                    websocket = await self._upgrade(stream)
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
        except trio.BrokenResourceError:
            raise OSError("the connection broke during the websocket handshake") from None
        except WebsocketError as exc:
            raise OSError(f"the websocket handshake failed: {exc}") from exc
        return WebsocketLink(stream, peer_address(stream), websocket)

    async def _upgrade(self, stream: trio.SocketStream) -> Connection:
        handshake = H11Handshake(ConnectionType.CLIENT)
        request = Request(
            host=self._url.host_and_port, target=self._url.target, extra_headers=self._headers
        )
        await stream.send_all(handshake.send(request))
        answer = b""
        while handshake.connection is None:
            data = await stream.receive_some(HANDSHAKE_READ)
            if not data:
                raise OSError("the other end closed the connection during the handshake")
            answer += data
            if not answer.startswith(b"HTTP/") and (stranger := name_stranger(answer)) is not None:
                raise OSError(stranger)
            handshake.receive_data(data)
            for event in handshake.events():
                _check_accepted(event)
        return handshake.connection


def _check_accepted(event: Event) -> None:
    if isinstance(event, RejectConnection):
        raise OSError(f"the other end answered {event.status_code} to the websocket handshake")


async def listen(directive: WsListenerDirective) -> list[WebsocketListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await WebsocketListener.open(directive.port, directive.bindaddr, directive.path)


def dialer(directive: WsPeerDirective) -> WebsocketDialer:
    """Return what opens the directive's link."""
    return WebsocketDialer(directive.address, directive.extraheader)
