"""Runs the registered commands for requests: the same parsing, checks, rules and audit.

A route makes the JSON object of a control command. :meth:`Commands.ask` returns its reply,
:meth:`Commands.stream` a response of what it sends.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from meshnode.control.budgets import HeldLine, SessionBudgets
from meshnode.control.registry import CommandRegistry, JsonObject
from meshnode.errors import MeshnodeError, leaves_of
from meshnode.logs import subject_logger
from meshnode.web.identity import Caller, caller_of, connection_of, known_caller
from meshnode.web.problems import TOO_LARGE, Problem, problem_of
from meshnode.web.session import FILES, Body, Message, Receive, Send, SendPart, WebSession

MAX_REPLY: Final = 64 * 1024 * 1024
"""Bytes of a reply that is kept whole: many times what a mesh of thousands of nodes takes."""

SEND_TIMEOUT: Final = 600.0
"""Seconds in which a client must take what is sent: people stop output with a pager."""

KEEP_ALIVE: Final = 20.0
"""Seconds between looks whether a response has been quiet; proxies give up after 30 to 60."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How the output of a command becomes a response."""

    media_type: str = "application/octet-stream"
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()
    has_head: bool = True
    """Whether the first line that the command sends is for the session, and no output."""
    frames: Callable[[], Callable[[bytes], bytes]] | None = None
    """Returns, for one response, what makes the output of the command that of the response."""
    keep_alive: bytes = b""
    """What is sent when nothing else is, so that whoever stands between knows that the response
    goes on, and a client that is gone is found out."""


class Commands:
    """The commands of a node, for requests."""

    def __init__(self, node_id: str, registry: CommandRegistry, budgets: SessionBudgets) -> None:
        self._node_id = node_id
        self._registry = registry
        self._budgets = budgets

    @contextmanager
    def keeping(self, caller: Caller) -> Iterator[HeldLine]:
        """Count bytes that are kept for a caller, for as long as this lasts."""
        held = HeldLine(self._budgets.bodies, caller.holder)
        try:
            yield held
        finally:
            held.count(0)

    async def ask(self, request: Request, command: JsonObject) -> JsonObject:
        """Run a command for who sends a request, and return the object that it replies with.

        What the command receives is the body of the request.

        Raises:
            MeshnodeError: it is refused.
            trio.BrokenResourceError: the client is gone.
        """
        _, reply = await self.ask_all(request, command)
        return reply

    async def ask_all(self, request: Request, command: JsonObject) -> tuple[bytes, JsonObject]:
        """Do the same, and return also what the command has sent before its reply."""
        sent = bytearray()

        async def keep(data: bytes) -> None:
            if len(sent) + len(data) > MAX_REPLY:
                raise Problem(TOO_LARGE, f"the reply has more than {MAX_REPLY} bytes; ask for less")
            sent.extend(data)
            await trio.lowlevel.checkpoint()

        reply = await self.run(caller_of(request), command, Body(request.receive), keep)
        if reply is None:
            # It has sent its reply by itself, as a list that is long.
            reply = json.loads(sent)
        assert isinstance(reply, dict)
        return bytes(sent), reply

    def stream(self, command: JsonObject, how: Streaming) -> Response:
        """Return the response that has the command run, and carries what it sends."""
        return CommandResponse(self, command, how)

    async def run(
        self,
        caller: Caller,
        command: JsonObject,
        body: Body,
        send: Callable[[bytes], Awaitable[None]],
        beside: Callable[[], Awaitable[None]] | None = None,
        send_part: SendPart | None = None,
    ) -> JsonObject | None:
        """Run a command; return the object of its reply line, or None if it has none.

        ``beside`` runs as long as the command does; ``send_part`` takes what it sends of files.

        Raises:
            MeshnodeError: it is refused.
            trio.BrokenResourceError: the client is gone.
        """
        name = command["command"]
        found = self._registry.find(name)
        assert found is not None, f"{name} is registered with every node"
        session = WebSession(caller, self._node_id, body, send, self._budgets, send_part)
        handler = found.parse_json(command)
        try:
            session.rule = self._registry.check(name, handler, session)
            if beside is None:
                return await handler(session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beside)
                reply = await handler(session)
                nursery.cancel_scope.cancel()
            return reply
        except BaseExceptionGroup as group:
            # A command may have tasks of its own; what one of them raises is what happened.
            leaves = [leaf for leaf in leaves_of(group) if not isinstance(leaf, trio.Cancelled)]
            refusal = next((leaf for leaf in leaves if isinstance(leaf, MeshnodeError)), None)
            if len(leaves) == 1 or refusal is not None:
                raise (refusal or leaves[0]) from group
            raise


class CommandResponse(Response):
    """Runs a command when it is sent, and sends what the command sends as it comes."""

    def __init__(self, commands: Commands, command: JsonObject, how: Streaming) -> None:
        self._commands = commands
        self._command = command
        self._how = how
        self.background = None
        self.status_code = how.status
        self.media_type = how.media_type
        self.body = b""
        self.init_headers()

    def init_headers(self, headers: Any = None) -> None:
        """Set the headers: no length, since nobody knows it."""
        self.raw_headers = [
            (b"content-type", self._how.media_type.encode("latin-1")),
            *(
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in self._how.headers
            ),
        ]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Send the response; a refusal before its first byte becomes another response."""
        connection = connection_of(scope)
        if self._how.keep_alive:
            connection.check_lasts()
        out = _Out(self.raw_headers, self._how, send)
        caller = known_caller(scope)
        try:
            beside = out.keep_alive if self._how.keep_alive else None
            part = out.take_part if out.is_bare and FILES in scope["extensions"] else None
            reply = None
            # What is kept alive would go on for ever: a node that stops ends it, as if it were
            # whole, and its client asks for the rest of it.
            with connection.leaving.endless() if beside else nullcontext():
                reply = await self._commands.run(
                    caller, self._command, Body(receive), out.take, beside, part
                )
        except trio.BrokenResourceError:
            return  # the client is gone, or is told by the broken response
        except MeshnodeError as error:
            if not out.has_begun:
                raise problem_of(error) from error
            subject_logger("http", caller.client.brief).warning(
                "%s broken off: %s", self._command["command"], error
            )
            return
        if reply is not None:
            await out.take(json.dumps(reply).encode() + b"\n")
        await out.end()


class _Out:
    """The bytes of a response on their way."""

    def __init__(self, headers: list[tuple[bytes, bytes]], how: Streaming, send: Send) -> None:
        self._headers = headers
        self._status = how.status
        self._send = send
        self._head: bytearray | None = bytearray() if how.has_head else None
        self._frames = how.frames() if how.frames is not None else None
        self._keep_alive = how.keep_alive
        self._quiet_since = trio.current_time()
        self._turn = trio.Lock()
        self.has_begun = False

    async def take(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            _, newline, rest = self._head.partition(b"\n")
            if not newline:
                return
            self._head, data = None, bytes(rest)
        await self._begin()
        if self._frames is not None:
            data = self._frames(data)
        if data:
            await self._pass({"type": "http.response.body", "body": data, "more_body": True})

    @property
    def is_bare(self) -> bool:
        """Whether what is sent is sent as it is."""
        return self._frames is None

    async def take_part(self, descriptor: int, position: int, size: int) -> None:
        await self._begin()
        await self._pass(
            {
                "type": FILES,
                "file": descriptor,
                "offset": position,
                "count": size,
                "more_body": True,
            }
        )

    async def keep_alive(self) -> None:
        """Send what says that the response goes on, when nothing else is sent for long."""
        message = {"type": "http.response.body", "body": self._keep_alive, "more_body": True}
        while True:
            await trio.sleep(KEEP_ALIVE)
            if self.has_begun and trio.current_time() >= self._quiet_since + KEEP_ALIVE / 2:
                await self._pass(message)

    async def end(self) -> None:
        await self._begin()
        await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._pass(
                {
                    "type": "http.response.start",
                    "status": int(self._status),
                    "headers": self._headers,
                }
            )

    async def _pass(self, message: Message) -> None:
        with trio.move_on_after(SEND_TIMEOUT) as sending:
            async with self._turn:
                await self._send(message)
                self._quiet_since = trio.current_time()
        if sending.cancelled_caught:
            raise trio.BrokenResourceError(f"the client has read nothing for {SEND_TIMEOUT:g} s")
