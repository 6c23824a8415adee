"""What the mesh asks of a link: carry whole messages to one peer and back.

A new kind of link is a module with a :class:`Link`, something that dials it and something that
accepts it; nothing above this folder knows the kinds apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol

import trio

from meshnode.protocol.messages import ServiceKey

Message = bytes | bytearray | memoryview
"""One message: 1 to 65,535 bytes (protocol section 1)."""


class Link(ABC):
    """One link to one peer.

    ``name`` is for people: the kind and the other end's address, e.g. ``tcp 10.0.0.7:41532``.
    ``send`` is called by one task and ``receive`` by one other.
    """

    name: str

    holder = ""
    """Who has the link's place among those of strangers: the network address of the other end."""

    forgeable = False
    """Whether anybody who knows its address may send in the peer's name: what ends the link is not
    believed at once."""

    async def opened(self) -> None:
        """Wait until the other end has shown that it has something to say, if it must do so first.

        Until then nothing is done for the link.

        Raises: what :meth:`receive` does.
        """
        await trio.lowlevel.checkpoint()

    def when_doubtful(self, doubt: Callable[[str], bool]) -> None:  # noqa: B027 - see below
        """Have ``doubt`` told what speaks for the end of the link and proves nothing.

        If it returns True it looks into that, and the link goes on until it is closed. Only a kind
        of link needs this that learns of its end from others than its peer.
        """

    @abstractmethod
    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages in this order, joined into as few writes as the link can.

        Raises:
            trio.BrokenResourceError: the link is gone.
            trio.ClosedResourceError: this end closed it.
        """

    can_send_now = False
    """Whether :meth:`send_now` may be called."""

    def send_now(self, messages: Sequence[Message]) -> bool:
        """Send messages as far as the link takes them without waiting; True if it took them all.

        If not, the next call must be ``send``, which sends the rest first; its ``messages`` may be
        none. This may not be called while ``send`` runs.

        Raises:
            trio.BrokenResourceError: the link is gone.
            trio.ClosedResourceError: this end closed it.
        """
        raise NotImplementedError

    def keep_rest(self) -> None:
        """Copy what :meth:`send_now` has left, which lies where it was read until then."""
        raise NotImplementedError

    @abstractmethod
    async def receive(self) -> list[memoryview]:
        """Return the next messages, at least one; an empty list when the peer closed the link.

        The views are writable.

        Raises:
            trio.BrokenResourceError: the link is gone.
            trio.ClosedResourceError: this end closed it.
            ProtocolError: the peer sent what is no message.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the link at once; what was not sent is lost."""


class Greeter(Protocol):
    """What a listener may say to somebody to whom there is no link yet, and hear from them."""

    def hello(self) -> bytes:
        """Return a short routing update of this node, which names no links."""
        ...

    def ping(self, peer: str, service: ServiceKey) -> bytes:
        """Return a ping of that node, which is answered to a service of ours."""
        ...

    def free_service(self) -> ServiceKey:
        """Return a random name that no service here has."""
        ...

    def expect(self, service: ServiceKey, heard: Callable[[], None]) -> None:
        """Call ``heard`` when something arrives for a service, by whatever link."""
        ...

    def expect_no_more(self, service: ServiceKey) -> None:
        """Take that back."""
        ...


class LinkListener(ABC):
    """Accepts links. ``name`` is the kind and the address that it listens on."""

    name: str

    def greet_by(self, greeter: Greeter) -> None:  # noqa: B027 - most kinds have no use for it
        """Be told how to speak with strangers; before the first link is accepted.

        Only a kind of link needs it whose peers' addresses are not proven by a handshake.
        """

    @abstractmethod
    async def accept(self) -> Link:
        """Wait for the next link.

        Raises:
            OSError: this attempt failed (e.g. out of descriptors); the listener lives on.
            trio.ClosedResourceError: the listener was closed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Stop listening; links that were accepted live on."""


class LinkDialer(ABC):
    """Knows how to open one link. ``name`` is the kind and the address that it dials."""

    name: str

    @abstractmethod
    async def dial(self) -> Link:
        """Open the link.

        Raises:
            OSError: it could not be opened; the text says why.
        """


# --- Work that whoever waits for its outcome does, one at a time, for all who wait


class SharedReader:
    """Shares one piece of repeated work, such as reading a socket, among tasks.

    Each task waits for something that the work may bring about. One of those that wait does the
    work; when it leaves, another goes on. So no task exists whose owner would have to be told
    about it, and none works while nobody waits.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` is done again and again; it may be cancelled where it waits."""
        self._work = work
        self._worker: Hashable = None
        self._scope = trio.CancelScope()
        self._waiting: dict[Hashable, trio.Event] = {}

    async def wait(self, who: Hashable, ready: Callable[[], object]) -> None:
        """Return once ``ready()`` is true; ``who`` is what :meth:`wake` is given when it may be.

        Raises whatever the work raises, if it was this task that did it.
        """
        await trio.lowlevel.checkpoint()
        try:
            while not ready():
                if self._worker is None:
                    await self._do_work(who)
                else:
                    self._waiting[who] = trio.Event()
                    await self._waiting[who].wait()
        finally:
            self._waiting.pop(who, None)
            if self._worker is None and self._waiting:
                next(iter(self._waiting.values())).set()

    async def _do_work(self, who: Hashable) -> None:
        self._worker = who
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                await self._work()
        finally:
            self._worker = None

    def wake(self, who: Hashable) -> None:
        """Let ``who``, if it waits, look again whether it is ready."""
        if self._worker == who:
            self._scope.cancel()
        elif who in self._waiting:
            self._waiting[who].set()
