"""Since when nodes cannot be reached: what decides that a node is forgotten."""

from collections.abc import Collection, Iterable

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
