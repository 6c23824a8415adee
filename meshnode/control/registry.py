"""What a control command is, and the table that the service looks commands up in.

This is the seam between the control service and whatever brings commands to it: the service knows
no command by name, and a command knows of its client only what :class:`ControlSession` shows.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import trio

from meshnode.errors import NotAllowed
from meshnode.permissions import Verb, Way
from meshnode.security.access import AccessRules, Asker, Target
from meshnode.security.identity import Identity

JsonObject = dict[str, Any]
"""A decoded JSON object: what a client sent, or what a reply line is made from."""

SessionKind = Literal["unix", "tcp", "mesh"]
"""What a client came by. Only ``unix`` is trusted without a signature (protocol section 8)."""

IGNORED = 64 * 1024
"""Bytes read at once of what a client sends to a command that takes no more."""

WAYS: Final = MappingProxyType({"unix": Way.SOCKET, "tcp": Way.TCP, "mesh": Way.MESH})
"""What access rules call that."""


class ControlSession(Protocol):
    """What a running command may do with the session of the client that asked for it."""

    @property
    def kind(self) -> SessionKind:
        """What the client came by."""
        ...

    @property
    def peer(self) -> str:
        """Who the client is, for logs: a node ID, ``host:port``, or a user and process."""
        ...

    @property
    def client(self) -> Identity:
        """Who the client is, as a value."""
        ...

    @property
    def rule(self) -> str:
        """The access rule that lets the client have the running command; empty if none was asked.

        A command that asks by itself knows more.
        """
        ...

    @property
    def node_id(self) -> str:
        """ID of the node that this session talks to: our own."""
        ...

    async def send(self, data: bytes) -> None:
        """Send ``data`` to the client.

        Raises:
            trio.BrokenResourceError: the client is gone, or has read nothing for too long.
        """
        ...

    async def send_file(self, descriptor: int, position: int, size: int) -> int:
        """Send up to ``size`` bytes of an open file from ``position``; return how many were sent.

        They are some, unless the file ends there. They need not pass through this process.

        Raises:
            OSError: the file cannot be read.
            trio.BrokenResourceError: the client is gone, or has read nothing for too long.
        """
        ...

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return 1 to ``max_bytes`` raw bytes that follow the command line, ``b""`` at their end.

        Raises:
            trio.BrokenResourceError: the client vanished without ending its bytes.
        """
        ...

    async def wait_lost(self) -> None:
        """After the end of the client's bytes, return when it is gone and not just waiting.

        Where nothing tells (TCP, until something is sent), it does not return.
        """
        ...

    async def send_eof(self) -> None:
        """Tell the client that no more bytes follow; reading from it stays possible.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        ...

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait until the node is free for what takes more than a millisecond.

        ``async with session.turn()``: nothing may be waited for within it.
        """
        ...

    def finish(self) -> None:
        """Have the service close the session after this command: no line is read any more.

        A command whose client reads raw bytes from here on calls this before it sends them. What
        it then raises is logged, and the client's stream is broken off: no error line could be
        told from the bytes.
        """
        ...


def origin_node(session: ControlSession) -> str:
    """Return the other node from which a client came over the mesh; empty for clients of this one.

    A stream from our own node ID is made here: answers to whoever forged the ID would reach us.
    """
    is_foreign = session.kind == "mesh" and session.peer != session.node_id
    return session.peer if is_foreign else ""


def asker_of(session: ControlSession) -> Asker:
    """Return who asks, for access rules; what it may have signed is known later, if at all."""
    return Asker(session.client, WAYS[session.kind])


async def while_client_is_there(
    session: ControlSession, send: Callable[[], Awaitable[None]]
) -> None:
    """Run ``send`` for as long as the client listens: there may be nothing to send for hours.

    A client that only ends its own side (receptorctl does) still listens. What it sends is ignored.
    """

    async def notice_loss() -> None:
        while await session.receive_some(IGNORED):
            pass
        await session.wait_lost()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notice_loss)
        await send()
        nursery.cancel_scope.cancel()


Handler = Callable[[ControlSession], Awaitable[JsonObject | None]]
"""Runs one parsed command: returns the object of the reply line, or None for no reply line.

A ``MeshnodeError`` that it raises is answered ``ERROR: <text>`` and the session goes on. Any other
exception is a fault of ours: logged, answered ``ERROR: internal error: <type>``, and the session
ends, since nobody knows how much of the client's payload is still unread.
"""


@dataclass(frozen=True, slots=True)
class Asking:
    """A handler that says what its client must be allowed before it runs."""

    run: Handler
    verb: Verb | None
    """None if it asks by itself, since only it finds out what it is about."""
    target: Target = field(default_factory=Target)

    def __call__(self, session: ControlSession) -> Awaitable[JsonObject | None]:
        """Run it; whoever calls this has asked."""
        return self.run(session)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the control service: its name, and how its two forms are read."""

    name: str
    """In lower case. The text form is matched in any case, the JSON form exactly."""

    parse_text: Callable[[str], Handler]
    """Reads what stands after the command and one space, as sent; raises CommandError."""

    parse_json: Callable[[JsonObject], Handler]
    """Reads the whole object, ``command`` included; raises CommandError."""


class CommandRegistry:
    """The commands of one node, by name, and who may have them run."""

    def __init__(self, rules: AccessRules | None = None) -> None:
        self.rules = AccessRules() if rules is None else rules
        """The access rules of the node."""
        self._commands: dict[str, Command] = {}

    def register(self, command: Command) -> None:
        """Add a command.

        Raises:
            ValueError: the name is taken or not in lower case; a fault of the program.
        """
        if command.name in self._commands:
            raise ValueError(f"control command {command.name} is already registered")
        if not command.name or command.name != command.name.lower():
            raise ValueError(f"control command {command.name!r} is not in lower case")
        self._commands[command.name] = command

    def find(self, name: str) -> Command | None:
        """Return the command of exactly that name."""
        return self._commands.get(name)

    def check(self, name: str, handler: Handler, session: ControlSession) -> str:
        """Return by which rule the client may have a handler of that command run.

        This is asked of each; the result is empty where no rule was asked. A handler that does not
        say what it does is refused where there are rules.

        Raises:
            NotAllowed: no rule lets the client.
        """
        if not self.rules:
            return ""
        if not isinstance(handler, Asking):
            raise NotAllowed(name)
        if handler.verb is None:
            return ""
        target = handler.target.as_seen_by(session.node_id)
        return self.rules.require(asker_of(session), handler.verb, target)

    def may(self, session: ControlSession, verb: Verb, target: Target | None = None) -> bool:
        """Whether the client may do something; nobody is told of it."""
        return not self.rules or self.rules.may(asker_of(session), verb, target or Target())

    def require(self, session: ControlSession, verb: Verb) -> None:
        """Return if the client may do something that has no target. Raises NotAllowed."""
        self.rules.require(asker_of(session), verb, Target())

    def shows_units(self, session: ControlSession) -> bool:
        """Whether the client may list all units, and so be told of any."""
        return self.rules.may_all(asker_of(session), Verb.LIST)
