"""How each configured peer and listener fares, and whom this node has rejected.

Whoever asks why a node is not in the mesh looks here first, through ``status``: which peers are
configured, which of them are up, what the last attempt came to, and when the next one is.
"""

import enum
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from typing import Protocol, Self

import trio

LONGEST_TEXT = 500
"""Characters of a reason that are kept: those that others have a part in may be longer."""

REJECTED_BYTES = 64 * 1024
"""Bytes for all rejections that are remembered: some hundreds. Anybody may ask for a link under any
name."""

ENTRY_BYTES = 300
"""Bytes that one of them takes beside its texts."""

REJECTED_FOR = 3600.0
"""Seconds after its last time until a rejection is forgotten: who still tries comes every 20 s."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the clock that people read, and by trio's, which nobody sets."""

    unix: float
    monotonic: float

    @classmethod
    def now(cls, ahead: float = 0.0) -> Self:
        """Return the present moment, or one so many seconds ahead."""
        return cls(time.time() + ahead, trio.current_time() + ahead)

    @property
    def age(self) -> float:
        """Seconds since then; below zero if it is yet to come."""
        return trio.current_time() - self.monotonic


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong last, and when."""

    text: str
    at: Moment


class Changes:
    """Counts what may have changed, and wakes who waits for that; costs nothing where nobody does.

    Who waits says which number it has seen, so that it misses none.
    """

    def __init__(self) -> None:
        self.count = 0
        self._next: trio.Event | None = None

    def note(self) -> None:
        """Note that something may be otherwise than before."""
        self.count += 1
        if self._next is not None:
            self._next.set()
            self._next = None

    async def wait(self, seen: int) -> None:
        """Return when the number is another one than ``seen``."""
        while self.count == seen:
            if self._next is None:
                self._next = trio.Event()
            await self._next.wait()
        await trio.lowlevel.checkpoint()


# --- peers: what is dialed -----------------------------------------------------------------------


class PeerState(enum.Enum):
    """How far a peer's link is."""

    DIALING = "dialing"
    OPENING = "opening"
    """Connected, but not both ends have accepted the link."""
    UP = "up"
    LINKED = "linked"
    """By another link, which the node itself has dialed or another directive leads to."""
    WAITING = "waiting"
    """For the next try."""
    GIVEN_UP = "given up"
    """There is no next try: the directive says ``redial: false``."""


@dataclass(frozen=True, slots=True)
class PeerCondition:
    """How a peer fares.

    ``since`` is when its link, or the other link to it, came up or, of one that has none, when it
    was lost or first dialed; ``attempts`` counts dials from there on, or the dials that the link
    took; ``node`` is empty unless there is a link; ``trouble`` stays when the link is up again.
    """

    state: PeerState
    node: str
    since: Moment
    attempts: int
    trouble: Trouble | None
    next_try: Moment | None


class Session(Protocol):
    """What is asked of a session over a dialed link."""

    @property
    def peer(self) -> str:
        """The node at the other end."""

    @property
    def confirmed_at(self) -> Moment | None:
        """When both ends had accepted the link."""

    @property
    def end(self) -> object | None:
        """Why the link is over; None if it is not."""


class DialHistory:
    """What has become of one dialer's attempts."""

    def __init__(self) -> None:
        self._state = PeerState.DIALING
        self._down_since = Moment.now()
        self._attempts = 0
        self._session: Session | None = None
        self._other: Session | None = None
        """Another link to the node that was dialed last."""
        self._trouble: Trouble | None = None
        self._next_try: Moment | None = None

    def dial(self) -> None:
        """Note that the next attempt begins."""
        self._attempts += 1
        self._next_try = None
        self._state = PeerState.DIALING

    def open(self, session: Session) -> None:
        """Note that a session begins on the link that was dialed."""
        self._session = session
        self._state = PeerState.OPENING

    def fail(self, reason: str) -> None:
        """Note how the attempt, or the link that came of it, has ended."""
        self._trouble = Trouble(reason[:LONGEST_TEXT], Moment.now())
        if self._session is not None and self._session.confirmed_at is not None:
            self._down_since = self._trouble.at
        self._session = self._other = None

    def find_linked(self, other: Session) -> None:
        """Note that the node that was dialed has another link with us, and one is enough."""
        self._other, self._session = other, None
        self._attempts = 1  # it took one to know; those that look again tell nobody anything

    def begin_anew(self) -> None:
        """Note that the link has lasted: attempts are counted from here on."""
        self._attempts = 0

    def wait(self, seconds: float) -> None:
        """Note when the next attempt is."""
        self._next_try = Moment.now(seconds)
        self._state = PeerState.WAITING

    def give_up(self) -> None:
        """Note that there is no next attempt."""
        self._state = PeerState.GIVEN_UP

    def condition(self) -> PeerCondition:
        """Return how the peer fares now."""
        state, node, since = self._state, "", self._down_since
        own, other = self._session, self._other
        if own is not None and own.confirmed_at is not None:
            state, node, since = PeerState.UP, own.peer, own.confirmed_at
        elif other is not None and other.confirmed_at is not None and other.end is None:
            state, node, since = PeerState.LINKED, other.peer, other.confirmed_at
        return PeerCondition(state, node, since, self._attempts, self._trouble, self._next_try)


# --- listeners -----------------------------------------------------------------------------------


class ListenerState(enum.Enum):
    """Whether a listener has its port."""

    LISTENING = "listening"
    CLOSED = "closed"
    """It could not be opened, by a reload."""


@dataclass(frozen=True, slots=True)
class ListenerCondition:
    """How a listener fares.

    ``links`` are up, ``opening`` not yet; ``trouble`` is why it is closed, or how the last link
    ended that did not come up, unless this node rejected it.
    """

    state: ListenerState
    since: Moment
    links: int = 0
    opening: int = 0
    trouble: Trouble | None = None

    def with_socket(self, other: "ListenerCondition") -> "ListenerCondition":
        """Return the condition of a listener that has another socket as well."""
        troubles = [t for t in (self.trouble, other.trouble) if t is not None]
        return replace(
            self,
            links=self.links + other.links,
            opening=self.opening + other.opening,
            trouble=max(troubles, key=lambda t: t.at.monotonic, default=None),
        )


# --- as they are configured ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfiguredPeer:
    """A peer directive: its name and address as the file has them, and how it fares."""

    directive: str
    address: str
    condition: PeerCondition


@dataclass(frozen=True, slots=True)
class ConfiguredListener:
    """A listener directive: its name and address as the file has them, and how it fares."""

    directive: str
    address: str
    condition: ListenerCondition


# --- whom this node rejected ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rejected:
    """A node that was rejected, and why.

    ``node`` is what it called itself, ``address`` the network address it came from or was dialed
    at, ``via`` the listener or dialer.
    """

    node: str
    address: str
    via: str
    reason: str
    first: Moment
    last: Moment
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        texts = (self.node, self.address, self.via, self.reason)
        return ENTRY_BYTES + sum(len(text.encode(errors="replace")) for text in texts)


_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class LinksReport:
    """What there is to say of all configured links."""

    peers: tuple[ConfiguredPeer, ...] = ()
    listeners: tuple[ConfiguredListener, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class Rejections:
    """Whom this node rejected lately, within a budget of bytes.

    Beyond it the address with the most bytes loses its oldest entry. So a flood of names from one
    address hides nobody else's.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[_Key, Rejected] = OrderedDict()
        """By their last time, the oldest first."""
        self._sizes: Counter[str] = Counter()
        """Bytes by address."""

    @property
    def size(self) -> int:
        """Bytes of all that is remembered."""
        return self._sizes.total()

    def add(self, node: str, address: str, via: str, reason: str) -> None:
        """Remember that a node was rejected."""
        key = (node, address, via, reason)
        now = Moment.now()
        known = self._entries.get(key)
        if known is not None:
            self._entries[key] = replace(known, last=now, count=known.count + 1)
            self._entries.move_to_end(key)
            return
        entry = Rejected(*key, first=now, last=now)
        self._entries[key] = entry
        self._sizes[address] += entry.size
        while self.size > REJECTED_BYTES:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self._forget(next(k for k in self._entries if k[1] == largest))

    def listed(self) -> tuple[Rejected, ...]:
        """Return those that are not too long ago, the latest last."""
        for key, entry in list(self._entries.items()):
            if entry.last.age < REJECTED_FOR:
                break
            self._forget(key)
        return tuple(self._entries.values())

    def _forget(self, key: _Key) -> None:
        entry = self._entries.pop(key)
        self._sizes[entry.address] -= entry.size
        if not self._sizes[entry.address]:
            del self._sizes[entry.address]
