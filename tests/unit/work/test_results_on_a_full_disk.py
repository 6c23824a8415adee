"""Results of another node meet a disk without room, or a node without descriptors: they wait."""

import errno
import os
from types import SimpleNamespace

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.storage import WAITED_FOR
from meshnode.work.units import shortage
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.shortage import FREE_SIZE, KEPT_BYTES, has_room
from meshnode.work.units.store import UnitStore


class Shortage:
    """Makes one operation fail for as long as ``error`` is set."""

    def __init__(self, monkeypatch, owner, name) -> None:
        self.error: int | None = None
        self.refused = 0
        operation = getattr(owner, name)

        def attempt(*args, **options):
            if self.error is not None:
                self.refused += 1
                raise OSError(self.error, os.strerror(self.error))
            return operation(*args, **options)

        monkeypatch.setattr(owner, name, attempt)


PLACES = {
    "stdout is opened": (UnitFile, "__init__"),
    "stdout is written": (UnitFile, "write"),
    "the status is written": (UnitStore, "write_status"),
}


@pytest.mark.parametrize("number", sorted(WAITED_FOR))
@pytest.mark.parametrize(
    ("place", "moment"),
    [
        ("stdout is opened", "when the node is back"),
        ("stdout is written", "when the node is back"),
        ("stdout is written", "while it runs"),
        ("stdout is written", "at its end"),
        ("the status is written", "at its end"),
        ("the status is written", "when the node is back"),
    ],
)
async def test_a_unit_whose_results_find_no_room_waits_and_ends_as_its_command_did(
    foo, bar, autojump_clock, monkeypatch, number, place, moment
):
    """Nothing is told meanwhile that the next start would not find on disk."""
    shortage = Shortage(monkeypatch, *PLACES[place])
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            (supervisor,) = bar.launcher.supervisors.values()
            supervisor.write(b"first,")
            await trio.sleep(10)
            if moment == "while it runs":
                shortage.error = number
                supervisor.write(b"second")
                await trio.sleep(100)
                shortage.error = None
                supervisor.finish(UnitState.FAILED, "exit status 3", 3)
                await foo.wait_final(unit_id)
            elif moment == "at its end":
                supervisor.write(b"second")
                supervisor.finish(UnitState.FAILED, "exit status 3", 3)
                shortage.error = number
                await trio.sleep(100)
                assert not foo.status(unit_id).state.is_final
                shortage.error = None
                await foo.wait_final(unit_id)
        if moment == "when the node is back":
            supervisor.write(b"second")
            supervisor.finish(UnitState.FAILED, "exit status 3", 3)
            shortage.error = number
        async with foo.running():
            await trio.sleep(100)
            assert foo.status(unit_id).state.is_final == (moment != "when the node is back")
            shortage.error = None
            status = await foo.wait_final(unit_id)
            assert (status.state, status.detail) == (UnitState.FAILED, "exit status 3")
            assert foo.stdout(unit_id) == b"first,second"
            assert foo.store.read_status(unit_id) == status
    assert shortage.refused


async def test_a_unit_that_waits_for_room_says_so_and_says_what_it_said_before_when_there_is_some(
    foo, bar, autojump_clock, monkeypatch, caplog
):
    shortage = Shortage(monkeypatch, UnitFile, "write")
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        before = foo.status(unit_id).detail
        (supervisor,) = bar.launcher.supervisors.values()
        await trio.sleep(1)
        shortage.error = errno.ENOSPC
        supervisor.write(b"output")
        text = "waiting for disk space: No space left on device"
        await foo.wait_for(unit_id, lambda status: status.detail == text)
        await trio.sleep(1000)
        assert foo.status(unit_id).state is UnitState.RUNNING
        assert caplog.text.count(text) == 1
        shortage.error = None
        await foo.wait_for(unit_id, lambda status: status.detail == before)
        supervisor.finish()
        assert (await foo.wait_final(unit_id)).detail == "exit status 0"


async def test_a_node_that_is_killed_while_it_waits_for_room_goes_on_from_the_byte_on_disk(
    foo, bar, autojump_clock, monkeypatch
):
    shortage = Shortage(monkeypatch, UnitFile, "write")
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            (supervisor,) = bar.launcher.supervisors.values()
            supervisor.write(b"first,")
            await trio.sleep(10)
            shortage.error = errno.ENOSPC
            supervisor.write(b"second")
            supervisor.finish()
            await trio.sleep(10)
            foo.kill()
        foo.mesh.heal()
        shortage.error = None
        async with foo.running():
            assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
            assert foo.stdout(unit_id) == b"first,second"


async def test_a_disk_that_takes_a_part_of_what_came_gets_the_rest_when_it_has_room(
    foo, bar, autojump_clock, monkeypatch
):
    real_write = os.write
    room = 3

    def write(descriptor, data):
        nonlocal room
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith("stdout"):
            return real_write(descriptor, data)
        if room == 0:
            room = 3
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real_write(descriptor, bytes(data)[:room])
        room -= written
        return written

    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        (supervisor,) = bar.launcher.supervisors.values()
        await trio.sleep(1)
        monkeypatch.setattr(os, "write", write)
        supervisor.write(b"0123456789")
        await trio.sleep(100)
        supervisor.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == b"0123456789"


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_a_disk_that_is_broken_fails_the_unit_with_the_reason(
    foo, bar, autojump_clock, monkeypatch, operation
):
    shortage = Shortage(monkeypatch, UnitFile, operation)
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        (supervisor,) = bar.launcher.supervisors.values()
        await trio.sleep(1)
        shortage.error = errno.EIO
        supervisor.write(b"output")
        supervisor.finish()
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == "cannot store the results: Input/output error"
        assert foo.store.read_status(unit_id) == status


async def test_results_leave_the_last_of_a_disk_to_other_work(
    foo, bar, autojump_clock, monkeypatch
):
    free = KEPT_BYTES - 1
    disk = SimpleNamespace(f_bavail=0, f_frsize=1, f_blocks=1 << 40)

    def statvfs(path):
        disk.f_bavail = free
        return disk

    monkeypatch.setattr(shortage.os, "statvfs", statvfs)
    async with bar.running(), foo.running():
        small = await foo.submit("bar", "cat", b"x" * 1000)
        assert (await foo.wait_final(small)).state is UnitState.SUCCEEDED
        long = await foo.submit("bar", "cat", b"x" * (FREE_SIZE * 3))
        text = "waiting for disk space: what is left of the disk is kept for other work"
        await foo.wait_for(long, lambda status: status.detail == text)
        await trio.sleep(1000)
        assert FREE_SIZE <= len(foo.stdout(long)) < FREE_SIZE * 3
        free = KEPT_BYTES
        assert (await foo.wait_final(long)).state is UnitState.SUCCEEDED
        assert len(foo.stdout(long)) == FREE_SIZE * 3


def test_a_small_disk_keeps_a_share_and_not_all(monkeypatch, tmp_path):
    disk = SimpleNamespace(f_bavail=9 << 20, f_frsize=1, f_blocks=512 << 20)
    monkeypatch.setattr(shortage.os, "statvfs", lambda path: disk)
    assert has_room(tmp_path, FREE_SIZE)
    disk.f_bavail = 5 << 20
    assert not has_room(tmp_path, FREE_SIZE)
    assert has_room(tmp_path, FREE_SIZE - 1)
