"""Threads run out, as descriptors do: how that is told, and waited for."""

import errno
from collections.abc import Callable
from typing import Final, TypeVar

import trio

RETRY: Final = 0.1
"""Seconds before a thread is asked for again: nothing tells of one that has ended."""

_NONE_LEFT: Final = "can't start new thread"
"""All that Python says when the system refuses a thread."""

T = TypeVar("T")


class NoThread(OSError):
    """The system starts no thread now: too many processes, or too little memory."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no thread can be started now")


async def in_thread(
    function: Callable[..., T],
    *args: object,
    patience: float = 0.0,
    abandon: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Return what a function returns that is called in a thread.

    Args:
        function: May block.
        args: What it is called with.
        patience: Seconds for which a thread is waited for where there is none.
        abandon: Whether a cancelled call is left to end by itself.
        limiter: Bounds the threads of one purpose; without one, trio's for all.

    Raises:
        NoThread: there is still none.
        Exception: whatever the function raises.
    """
    until = trio.current_time() + patience
    while True:
        try:
            return await trio.to_thread.run_sync(
                function, *args, abandon_on_cancel=abandon, limiter=limiter
            )
        except RuntimeError as exc:
            if _NONE_LEFT not in str(exc):
                raise
            if trio.current_time() >= until:
                raise NoThread from exc
        await trio.sleep(RETRY)
