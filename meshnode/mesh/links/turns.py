"""Work that whoever waits for its outcome does, one at a time, for all who wait."""

from collections.abc import Awaitable, Callable, Hashable

import trio


class Turns:
    """Shares one piece of repeated work, such as reading a socket, among tasks.

    Each task waits for something that the work may bring about. One of those that wait does the
    work; when it leaves, another goes on. So no task exists whose owner would have to be told
    about it, and none works while nobody waits.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` is done again and again; it may be cancelled where it waits."""
        self._work = work
        self._worker: Hashable = None
        self._scope = trio.CancelScope()
        self._waiting: dict[Hashable, trio.Event] = {}

    async def wait(self, who: Hashable, ready: Callable[[], object]) -> None:
        """Return once ``ready()`` is true; ``who`` is what :meth:`wake` is given when it may be.

        Raises whatever the work raises, if it was this task that did it.
        """
        await trio.lowlevel.checkpoint()
        try:
            while not ready():
                if self._worker is None:
                    await self._do_work(who)
                else:
                    self._waiting[who] = trio.Event()
                    await self._waiting[who].wait()
        finally:
            self._waiting.pop(who, None)
            if self._worker is None and self._waiting:
                next(iter(self._waiting.values())).set()

    async def _do_work(self, who: Hashable) -> None:
        self._worker = who
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                await self._work()
        finally:
            self._worker = None

    def wake(self, who: Hashable) -> None:
        """Let ``who``, if it waits, look again whether it is ready."""
        if self._worker == who:
            self._scope.cancel()
        elif who in self._waiting:
            self._waiting[who].set()
