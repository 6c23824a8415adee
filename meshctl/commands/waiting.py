"""Says on stderr what a unit waits for, while a command waits for the unit.

The command itself is busy: it reads results, or waits for the unit's end. So a thread with a
session of its own watches the unit, and says each new reason once. A unit that goes on within
FIRST_LOOK costs no session.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import ControlError
from meshctl.api.status import STATES, remote_part
from meshctl.commands.options import Invocation
from meshctl.render.output import print_note

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.status import Watch

FIRST_LOOK = 1.0
"""Seconds until the unit is looked at: most go through before."""

USUAL = frozenset({"", "Unit Created", "Waiting for Input Data", "Starting Worker"})
"""Details of a Pending unit that say nothing of what it waits for (protocol section 8)."""


@contextmanager
def waits_told(invocation: Invocation, unit_id: str) -> Iterator[None]:
    """Say on stderr what a unit waits for, for as long as the block lasts."""
    teller = _Teller(invocation, unit_id)
    # It holds up nothing: what it waits for, it leaves when the block ends, or with the process.
    threading.Thread(target=teller.run, name=f"waits of {unit_id}", daemon=True).start()
    try:
        yield
    finally:
        teller.stop()


class _Teller:
    """Watches one unit."""

    def __init__(self, invocation: Invocation, unit_id: str) -> None:
        self._invocation = invocation
        self._unit_id = unit_id
        self._over = threading.Event()
        self._lock = threading.Lock()
        """Held to say something, so that nothing is said once the block is over."""
        self._watch: Watch | None = None
        self._said = ""

    def run(self) -> None:
        """Watch until the unit has ended or the block is over."""
        if self._over.wait(FIRST_LOOK):
            return
        # What ends the watch early, the command meets as well, and says.
        with suppress(ControlError), self._invocation.client() as client:
            watch = client.watching(self._unit_id)
            with self._lock:
                if self._over.is_set():
                    return
                self._watch = watch
            for status in watch.statuses():
                self._say(_reason(client, status))

    def stop(self) -> None:
        """Say nothing more, and end the watch."""
        with self._lock:
            self._over.set()
            if self._watch is not None:
                self._watch.stop()

    def _say(self, reason: str) -> None:
        with self._lock:
            if reason and reason != self._said and not self._over.is_set():
                print_note(f"unit {self._unit_id}: {reason}")
            self._said = reason


def _reason(client: "ControlClient", status: Mapping[str, Any]) -> str:
    """Return what a unit waits for; empty if it does not, or nobody says."""
    told, detail = status.get("Waiting"), str(status.get("Detail") or "")
    if isinstance(told, str) and told:
        return told
    if status.get("State") != STATES.index("Pending"):
        return ""
    node = remote_part(status).get("RemoteNode")
    if detail in USUAL and node:
        return _missing_route(client, str(node))
    return "" if detail in USUAL else detail


def _missing_route(client: "ControlClient", node: str) -> str:
    """Find out what a receptor node does not say of a unit: whether there is a way to its node."""
    known = client.status(["NodeID", "RoutingTable"])
    routes = known.get("RoutingTable") or {}
    if node == known.get("NodeID") or node in routes:
        return ""
    return f"waiting for node {node}: no route"
