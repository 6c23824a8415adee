"""Whatever does not answer, or refuses: a unit can be ended, and is told ended when it is."""

import errno
import os
from functools import partial

import pytest
import trio
from work_fakes import FakeLauncher

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.runner import FORCE_TIMEOUT, CommandType
from meshnode.work.remote.runner import RemoteRunner
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.store import UnitStore

GRACE = 3600.0


class FrozenLauncher(FakeLauncher):
    """As one that is stopped: it answers when it goes on, and starts what was asked of it."""

    thawed: trio.Event

    async def start(self, request):
        await self.thawed.wait()
        if self.store.read_status(request.unit_id).state is not UnitState.PENDING:
            raise WorkError("the unit has been started or has ended before")
        return self.start_now(request)


def freeze(node) -> trio.Event:
    node.launcher.__class__ = FrozenLauncher
    node.launcher.thawed = trio.Event()
    return node.launcher.thawed


@pytest.mark.parametrize("wishes", [["cancel", "release"], ["release"], ["force-release"]])
async def test_a_unit_whose_launcher_is_frozen_can_be_ended_and_is_not_started_later(
    foo, autojump_clock, wishes
):
    thawed = freeze(foo)
    async with foo.running(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(foo.talk, "work submit foo wait"))
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
        for wish in wishes:
            with trio.move_on_after(60):
                (line,) = await foo.talk(f"work {wish} {unit.unit_id}")
                assert not line.startswith("ERROR"), line
            if wish == "cancel":
                assert unit.status.state is UnitState.CANCELED
                assert foo.store.read_status(unit.unit_id) == unit.status
        left = foo.units.all()
        thawed.set()
        await trio.sleep(100)
        assert left == ()
        assert foo.left() == []
        assert foo.launcher.started == []


async def test_a_cancel_that_meets_a_start_ends_what_was_started(foo, autojump_clock):
    """The launcher goes on at any moment of the cancel."""
    thawed = freeze(foo)
    for pause in (0.0, 0.5, 0.99, 1.0, 1.01, 2.0):
        foo.launcher.thawed = thawed = trio.Event()
        async with foo.running(), trio.open_nursery() as nursery:
            nursery.start_soon(partial(foo.talk, "work submit foo wait"))
            await trio.testing.wait_all_tasks_blocked()
            (unit,) = foo.units.all()
            nursery.start_soon(partial(foo.talk, f"work cancel {unit.unit_id}"))
            await trio.sleep(pause)
            thawed.set()
            assert (await foo.wait_final(unit.unit_id)).state is UnitState.CANCELED
            await trio.sleep(100)
            assert all(s.ended.is_set() for s in foo.launcher.supervisors.values())
            await foo.talk(f"work release {unit.unit_id}")


@pytest.mark.parametrize("meanwhile", ["", "cancel", "release"])
async def test_a_forced_release_waits_neither_for_a_long_grace_time_nor_for_another_wish(
    foo, monkeypatch, autojump_clock, meanwhile
):
    foo.work_types = {"wait": CommandType("wait", grace=GRACE)}
    async with foo.running(), trio.open_nursery() as nursery:
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        monkeypatch.setattr(supervisor, "finish", lambda *args, **more: None)
        if meanwhile:
            nursery.start_soon(partial(foo.talk, f"work {meanwhile} {unit_id}"))
            await trio.sleep(1)
        with trio.fail_after(3 * FORCE_TIMEOUT):
            assert await foo.talk(f"work force-release {unit_id}") == [
                f'{{"released":"{unit_id}"}}'
            ]
        assert supervisor.ended.is_set()
        assert foo.store.directory(unit_id) in foo.launcher.gone_leftovers
        assert foo.left() == []


class ReadOnly:
    """Makes the disk refuse records of ends, and deletions."""

    def __init__(self, monkeypatch, node) -> None:
        self.error = 0
        self.root = node.store.root
        for owner, name in ((UnitStore, "write_status"), (UnitStore, "unlink")):
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name), name))

    def wrap(self, real, name):
        def operation(store, *args, **options):
            if self.error and store.root == self.root and not options.get("fresh"):
                error = OSError(self.error, os.strerror(self.error))
                if name == "unlink":
                    raise WorkError(f"cannot delete work unit: {error.strerror}") from error
                raise error
            return real(store, *args, **options)

        return operation


@pytest.mark.parametrize("moment", ["payload", "running", "away", "there"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
async def test_a_unit_whose_release_the_disk_refuses_ends_when_the_disk_is_well(
    foo, bar, monkeypatch, autojump_clock, moment, number
):
    async with bar.running(), foo.running():
        disk = ReadOnly(monkeypatch, foo)
        if moment == "payload":
            client = foo.connect()
            await client.send_all(b"work submit foo wait\nhalf")
        elif moment == "running":
            await foo.submit("foo", "wait")
        else:
            foo.mesh.is_cut = moment == "away"
            await foo.submit("bar", "wait")
        await trio.sleep(30)
        (unit,) = foo.units.all()
        disk.error = number
        for supervisor in foo.launcher.supervisors.values():
            # It waits for the disk as well, and then is killed.
            monkeypatch.setattr(
                supervisor, "finish", lambda *a, s=supervisor, **more: s.ended.set()
            )
        (line,) = await foo.talk(f"work release {unit.unit_id}")
        assert line.startswith("ERROR"), line
        await trio.sleep(30)
        disk.error = 0
        await trio.sleep(100)
        assert unit.released or unit.status.state is UnitState.CANCELED, unit.status
        assert len(foo.launcher.started) == (moment == "running")


@pytest.mark.parametrize("wish", ["cancel", "release"])
async def test_a_payload_that_breaks_off_on_a_full_disk_while_somebody_has_a_wish_faults_nothing(
    foo, monkeypatch, autojump_clock, caplog, wish
):
    async with foo.running(), trio.open_nursery() as nursery:
        disk = ReadOnly(monkeypatch, foo)
        client = foo.connect()
        await client.send_all(b'{"command":"work","subcommand":"submit","node":"foo",')
        await client.send_all(b'"worktype":"cat","stdinsize":"3"}\n')
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
        disk.error = errno.ENOSPC
        answers: list[str] = []

        async def ask() -> None:
            answers.extend(await foo.talk(f"work {wish} {unit.unit_id}"))

        nursery.start_soon(ask)
        await client.send_all(b"more than that")
        await client.send_eof()
        await trio.sleep(10)
        assert "internal error" not in answers[0]
        disk.error = 0
        await trio.sleep(100)
        assert unit.is_final
        assert "AssertionError" not in caplog.text


@pytest.mark.parametrize("place", ["written", "opened", "opened without a way"])
async def test_what_runs_elsewhere_is_ended_where_its_results_can_never_be_stored(
    foo, bar, autojump_clock, monkeypatch, place
):
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            (supervisor,) = bar.launcher.supervisors.values()
            await trio.sleep(1)
            if place == "written":

                def refuse(*args):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

                monkeypatch.setattr(UnitFile, "write", refuse)
                supervisor.write(b"output")
                assert (await foo.wait_final(unit_id)).state is UnitState.FAILED
                assert supervisor.ended.is_set()
        if place.startswith("opened"):
            foo.mesh.is_cut = True
            stdout = foo.store.stdout_path(unit_id)
            stdout.unlink()
            stdout.mkdir()
            async with foo.running():
                await trio.sleep(5)
                if place == "opened":
                    foo.mesh.heal()
                status = await foo.wait_final(unit_id)
                assert status.detail.startswith("cannot store the results")
                assert supervisor.ended.is_set() == (place == "opened")
                assert ("may run on" in status.detail) == (place != "opened")


async def test_a_fault_in_the_watch_over_a_command_fails_no_unit_that_runs(
    foo, monkeypatch, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
    real_open = foo.launcher.open_process
    faults = iter([None])

    def open_process(process):
        for _ in faults:
            raise ZeroDivisionError
        return real_open(process)

    monkeypatch.setattr(foo.launcher, "open_process", open_process)
    async with foo.running():
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert supervisor.ended.is_set(), "it runs, and is called failed"


async def test_a_release_that_is_refused_there_fails_no_unit_on_a_full_disk(
    foo, bar, monkeypatch, autojump_clock
):
    async def refuse(unit, *by, **how):
        disk.error = errno.ENOSPC
        raise CommandError("not so")

    async with bar.running(), foo.running():
        disk = ReadOnly(monkeypatch, foo)
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        monkeypatch.setattr(bar.units.ender, "release", refuse)
        (line,) = await foo.talk(f"work release {unit_id}")
        assert line == "ERROR: error releasing remote unit: not so"
        await trio.sleep(100)
        disk.error = 0
        await trio.sleep(100)
        assert foo.status(unit_id).state is UnitState.RUNNING
        (supervisor,) = bar.launcher.supervisors.values()
        supervisor.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


@pytest.mark.parametrize("request_", ["cancel", "release"])
async def test_a_request_whose_session_is_ended_leaves_the_unit_of_another_node_driven(
    foo, bar, monkeypatch, autojump_clock, request_
):
    async def never_decide(runner, unit, **options):
        await trio.sleep_forever()

    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        unit = foo.units.find(unit_id)
        with monkeypatch.context() as patch, trio.move_on_after(1):
            patch.setattr(RemoteRunner, request_, never_decide)
            await getattr(foo.units.ender, request_)(unit)
        (supervisor,) = bar.launcher.supervisors.values()
        supervisor.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_a_submission_for_another_node_that_cannot_be_recorded_is_refused_and_gone(
    foo, bar, monkeypatch, autojump_clock
):
    """One that a third node sends, and would send again: nobody asks for what is left of it."""
    write_status = UnitStore.write_status

    def refuse_starts(store, unit_id, status, **how):
        if status.detail == "Starting Worker":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_status(store, unit_id, status, **how)

    foo.forwarding = True
    request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
    async with bar.running(), foo.running():
        monkeypatch.setattr(UnitStore, "write_status", refuse_starts)
        lines = await foo.talk(request | {"submissionkey": "k"}, b"x", kind="mesh", peer="third")
        text = "Error starting worker: cannot record the status: No space left on device"
        assert lines[-1] == f"ERROR: {text}"
        assert foo.units.all() == ()
    assert bar.launcher.started == []
