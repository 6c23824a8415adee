"""A disk that refuses from any step on, with any error: what is told, in memory and on disk agree.

Each operation of the node below its directory is counted. From the n-th on all fail, for every n,
until there is room again; or the node is killed meanwhile, and the next start finds the disk well.
"""

import errno
import os
from contextlib import contextmanager

import pytest
import trio
from work_fakes import FakeMesh, FakeNode, FakeSupervisor

from meshnode.protocol.lifecycle import UnitState

PAYLOAD = b"payload"

ERRORS = [errno.ENOSPC, errno.EMFILE, errno.EIO]

SPACE = {errno.ENOSPC}

DESCRIPTORS = {errno.EMFILE}

OPERATIONS = ("open", "write", "pwrite", "fsync", "rename", "mkdir", "ftruncate", "scandir")

MANY = 200
"""More operations than any of these stories has."""


class Refusals:
    """Makes the node's operations fail from one of them on."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.left = MANY
        self.error = 0
        self.only_once = False
        self.suspended = 0
        self.refused = 0

    def arm(self, after: int, error: int, *, only_once: bool = False) -> None:
        self.left, self.error, self.only_once, self.refused = after, error, only_once, 0

    def heal(self) -> None:
        self.error = 0

    @contextmanager
    def aside(self):
        """Let others than the node do what they want."""
        self.suspended += 1
        try:
            yield
        finally:
            self.suspended -= 1

    def meet(self, name: str, place: object, flags: int) -> None:
        if self.suspended or not self.error:
            return
        if self.error in DESCRIPTORS and name not in {"open", "scandir"}:
            return
        if self.error in SPACE:
            if name == "scandir" or (name == "open" and not flags & os.O_CREAT):
                return
            if name == "rename" and "status" not in os.fspath(place):
                return
        path = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place)
        if not path.startswith(self.root):
            return
        self.left -= 1
        if self.left < 0 and not (self.only_once and self.refused):
            self.refused += 1
            raise OSError(self.error, os.strerror(self.error), path)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    refusals = Refusals(str(tmp_path))
    for name in OPERATIONS:
        wrap(monkeypatch, refusals, name)
    for name in ("set", "write", "finish"):
        spare(monkeypatch, refusals, name)
    return refusals


def wrap(monkeypatch, refusals, name):
    real = getattr(os, name)

    def operation(place=".", *args, **options):
        refusals.meet(name, place, args[0] if name == "open" else 0)
        # Nothing here looks at what a power cut would leave.
        return None if name == "fsync" else real(place, *args, **options)

    monkeypatch.setattr(os, name, operation)


def spare(monkeypatch, refusals, name):
    real = getattr(FakeSupervisor, name)

    def method(self, *args, **changes):
        with refusals.aside():
            return real(self, *args, **changes)

    monkeypatch.setattr(FakeSupervisor, name, method)


class Story:
    """One node, one client's submission, and what that was told."""

    def __init__(self, directory, disk, node, work_type, **fields) -> None:
        mesh = FakeMesh()
        self.disk = disk
        self.foo = FakeNode(mesh, "foo", directory)
        self.bar = FakeNode(mesh, "bar", directory)
        # Only foo's disk fails.
        disk.root = str(self.foo.store.root) + "/"
        self.node = node
        self.work_type = work_type
        self.told = b""
        self.fields = fields

    async def submit(self, payload: bytes = PAYLOAD) -> None:
        words = "".join(f',"{key}":"{value}"' for key, value in self.fields.items())
        request = (
            f'{{"command":"work","subcommand":"submit","node":"{self.node}",'
            f'"worktype":"{self.work_type}"{words}}}\n'
        )
        client = self.foo.connect()
        try:
            await client.send_all(request.encode() + payload)
            await client.send_eof()
            while data := await client.receive_some():
                self.told += data
        except trio.BrokenResourceError:
            self.told += b"ERROR: broken off\n"

    def check_memory(self) -> None:
        """What memory calls an end stands on disk."""
        for unit in self.foo.units.all():
            if unit.is_final:
                with self.disk.aside():
                    assert self.foo.store.read_status(unit.unit_id) == unit.status

    async def end(self) -> None:
        """Bring everything to its end, on a disk that is well."""
        for launcher in (self.foo.launcher, self.bar.launcher):
            for supervisor in launcher.supervisors.values():
                if not supervisor.ended.is_set():
                    supervisor.finish()
        for unit in self.foo.units.all():
            await self.foo.wait_final(unit.unit_id)
        self.check_memory()

    @property
    def runs(self) -> int:
        return len(self.foo.launcher.started) + len(self.bar.launcher.started)

    def check_told(self) -> None:
        ends = [(unit.status.state, unit.status.detail) for unit in self.foo.units.all()]
        if b"Job S" in self.told:
            assert self.runs == 1, self.told
            # What a broken disk has lost of the results nobody can bring back.
            lost = (UnitState.FAILED, "cannot store the results: Input/output error")
            assert ends in ([(UnitState.SUCCEEDED, "exit status 0")], [lost]), self.told
        elif b"ERROR" in self.told:
            assert self.runs == 0, self.told
            assert {state for state, _ in ends} <= {UnitState.FAILED}
        assert self.runs <= 1


STORIES = {
    "here": ("foo", "cat", {}),
    "here for another node": ("foo", "cat", {"submissionkey": "bar:x"}),
    "there": ("bar", "cat", {}),
    "out of reach": ("bar", "cat", {}),
    "another payload than announced": ("foo", "cat", {"stdinsize": "100"}),
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("killed", [False, True], ids=["room again", "killed meanwhile"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
async def test_what_is_told_in_memory_and_on_disk_agree_when_the_disk_refuses_from_any_step_on(
    tmp_path, disk, inline_threads, autojump_clock, story, killed, error
):
    node, work_type, fields = STORIES[story]
    for step in range(MANY):
        tale = Story(tmp_path / str(step), disk, node, work_type, **fields)
        if story == "out of reach":
            tale.foo.mesh.is_cut = True
        async with tale.bar.running():
            async with tale.foo.running():
                disk.arm(step, error)
                tale.foo.nursery.start_soon(tale.submit)
                await trio.sleep(100)
                tale.check_memory()
                refused = disk.refused
                if killed:
                    tale.foo.kill()
                else:
                    disk.heal()
                    tale.foo.mesh.heal()
                    await trio.sleep(100)
                    await tale.end()
            disk.heal()
            tale.foo.mesh.heal()
            ends = [unit.status for unit in tale.foo.units.all()]
            async with tale.foo.running():
                await trio.sleep(100)
                await tale.end()
                if not killed:
                    assert [unit.status for unit in tale.foo.units.all()] == ends
                tale.check_told()
        if not refused:
            break
    assert 2 < step < MANY - 1


@pytest.mark.parametrize("wish", ["cancel", "release", "force-release"])
@pytest.mark.parametrize("node", ["foo", "bar", "away"])
@pytest.mark.parametrize("moment", ["payload", "running"])
@pytest.mark.parametrize("error", [*SPACE, *DESCRIPTORS], ids=errno.errorcode.get)
async def test_a_wish_on_a_disk_that_refuses_is_done_or_refused_and_the_unit_ends_with_room(
    tmp_path, disk, inline_threads, autojump_clock, wish, node, moment, error
):
    for step in range(MANY):
        tale = Story(tmp_path / str(step), disk, node, "wait")
        tale.bar.mesh.nodes.pop("away", None)
        async with tale.bar.running():
            async with tale.foo.running():
                if moment == "payload":
                    client = tale.foo.connect()
                    await client.send_all(f"work submit {node} wait\nhalf".encode())
                else:
                    tale.foo.nursery.start_soon(tale.submit)
                await trio.sleep(30)
                (unit,) = tale.foo.units.all()
                disk.arm(step, error)
                (answer,) = await tale.foo.talk(f"work {wish} {unit.unit_id}")
                refused = disk.refused
                tale.check_memory()
                if wish == "force-release":
                    assert unit.released, answer
                if wish == "release" and (moment == "payload" or node == "away"):
                    assert unit.released, answer
                if wish == "release" and error in SPACE:
                    assert unit.released, answer
                if answer.startswith('{"cancelled"') and node != "bar":
                    assert unit.status.state is UnitState.CANCELED
                disk.heal()
                await trio.sleep(100)
                tale.check_memory()
                if "waiting for" in answer:
                    assert unit.status.state is UnitState.CANCELED
                elif node == "away" and not unit.is_final:
                    await tale.foo.talk(f"work cancel {unit.unit_id}")
                if not unit.is_final:
                    await tale.end()
                assert unit.is_final
            async with tale.foo.running():
                left = [u.status.state for u in tale.foo.units.all()]
                assert left == ([] if unit.released else [unit.status.state])
        if not refused:
            break
    assert step < MANY - 1
