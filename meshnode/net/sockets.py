"""Sockets of this machine by which clients come: what their listeners have in common."""

import errno
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

import trio

from meshnode.errors import ConfigError
from meshnode.logs import SubjectLogger
from meshnode.resources import KEPT_BACK, are_short
from meshnode.shares import Holder

BACKLOG = 1024
"""Clients that may wait to be accepted: a burst of scripts starting at once. The kernel lowers it
to its own bound."""


class CannotListen(ConfigError):
    """A listener that a directive asks for cannot be opened.

    ``parameter`` is the directive's, ``problem`` the value and what is wrong.
    """

    def __init__(self, parameter: str, value: str, reason: str) -> None:
        super().__init__(f"{parameter} {value}: {reason}")
        self.parameter = parameter
        self.problem = f"{value}: {reason}"


@runtime_checkable
class FromNode(Protocol):
    """A stream that came over the mesh."""

    @property
    def peer_node(self) -> str:
        """ID of the node at the other end."""
        ...

    @property
    def holder(self) -> Holder:
        """On whose account the stream is."""
        ...


async def open_tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a TCP port of every address that ``host`` means ("" is all of them).

    Raises:
        OSError: the address is not ours or the port is taken.
        ValueError: the host is no name that could be looked up.
    """
    listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    for listener in listeners:
        keep_alive(listener.socket)  # accepted sockets inherit it
    return listeners


def keep_alive(connection: trio.socket.SocketType) -> None:
    """Let the kernel find out some day that the machine at the other end is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def peer_name(stream: trio.abc.HalfCloseableStream) -> str:
    """Return who a client is, for logs: node ID, ``host:port``, or process and user."""
    if not isinstance(stream, trio.SocketStream):
        return stream.peer_node if isinstance(stream, FromNode) else "unknown"
    try:
        if stream.socket.family == socket.AF_UNIX:
            pid, uid = _credentials(stream.socket)
            return f"pid {pid} uid {uid}"
        host, port = stream.socket.getpeername()[:2]
    except OSError as error:  # it may be gone already
        return error.strerror or "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


UNKNOWN_HOLDER = Holder("unknown")
"""Of clients that are gone before they could be asked, and of streams of no known kind."""


def holder_of(stream: trio.abc.HalfCloseableStream) -> Holder:
    """Return on whose account a client is.

    Whoever has an IPv6 address has the 2^64 of its network, so these are one.
    """
    if not isinstance(stream, trio.SocketStream):
        return stream.holder if isinstance(stream, FromNode) else UNKNOWN_HOLDER
    try:
        if stream.socket.family == socket.AF_UNIX:
            _, uid = _credentials(stream.socket)
            return Holder(f"uid {uid}", is_owner=uid in {0, os.geteuid()})
        return Holder(network_of(stream.socket.getpeername()[0]))
    except OSError:
        return UNKNOWN_HOLDER


def network_of(host: str) -> str:
    """Return an IPv4 address as it is, and of an IPv6 address the network."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


_MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with where it is written as one of IPv6 (RFC 4291, 2.5.5.2)."""


def _credentials(connection: trio.socket.SocketType) -> tuple[int, int]:
    """Return process and user at the other end of a unix socket. Raises OSError."""
    size = struct.calcsize("3i")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


# --- Accepting from a listener for as long as it is open, whatever the system is short of

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
