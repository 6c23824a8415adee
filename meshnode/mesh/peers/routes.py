"""The routing table of this node: brought up to date when the topology has changed, and given to
the router."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.dataplane import NextHop
from meshnode.mesh.peers.own_updates import CHANGE_INTERVAL
from meshnode.mesh.router import Router
from meshnode.protocol.topology import Topology

NODE_PAUSE, EDGE_PAUSE = 5e-5, 3e-6
"""Seconds without a computation of routes for each node and each edge that the last one has looked
at: some ten times what that took, so that a topology as large as its budget allows (10,000 nodes,
100,000 edges) which changes all the time leaves the node the rest of its time. For a mesh of 1,000
nodes it is shorter than CHANGE_INTERVAL."""

LOGGED_AFTER = 1.0
"""Seconds after a change of routes until it is logged. What is undone by then, as by a link that is
refused again and again, is no news, and of a storm one line a second is enough."""

CHANGES_LOGGED = 20
"""Routes named in one line of the log when many change at once."""


class Routes:
    """Computes routes at once when they change, and then no more often than they can be.

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
        sessions: Mapping[str, NextHop],
        computed: Callable[[bool], None],
    ) -> None:
        self.table: Mapping[str, str] = {}
        """The next hop to each node that can be reached."""
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
        """Compute what :meth:`stale` has put off."""
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
                self.stale()
                await trio.sleep_until(due)
            self.stale()

    def stale(self) -> None:
        """Bring the table up to date: at once, or with others' changes if that was just done."""
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
        looked_at = topology.relaxations - before
        pause = NODE_PAUSE * len(topology.nodes) + EDGE_PAUSE * looked_at
        self._next = trio.current_time() + max(CHANGE_INTERVAL, pause)
        # The sessions behind unchanged routes may have changed, so the table is always replaced.
        sessions = self._sessions
        self._router.set_next_hops(
            {node: sessions[via] for node, via in self.table.items() if via in sessions}
        )
        changed = self.table != old
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
    """The difference of two routing tables; in words (``baz via bar; foo gone``) if asked for."""

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
