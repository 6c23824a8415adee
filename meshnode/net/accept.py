"""The one accept loop of a node: for links, control sessions and services alike.

It goes on whatever the system is short of, leaves some descriptors to what is running already, and
logs a shortage when it begins and when it ends. It lives until its listener is closed.
"""

import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

import trio

from meshnode.logs import SubjectLogger
from meshnode.net.unix_listener import UnixListener
from meshnode.resources import KEPT_BACK, to_spare

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

FOR_EACH = 16
"""Descriptors to spare for each one that is accepted before they are counted again: it may take
several, and other listeners accept meanwhile. With fewer they are counted for each, which takes two
system calls."""

COUNTED_FOR = 0.1
"""Seconds after which they are counted again in any case, since others take some as well."""

COMPLAINT_INTERVAL = 60.0
"""Seconds between two log lines about one listener's shortages: they may come and go many times."""

CLOSE_TIMEOUT = 1.0
"""Seconds for a listener to close although its node ends: one on the mesh withdraws its
advertisement."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Listener(Protocol[T_co]):
    """What links, or clients, are accepted from."""

    async def accept(self) -> T_co:
        """Wait for the next one; raises OSError, and ClosedResourceError when it was closed."""
        ...

    async def aclose(self) -> None:
        """Accept nothing more."""
        ...


async def accept(
    listener: Listener[T],
    log: SubjectLogger,
    take: Callable[[T], Awaitable[None]],
    *,
    kept_back: int | None = KEPT_BACK,
    when_short: Callable[[str], None] = lambda why: None,
) -> None:
    """Hand what is accepted to ``take``, one after another, until the listener is closed.

    ``take`` raises nothing, and returns soon. The files of a unix listener are made again
    meanwhile if somebody deletes them. The others are those of :class:`Acceptor`.
    """
    acceptor = Acceptor(listener.accept, log, kept_back=kept_back, when_short=when_short)
    source: object = listener
    async with trio.open_nursery() as nursery:
        if isinstance(source, UnixListener):
            nursery.start_soon(source.keep, log)
        while (accepted := await acceptor.next()) is not None:
            await take(accepted)
        nursery.cancel_scope.cancel()


async def serve(
    listeners: Sequence[Listener[T]],
    log: SubjectLogger,
    client: Callable[[T], Awaitable[None]],
    *,
    kept_back: int | None = KEPT_BACK,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run ``client`` in a task of its own for each client; when cancelled, close the listeners.

    ``client`` raises nothing: a fault in it would end all others.
    """

    async def take(accepted: T) -> None:
        clients.start_soon(client, accepted)

    async with closing(listeners), trio.open_nursery() as clients, trio.open_nursery() as loops:
        for listener in listeners:
            loops.start_soon(partial(accept, listener, log, take, kept_back=kept_back))
        task_status.started()


@asynccontextmanager
async def closing(listeners: Sequence[Listener[object]]) -> AsyncIterator[None]:
    """Close listeners when the context is left, even if that is by cancellation."""
    try:
        yield
    finally:
        for listener in listeners:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await listener.aclose()


class Acceptor(Generic[T]):
    """Accepts one after another; a shortage is waited for, and logged when it begins and ends."""

    def __init__(
        self,
        accept: Callable[[], Awaitable[T]],
        log: SubjectLogger,
        *,
        kept_back: int | None = KEPT_BACK,
        when_short: Callable[[str], None] = lambda why: None,
    ) -> None:
        """``kept_back``: descriptors that are left to those that are let in already, and to the
        node itself, which need some to go on; None where what is accepted takes none.

        ``when_short`` is told why nobody can be accepted, each time that it is tried.
        """
        self._accept = accept
        self._log = log
        self._kept_back = kept_back
        self._when_short = when_short
        self._uncounted = 0
        """How many may be accepted before descriptors are counted again."""
        self._counted_at = -math.inf
        self._told = False
        self._told_at = -math.inf

    async def next(self) -> T | None:
        """Wait for the next one; None once the listener is closed."""
        while True:
            if self._kept_back is not None and self._are_short(self._kept_back):
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

    def _are_short(self, kept_back: int) -> bool:
        now = trio.current_time()
        if self._uncounted and now < self._counted_at + COUNTED_FOR:
            self._uncounted -= 1
            return False
        left = to_spare(kept_back)
        self._uncounted, self._counted_at = max(0, left) // FOR_EACH, now
        return left <= 0

    async def _pause(self, why: str) -> None:
        self._when_short(why)
        now = trio.current_time()
        if not self._told and now >= self._told_at + COMPLAINT_INTERVAL:
            self._told = True
            self._told_at = now
            self._log.error("cannot accept for now: %s", why)
        await trio.sleep(PAUSE)
