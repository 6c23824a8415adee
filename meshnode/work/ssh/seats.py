"""Who may be where: units on hosts (``maxconcurrent``), connections to servers (``sessions``)."""

import random
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import trio

from meshnode.errors import WorkError
from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.record import LEAST, RANDOM, SSH, SshRecord
from meshnode.work.ssh.worktype import SshType
from meshnode.work.units.unit import Unit

Rank = tuple[int, str, int]
"""What sorts units that wait: priority, highest first; creation; and of equals, arrival."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A host that has room for a unit, and why it was chosen, for a person."""

    host: Host
    reason: str


@dataclass(slots=True, eq=False)
class _Waiter:
    """A unit that waits for a host."""

    unit: Unit
    rank: Rank
    kind: SshType
    choice: str
    options: tuple[Host, ...]
    given: "Seat | None" = None
    called: trio.Event = field(default_factory=trio.Event)


class _Order:
    """Who stands where at one moment, among those of each type."""

    def __init__(self, waiting: Iterable[_Waiter]) -> None:
        self._counts: Counter[str] = Counter()
        self._numbers: dict[_Waiter, int] = {}
        for waiter in waiting:
            self._counts[waiter.kind.name] += 1
            self._numbers[waiter] = self._counts[waiter.kind.name]

    def of(self, waiter: _Waiter) -> tuple[int, int]:
        """Return the place of one, from 1, and how many wait."""
        return self._numbers[waiter], self._counts[waiter.kind.name]


class HostSeats:
    """Counts the units of each type on each host, and gives hosts to those that come.

    ``units`` returns all units of the node: those that an earlier run has started on a host are
    counted from the first look on, whether anybody drives them yet or not.
    """

    def __init__(self, units: Callable[[], Iterable[Unit]]) -> None:
        self._units = units
        self._is_seeded = False
        self._seats: dict[str, tuple[str, str]] = {}
        """Type and host of each unit that has one."""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._held: set[str] = set()
        """Units whose end is watched for."""
        self._waiting: list[_Waiter] = []
        self._order: _Order | None = None
        """Who stands where; None after a change, until somebody asks."""
        self._arrivals = count()

    def hold(self, unit: Unit, host: Host) -> None:
        """Count a unit as being on a host until it is final."""
        if unit.unit_id not in self._seats:
            self._take(unit, host)
        if unit.unit_id in self._held:
            return
        self._held.add(unit.unit_id)

        def changed() -> None:
            if unit.is_final:
                unit.remove_listener(changed)
                self._held.discard(unit.unit_id)
                self.free(unit)

        unit.add_listener(changed)

    def free(self, unit: Unit) -> None:
        """Give the seat of a unit to another one."""
        seat = self._seats.pop(unit.unit_id, None)
        if seat is not None:
            self._counts[seat] -= 1
            self._call_next()

    async def take(self, unit: Unit, kind: SshType, choice: str, hosts: Sequence[Host]) -> Seat:
        """Return a seat on one of these hosts, as soon as one is free; free it afterwards.

        Those that came first, or have a higher priority, go first.
        """
        self._seed()
        rank = (-unit.status.priority, unit.status.created or "", next(self._arrivals))
        waiter = _Waiter(unit, rank, kind, choice, tuple(hosts))
        insort(self._waiting, waiter, key=lambda one: one.rank)
        self._order = None
        # Nobody else is given one: what was free before is nothing for those that wait.
        self._offer(waiter)
        unit.place = lambda: self._words(waiter)
        try:
            await waiter.called.wait()
        finally:
            unit.place = None
            if waiter.given is None:
                self._forget(waiter)
        assert waiter.given is not None
        return waiter.given

    def count(self, kind: SshType, host: Host) -> int:
        """Return how many units of a type are on a host."""
        return self._counts[kind.name, host.name]

    def _seed(self) -> None:
        if self._is_seeded:
            return
        self._is_seeded = True
        for unit in self._units():
            if unit.status.runner != SSH or unit.is_final:
                continue
            try:
                host = SshRecord.of(unit.status).host
            except WorkError:
                # Its own task says so.
                continue
            if host is not None:
                self.hold(unit, host)

    def _take(self, unit: Unit, host: Host) -> None:
        seat = (unit.status.work_type, host.name)
        self._seats[unit.unit_id] = seat
        self._counts[seat] += 1

    def _call_next(self) -> None:
        """Give free seats to those that wait, in their order."""
        full: set[tuple[str, tuple[Host, ...]]] = set()
        for waiter in tuple(self._waiting):
            wish = (waiter.kind.name, waiter.options)
            if wish not in full and not self._offer(waiter):
                full.add(wish)

    def _offer(self, waiter: _Waiter) -> bool:
        """Give a seat to one that waits, if there is one for it; return whether there was."""
        seat = self._choose(waiter)
        if seat is None:
            return False
        waiter.given = seat
        self._take(waiter.unit, seat.host)
        self._forget(waiter)
        waiter.called.set()
        return True

    def _forget(self, waiter: _Waiter) -> None:
        self._waiting.remove(waiter)
        self._order = None

    def _choose(self, waiter: _Waiter) -> Seat | None:
        kind = waiter.kind
        free = [host for host in waiter.options if self.count(kind, host) < kind.most_on(host)]
        if not free:
            return None
        if waiter.choice not in {LEAST, RANDOM}:
            return Seat(
                free[0],
                "named by its work type" if kind.choice == waiter.choice else "named at submission",
            )
        where = f"of {len(free)}{' that fit' if len(free) < len(kind.hosts) else ''}"
        if waiter.choice == RANDOM:
            return Seat(random.choice(free), f"random {where}")
        fewest = min(self.count(kind, host) for host in free)
        host = random.choice([host for host in free if self.count(kind, host) == fewest])
        units = "1 unit" if fewest == 1 else f"{fewest} units"
        return Seat(host, f"least {where}: {units} of {kind.name} there")

    def _words(self, waiter: _Waiter) -> str:
        """Return where a unit stands that waits, for a person."""
        order = self._order = self._order or _Order(self._waiting)
        number, count = order.of(waiter)
        hosts = ", ".join(host.name for host in waiter.options)
        most = max(waiter.kind.most_on(host) for host in waiter.options)
        return f"Queued: {number} of {count} for {hosts} (maxconcurrent {most} a host)"


class SessionLimits:
    """Bounds the connections to each server, whichever types and units they are for."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, int | None, str], trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def one(self, host: Host) -> AsyncIterator[None]:
        """Wait for a connection that may be opened, and count it until the context ends."""
        limit = self._limits.get(host.endpoint)
        if limit is None:
            limit = self._limits[host.endpoint] = trio.CapacityLimiter(host.sessions)
        # A reload may have changed it.
        limit.total_tokens = host.sessions
        borrower = object()
        await limit.acquire_on_behalf_of(borrower)
        try:
            yield
        finally:
            limit.release_on_behalf_of(borrower)
            if not limit.borrowed_tokens and not limit.statistics().tasks_waiting:
                self._limits.pop(host.endpoint, None)
