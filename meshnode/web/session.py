"""A control session over one HTTP request: the body comes in, what the command sends goes out."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import trio

from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import SessionKind
from meshnode.control.session import SMALL_READ
from meshnode.net.sendfile import BLOCK, is_cached, read_part
from meshnode.security.identity import Identity
from meshnode.web.identity import Caller
from meshnode.web.problems import SLOW, Problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_TIMEOUT: Final = 120.0
"""Seconds in which more of a body must come; a client that stops sends its request again."""

READ: Final = 256 * 1024
"""Bytes read of a file at a time."""


FILES: Final = "http.response.zerocopysend"
"""The message, and extension of ASGI, by which the server has the kernel send a part of a file."""

SendPart = Callable[[int, int, int], Awaitable[None]]
"""Sends a part of an open file: descriptor, position, size. All of it, or BrokenResourceError."""


class BrokenBody(trio.BrokenResourceError):
    """A body whose rest does not come, although its client is there.

    For a command it is as the loss of the client: nothing starts with a half of its input.
    """

    def __init__(self, problem: Problem) -> None:
        """``problem`` is what the client is told."""
        super().__init__(str(problem))
        self.problem = problem


class Body:
    """The body of a request, piece by piece as it comes, and then the loss of its client."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._piece = memoryview(b"")
        self._at_end = False
        self._lost = False

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return 1 to ``max_bytes`` bytes, none at the end of the body.

        Raises:
            trio.BrokenResourceError: the client is gone.
            BrokenBody: it sends nothing.
        """
        while not self._piece and not self._at_end:
            await self._next()
        data, self._piece = bytes(self._piece[:max_bytes]), self._piece[max_bytes:]
        return data

    async def wait_lost(self) -> None:
        """Return when the client is gone. The body must be at its end."""
        while not self._lost:
            self._lost = (await self._receive())["type"] == "http.disconnect"

    async def _next(self) -> None:
        with trio.move_on_after(BODY_TIMEOUT) as waiting:
            message = await self._receive()
        if waiting.cancelled_caught:
            text = f"nothing more of the body came for {BODY_TIMEOUT:g} s"
            raise BrokenBody(Problem(SLOW, text))
        if message["type"] == "http.disconnect":
            self._lost = True
            raise trio.BrokenResourceError("the client closed its connection")
        self._piece = memoryview(message.get("body", b""))
        self._at_end = not message.get("more_body", False)


class WebSession:
    """What a command sees of the client of an HTTP request: ``registry.ControlSession``."""

    def __init__(
        self,
        caller: Caller,
        node_id: str,
        body: Body,
        send: Callable[[bytes], Awaitable[None]],
        budgets: SessionBudgets,
        send_part: SendPart | None = None,
    ) -> None:
        """``send`` takes what the command sends; it raises BrokenResourceError for a lost one.

        ``send_part`` takes files, where the kernel can send them.
        """
        self.node_id = node_id
        self.rule = ""
        self.is_raw = False
        """Whether what is sent from now on is no line for a person any more."""
        self._caller = caller
        self._body = body
        self._send = send
        self._send_part = send_part
        self._budgets = budgets

    @property
    def kind(self) -> SessionKind:
        """What the client came by; see ControlSession."""
        return self._caller.kind

    @property
    def client(self) -> Identity:
        """Who the client is; see ControlSession."""
        return self._caller.client

    @property
    def peer(self) -> str:
        """Who the client is, for logs; see ControlSession."""
        return str(self._caller.client)

    async def send(self, data: bytes) -> None:
        """Send bytes to the client; see ControlSession."""
        await self._send(data)

    async def send_file(self, descriptor: int, position: int, size: int) -> int:
        """Send a part of a file to the client; see ControlSession."""
        most = min(size, BLOCK)
        if self._send_part is not None and most and is_cached(descriptor, position, most):
            await self._send_part(descriptor, position, most)
            return most
        reads, holder = self._budgets.reads, self._caller.holder
        size = min(size, READ if reads.has_room(holder) else SMALL_READ)
        data = await read_part(descriptor, position, size)
        reads.change(holder, len(data))
        try:
            if data:
                await self._send(data)
        finally:
            reads.change(holder, -len(data))
        await trio.lowlevel.checkpoint()
        return len(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return bytes of the request's body; see ControlSession."""
        return await self._body.receive_some(max_bytes)

    async def wait_lost(self) -> None:
        """Return when the client is known to be gone; see ControlSession."""
        await self._body.wait_lost()

    async def send_eof(self) -> None:
        """Do nothing: a response ends with its command; see ControlSession."""
        await trio.lowlevel.checkpoint()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait until the client may take up the node; see ControlSession."""
        return self._budgets.lock.turn(self._caller.holder)

    def finish(self) -> None:
        """Note that raw bytes follow; see ControlSession."""
        self.is_raw = True
