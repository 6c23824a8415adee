"""Datagrams of many correspondents over one socket.

Each correspondent gets a socket of its own towards the far end. What arrives there is an answer for
that correspondent. Receptor does the same, but keeps those sockets for ever.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

import trio

from meshnode.errors import MeshnodeError, MessageTooLarge
from meshnode.logs import SubjectLogger
from meshnode.services.base import DropCount
from meshnode.shares import Held, Holder, Limit, Shares

A = TypeVar("A", bound=Hashable)
"""An address."""

T = TypeVar("T")
"""What is kept of an address."""

SPARED = 16
"""One in so many addresses is left by each branch of the mesh to others."""

MAX_CORRESPONDENTS = 1536
"""Correspondents of one service at a time, each with a socket and a task; a new one replaces
one."""

MAX_OF_ONE = 1024
"""Correspondents of one holder at a time; a new one replaces one of the same holder."""

IDLE_TIMEOUT = 300.0
"""Seconds of silence, both ways, after which a correspondent is forgotten: what RFC 4787 (REQ-5)
recommends for mappings of UDP."""

QUEUE = 256
"""Datagrams of one correspondent that wait for its socket to be opened or to take them."""

MAX_WAITING = 16 * 1024 * 1024
"""Bytes of all such datagrams of one service. One holder may have half of it, and each branch
leaves a quarter to others."""

QUEUE_FULL = "they came faster than they could be passed on"


class AddressTable(Generic[A, T]):
    """Addresses and what is kept of each, the one silent longest first.

    Who sends datagrams need not be who they say. So addresses of which nothing shows that somebody
    is there make room first. No holder, and no branch of the mesh, puts all others out.

    Args:
        holder_of: says on whose account an address is.
        most: addresses at a time.
        of_one: of these of one holder.
    """

    def __init__(self, holder_of: Callable[[A], Holder], most: int, of_one: int) -> None:
        self._holder_of = holder_of
        self._strangers: OrderedDict[A, T] = OrderedDict()
        self._proven: OrderedDict[A, T] = OrderedDict()
        self._holders: dict[A, Holder] = {}
        """As it was when the address was added: a node may be reached over another link since."""
        self._held = Held[A]("oldest")
        self._shares = Shares(most, most // SPARED, of_one=of_one)

    def __len__(self) -> int:
        """How many are known."""
        return len(self._holders)

    @property
    def addresses(self) -> tuple[A, ...]:
        """All that are known, those that are not proven first."""
        return (*self._strangers, *self._proven)

    def get(self, address: A) -> T | None:
        """Return what is kept of an address."""
        found = self._proven.get(address)
        return self._strangers.get(address) if found is None else found

    def add(self, address: A, item: T) -> T | None:
        """Add an address that is not known; return what was kept of the one that makes room."""
        holder = self._holder_of(address)
        evicted = self._make_room(holder)
        self._strangers[address] = item
        self._holders[address] = holder
        self._held.add(holder.name, address)
        self._shares.add(holder)
        return evicted

    def _make_room(self, holder: Holder) -> T | None:
        match self._shares.limit(holder):
            case None:
                return None
            case Limit.HOLDER:
                return self._remove(next(iter(self._held.of(holder.name))))
            case Limit.BRANCH:
                # Few are passed over: other branches have hardly more than this one leaves them.
                same = (a for a in self.addresses if self._holders[a].branch == holder.branch)
                return self._remove(next(same))
            case Limit.TOTAL if self._strangers:
                return self._remove(next(iter(self._strangers)))
            case Limit.TOTAL:
                return self._remove(next(iter(self._held.largest_first()[0])))

    def heard(self, address: A) -> None:
        """Note that something was sent from or to an address."""
        for table in (self._strangers, self._proven):
            if address in table:
                table.move_to_end(address)
                name = self._holders[address].name
                self._held.discard(name, address)
                self._held.add(name, address)

    def prove(self, address: A) -> None:
        """Note that whoever sends from an address also receives there."""
        if address in self._strangers:
            self._proven[address] = self._strangers.pop(address)

    def discard(self, address: A, item: T) -> None:
        """Forget an address, if that is what is kept of it."""
        if self.get(address) is item:
            self._remove(address)

    def _remove(self, address: A) -> T:
        table = self._strangers if address in self._strangers else self._proven
        holder = self._holders.pop(address)
        self._held.discard(holder.name, address)
        self._shares.give_back(holder)
        return table.pop(address)


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
        holder_of: says on whose account a correspondent is.
        most: correspondents at a time.
        of_one: of these of one holder.
    """

    def __init__(
        self,
        log: SubjectLogger,
        open_far: Callable[[A], Awaitable[FarSocket]],
        answer: Callable[[A, bytes], Awaitable[None]],
        holder_of: Callable[[A], Holder],
        most: int = MAX_CORRESPONDENTS,
        of_one: int = MAX_OF_ONE,
    ) -> None:
        self.drops = DropCount(log)
        self._log = log
        self._open_far = open_far
        self._answer = answer
        self._holder_of = holder_of
        self._known = AddressTable[A, _Correspondent[A]](holder_of, most, of_one)
        self._bytes = Shares(MAX_WAITING, MAX_WAITING // 4)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be passed on."""
        return self._bytes.used

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
            room = _Room(self._bytes, self._holder_of(address))
            found = _Correspondent(self, address, room)
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
            correspondent.room.close()
        self._log.debug("%s is forgotten", address)


class _Room:
    """What one correspondent's waiting datagrams take of the bytes of all."""

    __slots__ = ("_bytes", "_holder", "_taken")

    def __init__(self, all_bytes: Shares, holder: Holder) -> None:
        self._bytes = all_bytes
        self._holder = holder
        self._taken = 0

    def take(self, size: int) -> bool:
        """Count a datagram that is to wait; False if there is no room for it."""
        if not self._bytes.take(self._holder, size):
            return False
        self._taken += size
        return True

    def give_back(self, size: int) -> None:
        """Count one that waits no more."""
        self._bytes.give_back(self._holder, size)
        self._taken -= size

    def close(self) -> None:
        """Count none any more."""
        self.give_back(self._taken)


class _Correspondent(Generic[A]):
    """One correspondent: what it sent and was not passed on yet, and for how long it is known."""

    def __init__(self, relay: Relay[A], address: A, room: _Room) -> None:
        self.address = address
        self.room = room
        self.scope = trio.CancelScope(deadline=trio.current_time() + IDLE_TIMEOUT)
        self._relay = relay
        self._answered = False
        """Whether it was sent anything since it was last heard of."""
        self._put, self._queue = trio.open_memory_channel[bytes](QUEUE)

    def put(self, payload: bytes) -> None:
        """Take a datagram of this correspondent."""
        self._heard()
        if self._answered:
            self._answered = False
            self._relay.converses(self.address)
        if not self.room.take(len(payload)):
            self._relay.drops.note(QUEUE_FULL)
            return
        try:
            self._put.send_nowait(payload)
        except trio.WouldBlock:
            self.room.give_back(len(payload))
            self._relay.drops.note(QUEUE_FULL)

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
                self.room.give_back(len(payload))
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
