"""The machine lacks descriptors, threads or processes: what was accepted waits; nothing dies."""

import errno
import json
import os
from functools import partial

import pytest
import trio
from work_fakes import LONG, FakeLauncher, FakeSupervisor, inline_run_sync

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local import runner as command_module
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.shortage import LONGEST_PAUSE, NotNow


class Shortage:
    """Fails calls from the ``first`` one on, so many of them; supervisors are other processes."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.calls = 0
        self.spared = 0

    def check(self, error: Exception) -> None:
        if self.spared:
            return
        self.calls += 1
        if self.first <= self.calls < self.first + self.count:
            raise error

    def sparing(self, function):
        def call(*args, **options):
            self.spared += 1
            try:
                return function(*args, **options)
            finally:
                self.spared -= 1

        return call


@pytest.fixture
def lacking(monkeypatch):
    """Return a function that makes calls fail; it says how many there were."""

    def begin(what: str, first: int, count: int) -> Shortage:
        shortage = Shortage(first, count)
        real_open = os.open

        def open_(*args, **options):
            shortage.check(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return real_open(*args, **options)

        async def run_sync(function, *args, **options):
            shortage.check(RuntimeError("can't start new thread"))
            return await inline_run_sync(function, *args)

        if what == "descriptors":
            monkeypatch.setattr(os, "open", open_)
        else:
            monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
        for name in ("set", "write", "finish"):
            method = getattr(FakeSupervisor, name)
            monkeypatch.setattr(FakeSupervisor, name, shortage.sparing(method))
        return shortage

    return begin


async def live_through(foo, shortage) -> None:
    """Submit a unit; whatever is answered is true, here and for the next start."""
    lines = await foo.talk("work submit foo cat", b"abc")
    accepted = lines[-1].startswith("{")
    with trio.fail_after(LONG):
        for unit in foo.units.all():
            await unit.wait_final()
    # What the test itself looks at.
    shortage.count = 0
    if accepted:
        unit_id = json.loads(lines[-1])["unitid"]
        assert foo.status(unit_id).state is UnitState.SUCCEEDED
        assert foo.store.read_status(unit_id).state is UnitState.SUCCEEDED
        assert foo.launcher.started == [("cat",)]
        assert (await foo.talk(f"work results {unit_id}"))[1:] == ["abc"]
    else:
        assert lines[-1].startswith("ERROR: "), lines
        assert foo.launcher.started == []
        for unit in foo.units.all():
            assert unit.status.state is UnitState.FAILED
            assert foo.store.read_status(unit.unit_id).state is UnitState.FAILED
    for unit in foo.units.all():
        assert await foo.talk(f"work release {unit.unit_id}") == [
            f'{{"released":"{unit.unit_id}"}}'
        ]
    foo.launcher.started.clear()


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("what", ["descriptors", "threads"])
async def test_at_whichever_call_there_is_none_what_is_answered_is_true(
    foo, lacking, what, count, autojump_clock
):
    async with foo.running():
        for first in range(1, 60):
            shortage = lacking(what, first, count)
            await live_through(foo, shortage)
            if shortage.calls < first:
                break
        else:
            pytest.fail("there is no end of calls")


async def test_an_accepted_unit_waits_for_a_process_and_says_so(foo, monkeypatch, autojump_clock):
    refusals = iter(range(8))

    class Poor(FakeLauncher):
        async def start(self, request):
            for _ in refusals:
                raise NotNow("cannot start a supervisor: resource temporarily unavailable")
            return await super().start(request)

    foo.launcher.__class__ = Poor
    async with foo.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(foo.talk, "work submit foo cat", b"abc"))
            await trio.testing.wait_all_tasks_blocked()
            (unit,) = foo.units.all()
            await foo.wait_for(unit.unit_id, lambda s: s.detail.startswith("Waiting to be"))
            assert unit.status.state is UnitState.PENDING
            assert unit.status.detail == (
                "Waiting to be started: cannot start a supervisor: resource temporarily unavailable"
            )
        assert (await foo.wait_final(unit.unit_id)).state is UnitState.SUCCEEDED
        assert foo.launcher.started == [("cat",)]


@pytest.mark.parametrize("subcommand", ["cancel", "release", "force-release"])
async def test_a_unit_that_waits_for_a_process_can_be_ended(foo, subcommand, autojump_clock):
    foo.launcher.refuses = NotNow("no process")
    async with foo.running(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(foo.talk, "work submit foo cat"))
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
        await foo.wait_for(unit.unit_id, lambda s: s.detail.startswith("Waiting to be"))
        word = {"cancel": "cancelled"}.get(subcommand, "released")
        assert await foo.talk(f"work {subcommand} {unit.unit_id}") == [
            f'{{"{word}":"{unit.unit_id}"}}'
        ]
        foo.launcher.refuses = None
        await trio.sleep(2 * LONGEST_PAUSE)
        assert foo.launcher.started == []
        assert unit.released or unit.status.state is UnitState.CANCELED


async def test_a_lost_unit_is_ended_when_there_are_descriptors_to_look_for_its_processes(
    foo, lacking, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        lacking("descriptors", 1, 5)
        foo.launcher.supervisors[unit_id].ended.set()
        status = await foo.wait_final(unit_id)
        assert status.detail.startswith("lost: its supervisor")
        assert foo.store.read_status(unit_id) == status


async def test_a_start_of_unknown_outcome_is_looked_for_among_the_processes(
    foo, monkeypatch, autojump_clock
):
    """The answer was lost, and the status was damaged at the same moment."""
    found = [ProcessId(101, 101_000)]
    monkeypatch.setattr(command_module, "find_supervisor", lambda directory: found[0])

    class Forgetful(FakeLauncher):
        async def start(self, request):
            await super().start(request)
            status = self.store.directory(request.unit_id) / "status"
            status.rename(status.with_name("kept"))
            status.write_text("{")
            raise command_module.OutcomeUnknown("cannot tell from status what was started")

    foo.launcher.__class__ = Forgetful
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        assert foo.status(unit_id).state is UnitState.RUNNING
        kept = foo.store.directory(unit_id) / "kept"
        kept.rename(kept.with_name("status"))
        foo.launcher.supervisors[unit_id].finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        found[0] = None
        lines = await foo.talk("work submit foo wait")
        assert lines[-1] == "ERROR: cannot tell from status what was started"


@pytest.mark.parametrize("left", [[], [ProcessId(601, 7)]])
async def test_a_start_of_unknown_outcome_has_no_end_while_its_command_runs_on(
    foo, monkeypatch, autojump_clock, left
):
    """Its supervisor was killed, too."""
    monkeypatch.setattr(command_module, "find_supervisor", lambda directory: None)
    foo.launcher.refuses = command_module.OutcomeUnknown("cannot tell from status what was started")
    asked, gone = trio.Event(), trio.Event()

    async def end_leftovers(unit_dir, grace, leaving):
        asked.set()
        await gone.wait()
        return left

    monkeypatch.setattr(foo.launcher, "end_leftovers", end_leftovers)
    async with foo.running(), trio.open_nursery() as nursery:
        nursery.start_soon(foo.talk, "work submit foo wait")
        with trio.fail_after(LONGEST_PAUSE):
            await asked.wait()
        (unit,) = foo.units.all()
        await trio.testing.wait_all_tasks_blocked()
        assert not unit.is_final
        gone.set()
        status = await foo.wait_final(unit.unit_id)
        still = "; still running: 601" if left else ""
        assert status.detail == f"lost: cannot tell from status what was started{still}"
