"""Accepts streams and joins each to one that it dials: all stream services but commands."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from meshnode.errors import MeshError
from meshnode.logs import SubjectLogger
from meshnode.mesh.accepting import Acceptor
from meshnode.mesh.pump import bridge, reset
from meshnode.mesh.sockets import peer_name

MAX_CONNECTIONS = 1024
"""Connections of one service at a time. Each costs a descriptor and a stream of the mesh, and some
MiB where its reader stalls; more are reset as they come."""

CLOSE_TIMEOUT = 1.0
"""Seconds for a listener to close although its node ends: one on the mesh withdraws its
advertisement."""

Listener = trio.abc.Listener[trio.abc.HalfCloseableStream]


class StreamHandler(Protocol):
    """What a service does with one stream; it owns the stream and raises OSError or MeshError
    when it can do nothing, BrokenResourceError when it could not do all."""

    async def __call__(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        """Serve one client to its end."""
        ...


class StreamServer:
    """Accepts clients from listeners and hands each to ``handler``, at most ``most`` at a time."""

    def __init__(
        self, log: SubjectLogger, handler: StreamHandler, most: int = MAX_CONNECTIONS
    ) -> None:
        self._log = log
        self._handler = handler
        self._most = most
        self._open = 0
        self._refusing = False

    async def run(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, then close the listeners."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started()
        finally:
            for listener in listeners:
                with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await listener.aclose()

    async def _accept(self, listener: Listener, clients: trio.Nursery) -> None:
        acceptor = Acceptor(listener.accept, self._log)
        while (stream := await acceptor.next()) is not None:
            if await self._has_room(stream):
                self._open += 1
                clients.start_soon(self._serve, stream)

    async def _has_room(self, stream: trio.abc.HalfCloseableStream) -> bool:
        if self._open < self._most:
            self._refusing = False
            return True
        if not self._refusing:
            self._log.warning("clients are refused: %d are connected", self._open)
        self._refusing = True
        await reset(stream)
        return False

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        client = peer_name(stream)
        self._log.debug("%s connected", client)
        try:
            await self._bear(client, self._handler(stream, client))
        finally:
            self._open -= 1
            # Closed it is already, unless something failed.
            await self._bear(client, reset(stream))
        self._log.debug("%s is done", client)

    async def _bear(self, client: str, serving: Awaitable[None]) -> None:
        """Await what is done for a client, to whom it is limited, whatever comes of it."""
        try:
            await serving
        except (OSError, MeshError) as exc:
            text = getattr(exc, "strerror", None) or str(exc)
            self._log.warning("closed the connection of %s: %s", client, text)
        except trio.BrokenResourceError as exc:
            self._log.info("the connection of %s broke: %s", client, exc)
        except Exception:  # noqa: BLE001 - a client's boundary: a fault of ours costs only this one
            self._log.exception("failed to serve %s", client)


def forward_to(
    dial: Callable[[], Awaitable[trio.abc.HalfCloseableStream]],
) -> StreamHandler:
    """Return a handler that joins each stream to a new one that ``dial`` opens."""

    async def handler(stream: trio.abc.HalfCloseableStream, client: str) -> None:
        far = await dial()
        try:
            await bridge(stream, far)
            await stream.aclose()
            await far.aclose()
        finally:
            await reset(far)

    return handler
