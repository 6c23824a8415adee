"""Accepting from a listener for as long as it is open, whatever the system is short of."""

import errno
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from meshnode.descriptors import KEPT_BACK, are_short
from meshnode.logs import SubjectLogger

PAUSE = 0.1
"""Seconds before looking again when there is no descriptor or memory to be had: nothing tells of
one getting free, and who wants in waits in the kernel's queue meanwhile."""

THEIR_OWN = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EPROTO,
        errno.EPERM,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.EOPNOTSUPP,
    }
)
"""Errors of one connection that was lost before it was accepted (accept(2)): the next is not made
to wait for it, or whoever resets connections early would keep others out."""

COMPLAINT_INTERVAL = 60.0
"""Seconds between two log lines about one listener's shortages: they may come and go many times."""

T = TypeVar("T")


class Acceptor(Generic[T]):
    """Accepts one after another; a shortage is waited for, and logged when it begins and ends."""

    def __init__(
        self,
        accept: Callable[[], Awaitable[T]],
        log: SubjectLogger,
        *,
        kept_back: int | None = KEPT_BACK,
    ) -> None:
        """``kept_back``: descriptors that are left to those that are let in already, and to the
        node itself, which need some to go on; None where what is accepted takes none.
        """
        self._accept = accept
        self._log = log
        self._kept_back = kept_back
        self._told = False
        self._told_at = -math.inf

    async def next(self) -> T | None:
        """Wait for the next one; None once the listener is closed."""
        while True:
            if self._kept_back is not None and are_short(self._kept_back):
                await self._pause("few file descriptors are left")
                continue
            try:
                accepted = await self._accept()
            except trio.ClosedResourceError:
                return None
            except OSError as exc:
                if exc.errno in THEIR_OWN:
                    self._log.debug("lost one before it was accepted: %s", exc.strerror or exc)
                    await trio.lowlevel.checkpoint()
                else:
                    await self._pause(exc.strerror or str(exc))
                continue
            except Exception:  # noqa: BLE001 - the boundary of a listener
                # A fault of ours or of a library, brought about by who connects: it costs that one
                # its connection. Passed on it would end the node.
                self._log.exception("failed to accept one")
                await trio.sleep(PAUSE)
                continue
            if self._told:
                self._told = False
                self._log.info("accepting again")
            return accepted

    async def _pause(self, why: str) -> None:
        now = trio.current_time()
        if not self._told and now >= self._told_at + COMPLAINT_INTERVAL:
            self._told = True
            self._told_at = now
            self._log.error("cannot accept for now: %s", why)
        await trio.sleep(PAUSE)
