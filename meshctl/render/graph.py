"""The mesh as a tree of text: which node is reached through which, at what cost.

The tree has the cheapest way to each node, as the asked node knows it. Links that are on no
cheapest way stand below it, as do nodes without a way and configured peers that are down.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from meshctl.render.columns import Terminal, columns_of, cut
from meshctl.render.output import size
from meshctl.render.status import natural
from meshctl.render.times import round_trip, uptime

Costs = Mapping[str, Mapping[str, float]]
"""What each node says that its links cost, by the node at the other end."""

BRANCH, LAST = "├─ ", "└─ "
BELOW_BRANCH, BELOW_LAST = "│  ", "   "

DEEPEST = 20
"""Levels of the tree that are indented: a chain of a hundred nodes would leave every terminal."""


def graph_lines(status: Mapping[str, Any], terminal: Terminal) -> Iterator[str]:
    """The mesh as the node of a status knows it; the lines may be printed as they are."""
    here = str(status.get("NodeID", ""))
    costs: Costs = status.get("KnownConnectionCosts") or {}
    ways = cheapest_ways(costs, here)
    details = {str(c.get("NodeID", "")): c for c in status.get("Connections") or []}
    yield terminal.line(f"{here} (asked)", "heading")
    for prefix, node, before in _tree(ways, here):
        link = _cost(costs, before, node)
        more = _link(details.get(node, {})) if before == here else ""
        yield terminal.line(_fitting(f"{prefix}{node}  {link}{more}", terminal.width))
    yield from _others(costs, ways, here, terminal)
    yield from _down(status, terminal)


@dataclass(frozen=True, slots=True)
class Way:
    """The cheapest way to a node: what it costs, and the node before it."""

    before: str
    cost: float


def cheapest_ways(costs: Costs, start: str) -> dict[str, Way]:
    """Return the cheapest way from ``start`` to each other node that is reached.

    Of ways that cost the same it is always the same one.
    """
    ways: dict[str, Way] = {}
    done: set[str] = set()
    numbers = count()
    heap: list[tuple[float, int, str, str]] = [(0.0, next(numbers), start, "")]
    while heap:
        total, _, node, by = heapq.heappop(heap)
        if node in done:
            continue
        done.add(node)
        if node != start:
            ways[node] = Way(by, total)
        for peer, cost in sorted(
            (costs.get(node) or {}).items(), key=lambda item: natural(item[0])
        ):
            if peer not in done:
                heapq.heappush(heap, (total + float(cost), next(numbers), peer, node))
    return ways


def _tree(ways: Mapping[str, Way], here: str) -> Iterator[tuple[str, str, str]]:
    """Yield what stands before each node, the node, and the one above it, from the top."""
    below: dict[str, list[str]] = {}
    for node, way in ways.items():
        below.setdefault(way.before, []).append(node)
    pending: list[tuple[str, str, str, str, int]] = []

    def push(node: str, indent: str, depth: int) -> None:
        children = sorted(below.get(node, ()), key=natural, reverse=True)
        for i, child in enumerate(children):
            prefix, deeper = (LAST, BELOW_LAST) if i == 0 else (BRANCH, BELOW_BRANCH)
            inner = indent + deeper if depth < DEEPEST else indent
            pending.append((indent + prefix, child, node, inner, depth + 1))

    push(here, "", 0)
    while pending:  # not by recursion: a chain can be longer than Python's stack
        prefix, child, by, inner, depth = pending.pop()
        yield prefix, child, by
        push(child, inner, depth)


def _fitting(line: str, width: int | None) -> str:
    """Return a line that is not broken: its beginning says what is below what."""
    return line if width is None or columns_of(line) <= width else f"{cut(line, width - 1)}…"


def _cost(costs: Costs, a: str, b: str) -> str:
    there, back = (costs.get(a) or {}).get(b), (costs.get(b) or {}).get(a)
    if there == back:
        return f"cost {there}"
    if back is None:
        return f"cost {there}, as only {a} says"
    return f"cost {there}, and {back} back" if there is not None else f"cost {back} back only"


def _link(connection: Mapping[str, Any]) -> str:
    """What the asked node knows of a link of its own; nothing of a receptor node's."""
    told = [str(connection[key]) for key in ("Kind", "Address") if connection.get(key)]
    if isinstance(rtt := connection.get("RoundTrip"), int | float):
        told.append(f"RTT {round_trip(rtt)}")
    if isinstance(up := connection.get("Uptime"), int | float):
        told.append(f"up {uptime(up)}")
    for key, sign in (("SentBytes", "↑"), ("ReceivedBytes", "↓")):
        if isinstance(amount := connection.get(key), int | float):
            told.append(f"{sign}{size(amount)}")
    return f"  {' '.join(told)}" if told else ""


def _others(costs: Costs, ways: Mapping[str, Way], here: str, terminal: Terminal) -> Iterator[str]:
    drawn = {frozenset((node, way.before)) for node, way in ways.items()}
    links = {frozenset((a, b)) for a, peers in costs.items() for b in peers or {} if a != b}
    rest = sorted((sorted(link, key=natural) for link in links - drawn), key=_by_names)
    reached = {here, *ways}
    crossing = [link for link in rest if reached.issuperset(link)]
    if crossing:
        yield from ("", terminal.line("Other links", "heading"))
        yield from (terminal.line(f"{a} – {b}  {_cost(costs, a, b)}") for a, b in crossing)
    away = sorted({*costs, *(n for link in links for n in link)} - reached, key=natural)
    if away:
        yield from ("", terminal.line("Known, but not reached", "heading"))
        yield from (terminal.line(node, "bad") for node in away)


def _by_names(link: list[str]) -> list[list[tuple[int, str]]]:
    return [natural(name) for name in link]


def _down(status: Mapping[str, Any], terminal: Terminal) -> Iterator[str]:
    down = [p for p in status.get("Peers") or [] if p.get("State") not in ("up", "linked")]
    if not down:
        return
    yield from ("", terminal.line("Peers that are down", "heading"))
    for peer in down:
        name = f"{peer.get('Directive', '')} {peer.get('Address', '')}".strip()
        age = peer.get("Age")
        span = f" for {uptime(age)}" if isinstance(age, int | float) else ""
        reason = peer.get("LastError") or "no reason is known yet"
        yield terminal.line(f"{name}  {peer.get('State', '')}{span}: {reason}", "bad")
