"""What a power cut leaves: nothing that was not synced need be there, and nothing runs twice."""

import os
from dataclasses import replace

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.adoption import boot_id


async def test_a_start_that_a_power_cut_may_have_undone_is_not_called_none(foo):
    """The record of a local start need not be on the disk yet."""
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    status = foo.store.read_status(unit_id)
    foo.store.write_status(unit_id, replace(status, state=UnitState.PENDING, supervisor=None))
    foo.boot = "second boot"
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.FAILED
        assert foo.status(unit_id).detail.startswith("lost: the machine went down")


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced, in order."""
    paths = []
    fsync = os.fsync

    def record(descriptor):
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


async def test_another_nodes_work_that_waits_for_its_start_is_confirmed_only_when_on_disk_for_good(
    foo, synced, autojump_clock
):
    async with foo.running():
        let_go = trio.Event()
        start = foo.launcher.start

        async def start_late(request):
            await let_go.wait()
            return await start(request)

        foo.launcher.start = start_late
        unit_id = await foo.submit("foo", "cat", b"payload", submissionkey="bar:x")
        directory = foo.store.directory(unit_id)
        assert foo.store.read_status(unit_id).stdin_size == 7
        assert synced.index(f"{directory}/status.tmp") < synced.index(str(directory))
        assert str(foo.store.root) in synced
        let_go.set()


async def test_before_a_submission_is_confirmed_it_is_on_disk_for_good(foo, synced, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("nowhere", "cat", b"payload")
        directory = foo.store.directory(unit_id)
        assert {f"{directory}/stdin", f"{directory}/status.tmp", str(directory)} <= set(synced)
        assert str(foo.store.root) in synced


async def test_within_one_start_of_the_machine_a_unit_that_reads_pending_never_ran_and_does(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    pending = replace(
        foo.store.read_status(unit_id), state=UnitState.PENDING, pid=None, supervisor=None
    )
    assert pending.input_complete
    foo.store.write_status(unit_id, pending)
    async with foo.running():
        await trio.testing.wait_all_tasks_blocked()
        assert foo.status(unit_id).state is UnitState.RUNNING


def test_the_start_of_the_machine_has_an_id():
    assert len(boot_id()) == 36
