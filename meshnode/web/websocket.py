"""A control session over a websocket: ``GET /api/v1/session`` with ``meshnode.control``.

What is said is what a control socket has. Binary messages carry the bytes of both directions, cut
anywhere. An empty message ends its direction, as a half-closed socket does; a websocket that closes
without one has broken off, and no unit starts with the half of its payload that came.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from meshnode.net.pump import TellsRefusal
from meshnode.web.identity import Caller, caller_of, connection_of
from meshnode.web.problems import MALFORMED, UPGRADE, Problem, to_response
from meshnode.web.session import Message

PATH: Final = "/api/v1/session"

SUBPROTOCOL: Final = "meshnode.control"
"""What both ends say that they speak over it."""

PIECE: Final = 64 * 1024
"""Bytes of the longest message that is sent."""

BROKEN: Final = 1002
"""The code by which a client is told that it does not keep to this (RFC 6455, section 7.4.1)."""

GOING_AWAY: Final = 1001
"""The code by which a client is told that the node stops."""

ServeSession = Callable[[trio.abc.HalfCloseableStream, Caller], Awaitable[None]]
"""Serves a control session to its end and closes its stream; raises nothing but cancellation."""


def routes(serve: ServeSession) -> list[BaseRoute]:
    """Return the routes of this module."""

    async def session(websocket: WebSocket) -> None:
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            text = f"a websocket here speaks {SUBPROTOCOL}: name it in Sec-WebSocket-Protocol"
            await websocket.send_denial_response(to_response(Problem(MALFORMED, text)))
            return
        await websocket.accept(SUBPROTOCOL)
        stream = MessageStream(websocket)
        with connection_of(websocket.scope).leaving.lasting() as lasting:
            await serve(stream, caller_of(websocket))
        if lasting.cancelled_caught:
            await stream.leave()

    async def elsewise(request: Request) -> Response:
        text = f"this address is a websocket's; the others below /api/v1 take requests ({PATH})"
        raise Problem(UPGRADE, text, {"upgrade": "websocket", "connection": "upgrade"})

    return [WebSocketRoute(PATH, session), Route(PATH, elsewise)]


class MessageStream(trio.abc.HalfCloseableStream, TellsRefusal):
    """The bytes of a websocket that was accepted."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._piece = memoryview(b"")
        self._at_end = False
        self._lost = False
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, nothing once the other end has ended its direction.

        Raises:
            trio.BrokenResourceError: the websocket has closed, or carries something else.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if not self._piece and not self._at_end:
            await self._next()
        else:
            await trio.lowlevel.checkpoint()
        most = len(self._piece) if max_bytes is None else max_bytes
        data, self._piece = bytes(self._piece[:most]), self._piece[most:]
        return data

    async def _next(self) -> None:
        message = await self._receive()
        data = message.get("bytes")
        if data is None:
            await self._close(BROKEN)
            raise trio.BrokenResourceError("a message was text, and not bytes")
        self._piece = memoryview(data)
        self._at_end = not data

    async def _receive(self) -> Message:
        """Return the next message. Raises BrokenResourceError."""
        if not self._lost:
            message = await self._websocket.receive()
            if message["type"] == "websocket.receive":
                return message
            self._lost = True
        raise trio.BrokenResourceError("the client closed its websocket")

    async def wait_refused(self) -> None:
        """Return when the other end is gone. Its direction must be at its end."""
        try:
            while True:
                await self._receive()
        except trio.BrokenResourceError:
            return

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Raises BrokenResourceError."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            await self._send(bytes(view[start : start + PIECE]))

    async def send_eof(self) -> None:
        """End our direction. Raises BrokenResourceError."""
        await self._send(b"")

    async def _send(self, data: bytes) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._lost:
            raise trio.BrokenResourceError("the client closed its websocket")
        await self._websocket.send({"type": "websocket.send", "bytes": data})

    async def wait_send_all_might_not_block(self) -> None:
        """Return: what is sent waits in the connection."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the websocket."""
        await self._close(1000)

    async def leave(self) -> None:
        """Tell the other end that the node stops, unless it was told already that this is over."""
        await self._close(GOING_AWAY, "the node stops")

    async def _close(self, code: int, reason: str = "") -> None:
        # Who is cancelled here has said nothing yet, and so may still be told why.
        await trio.lowlevel.checkpoint_if_cancelled()
        was_closed, self._closed = self._closed, True
        if was_closed or self._lost:
            await trio.lowlevel.checkpoint()
            return
        await self._websocket.send({"type": "websocket.close", "code": code, "reason": reason})
