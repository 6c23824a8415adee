"""Power cuts at every step of a remote unit: only what was synced is there afterwards."""

import os
import shutil
import stat
from pathlib import Path

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units import directory, tombstones

PAYLOAD = b"payload"

STORE = {directory.FILE, tombstones.FILE}
"""What is in a node's directory beside units."""

STEPS = 40
"""More than one submission has sends and receives, on either end (test_remote_work checks it)."""


class Disk:
    """Remembers what has been synced, and gives back that and nothing else."""

    def __init__(self) -> None:
        self._contents: dict[int, bytes] = {}
        self._directories: dict[Path, dict[str, bytes]] = {}
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        inode, path = os.fstat(descriptor), Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(inode.st_mode):
            names = [name for name in os.listdir(path) if name in STORE or name[0] != "."]
            self._directories[path] = {name: self._synced(path / name) for name in names}
        else:
            content = self._contents[inode.st_ino] = path.read_bytes()
            if path.name in self._directories.get(path.parent, {}):
                self._directories[path.parent][path.name] = content

    def _synced(self, path: Path) -> bytes:
        if path.is_dir():
            return b""
        content = self._contents.get(path.stat().st_ino, b"")
        # The inode may have been another file's before; that one's bytes are not this one's.
        return content if path.read_bytes().startswith(content) else b""

    def cut(self, root: Path) -> None:
        """Make ``root`` what it is after a power cut at this moment."""
        kept = self._directories.get(root, {})
        units = {root / name for name in kept if name not in STORE}
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in kept:
                path.unlink()
            else:
                # As it was: a file of the same number.
                path.write_bytes(kept[path.name])
        for unit in units:
            unit.mkdir()
            for name, content in self._directories.get(unit, {}).items():
                (unit / name).write_bytes(content)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(os, "fdatasync", disk.fsync)
    return disk


def power_off(node, disk):
    """Take the node's commands away, and what it had not synced."""
    for supervisor in node.launcher.supervisors.values():
        supervisor.ended.set()
    disk.cut(node.store.root)
    node.boot += " and another"


@pytest.mark.parametrize("work_type", ["cat", "wait"])
@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_power_cut_of_the_running_node_runs_nothing_twice_and_leaves_nobody_waiting(
    foo, bar, disk, autojump_clock, step, work_type
):
    async with foo.running():
        async with bar.running():
            foo.mesh.before_operation = lambda count: bar.kill() if count == step else None
            unit_id = await foo.submit("bar", work_type, PAYLOAD)
            await trio.testing.wait_all_tasks_blocked()
        foo.mesh.before_operation = lambda count: None
        if foo.mesh.is_cut:
            power_off(bar, disk)
        foo.mesh.heal()
        async with bar.running():
            # Whatever is tried again has been by then.
            await trio.sleep(200)
            for supervisor in bar.launcher.supervisors.values():
                if not supervisor.ended.is_set():
                    supervisor.finish()
            status = await foo.wait_final(unit_id)
    assert len(bar.launcher.started) == 1
    assert status.state in {UnitState.SUCCEEDED, UnitState.FAILED}
    if status.state is UnitState.SUCCEEDED and work_type == "cat":
        assert foo.stdout(unit_id) == PAYLOAD


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_power_cut_of_the_submitting_node_loses_and_repeats_nothing_it_has_confirmed(
    foo, bar, disk, autojump_clock, step
):
    answer = b""
    async with bar.running():
        async with foo.running():
            foo.mesh.before_operation = lambda count: foo.kill() if count == step else None
            client = foo.connect()
            await client.send_all(b"work submit bar cat\n" + PAYLOAD)
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                while data := await client.receive_some():
                    answer += data
            (unit,) = foo.units.all()
        power_off(foo, disk)
        foo.mesh.heal()
        async with foo.running():
            assert [u.unit_id for u in foo.units.all()] == [unit.unit_id]
            status = await foo.wait_final(unit.unit_id)
            assert status.state is UnitState.SUCCEEDED
            assert foo.stdout(unit.unit_id) == PAYLOAD
            assert bar.launcher.started == [("cat",)]
    assert b"Work unit created" in answer
