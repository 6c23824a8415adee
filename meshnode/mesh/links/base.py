"""What the mesh asks of a link: carry whole messages to one peer and back.

A new kind of link is a module with a :class:`Link`, something that dials it and something that
accepts it; nothing above this folder knows the kinds apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from meshnode.protocol.messages import ServiceKey

Message = bytes | bytearray | memoryview
"""One message: 1 to 65,535 bytes (reference section 1)."""


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
