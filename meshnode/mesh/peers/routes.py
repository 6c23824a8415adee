"""The routing table of this node, and when nodes that it does not lead to are forgotten."""

import heapq
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.peers.own_updates import CHANGE_INTERVAL
from meshnode.mesh.peers.session import PeerSession
from meshnode.mesh.router import Router
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.reachability import Absences
from meshnode.protocol.topology import Topology

NODE_PAUSE, EDGE_PAUSE = 5e-5, 3e-6
"""Seconds until the next computation of routes for each node and edge of the last one: ten times
what it took. The largest topology (10,000 nodes, 100,000 edges) then takes a tenth of the time of a
node, however often it changes; for 1,000 nodes CHANGE_INTERVAL is longer."""

LOGGED_AFTER = 1.0
"""Seconds after a change of routes until it is logged. A change that is undone by then is not
logged: a link that is rejected again and again makes many. The others share one line a second."""

CHANGES_LOGGED = 20
"""Routes named in one log line."""

FORGET_INTERVAL = 15.0
"""Seconds between looks at what may be forgotten."""


class Routes:
    """Computes routes when links change: at once, then after a pause that grows with the mesh.

    Args:
        topology: who is linked to whom.
        router: takes the table.
        sessions: the links of this node, by their peers.
        computed: called after each computation, with whether the table is another one.
    """

    def __init__(
        self,
        topology: Topology,
        router: Router,
        sessions: Mapping[str, PeerSession],
        computed: Callable[[bool], None],
    ) -> None:
        self.table: Mapping[str, str] = {}
        """The next hop to each node that can be reached."""
        self.computations = self.changes = 0
        """How often routes were computed, and how often the table was another one then."""
        self._topology = topology
        self._router = router
        self._sessions = sessions
        self._computed = computed
        self._version = -1
        self._next = float("-inf")
        """When the next computation may be."""
        self._due = trio.Event()
        self._removals = trio.Event()
        self._changed = trio.Event()
        self._log = subject_logger("mesh")

    async def run(self) -> None:
        """Compute what :meth:`update` has put off."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remove_edges)
            nursery.start_soon(self._log_changes)
            while True:
                await self._due.wait()
                await trio.sleep_until(self._next)
                self._due = trio.Event()
                self.compute()

    async def _remove_edges(self) -> None:
        while True:
            await self._removals.wait()
            self._removals = trio.Event()
            while (due := self._topology.remove_due(trio.current_time())) is not None:
                self.update()
                await trio.sleep_until(due)
            self.update()

    def update(self) -> None:
        """Bring the table up to date: at once, or together with later changes if it just was."""
        if self._topology.has_removals:
            self._removals.set()
        if self._topology.version == self._version:
            return
        if trio.current_time() >= self._next:
            self.compute()
        else:
            self._due.set()

    def compute(self) -> None:
        """Bring the table up to date now."""
        topology = self._topology
        if topology.version == self._version:
            return
        self._version = topology.version
        before = topology.relaxations
        old, self.table = self.table, topology.routes(self.table)
        relaxed = topology.relaxations - before
        pause = NODE_PAUSE * len(topology.nodes) + EDGE_PAUSE * relaxed
        self._next = trio.current_time() + max(CHANGE_INTERVAL, pause)
        # Always replaced: behind the same routes there may be other sessions.
        senders = {peer: session.sender for peer, session in self._sessions.items()}
        self._router.set_next_hops(
            {node: senders[via] for node, via in self.table.items() if via in senders}
        )
        changed = self.table != old
        self.computations += 1
        self.changes += changed
        self._computed(changed)
        if changed:
            self._changed.set()
            self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Wait until the table is another one."""
        await self._changed.wait()

    async def _log_changes(self) -> None:
        logged: Mapping[str, str] = {}
        while True:
            if self.table == logged:
                await self._changed.wait()
            await trio.sleep(LOGGED_AFTER)
            if self.table != logged:
                self._log.info("routes changed: %s", RouteChanges(logged, self.table))
                logged = self.table


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """The difference of two routing tables; its text (``baz via bar; foo gone``) is for people."""

    old: Mapping[str, str]
    new: Mapping[str, str]

    def __str__(self) -> str:
        old, new = self.old, self.new
        gained = [node for node, via in new.items() if old.get(node) != via]
        lost = old.keys() - new.keys()
        shown = [f"{node} via {new[node]}" for node in heapq.nsmallest(CHANGES_LOGGED, gained)]
        room = CHANGES_LOGGED - len(shown)
        shown += [f"{node} gone" for node in heapq.nsmallest(room, lost)]
        more = len(gained) + len(lost) - len(shown)
        return "; ".join(shown + ([f"{more} more"] if more > 0 else []))


class Forgetting:
    """Forgets nodes that were unreachable for long, and others when memory is short.

    Args:
        topology: who is linked to whom.
        adverts: what services there are.
        names: the names of nodes by their hashes.
        sessions: the links of this node, by their peers.
        routes: the routing table.
    """

    def __init__(
        self,
        topology: Topology,
        adverts: AdvertisementTable,
        names: NameTable,
        sessions: Collection[str],
        routes: Routes,
    ) -> None:
        self._topology = topology
        self._adverts = adverts
        self._names = names
        self._sessions = sessions
        self._routes = routes
        self._absences = Absences()
        self._log = subject_logger("mesh")

    async def run(self) -> None:
        """Forget now and then what may be forgotten."""
        while True:
            await trio.sleep(FORGET_INTERVAL)
            now = trio.current_time()
            self._adverts.expire(now)
            self.note_absences(now)
            for node in self._absences.overdue(now):
                self._log.info("forgot %s: it was unreachable for long", node)
                self._topology.forget(node)
                self._forget(node)
            self._topology.forget_silent(now)
            self._topology.give_up_unreachable()
            self.follow_topology()
            self._adverts.give_up_unreachable(self._topology.branches())
            self._routes.update()

    def note_absences(self, now: float) -> None:
        """Take note of which nodes are reachable."""
        known = {*self._topology.nodes, *self._adverts.nodes} - {self._topology.own.own_id}
        self._absences.note(known, self._routes.table, now)

    def is_gone(self, node: str, now: float) -> bool:
        """Whether a node has been unreachable for some time."""
        return self._absences.is_gone(node, now)

    def follow_topology(self) -> None:
        """Forget the services and names of nodes that the topology gave up to free memory."""
        given_up = self._topology.take_given_up()
        for node in given_up:
            self._forget(node)
        if given_up:
            self._log.warning(
                "forgot %d nodes, %s among them: more are said to exist than can be remembered",
                len(given_up),
                given_up[0],
            )

    def _forget(self, node: str) -> None:
        self._adverts.forget_node(node)
        if node not in self._sessions:
            self._names.forget(node)
