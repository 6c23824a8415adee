"""Memory that is free is given back to the system.

The C library keeps what was freed for what may come. After thousands of connections that is most of
what they took, so that a node would look for ever as it did in its worst minute.
"""

import ctypes
from collections.abc import Awaitable, Callable

import trio

WORTH_IT = 16 * 1024 * 1024
"""Bytes that must have been freed for the library to be asked: it takes some milliseconds."""


class GiveBack:
    """Counts what is freed, and has it given back when it is worth it."""

    def __init__(self, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._spawn = spawn
        self._freed = 0

    def freed(self, size: int) -> None:
        """Note that about so many bytes are free."""
        self._freed += size
        if self._freed >= WORTH_IT:
            self._freed = 0
            self._spawn(give_back)


async def give_back() -> None:
    """Have the C library give back what it keeps, if it is one that can be asked to."""
    await trio.to_thread.run_sync(_trim)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # others than the GNU library keep little, and have no such function
        trim(0)
