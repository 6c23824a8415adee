"""Units are counted by type and state as things happen, and always as a walk over all would."""

from collections import Counter
from datetime import datetime
from types import SimpleNamespace

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from work_fakes import FakeMesh, FakeNode

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units import tally
from meshnode.work.units.jsonreader import Reader
from meshnode.work.units.shortage import NotNow
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.tally import OTHER, TypeFigures, UnitTally

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "cancel", "release", "restart", "finish"]),
        st.sampled_from(["cat", "wait", "elsewhere"]),
        st.integers(0, 9),
    ),
    max_size=12,
)


def walked(node) -> Counter:
    counts: Counter = Counter()
    for unit in node.units.all():
        status = unit.status
        name = status.work_type if status.remote is None else status.remote.work_type
        counts[status.kind, name, status.state] += 1
    return counts


def counted(node) -> Counter:
    counts: Counter = Counter()
    for figures in node.units.tally:
        for state, number in figures.states.items():
            counts[figures.runner, figures.work_type, state] += number
    return +counts


async def do(node, operation: str, work_type: str, index: int) -> None:
    units = node.units.all()
    if operation == "submit":
        if work_type == "elsewhere":
            await node.submit("nowhere", "cat", ttl="1h")
        else:
            await node.submit(node.node_id, work_type)
    elif units:
        unit = units[index % len(units)]
        if operation == "finish":
            supervisor = node.launcher.supervisors.get(unit.unit_id)
            if supervisor is not None and not supervisor.ended.is_set():
                supervisor.finish()
                await unit.wait_final()
        else:
            await node.talk(f"work {operation} {unit.unit_id}")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(OPERATIONS)
def test_counts_are_those_of_a_walk_over_all_units(inline_threads, tmp_path_factory, operations):
    async def run() -> None:
        node = FakeNode(FakeMesh(), "foo", tmp_path_factory.mktemp("counts"))
        rounds: list[list] = [[]]
        for operation in operations:
            if operation[0] == "restart":
                rounds.append([])
            else:
                rounds[-1].append(operation)
        for one in rounds:
            async with node.running():
                assert counted(node) == walked(node)
                for operation in one:
                    await do(node, *operation)
                    assert counted(node) == walked(node)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def one_type(node) -> TypeFigures:
    (figures,) = node.units.tally
    return figures


async def test_a_unit_is_counted_when_it_comes_waits_starts_and_ends(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", b"12345")
        await foo.wait_final(unit_id)
        figures = await one_type(foo)
        assert (figures.runner, figures.work_type) == ("command", "cat")
        assert figures.submitted == 1
        assert figures.ended == {UnitState.SUCCEEDED: 1}
        waits, runs = figures.distributions()
        status = foo.status(unit_id)
        assert (waits.count, runs.count) == (1, 1)
        assert runs.total == seconds(status.finished) - seconds(status.started)
        assert figures.payload_bytes == 5
        await foo.talk(f"work results {unit_id}")
        assert figures.result_bytes == 5


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_units_of_the_last_run_are_there_and_were_not_submitted_again(foo):
    async with foo.running():
        await foo.submit("foo", "wait")
    async with foo.running():
        figures = await one_type(foo)
        assert figures.submitted == 0
        assert figures.states[UnitState.RUNNING] == 1


async def test_a_unit_that_was_never_started_has_waited_for_no_start(foo):
    async with foo.running():
        unit_id = await foo.submit("nowhere", "cat", ttl="1h")
        await foo.talk(f"work cancel {unit_id}")
        waits, runs = (await one_type(foo)).distributions()
        assert (waits.count, runs.count) == (0, 0)
        assert (await one_type(foo)).ended == {UnitState.CANCELED: 1}


def status(state=UnitState.PENDING, **fields) -> UnitStatus:
    return UnitStatus(state, "", "cat", **fields)


TIMES = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    st.dates().map(lambda day: day.isoformat()),
    st.text(alphabet="0123456789-:TZ+.W", max_size=30),
)


@given(st.dictionaries(st.sampled_from(["created", "started", "finished"]), TIMES))
def test_any_times_that_a_status_may_have_are_counted(times):
    try:
        for text in times.values():
            Reader({"Time": text}).time("Time")
    except WorkError:
        return
    figures = TypeFigures("command", "cat", lambda: 0.0)
    figures.came(status())
    figures.changed(status(), status(UnitState.SUCCEEDED, **times))
    assert all(found.total >= 0 for found in figures.distributions())


# --- bounds ------------------------------------------------------------------------------------


def remote(name: str):
    return SimpleNamespace(
        kind="remote",
        work_type="remote",
        remote=SimpleNamespace(work_type=name),
        state=UnitState.PENDING,
    )


def local(name: str):
    return SimpleNamespace(kind="command", work_type=name, remote=None, state=UnitState.PENDING)


def names(counts: UnitTally) -> set[str]:
    return {figures.work_type for figures in counts}


def test_names_that_others_choose_are_bounded_and_those_of_this_node_are_not():
    counts = UnitTally(lambda: 0.0)
    many = tally.MAX_REMOTE_TYPES + 10
    held = [counts.figures_of(remote(f"invented{number}")) for number in range(many)]
    assert len(names(counts)) == tally.MAX_REMOTE_TYPES + 1
    assert held[-1].work_type == OTHER
    assert counts.figures_of(local("own")).work_type == "own"


def test_a_unit_goes_from_the_figures_that_it_came_to():
    clock = SimpleNamespace(now=0.0)
    counts = UnitTally(lambda: clock.now)
    for number in range(tally.MAX_REMOTE_TYPES):
        counts.figures_of(remote(f"invented{number}"))
    late = counts.figures_of(remote("late"))
    late.came(remote("late"))
    clock.now = tally.KEPT_SECONDS + 1
    counts.forget()  # there is room for the name by now
    assert counts.figures_of(remote("late")) is not late
    late.went(remote("late"))
    assert not late.has_units


def test_a_type_that_is_offered_has_figures_before_its_first_unit_and_keeps_them():
    counts = UnitTally(lambda: 0.0)
    busy = counts.figures_of(local("busy"))
    counts.offer("command", ["busy", "new"])
    assert names(counts) == {"busy", "new"}
    assert counts.figures_of(local("busy")) is busy
    assert {figures.submitted for figures in counts} == {0}


def test_a_type_is_forgotten_an_hour_after_its_last_unit_unless_it_is_offered():
    clock = SimpleNamespace(now=0.0)
    counts = UnitTally(lambda: clock.now)
    for one in (local("offered"), local("gone"), local("busy"), remote("there")):
        counts.figures_of(one).came(one)
        if one.work_type != "busy":
            counts.figures_of(one).went(one)
    clock.now = tally.KEPT_SECONDS - 1
    counts.forget({"offered"})
    assert names(counts) == {"offered", "gone", "busy", "there"}
    clock.now = tally.KEPT_SECONDS + 1
    counts.forget({"offered"})
    assert names(counts) == {"offered", "busy"}


async def test_supervisors_are_counted_while_they_are_watched_and_units_while_the_machine_lacks(
    foo, autojump_clock
):
    async with foo.running():
        runner = foo.commands
        unit_id = await foo.submit("foo", "wait")
        assert (runner.watched, runner.short) == (1, 0)
        foo.launcher.supervisors[unit_id].finish()
        await foo.wait_final(unit_id)
        assert runner.watched == 0
        foo.launcher.refuses = NotNow("no processes")
        short = await foo.submit("foo", "wait")
        assert (runner.watched, runner.short) == (0, 1)
        foo.launcher.refuses = None
        await foo.wait_for(short, lambda status: status.state is UnitState.RUNNING)
        assert runner.short == 0
