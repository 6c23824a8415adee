"""What this node says of its own links, and how it answers updates that others send in its name.

Everybody with a link can send updates in our name, with a later epoch or sequence than ours and
links that we do not have. This node cannot keep them from it. But it answers each with a newer
update of its own, so the forged one does not last (protocol section 4).
"""

import time
from collections import deque
from collections.abc import Callable, Sized

import trio

from meshnode.errors import DuplicateNode
from meshnode.logs import subject_logger
from meshnode.mesh.dataplane import random_id
from meshnode.protocol.own_links import OwnVerdict
from meshnode.protocol.routing import RoutingUpdate
from meshnode.protocol.times import SECOND
from meshnode.protocol.topology import Topology

UPDATE_INTERVAL = 10.0
"""Seconds between own updates to each peer when nothing changes (protocol section 4)."""

NODES_REFRESHED = 20
"""Updates that the whole mesh may flood a second while nothing changes: those of 200 nodes. In a
larger mesh a node floods a new one more rarely, and repeats its last one to its peers meanwhile,
which keeps the links and goes no further."""

LONGEST_REFRESH = 60.0
"""Seconds between new updates of a node in the largest mesh: an update that was lost on the way is
made good after that, as an advertisement is."""

CHANGE_INTERVAL = 0.1
"""Seconds between own updates, and between route computations, while things change: the first
follows its cause at once, a burst is joined (protocol section 4)."""

ANSWER_INTERVAL = 0.5
"""Seconds between two answers to forged updates: the first follows at once, and a forger gets the
mesh to flood no more than this."""

CLAIMS_AT_ONCE = 3
"""Forged epochs that one answer claims back: the last ones, as peers take no more claims of us."""

NEWCOMER_SECONDS = 30.0
"""Seconds after its first link came up in which a node believes that its ID was another's before.
The first owner says so as soon as it hears of the newcomer. Everybody who knows our epoch can say
it, and it ends the node, so it is not believed later."""

CONCERN_SECONDS = 3600.0
"""Seconds for which ``status`` shows that somebody has sent updates in our name."""


def new_epoch() -> int:
    """Return the epoch of a node that starts now (protocol section 4).

    Receptor fills the bits below the seconds at random. Here they are the fraction of the second:
    of two nodes that start with one ID in the same second, the later one is the newcomer.
    """
    return epoch_at(time.time_ns())


def epoch_at(nanoseconds: int) -> int:
    """Return the epoch of a node that starts at this Unix time."""
    return (nanoseconds << 24) // SECOND


class OwnUpdates:
    """Floods updates about this node.

    Args:
        topology: has our links and our epoch.
        peers: established links, of which there may be none.
        flood: sends a message to all of them.
        announce_all: floods all our advertisements.
    """

    def __init__(
        self,
        topology: Topology,
        peers: Sized,
        flood: Callable[[bytes], None],
        announce_all: Callable[[], None],
    ) -> None:
        self._topology = topology
        self._own = topology.own
        self._peers = peers
        self._flood = flood
        self._announce_all = announce_all
        self._last = b""
        self._refreshed_at = float("-inf")
        self._due = trio.Event()
        self._forged = trio.Event()
        self._claims: deque[int] = deque(maxlen=CLAIMS_AT_ONCE)
        """Epochs of forged updates, to be claimed back."""
        self._first_link_at: float | None = None
        self._concern: tuple[str, float] | None = None
        """The peer that brought the last forged update, and when."""
        self._duplicate = trio.Event()
        self._log = subject_logger("mesh")

    def hello(self) -> bytes:
        """Return an own update as a message."""
        return self._own.next_update(random_id()).encode()

    def due(self) -> None:
        """Flood an update soon: something has changed."""
        self._due.set()

    def link_up(self) -> None:
        """Note that a link came up."""
        if self._first_link_at is None:
            self._first_link_at = trio.current_time()
        self.due()

    async def run(self) -> None:
        """Flood updates when they are due.

        Raises:
            DuplicateNode: another node had our ID first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flood_when_due)
            nursery.start_soon(self._answer)
            await self._duplicate.wait()
            raise DuplicateNode(
                f"another node of this mesh already uses the ID {self._own.own_id}: "
                "give this one another ID (node: id)"
            )

    async def _flood_when_due(self) -> None:
        while True:
            with trio.move_on_after(UPDATE_INTERVAL) as quiet:
                await self._due.wait()
            if quiet.cancelled_caught and trio.current_time() < self._next_refresh():
                self._flood(self._last)
            else:
                self._due = trio.Event()
                self._flood_new()
            await trio.sleep(CHANGE_INTERVAL)

    def _next_refresh(self) -> float:
        nodes = len(self._topology.nodes)
        return self._refreshed_at + min(nodes / NODES_REFRESHED, LONGEST_REFRESH)

    def _flood_new(self) -> None:
        if len(self._peers):
            self._last = self.hello()
            self._refreshed_at = trio.current_time()
            self._flood(self._last)

    # --- what others say in our name ---------------------------------------------------------

    def judge(self, update: RoutingUpdate, via: str) -> None:
        """Take an update with our ID that a peer brought."""
        verdict = self._own.judge(update)
        if verdict is OwnVerdict.IGNORE:
            return
        if verdict is OwnVerdict.WE_ARE_DUPLICATE and self._is_newcomer:
            self._duplicate.set()
            return
        self._note_concern(via)
        if verdict is not OwnVerdict.NOT_OURS:
            if not self._claims:
                # Our advertisements may count as older than those of that other life.
                self._announce_all()
            self._claims.append(update.epoch)
        self._forged.set()

    @property
    def _is_newcomer(self) -> bool:
        now = trio.current_time()
        return self._first_link_at is not None and now <= self._first_link_at + NEWCOMER_SECONDS

    async def _answer(self) -> None:
        while True:
            await self._forged.wait()
            self._forged = trio.Event()
            claims = dict.fromkeys(self._claims)
            self._claims.clear()
            for epoch in reversed(claims):
                # The update came from a newcomer with our ID, which stops when it hears this; or
                # it was forged; or the mesh remembers it from before our clock was set back. In
                # each case all other nodes go back to our present epoch.
                self._flood(self._own.next_update(random_id(), epoch).encode())
            # After the claims: with its older epoch the update would be ignored before.
            self._due.set()
            await trio.sleep(ANSWER_INTERVAL)

    def _note_concern(self, via: str) -> None:
        now = trio.current_time()
        if self._concern is None or now > self._concern[1] + CONCERN_SECONDS:
            self._log.error("%s; this node floods its own update again", self._describe(via))
        self._concern = (via, now)

    def concerns(self) -> list[str]:
        """Return lines for a person: what should be looked after."""
        if self._concern is None:
            return []
        via, last = self._concern
        ago = trio.current_time() - last
        if ago > CONCERN_SECONDS:
            return []
        return [f"{self._describe(via)} (last {ago:.0f} s ago)"]

    def _describe(self, via: str) -> str:
        return (
            f"updates in the name of this node ({self._own.own_id}) that are not its own come via "
            f"{via}: another node uses the ID, or makes them up, or the clock of this one was set "
            "back"
        )
