"""Datagrams of many correspondents over one socket, each with a socket of its own beyond it.

That is how answers find their way back: what comes in by a correspondent's own socket is for that
correspondent. Receptor does the same, but keeps those sockets for ever.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol

import trio

from meshnode.errors import MeshnodeError, MessageTooLarge
from meshnode.logs import SubjectLogger
from meshnode.services.addresses import A, AddressTable
from meshnode.services.base import DropCount

MAX_CORRESPONDENTS = 1536
"""Correspondents of one service at a time, each with a socket and a task; one more takes the place
of another."""

MAX_OF_ONE = 1024
"""Correspondents of one machine or node at a time: one more takes the place of its own."""

IDLE_TIMEOUT = 300.0
"""Seconds of silence, both ways, after which a correspondent is forgotten: what RFC 4787 (REQ-5)
recommends for mappings of UDP."""

QUEUE = 256
"""Datagrams of one correspondent that wait for its socket to be opened or to take them."""

MAX_WAITING = 16 * 1024 * 1024
"""Bytes of all such datagrams of one service: many correspondents must not cost many queues."""

QUEUE_FULL = "they came faster than they could be passed on"


class FarSocket(Protocol):
    """A correspondent's own socket, already tied to the one it speaks with."""

    async def send(self, payload: bytes) -> None:
        """Send a datagram; raises OSError or MeshError when that one could not be sent."""
        ...

    async def receive(self) -> bytes:
        """Wait for a datagram; raises OSError or MeshError when an earlier one was refused."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...


class Relay(Generic[A]):
    """The correspondents of one service.

    Args:
        log: the service's.
        open_far: opens a correspondent's own socket; raises OSError or MeshError.
        answer: sends a datagram back to a correspondent; raises OSError or MeshError.
        holder_of: says which machine or node a correspondent is of.
        most: correspondents at a time.
        of_one: of these of one holder.
    """

    def __init__(
        self,
        log: SubjectLogger,
        open_far: Callable[[A], Awaitable[FarSocket]],
        answer: Callable[[A, bytes], Awaitable[None]],
        holder_of: Callable[[A], str],
        most: int = MAX_CORRESPONDENTS,
        of_one: int = MAX_OF_ONE,
    ) -> None:
        self.drops = DropCount(log)
        self._log = log
        self._open_far = open_far
        self._answer = answer
        self._known: AddressTable[A, _Correspondent[A]] = AddressTable(holder_of, most, of_one)
        self.waiting = 0
        """Bytes that wait to be passed on."""

    @property
    def correspondents(self) -> tuple[A, ...]:
        """Who is known now, the one silent longest first; those that never conversed before."""
        return self._known.addresses

    async def run(
        self,
        receive: Callable[[], Awaitable[tuple[A, bytes]]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Pass on what ``receive`` returns, and answers to it, until cancelled.

        An OSError or MeshnodeError of ``receive`` is about an earlier datagram, which is counted.
        """
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    address, payload = await receive()
                except (OSError, MeshnodeError) as exc:
                    self.drops.note(_text(exc))
                    continue
                self._correspondent(address, nursery).put(payload)

    def _correspondent(self, address: A, nursery: trio.Nursery) -> "_Correspondent[A]":
        found = self._known.get(address)
        if found is None:
            found = _Correspondent(self, address)
            evicted = self._known.add(address, found)
            if evicted is not None:
                evicted.scope.cancel()
            nursery.start_soon(self._serve, found)
        return found

    def heard(self, address: A) -> None:
        """Note that a correspondent is not silent."""
        self._known.heard(address)

    def converses(self, address: A) -> None:
        """Note that a correspondent has sent something after it was answered."""
        self._known.prove(address)

    async def _serve(self, correspondent: "_Correspondent[A]") -> None:
        address = correspondent.address
        self._log.debug("%s is new", address)
        try:
            with correspondent.scope:
                far = await self._open_far(address)
                try:
                    await correspondent.converse(far, self._answer)
                finally:
                    far.close()
        except (OSError, MeshnodeError) as exc:
            self.drops.note(_text(exc))
        except Exception:  # noqa: BLE001 - a boundary: a fault of ours costs one correspondent
            self._log.exception("failed to serve %s", address)
        finally:
            self._known.discard(address, correspondent)
            self.waiting -= correspondent.waiting
        self._log.debug("%s is forgotten", address)


class _Correspondent(Generic[A]):
    """One correspondent: what it sent and was not passed on yet, and for how long it is known."""

    def __init__(self, relay: Relay[A], address: A) -> None:
        self.address = address
        self.scope = trio.CancelScope(deadline=trio.current_time() + IDLE_TIMEOUT)
        self._relay = relay
        self._answered = False
        """Whether it was sent anything since it was last heard of."""
        self.waiting = 0
        self._put, self._queue = trio.open_memory_channel[bytes](QUEUE)

    def put(self, payload: bytes) -> None:
        """Take a datagram of this correspondent."""
        self._heard()
        if self._answered:
            self._answered = False
            self._relay.converses(self.address)
        try:
            if self._relay.waiting + len(payload) > MAX_WAITING:
                raise trio.WouldBlock
            self._put.send_nowait(payload)
        except trio.WouldBlock:
            self._relay.drops.note(QUEUE_FULL)
        else:
            self._count(len(payload))

    def _count(self, size: int) -> None:
        self.waiting += size
        self._relay.waiting += size

    def _heard(self) -> None:
        self.scope.deadline = trio.current_time() + IDLE_TIMEOUT
        self._relay.heard(self.address)

    async def converse(self, far: FarSocket, answer: Callable[[A, bytes], Awaitable[None]]) -> None:
        """Pass datagrams both ways until cancelled."""

        async def back() -> None:
            while True:
                with self._counting():
                    payload = await far.receive()
                    self._heard()
                    await answer(self.address, payload)
                    self._answered = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back)
            async for payload in self._queue:
                self._count(-len(payload))
                with self._counting():
                    await far.send(payload)

    def _counting(self) -> "_Counting":
        return _Counting(self._relay.drops)


class _Counting:
    """Counts a datagram that could not be passed on; the next one may have more luck."""

    def __init__(self, drops: DropCount) -> None:
        self._drops = drops

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, OSError | MeshnodeError):
            return False
        self._drops.note(_text(error))
        return True


def _text(error: OSError | MeshnodeError) -> str:
    if isinstance(error, MessageTooLarge):
        return "too large for a message of the mesh"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)
