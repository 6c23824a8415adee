"""How what is open ends when its node stops: what is short is answered, what lasts is ended whole.

Three steps, and each client can tell what happened to it. First nobody new is let in, idle
connections are closed, and what follows events ends as if there were no more of them: browsers ask
for those anew by themselves. Then requests have a second. Then websockets are told that the node
goes away, and what is left is broken off, so that no client takes a part for the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

GRACE: Final = 1.0
"""Seconds that requests have to end by themselves when their node stops; a stop takes no more than
two in all."""

LAST_WORDS: Final = 0.25
"""Seconds in which clients of websockets are told that the node goes away."""


class Leaving:
    """Whether the node of some connections stops, and what of theirs is ended for that."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        """Set when the node begins to stop."""
        self._endless: set[trio.CancelScope] = set()
        self._lasting: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """End what has no end of its own."""
        self.begun.set()
        _cancel(self._endless)

    def finish(self) -> None:
        """End what can say to its client that it is ended."""
        _cancel(self._lasting)

    @contextmanager
    def endless(self) -> Iterator[trio.CancelScope]:
        """Run what would not end by itself, until the node begins to stop."""
        with _kept(self._endless) as scope:
            if self.begun.is_set():
                scope.cancel()
            yield scope

    @contextmanager
    def lasting(self) -> Iterator[trio.CancelScope]:
        """Run what may still end by itself, until the node waits no longer."""
        with _kept(self._lasting) as scope:
            yield scope


def _cancel(scopes: set[trio.CancelScope]) -> None:
    for scope in scopes:
        scope.cancel()


@contextmanager
def _kept(scopes: set[trio.CancelScope]) -> Iterator[trio.CancelScope]:
    with trio.CancelScope() as scope:
        scopes.add(scope)
        try:
            yield scope
        finally:
            scopes.discard(scope)
