"""Who gets a seat on which host, where each that waits stands, and what thousands of them cost."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.seats import HostSeats
from meshnode.work.ssh.worktype import SshType

MANY = 300


class Name(str):
    """A name that counts how often it is looked at."""

    looks = 0

    def __eq__(self, other: object) -> bool:
        Name.looks += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Name.looks += 1
        return str.__hash__(self)


class Waiting:
    """What the seats ask of a unit."""

    def __init__(self, name: str, priority: int, created: int) -> None:
        self.unit_id = name
        self.status = SimpleNamespace(
            priority=priority, created=f"{created:08}", work_type="t", runner="ssh"
        )
        self.place: Callable[[], str] | None = None
        self.is_final = False

    def add_listener(self, _: object) -> None:
        """It never changes."""


def kind(most: int, *hosts: str) -> SshType:
    found = tuple(Host(Name(name), name, sessions=most) for name in hosts)
    return SshType(Name("t"), found)


async def come(seats: HostSeats, nursery: trio.Nursery, unit: Any, of: SshType) -> None:
    nursery.start_soon(seats.take, unit, of, "least", of.hosts)
    await trio.testing.wait_all_tasks_blocked()


def place(unit: Waiting) -> str:
    assert unit.place is not None
    return unit.place()


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=9))
def test_all_that_wait_stand_by_priority_and_then_as_they_came(ranks):
    async def scenario() -> None:
        seats, one = HostSeats(tuple), kind(1, "h")
        first = Waiting("first", 0, 0)
        units = [Waiting(f"u{n}", priority, at) for n, (priority, at) in enumerate(ranks)]
        async with trio.open_nursery() as nursery:
            for unit in (first, *units):
                await come(seats, nursery, unit, one)
            order = sorted(units, key=lambda unit: (-unit.status.priority, unit.status.created))
            holder = first
            while order:
                count = len(order)
                for number, unit in enumerate(order, 1):
                    where = f"Queued: {number} of {count} for h (maxconcurrent 1 a host)"
                    assert place(unit) == where
                assert holder.place is None
                seats.free(holder)  # type: ignore[arg-type]
                await trio.testing.wait_all_tasks_blocked()
                holder = order.pop(0)
            assert holder.place is None

    trio.run(scenario)


@pytest.mark.parametrize("hosts", [("h",), ("g", "h")])
async def test_thousands_that_wait_are_not_looked_at_for_each_that_comes_or_is_listed(hosts):
    seats, one = HostSeats(tuple), kind(1, *hosts)
    units = [Waiting(f"u{n}", 0, n) for n in range(MANY)]
    async with trio.open_nursery() as nursery:
        Name.looks = 0
        for unit in units:
            nursery.start_soon(seats.take, unit, one, "least", one.hosts)
        await trio.testing.wait_all_tasks_blocked()
        assert Name.looks < MANY * 50
        Name.looks = 0
        waits = [place(unit) for unit in units if unit.place is not None]
        assert len(waits) == MANY - len(hosts)
        assert Name.looks < MANY * 50
        nursery.cancel_scope.cancel()
