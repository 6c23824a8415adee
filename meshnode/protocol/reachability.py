"""Who can be reached and over whom, since when others cannot, and who is forgotten first.

Anybody with a link can say anything about any number of nodes. So what this node remembers of
others has a budget in bytes. When the budget is used up, the nodes that are most likely invented
are forgotten: first those that no edges lead to which both ends confirm, then the newest ones of
the heaviest branch. Whoever invents nodes behind a node makes that node's own branch heavier.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

FORGET_AFTER = 600.0
"""Seconds until an unreachable node is forgotten: far longer than any restart and redial (20 s),
short enough that containers with ever new names do not pile up. Receptor keeps them for ever."""

GONE_AFTER = 30.0
"""Seconds until an unreachable node counts as gone: longer than it takes to give up a silent link
(21 s) and to flood a new one."""


def shortest_paths(
    peers: Mapping[str, float],
    edges: Callable[[str], Mapping[str, float]],
    current: Mapping[str, str],
) -> tuple[dict[str, str], int]:
    """Return the next hop to every reachable node (Dijkstra), and how many edges were relaxed.

    Of equally cheap paths the one in ``current`` stays, so that a path which comes and goes moves
    no traffic; otherwise the one over the alphabetically first peer is taken.

    Args:
        peers: the nodes that this one is linked to, and the costs.
        edges: returns the same of another node, as both ends claim, without this node.
        current: the next hops so far.
    """
    distances: dict[str, float] = dict(peers)
    next_hop = {peer: peer for peer in peers}
    queue = [(cost, peer) for peer, cost in peers.items()]
    heapq.heapify(queue)
    pop, push = heapq.heappop, heapq.heappush
    relaxed = 0
    while queue:
        distance, node = pop(queue)
        if distance > distances[node]:
            continue
        via = next_hop[node]
        neighbours = edges(node)
        relaxed += len(neighbours)
        for neighbour, step in neighbours.items():
            total = distance + step
            known = distances.get(neighbour)
            if known is None or total < known:
                distances[neighbour] = total
                next_hop[neighbour] = via
                push(queue, (total, neighbour))
            elif total == known and via != (other := next_hop[neighbour]):
                keep = current.get(neighbour)
                if via == keep or (via < other and other != keep):
                    next_hop[neighbour] = via
    return next_hop, relaxed


class Branches:
    """The nodes that can be reached, as a tree with the fewest links from this node to each.

    Args:
        peers: the nodes that this one is linked to.
        edges: returns the nodes that another one is linked to, as both ends claim.
    """

    def __init__(self, peers: Iterable[str], edges: Callable[[str], Iterable[str]]) -> None:
        self._parents: dict[str, str] = dict.fromkeys(peers, "")
        """The next node towards us of each node, nearest first; "" stands for this node."""
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
        """Return the nodes of the heaviest branch, without the node that the branch begins with.

        The search begins at the heaviest peer and descends while one child has more than half of
        the weight behind its parent. A branch of a single node is that node.
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
    """Yield nodes to forget, unreachable ones first, until ``excess`` bytes are free.

    Args:
        weights: the bytes of each node, oldest first.
        bringers: the peer that brought the newest message about each node.
        branches: who can be reached.
        excess: bytes to free.
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
    """Yield unreachable nodes to forget, until ``excess`` bytes are free or none is left.

    The next one is always the newest of the peer that has brought the most bytes.
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


# --- Since when nodes are unreachable


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
