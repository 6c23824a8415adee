"""The hub of events: any sequence of changes, any readers, and what they end up with."""

import json
from collections import Counter
from contextlib import ExitStack

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from meshnode.control import events
from meshnode.control.events import Change, EventHub, Listener, Topic

UNITS = st.sampled_from([f"unit{number}" for number in range(4)])
LINKS = st.sampled_from(["bar", "baz", "qux"])
TOPICS = st.sampled_from([(Topic.UNIT,), (Topic.LINK,), (Topic.UNIT, Topic.LINK)])
MOST = 2
"""Entries of a log in these tests: less than there are things."""


class Reader:
    """Somebody who asks for everything, and then keeps it up to date by events."""

    def __init__(self, world: "HubMachine", topics: tuple[Topic, ...]) -> None:
        self.world, self.topics = world, topics
        self.seen: dict[tuple[str, str], int] = {}
        self.stack = ExitStack()
        self.listener = self.join(None)
        self.last = self.listener.seq
        """The number of the last line that it has read."""
        self.ask()

    def join(self, since: int | None) -> Listener:
        return self.stack.enter_context(self.world.hub.listen(self.topics, since))

    def ask(self) -> None:
        things = self.world.things.items()
        self.seen = {key: value for key, value in things if key[0] in self.topics}

    def come_back(self) -> None:
        self.stack.close()
        self.listener = self.join(self.last)

    def read(self, most: int) -> bool:
        batch = self.listener.take(most)
        if batch is None:
            return False
        self.last = self.listener.seq
        if batch.is_lost:
            self.ask()
            return True
        assert len(batch.entries) <= most
        for entry in batch.entries:
            told = json.loads(self.world.hub.line(entry, batch.after))
            assert told["seq"] > batch.after
            key, change = (told["topic"], told["id"]), told["change"]
            if change in events.GOES:
                self.seen.pop(key, None)
            else:
                self.seen[key] = told["value"]
        return True

    def read_to_the_end(self) -> None:
        for _ in range(100):
            if not self.read(2):
                break
        else:
            raise AssertionError("reading never ends")
        things = self.world.things.items()
        assert self.seen == {key: value for key, value in things if key[0] in self.topics}


class HubMachine(RuleBasedStateMachine):
    """Things that change, and readers of them that come, go, sleep and come back."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.hub = EventHub(clock=lambda: 1e9, monotonic=lambda: self.now, most=MOST)
        self.things: dict[tuple[str, str], int] = {}
        self.ended: set[tuple[str, str]] = set()
        self.readers: list[Reader] = []
        self.counter = 0

    def change(self, topic: Topic, name: str, change: Change) -> None:
        key = (str(topic), name)
        self.counter += 1
        if change in events.GOES:
            self.things.pop(key, None)
        else:
            self.things[key] = self.counter
        if self.hub.is_on:
            self.hub.tell(topic, (name,), change, lambda: {"value": self.things.get(key, 0)})

    @rule(name=UNITS)
    def change_a_unit(self, name: str) -> None:
        known = ("unit", name) in self.things
        self.change(Topic.UNIT, name, Change.CHANGED if known else Change.CREATED)

    @rule(name=UNITS)
    def end_a_unit(self, name: str) -> None:
        if ("unit", name) in self.things:
            self.change(Topic.UNIT, name, Change.ENDED)

    @rule(name=UNITS)
    def release_a_unit(self, name: str) -> None:
        if ("unit", name) in self.things:
            self.change(Topic.UNIT, name, Change.RELEASED)

    @rule(name=LINKS)
    def a_link_goes_up_or_down(self, name: str) -> None:
        up = ("link", name) in self.things
        self.change(Topic.LINK, name, Change.DOWN if up else Change.UP)

    @rule(topics=TOPICS)
    def somebody_listens(self, topics: tuple[Topic, ...]) -> None:
        if len(self.readers) < 4:
            self.readers.append(Reader(self, topics))

    @rule(which=st.integers(0, 3), most=st.integers(1, 4))
    def somebody_reads(self, which: int, most: int) -> None:
        for reader in self.readers[which : which + 1]:
            reader.read(most)

    @rule(which=st.integers(0, 3))
    def somebody_comes_back(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            reader.come_back()

    @rule(which=st.integers(0, 3), seconds=st.sampled_from([1.0, events.STAYS_ON, 1e6]))
    def somebody_leaves_for_some_time(self, which: int, seconds: float) -> None:
        for reader in self.readers[which : which + 1]:
            reader.stack.close()
            self.now += seconds
            self.change(Topic.LINK, "bar", Change.UP)
            reader.come_back()

    @invariant()
    def whoever_reads_to_the_end_has_the_truth(self) -> None:
        for reader in getattr(self, "readers", ()):
            # Another one of the same knowledge: the slow one itself shall stay slow.
            other = Reader(self, reader.topics)
            other.last, other.seen = reader.last, dict(reader.seen)
            other.come_back()
            other.read_to_the_end()
            other.stack.close()

    def teardown(self) -> None:
        for reader in getattr(self, "readers", ()):
            reader.read_to_the_end()
            reader.stack.close()


def test_any_reader_ends_up_with_the_truth_or_is_told_that_something_is_lost():
    often = settings(max_examples=60, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(HubMachine, settings=often)


def hub(**kwargs: object) -> EventHub:
    return EventHub(clock=lambda: 1e9, monotonic=lambda: 0.0, **kwargs)  # type: ignore[arg-type]


def tell(told: EventHub, name: str, change: Change, topic: Topic = Topic.UNIT) -> None:
    told.tell(topic, (name,), change, lambda: {"unit": {"ID": name}})


def lines(told: EventHub, listener: Listener) -> list[tuple[str, str]]:
    batch = listener.take()
    if batch is None:
        return []
    found = [json.loads(told.line(entry, batch.after)) for entry in batch.entries]
    return [(one["id"], one["change"]) for one in found]


def test_nothing_is_noted_while_nobody_listens():
    told = hub()
    assert not told.is_on
    tell(told, "a", Change.CREATED)
    with told.listen([Topic.UNIT]) as listener:
        assert told.is_on
        assert lines(told, listener) == []


def test_a_reader_is_told_of_many_changes_of_a_thing_once():
    told = hub()
    with told.listen([Topic.UNIT]) as listener:
        tell(told, "a", Change.CREATED)
        for _ in range(100):
            tell(told, "a", Change.CHANGED)
        assert lines(told, listener) == [("a", "created")]
        tell(told, "a", Change.CHANGED)
        assert lines(told, listener) == [("a", "changed")]
        tell(told, "a", Change.ENDED)
        tell(told, "a", Change.CHANGED)
        assert lines(told, listener) == [("a", "ended")]
        tell(told, "a", Change.RELEASED)
        assert lines(told, listener) == [("a", "released")]


def test_a_flood_of_one_topic_costs_readers_of_another_nothing():
    told = hub(most=4)
    with told.listen([Topic.LINK]) as listener:
        tell(told, "bar", Change.DOWN, Topic.LINK)
        for number in range(100):
            tell(told, str(number), Change.CREATED)
        assert lines(told, listener) == [("bar", "down")]


def test_a_slow_reader_is_told_that_it_has_lost_something_and_goes_on_from_there():
    told = hub(most=4)
    with told.listen([Topic.UNIT]) as slow:
        for number in range(10):
            tell(told, str(number), Change.CREATED)
        batch = slow.take()
        assert batch is not None
        assert batch.is_lost
        assert batch.missed == 6
        assert slow.take() is None
        tell(told, "new", Change.CREATED)
        assert lines(told, slow) == [("new", "created")]


def test_a_number_from_an_earlier_life_of_the_node_is_known_to_be_one():
    earlier = EventHub(clock=lambda: 1e9, monotonic=lambda: 0.0)
    with earlier.listen([Topic.UNIT]) as listener:
        tell(earlier, "a", Change.CREATED)
        since = listener.seq
    later = EventHub(clock=lambda: 1e9 + 5, monotonic=lambda: 0.0)
    for number in (since, later.seq + 10**9, 0, -1):
        with later.listen([Topic.UNIT], number) as listener:
            batch = listener.take()
            assert batch is not None
            assert batch.is_lost
            assert batch.missed is None


def test_numbers_are_exact_where_numbers_are_floating_point():
    assert EventHub(clock=lambda: 4e9).seq < 2**53


def test_entries_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "LOG_BYTES", 50_000)
    told = hub()
    with told.listen([Topic.SERVICE]) as fast, told.listen([Topic.SERVICE]) as slow:
        for number in range(10):
            told.tell(Topic.SERVICE, (str(number),), Change.ADDED, lambda: {"tags": "x" * 10_000})
            assert len(lines(told, fast)) == 1
        batch = slow.take()
        assert batch is not None
        assert batch.is_lost


async def test_a_listener_wakes_for_its_topics_only(autojump_clock: trio.testing.MockClock):
    told = EventHub()
    woken: Counter[str] = Counter()

    async def count(topic: Topic) -> None:
        with told.listen([topic]) as listener:
            while True:
                await listener.wait()
                listener.take()
                woken[topic] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count, Topic.UNIT)
        nursery.start_soon(count, Topic.LINK)
        await trio.testing.wait_all_tasks_blocked()
        woken.clear()
        tell(told, "a", Change.CREATED)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == {Topic.UNIT: 1}
        nursery.cancel_scope.cancel()
