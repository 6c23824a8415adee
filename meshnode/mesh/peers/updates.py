"""What this node says of its own links: when things change, now and then, and when others do.

Whoever has a link can send updates in our name: with a later epoch or sequence than ours, listing
whom they like. We do not keep them from it, but the last word is ours (protocol section 4).
"""

import secrets
import string
import time
from collections import deque
from collections.abc import Callable, Sized

import trio

from meshnode.errors import DuplicateNode
from meshnode.logs import subject_logger
from meshnode.protocol.routing import RoutingUpdate
from meshnode.protocol.times import SECOND
from meshnode.protocol.topology import Topology, Verdict

# --- Identifiers and epochs as a node chooses them

ID_ALPHABET = string.digits + string.ascii_letters
ID_LENGTH = 8
"""Update IDs and the service names of dialers are 8 of these (protocol sections 4 and 7)."""


def random_id() -> str:
    """Return a new random identifier."""
    # One call of the kernel, not one for each letter: those took a tenth of the time of a ping.
    # Of 64 bits the eight remainders favour no identifier by more than a hundred-thousandth.
    number = secrets.randbits(64)
    letters = ""
    for _ in range(ID_LENGTH):
        number, letter = divmod(number, len(ID_ALPHABET))
        letters += ID_ALPHABET[letter]
    return letters


def new_epoch() -> int:
    """Return the epoch of a node that starts now (protocol section 4).

    Receptor puts chance below the seconds; the rest of the time there keeps the order of two
    starts within one second, which decides who of two nodes with one ID is the newcomer.
    """
    return epoch_at(time.time_ns())


def epoch_at(nanoseconds: int) -> int:
    """Return the epoch of a node that starts at this Unix time."""
    return (nanoseconds << 24) // SECOND


pass  # SELFIMPORT

UPDATE_INTERVAL = 10.0
"""Seconds between own updates to each peer when nothing changes (protocol section 4)."""

NODES_REFRESHED = 20
"""Updates that may be flooded a second, in the whole mesh, while nothing changes. A mesh of more
than 200 nodes would flood more; there a node repeats its last update to its peers (which keeps the
links, and goes no further), and floods a new one so much more rarely."""

LONGEST_REFRESH = 60.0
"""Seconds between new updates of a node in the largest mesh: how long what was lost on the way
stays lost, as for advertisements."""

CHANGE_INTERVAL = 0.1
"""Seconds between own updates, and between route computations, while things change: the first
follows its cause at once, a burst is joined (protocol section 4)."""

OUTDO_INTERVAL = 0.5
"""Seconds between two answers to what others say in our name: the first follows at once, and
whoever goes on gets the whole mesh to carry no more than this."""

OUTDONE_AT_ONCE = 3
"""Epochs that others gave us and one answer takes back: the last ones, for these count. Peers take
no more claims than that of us."""

NEWCOMER_SECONDS = 30.0
"""For how long after its first link came up a node believes that its ID was another's before. The
word comes as soon as the first owner has heard of the newcomer. Anybody who knows our epoch can say
this, and it ends the node: later it is not believed."""

CONCERN_SECONDS = 3600.0
"""For how long ``status`` shows that somebody has spoken in our name."""


class OwnUpdates:
    """Floods updates about ourselves.

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
        self._peers = peers
        self._flood = flood
        self._announce_all = announce_all
        self._last = b""
        self._refreshed_at = float("-inf")
        self._due = trio.Event()
        self._outdone = trio.Event()
        self._claims: deque[int] = deque(maxlen=OUTDONE_AT_ONCE)
        """Epochs that we were given by others and take back."""
        self._joined_at: float | None = None
        self._concern: tuple[str, float] | None = None
        """By which peer words in our name came last, and when."""
        self._duplicate = trio.Event()
        self._log = subject_logger("mesh")

    def hello(self) -> bytes:
        """Return an own update as a message."""
        return self._topology.own_update(random_id()).encode()

    def due(self) -> None:
        """Flood an update soon: something has changed."""
        self._due.set()

    def joined(self) -> None:
        """Note that a link came up."""
        if self._joined_at is None:
            self._joined_at = trio.current_time()

    async def run(self) -> None:
        """Speak when it is due.

        Raises:
            DuplicateNode: another node had our ID first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak)
            nursery.start_soon(self._answer)
            await self._duplicate.wait()
            raise DuplicateNode(
                f"another node of this mesh already uses the ID {self._topology.own_id}: "
                "give this one another ID (node: id)"
            )

    async def _speak(self) -> None:
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

    def judge(self, update: RoutingUpdate, verdict: Verdict, via: str) -> None:
        """Take an update with our ID, and what the topology makes of it, from a peer."""
        if verdict is Verdict.IGNORE:
            return
        if verdict is Verdict.WE_ARE_DUPLICATE and self._is_newcomer:
            self._duplicate.set()
            return
        self._note_concern(via)
        if verdict is not Verdict.NOT_OURS:
            if not self._claims:
                # They may count as older than what that other life had.
                self._announce_all()
            self._claims.append(update.epoch)
        self._outdone.set()

    @property
    def _is_newcomer(self) -> bool:
        now = trio.current_time()
        return self._joined_at is not None and now <= self._joined_at + NEWCOMER_SECONDS

    async def _answer(self) -> None:
        while True:
            await self._outdone.wait()
            self._outdone = trio.Event()
            claims = dict.fromkeys(self._claims)
            self._claims.clear()
            for epoch in reversed(claims):
                # Either another node came with a used name, which ends by this; or somebody made
                # it up; or it is what the mesh remembers of this node from before its clock was
                # set back. In each case all others go back to the epoch that we have.
                self._flood(self._topology.own_update(random_id(), epoch).encode())
            self._due.set()
            await trio.sleep(OUTDO_INTERVAL)

    def _note_concern(self, via: str) -> None:
        now = trio.current_time()
        if self._concern is None or now > self._concern[1] + CONCERN_SECONDS:
            self._log.error("%s: we say our own word again", _concern(self._topology.own_id, via))
        self._concern = (via, now)

    def concerns(self) -> list[str]:
        """Return lines for a person: what should be looked after."""
        if self._concern is None:
            return []
        via, last = self._concern
        ago = trio.current_time() - last
        if ago > CONCERN_SECONDS:
            return []
        return [f"{_concern(self._topology.own_id, via)} (last {ago:.0f} s ago)"]


def _concern(own_id: str, via: str) -> str:
    return (
        f"updates in the name of this node ({own_id}) that are not its own come via {via}: another "
        "node uses the ID, or makes them up, or the clock of this one was set back"
    )
