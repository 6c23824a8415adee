"""Opening and judging one link (protocol section 5).

A :class:`Peering` is told what arrives and what time it is; it answers with what to do. It never
sees the link itself.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from meshnode.policies import LinkPolicy
from meshnode.protocol.rejection import Ground, Rejection, guess
from meshnode.protocol.routing import RoutingUpdate

HELLO_INTERVAL = 1.0
"""Seconds between the hellos of a link that is being opened (protocol section 5)."""

HELLO_TRIES = 10
"""Hellos sent before a silent peer is given up (protocol section 5)."""

IDLE_TIMEOUT = 21.0
"""Seconds without a message after which a link is dead: two lost 10-s updates and a second."""


@dataclass(frozen=True, slots=True)
class SendHello:
    """Send an own routing update on this link."""


@dataclass(frozen=True, slots=True)
class Established:
    """The link is up: who is at its other end, and its cost."""

    peer: str
    cost: float


@dataclass(frozen=True, slots=True)
class Apply:
    """The update is the peer's to send: take it into the topology."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send a reject message, then close."""

    rejection: Rejection

    @property
    def reason(self) -> str:
        """Why, for the log of this node."""
        return self.rejection.reason


@dataclass(frozen=True, slots=True)
class Close:
    """Close without a reject message."""

    reason: str


Action = SendHello | Established | Apply | Refuse | Close


class Linked(Protocol):
    """A link that is established."""

    @property
    def epoch(self) -> int:
        """Which life of the peer is at its other end."""


class _Phase(enum.Enum):
    OPENING = "opening"
    ESTABLISHED = "established"
    CONFIRMED = "confirmed"
    """The peer has listed us: from now on it must go on doing so."""


class Peering:
    """The protocol's state of one link; ``now`` arguments are seconds of one monotonic clock."""

    def __init__(
        self, own_id: str, policy: LinkPolicy, now: float, idle_timeout: float = IDLE_TIMEOUT
    ) -> None:
        self._own_id = own_id
        self._policy = policy
        self._idle_timeout = idle_timeout
        self._phase = _Phase.OPENING
        self._hellos = 0
        self._next_hello = now
        self._last_received = now
        self._newest = (0, 0)
        self._listed: bool | None = None
        """Whether the peer's first update said that it has a link to our ID."""
        self.certified: tuple[str, ...] = ()
        """The nodes that the other end's certificate names; none where that is not known."""
        self.peer = ""
        self.epoch = 0
        """That of the peer's last update of its own; 0 if none came."""
        self.cost = policy.cost

    @property
    def established(self) -> bool:
        """Whether data may pass."""
        return self._phase is not _Phase.OPENING

    def received(self, now: float) -> None:
        """Note that a message arrived, whatever it was."""
        self._last_received = now

    def guess_why_rejected(self) -> str:
        """Return why a peer may have rejected us that does not say so."""
        return guess(self.cost, self._listed)

    def next_deadline(self) -> float:
        """Return when :meth:`on_timer` wants to be called next."""
        idle = self._last_received + self._idle_timeout
        return idle if self.established else min(self._next_hello, idle)

    def on_timer(self, now: float) -> Action | None:
        """Return what is due, if anything."""
        if now >= self._last_received + self._idle_timeout:
            return Close(f"nothing received for {self._idle_timeout:g} s")
        if self.established or now < self._next_hello:
            return None
        if self._hellos >= HELLO_TRIES:
            return Close(f"no routing update after {HELLO_TRIES} of ours")
        self._hellos += 1
        self._next_hello = now + HELLO_INTERVAL
        return SendHello()

    def on_update(
        self,
        update: RoutingUpdate,
        connected: Mapping[str, Linked],
        has_place: Callable[[str, float, bool], bool] = lambda peer, cost, expected: True,
    ) -> list[Action]:
        """Judge a routing update.

        Args:
            update: what has arrived.
            connected: the links that exist already, by peer.
            has_place: whether our update has room for a link; given its peer, its cost, and whether
                the configuration asks for it.
        """
        actions: list[Action] = []
        if not self.established:
            if update.node_id == update.forwarding_node:
                self._listed = self._own_id in update.connections
            verdict = self._open(update, connected, has_place)
            actions.append(verdict)
            if isinstance(verdict, Refuse):
                return actions
        if update.forwarding_node != self.peer:
            changed = Rejection(Ground.OTHER_ID, update.forwarding_node)
            return [*actions, Refuse(changed)]
        if update.node_id == self.peer:
            return [*actions, *self._judge_peers_update(update)]
        return [*actions, Apply()]

    def _open(
        self,
        update: RoutingUpdate,
        connected: Mapping[str, Linked],
        has_place: Callable[[str, float, bool], bool],
    ) -> Established | Refuse:
        peer = update.forwarding_node
        if peer == self._own_id:
            return Refuse(Rejection(Ground.OWN_ID, peer))
        if self.certified and peer not in self.certified:
            # Whoever has a certificate is the node that it names, and no other.
            return Refuse(Rejection(Ground.CERTIFICATE, peer, certified=self.certified))
        allowed = self._policy.allowed_peers
        if allowed is not None and peer not in allowed:
            return Refuse(Rejection(Ground.NOT_ALLOWED, peer))
        if peer in connected:
            is_same = update.node_id == peer and update.epoch == connected[peer].epoch
            return Refuse(Rejection(Ground.TWICE if is_same else Ground.LINKED, peer))
        cost = self._policy.cost_of(peer)
        if not has_place(peer, cost, self._policy.is_expected(peer)):
            return Refuse(Rejection(Ground.NO_PLACE, peer))
        self._phase = _Phase.ESTABLISHED
        self.peer = peer
        self.cost = cost
        return Established(peer, self.cost)

    def _judge_peers_update(self, update: RoutingUpdate) -> list[Action]:
        """Judge the peer's update about itself."""
        order = (update.epoch, update.sequence)
        if order < self._newest:
            # A newer one overtook it on a link that reorders, or was forged. Its links are not
            # judged; the topology knows which of the two, and lets a peer outdo what is forged.
            return [Apply()]
        self.epoch = update.epoch
        cost = update.connections.get(self._own_id)
        if cost is None:
            if self._phase is _Phase.CONFIRMED:
                return [Refuse(Rejection(Ground.UNLISTED, self.peer))]
            return []  # it sent this before it had our hello
        if cost != self.cost:
            return [Refuse(Rejection(Ground.COST, self.peer, self.cost, cost))]
        self._phase = _Phase.CONFIRMED
        # Only now: a refused update on a forgeable link may not be the peer's.
        self._newest = order
        return [Apply()]
