"""Whose entries give way when what nodes say of each other fills its budget.

Anybody with a link can say anything of any number of nodes. So what is remembered of them has a
budget in bytes, and when it is full, what is most likely invented goes: first what nobody can be
reached at by edges that both ends confirm, then the newest of the heaviest branch. Inventing nodes
behind oneself makes one's own branch heavier, nobody else's.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping


class Branches:
    """The mesh as a tree that grows from this node along the ways of the fewest links.

    Args:
        peers: the nodes that this one is linked to.
        edges: returns the nodes that another one is linked to, as both say.
    """

    def __init__(self, peers: Iterable[str], edges: Callable[[str], Iterable[str]]) -> None:
        self._parents: dict[str, str] = dict.fromkeys(peers, "")
        """Of each node that can be reached, nearest first; no node has the empty name."""
        queue = deque(self._parents)
        while queue:
            node = queue.popleft()
            for peer in edges(node):
                if peer not in self._parents:
                    self._parents[peer] = node
                    queue.append(peer)

    def __contains__(self, node: object) -> bool:
        return node in self._parents

    def heaviest(self, weights: Mapping[str, int]) -> set[str]:
        """Return the nodes behind the one over which most of the weight is reached.

        That is the heaviest peer; or the node behind it which has more than half of that behind
        itself, and so on. A node that has nothing behind it stands for itself.
        """
        sums = {node: weights.get(node, 0) for node in self._parents}
        children: dict[str, list[str]] = {}
        for node, parent in reversed(self._parents.items()):
            if sums[node]:
                children.setdefault(parent, []).append(node)
                if parent:
                    sums[parent] += sums[node]
        at = ""
        while behind := children.get(at):
            heaviest = max(behind, key=sums.__getitem__)
            if at and 2 * sums[heaviest] < sums[at] - weights.get(at, 0):
                break
            at = heaviest
        return set(_descendants(children, at)) or ({at} - {""})


def _descendants(children: Mapping[str, list[str]], node: str) -> Iterator[str]:
    waiting = list(children.get(node, ()))
    while waiting:
        node = waiting.pop()
        yield node
        waiting += children.get(node, ())


def unreachable_first(
    weights: Mapping[str, int], bringers: Mapping[str, str], branches: Branches, excess: int
) -> Iterator[str]:
    """Yield nodes to forget until ``excess`` bytes are: unreachable ones, then of a branch.

    Args:
        weights: the bytes of each node, oldest first.
        bringers: the peer by which the newest word of each node came.
        branches: who can be reached.
        excess: bytes to get rid of.
    """
    for node in newest_unreachable(weights, bringers, branches, excess):
        excess -= weights[node]
        yield node
    left = {node: weight for node, weight in weights.items() if node in branches}
    while excess > 0 and (branch := branches.heaviest(left)):
        for node in [n for n in reversed(left) if n in branch]:
            if excess <= 0:
                return
            excess -= left.pop(node)
            yield node


def newest_unreachable(
    weights: Mapping[str, int], bringers: Mapping[str, str], branches: Branches, excess: int
) -> Iterator[str]:
    """Yield unreachable nodes to forget until ``excess`` bytes are, or none is left.

    Always the newest one of those that came by the peer which has brought the most.
    """
    brought: dict[str, list[str]] = {}
    for node in weights:
        if node not in branches:
            brought.setdefault(bringers[node], []).append(node)
    heap = [(-sum(weights[n] for n in nodes), bringer) for bringer, nodes in brought.items()]
    heapq.heapify(heap)
    while excess > 0 and heap:
        weight, bringer = heap[0]
        node = brought[bringer].pop()
        excess -= weights[node]
        yield node
        if brought[bringer]:
            heapq.heapreplace(heap, (weight + weights[node], bringer))
        else:
            heapq.heappop(heap)


# --- Since when nodes cannot be reached: what decides that a node is forgotten

FORGET_AFTER = 600.0
"""Seconds that a node must have been unreachable before all that is known of it is dropped: far
longer than any restart and redial (20 s), short enough that nodes with ever new names, as
containers have, do not pile up. Receptor keeps them until it is restarted."""

GONE_AFTER = 30.0
"""Seconds after which an unreachable node counts as gone: longer than a silent link takes to be
given up (21 s) and the news of a new one to pass."""


class Absences:
    """When each node that cannot be reached was last seen to be reachable."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def note(self, known: Iterable[str], present: Collection[str], now: float) -> None:
        """Take note of who is ``present`` of the ``known`` nodes; others are of no concern."""
        since = self._since
        self._since = {node: since.get(node, now) for node in known if node not in present}

    def is_gone(self, node: str, now: float) -> bool:
        """Whether a node has been unreachable for GONE_AFTER."""
        return now - self._since.get(node, now) >= GONE_AFTER

    def overdue(self, now: float) -> list[str]:
        """Return the nodes that were absent for FORGET_AFTER."""
        return [node for node, since in self._since.items() if now - since >= FORGET_AFTER]
