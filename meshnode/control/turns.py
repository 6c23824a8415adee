"""Turns at what takes the node's time: one at a time, and each client's origin as often as others.

All that a node knows of its mesh, or of its units, takes milliseconds to put into words, and
nothing else happens meanwhile. A thousand sessions may ask for it at the same moment.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshnode.mesh.sockets import Origin


class Turns:
    """Whoever waits is let in when all else that was due has had its time."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[str, OrderedDict[Origin, deque[trio.Event]]] = OrderedDict()
        """Who waits, by origins and their sources; the next one is of the first origin of the first
        source. A peer can invent nodes behind itself, and these are origins of one source."""

    @asynccontextmanager
    async def turn(self, origin: Origin) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        if self._is_taken:
            await self._wait(origin)
        else:
            self._is_taken = True
        try:
            # In the next round of the loop, not in this one.
            await trio.lowlevel.checkpoint()
            yield
        finally:
            self._pass_on()

    async def _wait(self, origin: Origin) -> None:
        mine = trio.Event()
        origins = self._waiting.setdefault(origin.source, OrderedDict())
        origins.setdefault(origin, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():  # it was just given the turn
                self._pass_on()
            else:
                self._remove(origin, mine)
            raise

    def _remove(self, origin: Origin, waiter: trio.Event) -> None:
        origins = self._waiting[origin.source]
        origins[origin].remove(waiter)
        if not origins[origin]:
            del origins[origin]
        if not origins:
            del self._waiting[origin.source]

    def _pass_on(self) -> None:
        if not self._waiting:
            self._is_taken = False
            return
        source, origins = self._waiting.popitem(last=False)
        origin, waiters = origins.popitem(last=False)
        waiters.popleft().set()
        # Again, after all others.
        if waiters:
            origins[origin] = waiters
        if origins:
            self._waiting[source] = origins
