"""What the router works with: next hops, receivers of messages, its counters, and service names."""

import heapq
import re
import secrets
import string
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from typing import Protocol

from meshnode.mesh.links.base import Message
from meshnode.protocol.messages import ServiceKey, Unreachable
from meshnode.protocol.namehash import NameTable

LOCALHOST = "localhost"
"""A name of this node, in any case."""

_ID_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 8
"""Update IDs and the service names of dialers are 8 of these (protocol sections 4 and 7)."""


def random_id() -> str:
    """Return a new random identifier."""
    # One system call, not one for each letter, which took a tenth of the time of a ping. The
    # remainders of 64 bits favour no identifier by more than a hundred-thousandth.
    number = secrets.randbits(64)
    letters = ""
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(_ID_ALPHABET))
        letters += _ID_ALPHABET[letter]
    return letters


class NextHop(Protocol):
    """The link to a peer, as the router uses it."""

    @property
    def peer(self) -> str:
        """The node at the other end."""
        ...

    @property
    def holder(self) -> str:
        """The network address of the other end; empty if it has none."""
        ...

    def send_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped."""
        ...

    def send_data_now(self, messages: Sequence[Message]) -> None:
        """Send data messages, as far as can be without waiting; queue or drop the others."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        ...

    async def wait_room(self) -> None:
        """Wait until it may, or the link is gone."""
        ...


NAMES_SHOWN = 8
"""Nodes that an error names; ``status`` has them all."""

NAMES_COMPARED = 256
"""Nodes that are compared with a mistyped one, since each takes some 20 us."""

LONGEST_COMPARED = 64
"""Characters of a name that is compared; nearly all are shorter."""

MISTYPED = 2
"""Letters by which the length of a mistyped name differs at most."""


_DIGITS = re.compile(r"\d+")


class ReachableNodes:
    """What to say of the nodes that can be reached to who has named another one."""

    def __init__(self, names: NameTable, hashes: Collection[bytes]) -> None:
        self._names = names
        self._hashes = hashes

    def advise(self, node: str) -> str:
        """Return the nearest name, and some of all."""
        known = self._known()
        if not known:
            return "no other node is known here: see whether the links of this one are up"
        shown = heapq.nsmallest(NAMES_SHOWN, known)
        more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
        near = self._nearest(node, known)
        meant = f"did you mean {near}? " if near else ""
        return f"{meant}known nodes: {', '.join(shown)}{more}"

    def meant(self, node: str) -> str:
        """Return the nearest name, unless the node is one that was here, or would be one of a row.

        ``worker3`` is away, and not mistyped, where there is a ``worker2``.
        """
        near = "" if node in self._names else self._nearest(node, self._known())
        return "" if _DIGITS.sub("", near) == _DIGITS.sub("", node) else near

    def _known(self) -> list[str]:
        return [name for name in map(self._names.name, self._hashes) if name is not None]

    def _nearest(self, node: str, known: Iterable[str]) -> str:
        # Others choose their names: long ones would take long to compare.
        alike = (name for name in known if abs(len(name) - len(node)) <= MISTYPED)
        short = (name for name in alike if len(name) <= LONGEST_COMPARED)
        return _closest(node, tuple(islice(short, NAMES_COMPARED)))


@lru_cache(maxsize=16)  # thousands of units may wait for one node
def _closest(node: str, candidates: tuple[str, ...]) -> str:
    return next(iter(get_close_matches(node, candidates, 1)), "")


class Receiver(Protocol):
    """Takes the messages of one service of this node. It is called on the data path: be quick."""

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take a message; ``source`` is the sending node's hash. The service's name is text."""
        ...

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Take the notice that a message of this service did not arrive."""
        ...


@dataclass(frozen=True, slots=True)
class FirewallCounts:
    """Messages that the firewall stopped since the start: with a notice, and without."""

    rejected: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class DropCounts:
    """Messages to this node that were dropped since the start, other than by a firewall."""

    unreadable: int = 0
    """From or to services whose names are not text."""
    notices: int = 0
    """Notices that are malformed or cannot be true."""
    faults: int = 0
    """Messages that raised an unforeseen error in a service of this node."""
    unanswered: int = 0
    """Failed messages without a notice, because too many came from one address."""


class RouterCounts:
    """What a router counts from its start on: plain numbers, to be counted up where it happens."""

    __slots__ = (
        "dropped",
        "expired",
        "faults",
        "forwarded",
        "notices",
        "rejected",
        "unanswered",
        "unreadable",
        "unroutable",
    )

    def __init__(self) -> None:
        self.forwarded = 0
        """Messages that were passed on to the next node."""
        self.expired = 0
        """Messages for other nodes that had no hops left."""
        self.unroutable = 0
        """Messages for other nodes to which no route is known."""
        # The others are those of FirewallCounts and DropCounts.
        self.rejected = self.dropped = 0
        self.unreadable = self.notices = self.faults = self.unanswered = 0

    def firewall(self) -> FirewallCounts:
        """Return what the firewall has stopped."""
        return FirewallCounts(self.rejected, self.dropped)

    def drops(self) -> DropCounts:
        """Return what was dropped at this node for other reasons."""
        return DropCounts(self.unreadable, self.notices, self.faults, self.unanswered)
