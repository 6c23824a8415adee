"""Units that release themselves a while after their end."""

import pytest
import trio

from meshnode.errors import CommandError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.retention import LONGEST_SLEEP, Retention

DAY = 86400


def retain(node, days=30):
    node.nursery.start_soon(Retention(node.units, days * DAY, node.mesh.now).run)


def ids(node):
    return {unit.unit_id for unit in node.units.all()}


async def test_a_unit_is_released_when_its_time_is_over_and_not_before(foo, autojump_clock):
    async with foo.running():
        first = await foo.submit("foo", "cat")
        retain(foo)
        await trio.sleep(29 * DAY)
        second = await foo.submit("foo", "wait")
        foo.launcher.supervisors[second].finish()
        await foo.wait_final(second)
        assert ids(foo) == {first, second}
        await trio.sleep(DAY + LONGEST_SLEEP)
        assert first not in ids(foo)


async def test_what_has_not_ended_stays_however_old(foo, bar, autojump_clock):
    async with foo.running():
        running = await foo.submit("foo", "wait")
        waiting = await foo.submit("bar", "cat")
        retain(foo)
        await trio.sleep(1000 * DAY)
        assert ids(foo) == {running, waiting}


async def test_a_remote_unit_is_released_on_both_nodes_also_if_the_other_is_away_first(
    foo, bar, autojump_clock
):
    async with foo.running():
        async with bar.running():
            unit_id = await foo.submit("bar", "cat")
            await foo.wait_final(unit_id)
        retain(foo)
        await trio.sleep(40 * DAY)
        assert ids(foo) == {unit_id}
        async with bar.running():
            await trio.sleep(DAY)
            assert ids(foo) == ids(bar) == set()


async def test_a_unit_that_cannot_be_released_keeps_no_other_and_is_tried_again(
    foo, monkeypatch, caplog, autojump_clock
):
    async with foo.running():
        stuck = await foo.submit("foo", "cat")
        other = await foo.submit("foo", "cat")
        release = foo.units.ender.release

        async def refuse(unit, *by, **options):
            if unit.unit_id == stuck:
                raise CommandError("the disk is read-only")
            return await release(unit, *by, **options)

        with monkeypatch.context() as patch:
            patch.setattr(foo.units.ender, "release", refuse)
            retain(foo)
            await trio.sleep(31 * DAY)
            assert ids(foo) == {stuck}
            assert f"unit {stuck}: not released 720h0m0s after its end" in caplog.text
        await trio.sleep(2 * LONGEST_SLEEP)
        assert ids(foo) == set()
        assert other not in ids(foo)


async def test_a_unit_that_does_not_say_when_it_ended_counts_from_its_last_change(
    foo, autojump_clock
):
    directory = foo.store.directory("NImim5WA")
    directory.mkdir(parents=True)
    (directory / "status").write_text(
        '{"State":2,"Detail":"exit status 0","StdoutSize":0,"WorkType":"cat","ExtraData":null}'
    )
    async with foo.running():
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.SUCCEEDED
        age = (foo.mesh.now() - foo.store.last_written("NImim5WA")).total_seconds()
        retain(foo)
        await trio.testing.wait_all_tasks_blocked()
        assert ids(foo) == ({"NImim5WA"} if age < 30 * DAY else set())
        await trio.sleep(max(0, 30 * DAY - age) + LONGEST_SLEEP)
        assert ids(foo) == set()


@pytest.mark.parametrize("days", [0.00001, 30, 100_000])
async def test_any_span_of_time_is_one(foo, autojump_clock, days):
    async with foo.running():
        await foo.submit("foo", "cat")
        retain(foo, days)
        await trio.sleep(100)


async def test_a_release_that_the_other_node_refuses_is_tried_again(
    foo, bar, monkeypatch, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        await foo.wait_final(unit_id)

        async def refuse(unit, *by, **options):
            raise CommandError("not now")

        with monkeypatch.context() as patch:
            patch.setattr(bar.units.ender, "release", refuse)
            assert await foo.talk(f"work release {unit_id}") == [
                "ERROR: error releasing remote unit: not now"
            ]
            assert foo.status(unit_id).remote.released is False
            assert foo.store.read_status(unit_id).remote.released is False
            retain(foo, days=1)
            await trio.sleep(2 * DAY)
            assert ids(foo) == {unit_id}
        await trio.sleep(2 * LONGEST_SLEEP)
        assert ids(foo) == ids(bar) == set()
