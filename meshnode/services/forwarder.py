"""Accepts streams and joins each to one that it dials: all stream services but commands."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from meshnode.errors import MeshError, TlsRefused
from meshnode.logs import SubjectLogger
from meshnode.net.accept import Listener, serve
from meshnode.net.pump import bridge, has_hung_up, reset
from meshnode.net.sockets import holder_of, peer_name
from meshnode.shares import Holder, Shares

if TYPE_CHECKING:
    from meshnode.security.tls import TlsSource

MAX_CONNECTIONS = 1536
"""Connections of one service at a time; more are reset. Each costs a descriptor, a stream of the
mesh, and some MiB where its reader stalls."""

MAX_OF_ONE = 1024
"""Connections of one holder at a time: many services have only one client."""

SPARED = 16
"""One in so many connections is left by each branch of the mesh to others."""

HALF_OPEN_TIMEOUT = 86400.0
"""Seconds of silence after which a connection is reset that one end has ended. A client that is
gone may look like one that waits for its answer, and answers may take long."""


class StreamHandler(Protocol):
    """What a service does with one stream; it owns the stream and raises OSError or MeshError
    when it can do nothing, BrokenResourceError when it could not do all."""

    async def __call__(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        """Serve one client to its end."""
        ...


class StreamServer:
    """Accepts clients from listeners and hands each to ``handler``.

    At most ``most`` at a time, and ``of_one`` of one holder. Each branch of the mesh leaves one in
    SPARED to others.
    """

    def __init__(
        self,
        log: SubjectLogger,
        handler: StreamHandler,
        most: int = MAX_CONNECTIONS,
        of_one: int = MAX_OF_ONE,
    ) -> None:
        self._log = log
        self._handler = handler
        self._open = Shares(most, most // SPARED, of_one=of_one)
        self._refusing = False

    async def run(
        self,
        listeners: Sequence[Listener[trio.abc.HalfCloseableStream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, then close the listeners."""
        await serve(listeners, self._log, self._admit, task_status=task_status)

    async def _admit(self, stream: trio.abc.HalfCloseableStream) -> None:
        client, holder = peer_name(stream), holder_of(stream)
        if self._take_place(client, holder):
            await self._serve(stream, client, holder)
        else:
            await self._contain(client, reset(stream))

    def _take_place(self, client: str, holder: Holder) -> bool:
        if self._open.take(holder):
            self._refusing = False
            return True
        if not self._refusing:
            text = "clients are refused, %s first: %d are connected, %d of them from there"
            self._log.warning(text, client, self._open.used, self._open.held(holder))
        self._refusing = True
        return False

    async def _serve(
        self, stream: trio.abc.HalfCloseableStream, client: str, holder: Holder
    ) -> None:
        self._log.debug("%s connected", client)
        try:
            await self._contain(client, self._handler(stream, client))
        finally:
            self._open.give_back(holder)
            # Closed it is already, unless something failed.
            await self._contain(client, reset(stream))
        self._log.debug("%s is done", client)

    async def _contain(self, client: str, serving: Awaitable[None]) -> None:
        """Await what is done for a client; whatever it raises is logged, and costs that client."""
        try:
            await serving
        except (OSError, MeshError) as exc:
            text = getattr(exc, "strerror", None) or str(exc)
            self._log.warning("closed the connection of %s: %s", client, text)
        except trio.BrokenResourceError as exc:
            self._log.info("the connection of %s broke: %s", client, exc)
        except Exception:  # noqa: BLE001 - a client's boundary: a fault of ours costs only this one
            self._log.exception("failed to serve %s", client)


class _ClientEnd:
    """A client's stream as one end of a bridge.

    It tells a client that is gone from one that has ended its bytes (``net/pump.py``).
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._is_answered = False

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Return bytes, none at their end.

        Raises:
            trio.BrokenResourceError: the client closed its connection before it had its answer:
                it was killed, perhaps in the middle of what it had to send.
        """
        data = await self._stream.receive_some(max_bytes)
        if not data and not self._is_answered and has_hung_up(self._stream):
            raise trio.BrokenResourceError("the client closed its connection")
        return data

    async def send_all(self, data: bytes) -> None:
        """Send bytes to the client."""
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """Pass the far end on: from here on the client has its answer and may go."""
        self._is_answered = True
        await self._stream.send_eof()


def forward_to(
    dial: Callable[[], Awaitable[trio.abc.HalfCloseableStream]],
) -> StreamHandler:
    """Return a handler that joins each stream to a new one that ``dial`` opens."""

    async def handler(stream: trio.abc.HalfCloseableStream, client: str) -> None:
        far = await dial()
        try:
            await bridge(_ClientEnd(stream), far, half_open=HALF_OPEN_TIMEOUT)
            await stream.aclose()
            await far.aclose()
        finally:
            await reset(far)

    return handler


def secured(handler: StreamHandler, tls: "TlsSource") -> StreamHandler:
    """Return a handler for clients of a TCP port that speak TLS; ``tls`` has its settings."""

    async def shake_hands_first(stream: trio.abc.HalfCloseableStream, client: str) -> None:
        from meshnode.net.tls import TlsStream  # noqa: PLC0415 - only where TLS is asked for

        assert isinstance(stream, trio.SocketStream)
        plain = TlsStream(stream, tls())
        try:
            await plain.shake_hands()
        except TlsRefused as refusal:
            raise OSError(str(refusal)) from refusal
        await handler(plain, client)

    return shake_hands_first
