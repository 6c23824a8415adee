"""Whose entries give way when what nodes say of each other fills its budget.

Anybody with a link can say anything of any number of nodes. So what is remembered of them has a
budget in bytes, and when it is full, what is most likely invented goes: first what nobody can be
reached at by edges that both ends confirm, then the newest of the heaviest branch. Inventing nodes
behind oneself makes one's own branch heavier, nobody else's.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping


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
