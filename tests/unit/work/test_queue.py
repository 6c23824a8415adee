"""Units wait for a place, by priority and then as they came, across restarts and power cuts."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.queue import QueueBounds, RunQueue

TYPES = ("render", "test", "free")
BOUNDS = st.builds(
    QueueBounds,
    st.none() | st.integers(1, 4),
    st.dictionaries(st.sampled_from(TYPES[:2]), st.integers(1, 3)),
)


class FakeUnit:
    """What a queue looks at of a unit."""

    def __init__(self, unit_id: str, work_type: str, priority: int = 0) -> None:
        self.unit_id = unit_id
        self.is_final = False
        self.place = None
        self.status = SimpleNamespace(
            work_type=work_type, priority=priority, created=unit_id, remote=None
        )
        self.listeners = []

    def add_listener(self, listener) -> None:
        self.listeners.append(listener)

    def remove_listener(self, listener) -> None:
        self.listeners.remove(listener)

    def end(self) -> None:
        self.is_final = True
        for listener in tuple(self.listeners):
            listener()


class QueueModel(RuleBasedStateMachine):
    """A queue against the obvious one: of all that may start, the first by rank."""

    units = Bundle("units")

    def __init__(self) -> None:
        super().__init__()
        self.running: list[FakeUnit] = []
        self.waiting: list[FakeUnit] = []
        self.started: list[str] = []
        self.queue = RunQueue(self.begin)
        self.queue.open()
        self.number = 0

    def begin(self, unit: FakeUnit) -> None:
        assert unit.place is None
        self.started.append(unit.unit_id)

    def has_room(self, work_type: str) -> bool:
        bounds, kinds = self.queue.bounds, Counter(u.status.work_type for u in self.running)
        if bounds.running is not None and len(self.running) >= bounds.running:
            return False
        most = bounds.by_type.get(work_type)
        return most is None or kinds[work_type] < most

    def expect_starts(self) -> None:
        expected = []
        while True:
            ready = [unit for unit in self.waiting if self.has_room(unit.status.work_type)]
            if not ready:
                break
            first = min(ready, key=lambda u: (-u.status.priority, u.status.created))
            self.waiting.remove(first)
            self.running.append(first)
            expected.append(first.unit_id)
        assert self.started == expected
        self.started.clear()

    @rule(target=units, work_type=st.sampled_from(TYPES), priority=st.integers(-1, 1))
    def come(self, work_type, priority):
        self.number += 1
        unit = FakeUnit(f"{self.number:06d}", work_type, priority)
        ahead = [
            other
            for other in self.waiting
            if other.status.work_type == work_type and other.status.priority >= priority
        ]
        may_run = self.has_room(work_type) and not ahead
        assert self.queue.enter(unit) == may_run
        (self.running if may_run else self.waiting).append(unit)
        self.expect_starts()
        return unit

    @rule(unit=consumes(units))
    def end(self, unit):
        (self.waiting if unit in self.waiting else self.running).remove(unit)
        unit.end()
        self.expect_starts()

    @rule(bounds=BOUNDS)
    def reload(self, bounds):
        self.queue.bounds = bounds
        self.expect_starts()

    @invariant()
    def all_know_where_they_stand(self):
        for unit in self.waiting:
            assert self.queue.is_waiting(unit)
            words = unit.place()
            assert words.startswith("Queued: ")
            assert f" of {len(self.waiting)} (maxrunning" in words or "(maxconcurrent" in words
        assert [u for u in self.running if u.place is not None] == []


QueueModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueModel = QueueModel.TestCase


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (112, "112th"), (121, "121st")],
)
def test_a_place_is_told_as_people_say_it(number, words):
    queue = RunQueue(lambda unit: None)
    queue.bounds = QueueBounds(None, {"render": 2})
    queue.open()
    units = [FakeUnit(f"{index:06d}", "render") for index in range(130)]
    for unit in units:
        queue.enter(unit)
    number = int(words[:-2])
    assert units[number + 1].place() == f"Queued: {words} of 128 (maxconcurrent 2)"


# --- with all that a node has ---------------------------------------------------------------------


@pytest.fixture
def bounded(foo):
    foo.queue_bounds = QueueBounds(None, {"wait": 1})
    return foo


async def detail_of(node, unit_id: str) -> str:
    (line,) = await node.talk(f"work status {unit_id}")
    return json.loads(line)["Detail"]


async def test_what_is_beyond_the_bound_waits_pending_and_starts_in_the_order_it_came(
    bounded, autojump_clock
):
    async with bounded.running():
        ids = [await bounded.submit("foo", "wait", params=str(i)) for i in range(4)]
        assert len(bounded.launcher.started) == 1
        assert [bounded.status(u).state for u in ids[1:]] == [UnitState.PENDING] * 3
        assert await detail_of(bounded, ids[2]) == "Queued: 2nd of 3 (maxconcurrent 1)"
        for number, unit_id in enumerate(ids):
            await bounded.wait_for(unit_id, lambda s: s.state is UnitState.RUNNING)
            assert len(bounded.launcher.started) == number + 1
            bounded.launcher.supervisors[unit_id].finish()
            await bounded.wait_final(unit_id)


async def test_maxrunning_counts_all_types_and_no_unit_on_another_node(foo, bar, autojump_clock):
    foo.queue_bounds = QueueBounds(1, {})
    async with foo.running(), bar.running():
        first = await foo.submit("foo", "wait")
        elsewhere = await foo.submit("bar", "cat", b"x")
        await foo.wait_final(elsewhere)
        second = await foo.submit("foo", "echo")
        assert await detail_of(foo, second) == "Queued: 1st of 1 (maxrunning 1)"
        foo.launcher.supervisors[first].finish()
        await foo.wait_for(second, lambda s: s.state is UnitState.RUNNING)


async def test_a_unit_that_waits_can_be_canceled_and_released_and_never_runs(
    bounded, autojump_clock
):
    async with bounded.running():
        first, canceled, released = [await bounded.submit("foo", "wait") for _ in range(3)]
        await bounded.talk(f"work cancel {canceled}")
        assert bounded.status(canceled).state is UnitState.CANCELED
        await bounded.talk(f"work release {released}")
        assert not bounded.store.directory(released).exists()
        bounded.launcher.supervisors[first].finish()
        await bounded.wait_final(first)
        last = await bounded.submit("foo", "wait")
        await bounded.wait_for(last, lambda s: s.state is UnitState.RUNNING)
        assert len(bounded.launcher.started) == 2


async def test_a_restart_keeps_the_order_and_starts_nothing_beyond_the_bound(
    bounded, autojump_clock
):
    async with bounded.running():
        ids = []
        for number in range(5):
            ids.append(await bounded.submit("foo", "wait", params=str(number)))
            # Its creation is what is left of the order.
            await trio.sleep(1)
    async with bounded.running():
        for number, unit_id in enumerate(ids):
            await bounded.wait_for(unit_id, lambda s: s.state is UnitState.RUNNING)
            assert len(bounded.launcher.started) == number + 1
            bounded.launcher.supervisors[unit_id].finish()
            await bounded.wait_final(unit_id)
    assert [argv[-1] for argv in bounded.launcher.started] == ["0", "1", "2", "3", "4"]


async def test_a_unit_that_waited_starts_after_a_power_cut_and_one_that_did_not_is_lost(
    bounded, autojump_clock
):
    async with bounded.running():
        first, second = [await bounded.submit("foo", "wait") for _ in range(2)]
    status = bounded.store.read_status(first)
    bounded.store.write_status(first, replace(status, state=UnitState.PENDING, supervisor=None))
    bounded.boot = "second boot"
    async with bounded.running():
        assert (await bounded.wait_final(first)).detail.startswith("lost: the machine went down")
        await bounded.wait_for(second, lambda s: s.state is UnitState.RUNNING)


async def test_the_node_that_submitted_it_is_told_where_a_unit_stands(foo, bar, autojump_clock):
    bar.queue_bounds = QueueBounds(None, {"wait": 1})
    async with foo.running(), bar.running():
        first, second, third = [await foo.submit("bar", "wait") for _ in range(3)]
        await foo.wait_for(third, lambda s: s.detail == "Queued: 2nd of 2 (maxconcurrent 1)")
        there = foo.status(first).remote.unit_id
        bar.launcher.supervisors[there].finish()
        await foo.wait_for(third, lambda s: s.detail == "Queued: 1st of 1 (maxconcurrent 1)")
        await foo.wait_for(second, lambda s: s.state is UnitState.RUNNING)


async def test_a_reload_that_lifts_the_bound_starts_all_that_waits(bounded, autojump_clock):
    async with bounded.running():
        ids = [await bounded.submit("foo", "wait") for _ in range(3)]
        bounded.units.queue.bounds = QueueBounds()
        for unit_id in ids:
            await bounded.wait_for(unit_id, lambda s: s.state is UnitState.RUNNING)


async def test_what_runs_counts_after_a_reload_that_sets_a_bound(foo, autojump_clock):
    async with foo.running():
        first = await foo.submit("foo", "wait")
        foo.units.queue.bounds = QueueBounds(None, {"wait": 1})
        second = await foo.submit("foo", "wait")
        assert foo.status(second).state is UnitState.PENDING
        foo.launcher.supervisors[first].finish()
        await foo.wait_for(second, lambda s: s.state is UnitState.RUNNING)


async def test_the_highest_priority_goes_first(bounded, autojump_clock):
    async with bounded.running():
        first = await bounded.submit("foo", "wait")
        low = await bounded.submit("foo", "wait", jobpriority="-1")
        high = await bounded.submit("foo", "wait", jobpriority="5")
        assert await detail_of(bounded, low) == "Queued: 2nd of 2 (maxconcurrent 1)"
    async with bounded.running():
        bounded.launcher.supervisors[first].finish()
        await bounded.wait_for(high, lambda s: s.state is UnitState.RUNNING)
        assert bounded.status(low).state is UnitState.PENDING


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (QueueBounds(None, {"render": 2}), "(maxconcurrent 2)"),
        (QueueBounds(5, {"render": 2}), "(maxrunning 5)"),
        (QueueBounds(5), "(maxrunning 5)"),
    ],
)
def test_what_waits_before_all_is_known_names_a_bound_that_there_is(bounds, why):
    queue = RunQueue(lambda unit: None)
    queue.bounds = bounds
    units = [FakeUnit(f"u{number}", "render") for number in range(3)]
    for unit in units:
        queue.enter(unit)
    assert [unit.place() for unit in units] == [
        f"Queued: {number} of 3 {why}" for number in ("1st", "2nd", "3rd")
    ]
