"""How a node fared: rings of values that are bounded, and what is told of them to whom."""

import itertools
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments
from meshnode.control.registry import CommandRegistry
from meshnode.mesh.links.base import LinkFigures
from meshnode.mesh.mesh import LinkStatus
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import AccessRules
from meshnode.web import history as module
from meshnode.web.history import HISTORY_BYTES, LENGTH, MOST_SERIES, STEP, History, Rings, _told
from meshnode.work.units.tally import TypeFigures

NAMES = st.sampled_from(["units.running", "link.bar.rtt", "link.baz.rtt", "link.qux.rtt"])
STEPS = st.lists(
    st.tuples(st.dictionaries(NAMES, st.integers(0, 1000), max_size=3), st.integers(0, 3)),
    max_size=30,
)


@given(STEPS, st.integers(1, 8), st.integers(1, 12))
def test_what_is_told_is_the_end_of_what_was_noted(steps, length, count):
    rings = Rings(length, most=10)
    noted: list[dict[str, int]] = []
    for values, missed in steps:
        rings.add(values, missed)
        noted += [{}] * missed + [values]
    told = _told(rings.latest(count, ["units.", "link."]))
    end = noted[-min(count, length) :]
    for name, values in told.items():
        assert values == [step.get(name) for step in end]
    # Nothing that was noted lately is left out while there is room.
    recent = set(itertools.chain.from_iterable(noted[-length:]))
    assert recent <= told.keys()


@given(STEPS, st.integers(1, 3))
def test_series_are_bounded_and_those_that_are_silent_make_room(steps, most):
    rings = Rings(5, most)
    for values, missed in steps:
        rings.add(values, missed)
        told = rings.latest(1, [""])
        assert len(told) <= most
        assert rings.left_out == max(0, len(values) - len(told.keys() & values.keys()))


def test_all_series_together_have_their_bytes():
    rings = Rings()
    for step in range(3):
        rings.add({f"link.node{number}.rtt": step for number in range(2 * MOST_SERIES)})
    held = rings.latest(LENGTH, [""])
    assert len(held) == MOST_SERIES
    assert sum(ring.itemsize * LENGTH for ring in held.values()) <= HISTORY_BYTES
    assert rings.left_out == MOST_SERIES


class Node:
    """What a history looks at."""

    def __init__(self) -> None:
        self.figures = TypeFigures("command", "cat", trio.current_time)
        self.links: list[LinkStatus] = []

    def history(self, *rules: str) -> History:
        words = [part for rule in rules for part in ("--access-rule", *rule.split(" | "))]
        made = load_arguments(["--local-only", "--node", "foo", *words]).rules
        registry = CommandRegistry(AccessRules(made))
        return History(registry, lambda: [self.figures], lambda: self.links)


def link(peer: str, since: float, sent: int, round_trip: float | None = 0.002) -> LinkStatus:
    figures = LinkFigures("tcp", "10.0.0.7:1", since, 1.0, 1, sent, 1, 2 * sent, 0, 0, round_trip)
    return LinkStatus(peer, 1.0, figures)


async def series(client: Any, query: str = "") -> Any:
    reply = await client.ask(f"/api/v1/history{query}")
    assert reply.status == 200, reply.body
    return reply.json["series"]


async def test_traffic_is_told_by_steps_and_begins_anew_with_another_link(make_client):
    node = Node()
    history = node.history()
    for since, sent in ((1.0, 100), (1.0, 350), (2.0, 40)):
        node.links = [link("bar", since, sent)]
        history.note()
    node.links = []
    history.note()
    told = await series(make_client(history=history))
    assert told["link.bar.sent"] == [100, 250, 40, None]
    assert told["link.bar.received"] == [200, 500, 80, None]
    assert told["link.bar.rtt"] == [0.002, 0.002, 0.002, None]


async def test_units_are_told_by_state_and_how_many_came_and_ended(make_client):
    node = Node()
    history = node.history()
    history.note()
    node.figures.submitted += 3
    node.figures._states[UnitState.RUNNING] = 2
    node.figures.ended[UnitState.SUCCEEDED] = 1
    history.note()
    history.note()
    told = await series(make_client(history=history))
    assert told["units.running"] == [0, 2, 2]
    assert told["units.submitted"] == [0, 3, 0]
    assert told["units.ended"] == [0, 1, 0]
    assert {f"units.{state.label.lower()}" for state in UnitState} <= told.keys()


async def test_time_that_the_node_did_not_run_is_a_gap(make_client, autojump_clock):
    node = Node()
    history = node.history()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(2.5 * STEP)
        autojump_clock.jump(3 * STEP)
        await trio.sleep(STEP)
        nursery.cancel_scope.cancel()
    told = await series(make_client(history=history))
    assert told["units.running"] == [0, 0, 0, None, None, 0, 0]


async def test_a_window_is_the_end_of_the_whole(make_client, monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 1_800_000_000.0)
    node = Node()
    history = node.history()
    for number in range(6):
        node.figures._states[UnitState.RUNNING] = number
        history.note()
    client = make_client(history=history)
    reply = (await client.ask("/api/v1/history?seconds=30")).json
    assert reply["series"]["units.running"] == [3, 4, 5]
    assert reply["step"] == 10
    assert reply["from"] == "2027-01-15T07:59:40.000000000Z"
    assert (await series(client))["units.running"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("rule", "status", "names"),
    [
        ("do=list | units=all", 200, {"units"}),
        ("do=mesh-status", 200, {"link"}),
        ("do=list | units=own", 403, set()),
        ("do=ping", 403, set()),
    ],
)
async def test_clients_are_told_what_they_may_know(make_client, rule, status, names):
    node = Node()
    node.links = [link("bar", 1.0, 100)]
    history = node.history(f"action=allow | who=any | {rule}")
    history.note()
    reply = await make_client(history=history).ask("/api/v1/history")
    assert reply.status == status
    if status == 200:
        assert {name.partition(".")[0] for name in reply.json["series"]} == names


@pytest.mark.parametrize("seconds", ["x", "-1", "1e3", "9" * 40])
async def test_what_is_no_span_is_malformed(make_client, seconds):
    reply = await make_client().ask(f"/api/v1/history?seconds={seconds}")
    assert (reply.status, reply.is_problem) == (400, True)
