"""A unit waits for units and batches that it was told to come after, and then runs once."""

import errno
import json
import os
from itertools import product

import pytest
import trio
from test_batches import ask, run_commands, submit
from work_fakes import MortalStore

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.after import AFTER_KEY
from meshnode.work.units.queue import QueueBounds

HOW = {UnitState.FAILED: "failed", UnitState.CANCELED: "was canceled"}


async def come_after(node, *targets: str, to: str = "", work_type: str = "cat", **fields) -> str:
    fields = {AFTER_KEY: ",".join(targets), **fields}
    return await node.submit(to or node.node_id, work_type, b"payload", **fields)


async def told(node, unit_id: str) -> dict:
    (line,) = await node.talk(f"work status {unit_id}")
    return json.loads(line)


async def end(node, unit_id: str, state: UnitState) -> None:
    if state is UnitState.CANCELED:
        await node.talk(f"work cancel {unit_id}")
    else:
        node.launcher.supervisors[unit_id].finish(state, "it ended", 1)
    await node.wait_final(unit_id)


@pytest.mark.parametrize("state", [UnitState.SUCCEEDED, *HOW])
@pytest.mark.parametrize("condition", ["", ":success", ":end"])
@pytest.mark.parametrize("to", ["foo", "bar"])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_unit_starts_when_another_has_ended_as_it_must(
    autojump_clock, foo, bar, state, condition, to, restarts
):
    starts = state is UnitState.SUCCEEDED or condition == ":end"
    async with bar.running():
        async with foo.running():
            first = await foo.submit("foo", "wait")
            second = await come_after(foo, f"{first}{condition}", to=to)
            what = "end" if condition == ":end" else "succeed"
            status = await told(foo, second)
            assert status["Detail"] == f"waiting for unit {first} to {what} (Running)"
            assert (status["StateName"], status["StdinSize"]) == ("Pending", len(b"payload"))
            if restarts:
                foo.kill()
        foo.mesh.heal()
        async with foo.running():
            assert (await told(foo, second))["Detail"] == status["Detail"]
            assert [*foo.launcher.supervisors] == [first]
            assert bar.launcher.started == []
            await end(foo, first, state)
            status = await foo.wait_final(second)
            if starts:
                assert (status.state, status.after) == (UnitState.SUCCEEDED, ())
                assert foo.stdout(second) == b"payload"
            else:
                assert status.state is UnitState.FAILED
                assert status.detail == f"unit {first} {HOW[state]}: not started"
                assert not foo.store.deps_path(second).with_name("stdin").read_bytes()
            assert len(foo.launcher.started) + len(bar.launcher.started) == 1 + starts


async def test_a_client_hears_at_once_that_its_unit_never_starts(autojump_clock, foo):
    async with foo.running():
        first = await foo.submit("foo", "wait")
        await end(foo, first, UnitState.FAILED)
        lines = await foo.talk(
            {
                **{"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"},
                AFTER_KEY: first,
            },
            b"",
        )
        assert lines[1] == f"ERROR: unit {first} failed: not started"
        (second,) = (unit for unit in foo.units.all() if unit.unit_id != first)
        assert second.status.state is UnitState.FAILED


@pytest.mark.parametrize("ends", [*product([UnitState.SUCCEEDED, UnitState.FAILED], repeat=2)])
@pytest.mark.parametrize("kills", [0, 1, 2])
async def test_a_unit_that_comes_after_several_waits_for_each(autojump_clock, foo, ends, kills):
    async with foo.running():
        one, two = [await foo.submit("foo", "wait") for _ in range(2)]
        unit = await come_after(foo, f"{one}:end", two)
        await end(foo, one, ends[0])
        await foo.wait_for(unit, lambda status: len(status.after) == 1)
        detail = (await told(foo, unit))["Detail"]
        assert detail == f"waiting for unit {two} to succeed (Running)"
        # What has ended is on record: it may go.
        await foo.talk(f"work release {one}")
        if kills:
            foo.kill()
    async with foo.running():
        await end(foo, two, ends[1])
        if kills == 2:
            foo.kill()
    async with foo.running():
        status = await foo.wait_final(unit)
        starts = ends[1] is UnitState.SUCCEEDED
        assert status.state is (UnitState.SUCCEEDED if starts else UnitState.FAILED)
        assert len(foo.launcher.started) == 2 + starts


@pytest.mark.parametrize("writes", range(12))
@pytest.mark.parametrize("state", [UnitState.SUCCEEDED, UnitState.FAILED])
async def test_a_kill_before_any_record_of_a_chain_runs_nothing_twice_and_nothing_too_early(
    autojump_clock, foo, monkeypatch, writes, state
):
    """The node dies before it writes the next status, whichever that is."""
    left = writes

    def write_status(self, unit_id, status, **how):
        nonlocal left
        left -= 1
        if left < 0 and not self.dead:
            foo.kill()
        if not self.dead:
            super(MortalStore, self).write_status(unit_id, status, **how)

    monkeypatch.setattr(MortalStore, "write_status", write_status)
    made: list[str] = []
    async with foo.running():
        with trio.move_on_after(60):
            made.append(await foo.submit("foo", "wait"))
            made.append(await come_after(foo, made[0]))
            made.append(await come_after(foo, made[1]))
            foo.launcher.supervisors[made[0]].finish(state, "it ended", 1)
            await foo.wait_final(made[-1])
    left = 1000
    async with foo.running():
        units = foo.units.all()
        if made and made[0] in foo.launcher.supervisors:
            supervisor = foo.launcher.supervisors[made[0]]
            if not supervisor.ended.is_set():
                supervisor.finish(state, "it ended", 1)
        for unit in units:
            if unit.unit_id in made or unit.status.input_complete:
                await foo.wait_final(unit.unit_id)
        started = [*foo.launcher.supervisors]
        assert len(foo.launcher.started) == len(started)
        if state is UnitState.FAILED:
            assert set(started) <= set(made[:1])
        elif len(made) == 3:
            assert started == made


@pytest.mark.parametrize("to", ["foo", "bar"])
@pytest.mark.parametrize("request_", ["cancel", "release", "force-release"])
async def test_a_unit_that_waits_for_another_can_be_ended(autojump_clock, foo, bar, to, request_):
    async with foo.running(), bar.running():
        first = await foo.submit("foo", "wait")
        unit = await come_after(foo, first, to=to)
        (line,) = await foo.talk(f"work {request_} {unit}")
        done = "cancelled" if request_ == "cancel" else "released"
        assert json.loads(line) == {done: unit}
        if request_ == "cancel":
            assert foo.status(unit).state is UnitState.CANCELED
        else:
            assert len(foo.units.all()) == 1
        await end(foo, first, UnitState.SUCCEEDED)
        await trio.sleep(60)
        assert len(foo.launcher.started) + len(bar.launcher.started) == 1


@pytest.mark.parametrize(("condition", "starts"), [("", False), (":end", True)])
@pytest.mark.parametrize("restarts", [False, True])
async def test_what_was_released_before_its_end_was_no_success(
    autojump_clock, foo, condition, starts, restarts
):
    async with foo.running():
        first = await foo.submit("foo", "wait")
        unit = await come_after(foo, first + condition)
        if restarts:
            foo.kill()
        else:
            await foo.talk(f"work release {first}")
    foo.mesh.heal()
    if restarts:
        foo.store.purge(foo.store.unlink(first))
    async with foo.running():
        status = await foo.wait_final(unit)
        if starts:
            assert status.state is UnitState.SUCCEEDED
        else:
            how = "is gone" if restarts else "was canceled"
            assert status.detail == f"unit {first} {how}: not started"


@pytest.mark.parametrize("state", [UnitState.SUCCEEDED, UnitState.FAILED])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_unit_comes_after_a_batch(autojump_clock, foo, state, restarts):
    async with foo.running():
        batch = await submit(foo, "1-3", worktype="wait")
        unit = await come_after(foo, batch)
        detail = (await told(foo, unit))["Detail"]
        assert detail == f"waiting for batch {batch} to succeed (Running)"
        if restarts:
            foo.kill()
    foo.mesh.heal()
    async with foo.running():
        assert (await told(foo, unit))["Detail"] == detail
        await run_commands(foo, batch, state, int(state is UnitState.FAILED))
        status = await foo.wait_final(unit)
        if state is UnitState.FAILED:
            assert status.detail == f"batch {batch} failed: not started"
        else:
            assert status.state is UnitState.SUCCEEDED
        assert len(foo.launcher.started) == 3 + (state is UnitState.SUCCEEDED)


async def test_a_unit_does_not_start_when_its_batch_is_released(autojump_clock, foo):
    async with foo.running():
        batch = await submit(foo, "1-3", worktype="wait")
        unit = await come_after(foo, batch)
        await ask(foo, "release", batch)
        assert (await foo.wait_final(unit)).detail == f"batch {batch} is gone: not started"


async def test_units_and_batches_make_one_chain(autojump_clock, foo):
    async with foo.running():
        first = await foo.submit("foo", "wait")
        second = await come_after(foo, first)
        batch = await submit(foo, "1-2", **{AFTER_KEY: second})
        third = await come_after(foo, batch)
        await end(foo, first, UnitState.SUCCEEDED)
        assert (await foo.wait_final(third)).state is UnitState.SUCCEEDED
        assert len(foo.launcher.started) == 5


async def test_who_has_waited_for_others_waits_for_a_place_as_well(autojump_clock, foo):
    foo.queue_bounds = QueueBounds(1)
    async with foo.running():
        first, other = [await foo.submit("foo", "wait") for _ in range(2)]
        unit = await come_after(foo, first)
        await end(foo, first, UnitState.SUCCEEDED)
        await foo.wait_for(unit, lambda status: not status.after)
        await trio.testing.wait_all_tasks_blocked()
        assert (await told(foo, unit))["Detail"] == "Queued: 1st of 1 (maxrunning 1)"
        await end(foo, other, UnitState.SUCCEEDED)
        assert (await foo.wait_final(unit)).state is UnitState.SUCCEEDED


@pytest.mark.parametrize("waits", [True, False])
async def test_the_time_to_start_goes_on_while_a_unit_waits_for_others(
    autojump_clock, foo, bar, waits
):
    async with foo.running(), bar.running():
        first = await foo.submit("foo", "wait")
        unit = await come_after(foo, first, to="bar", ttl="1m")
        await trio.sleep(30)
        assert foo.status(unit).state is UnitState.PENDING
        if waits:
            await trio.sleep(31)
            status = foo.status(unit)
            assert status.state is UnitState.FAILED
            waited = f"waiting for unit {first} to succeed (Running)"
            assert status.detail == f"Work unit expired on Mon Nov 2 03:01:00; {waited}"
            await end(foo, first, UnitState.SUCCEEDED)
            assert bar.launcher.started == []
        else:
            await end(foo, first, UnitState.SUCCEEDED)
            assert (await foo.wait_final(unit)).state is UnitState.SUCCEEDED


async def test_a_time_to_start_that_ended_while_the_node_was_down_is_over(autojump_clock, foo, bar):
    async with bar.running():
        async with foo.running():
            first = await foo.submit("foo", "wait")
            unit = await come_after(foo, first, to="bar", ttl="1m")
        await trio.sleep(61)
        async with foo.running():
            assert (await foo.wait_final(unit)).detail.startswith("Work unit expired on ")
        assert bar.launcher.started == []


async def test_a_disk_that_is_full_delays_a_start_and_fails_nothing(
    autojump_clock, foo, monkeypatch
):
    is_full = False

    def write_status(self, unit_id, status, **how):
        if is_full and not status.state.is_final:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super(MortalStore, self).write_status(unit_id, status, **how)

    monkeypatch.setattr(MortalStore, "write_status", write_status)
    async with foo.running():
        first = await foo.submit("foo", "wait")
        unit = await come_after(foo, first)
        is_full = True
        await end(foo, first, UnitState.SUCCEEDED)
        await trio.sleep(60)
        detail = (await told(foo, unit))["Detail"]
        assert detail == "cannot record the status: No space left on device"
        is_full = False
        assert (await foo.wait_final(unit)).state is UnitState.SUCCEEDED


async def test_a_unit_that_waits_for_another_has_no_task(autojump_clock, foo):
    async with foo.running():
        first = await foo.submit("foo", "wait")
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        units = [await come_after(foo, first) for _ in range(50)]
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before
        await end(foo, first, UnitState.SUCCEEDED)
        for unit in units:
            assert (await foo.wait_final(unit)).state is UnitState.SUCCEEDED


async def test_who_watches_a_unit_that_waits_hears_how_it_stands_with_the_other(
    autojump_clock, foo
):
    foo.queue_bounds = QueueBounds(1)
    async with foo.running():
        other, first = [await foo.submit("foo", "wait") for _ in range(2)]
        unit = await come_after(foo, first)
        watched = foo.connect()
        await watched.send_all(
            json.dumps({"command": "work", "subcommand": "watch", "unitid": unit}).encode() + b"\n"
        )
        await trio.testing.wait_all_tasks_blocked()
        await end(foo, other, UnitState.SUCCEEDED)
        await foo.wait_for(first, lambda status: status.state is UnitState.RUNNING)
        await end(foo, first, UnitState.SUCCEEDED)
        lines = b"".join([chunk async for chunk in watched]).decode().splitlines()[1:]
        details = [json.loads(line)["Detail"] for line in lines]
        assert details[:2] == [
            f"waiting for unit {first} to succeed ({state})" for state in ("Pending", "Running")
        ]


@pytest.mark.parametrize("target", ["AAAAAAAA", "b-AAAAAAAA", "AAAAAAAA:end", "a b", "é", "a:b"])
async def test_what_is_not_there_or_is_no_id_is_refused_and_nothing_is_left(
    autojump_clock, foo, target
):
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        (line,) = await foo.talk({**request, AFTER_KEY: target})
        assert line.startswith(("ERROR: unknown ", "ERROR: after "))
        assert foo.units.all() == ()


async def test_long_texts_in_what_to_wait_for_are_shown_shortened(autojump_clock, foo):
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        for text in ("a" * 10_000, "!" * 10_000, "a:" + "b" * 10_000):
            (line,) = await foo.talk({**request, AFTER_KEY: text})
            assert line.startswith("ERROR: ")
            assert len(line) < 200
