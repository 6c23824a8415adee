"""What the mesh asks of a link: carry whole messages to one peer and back.

A new kind of link is a module with a :class:`Link`, something that dials it and something that
accepts it; nothing above this folder knows the kinds apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from meshnode.protocol.messages import ServiceKey

Message = bytes | bytearray | memoryview
"""One message: 1 to 65,535 bytes (protocol section 1)."""

DIAL_TIMEOUT = 15.0
"""Seconds for name lookup, connection and handshake; the kernel's own limit is minutes."""


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One link at one moment.

    ``kind`` and ``address`` are the link's (``tcp``, ``10.0.0.7:41532``); ``since`` is the Unix
    time at which it was established and ``uptime`` the seconds from then to now by a clock that
    nobody sets; messages and bytes are those of links, hellos and routing included; ``dropped``
    counts data messages that a full queue refused; ``refused`` counts malformed updates and
    advertisements, written by the peer or by a node beyond it; ``round_trip`` is in seconds, None
    while the peer has not answered.
    """

    kind: str
    address: str
    since: float
    uptime: float
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    dropped: int
    refused: int
    round_trip: float | None


class Link(ABC):
    """One link to one peer.

    ``name`` is for people: the kind and the other end's address, e.g. ``tcp 10.0.0.7:41532``.
    ``send`` is called by one task and ``receive`` by one other.
    """

    name: str

    holder = ""
    """On whose account the link is: the network address of the other end, empty if it has none."""

    forgeable = False
    """Whether anybody can send in the peer's name. A message that ends the link is checked then."""

    certified: tuple[str, ...] = ()
    """The nodes that the other end's certificate names, once the link is open; none without TLS."""

    async def opened(self) -> None:
        """Finish the handshake, or wait for the first byte; nothing is sent before.

        Raises: what :meth:`receive` does.
        """
        await trio.lowlevel.checkpoint()

    def check_errors_by(self, check: Callable[[str], bool]) -> None:  # noqa: B027 - see below
        """Ask ``check`` about errors that do not prove the end of the link.

        If it returns True it checks whether the peer is gone, and the link goes on. Only kinds of
        link need this that hear such errors from others than their peer.
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

        If not, the next call must be ``send``, which sends the rest first; it may be given no
        messages. This may not be called while ``send`` runs.

        Raises:
            trio.BrokenResourceError: the link is gone.
            trio.ClosedResourceError: this end closed it.
        """
        raise NotImplementedError

    def keep_rest(self) -> None:
        """Copy what :meth:`send_now` has left: until then it is views of the read buffer."""
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


class AddressProbe(Protocol):
    """What a listener may send to an address that has no link yet, and hear from it."""

    def hello(self) -> bytes:
        """Return a short routing update of this node, which lists no links."""

    def ping(self, peer: str, service: ServiceKey) -> bytes:
        """Return a ping of that node, which it answers to a service of ours."""

    def free_service(self) -> ServiceKey:
        """Return a random name that no service here has."""

    def expect_reply(self, service: ServiceKey, heard: Callable[[], None]) -> None:
        """Call ``heard`` when something arrives for a service, over any link."""

    def expect_no_reply(self, service: ServiceKey) -> None:
        """Undo :meth:`expect_reply`."""


class LinkListener(ABC):
    """Accepts links. ``name`` is the kind and the address that it listens on."""

    name: str

    def probe_by(self, probe: AddressProbe) -> None:  # noqa: B027 - most kinds have no use for it
        """Take what probes unproven addresses, before the first link is accepted.

        Only kinds of link need it whose handshake does not prove the peer's address.
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


@contextmanager
def dialing(host: str, late: str = "unreachable: no connection") -> Iterator[None]:
    """Bound a dial by DIAL_TIMEOUT, and turn what looking up ``host`` may raise into OSErrors.

    ``late`` says what has not come in time.
    """
    try:
        with trio.fail_after(DIAL_TIMEOUT):
            yield
    except trio.TooSlowError:
        raise OSError(f"{late} within {DIAL_TIMEOUT:g} s") from None
    except UnicodeError as exc:
        raise OSError(f"{host} is no name that could be looked up") from exc
