"""A lock that takes memory only while somebody needs it."""

from types import TracebackType

import trio


class BriefLock:
    """A lock, for ``async with``, that a great many things may have of which few are in use.

    A trio.Lock takes half a kilobyte; this one has one only while somebody holds it or waits.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.Lock()
        await self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._lock is not None
        self._lock.release()
        # Whoever waited holds it by now.
        if not self._lock.locked():
            self._lock = None
