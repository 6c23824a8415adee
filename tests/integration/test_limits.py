"""Commands that want more than their limits, on a kernel that keeps those: each ends as documented.

Nothing is timed: what the kernel counts is compared, as shares.
"""

import errno
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from launching import (
    PATIENCE,
    kill,
    make_unit,
    run_unit,
    running_launcher,
    start_lasting,
    supervisor_of,
    wait_gone,
)

from meshnode.work.local import cgroups
from meshnode.work.local.cgroups import JobGroups, end_group
from meshnode.work.local.client import Launcher
from meshnode.work.local.hierarchies import look, may_raise_limits
from meshnode.work.local.launcher import groups as group_files
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.groups import SPAWN_ROOM_BYTES
from meshnode.work.local.launcher.limitedrun import open_group
from meshnode.work.local.launcherprocess import StartRequest
from meshnode.work.local.processes import ProcessId, current_start_time

MIB = 1024 * 1024
SUCCEEDED, FAILED, CANCELED = 2, 3, 4
ALL = ("cpu", "memory", "pids", "io-read", "io-write")

refusal = look().refusal(ALL)
pytestmark = pytest.mark.skipif(refusal is not None, reason=str(refusal))


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


class Groups(JobGroups):
    """Groups of a test, which says where they are."""

    def places(self) -> list[str]:
        """Return the directory of each hierarchy that groups are made in."""
        return self._noted()

    def left(self) -> list[str]:
        """Return every group that is there."""
        return [path for base in self.places() for path in group_files.tree_of(base)[1:]]

    def of(self, unit: Path, **values: float) -> group_files.Group:
        """Return a unit's group."""
        assert self._layout is not None
        return open_group(self._layout, unit.name, values)


@pytest.fixture
async def groups(tmp_path: Path) -> AsyncIterator[Groups]:
    groups = Groups(tmp_path)
    groups.make_ready()
    yield groups
    places, left = groups.places(), groups.left()
    for path in left:
        await end_group(cgroups.DirectoryGroup(path), 0)
    groups.close()
    assert left == []
    assert [path for path in places if os.path.exists(path)] == []


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    process = tree.read_process(pid)
    return process is not None and not process.dead


PYTHON = (sys.executable, "-I", "-S", "-c")

HOG = "held = []\nwhile True: held.append(b'x' * 2**20)"

HOGS = {
    "the command itself": (*PYTHON, HOG),
    "a child, and the command would go on": (
        "bash",
        "-c",
        f'{sys.executable} -ISc "$0"; sleep 600',
        HOG,
    ),
    "a child, later": ("bash", "-c", f'(sleep 0.3; {sys.executable} -ISc "$0") & sleep 600', HOG),
    "deaf to signals": (
        "bash",
        "-c",
        f"trap '' INT TERM; {sys.executable} -ISc \"$0\" & wait; sleep 600",
        HOG,
    ),
}


@pytest.mark.parametrize("how", HOGS)
@pytest.mark.parametrize("limit", [2 * MIB, 64 * MIB])
async def test_a_memory_hog_fails_with_its_limit_and_peak_and_nothing_of_it_is_left(
    launcher: Launcher, groups: Groups, tmp_path: Path, how: str, limit: int
) -> None:
    unit = make_unit(tmp_path)
    order = groups.order({"memory": limit, "swap": 0})
    # The grace time is not waited for: a test that did would take as long.
    status = await run_unit(launcher, unit, *HOGS[how], limits=order, grace=3600.0)
    assert status["State"] == FAILED
    size = limit // MIB
    assert status["Detail"].startswith(f"out of memory (limit {size} MiB, peak ")
    assert status["EndedBy"] == {"Cause": "memory"}
    # A smaller limit is set once the supervisor is out.
    assert status["Usage"]["PeakMemory"] <= max(limit, SPAWN_ROOM_BYTES)


async def test_a_command_that_stays_below_its_memory_ends_by_itself(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    order = groups.order({"memory": 256 * MIB})
    script = "held = b'x' * (32 * 2**20)"
    status = await run_unit(launcher, make_unit(tmp_path), *PYTHON, script, limits=order)
    assert (status["State"], status["Detail"]) == (SUCCEEDED, "exit status 0")
    assert 32 * MIB <= status["Usage"]["PeakMemory"] <= 256 * MIB
    assert status["Usage"]["CpuSeconds"] > 0


FORKS = """
import os, time
born = 0
try:
    while born < 1000:
        if os.fork() == 0:
            time.sleep(600)
        born += 1
except BlockingIOError:
    print(born, flush=True)
"""


async def test_a_fork_bomb_has_as_many_processes_as_it_may_and_all_of_them_end(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    # The first process counts as well.
    status = await run_unit(
        launcher, unit, *PYTHON, FORKS, limits=groups.order({"pids": 10}), grace=0.1
    )
    assert (unit / "stdout").read_text() == "9\n"
    assert status["Detail"] == "exit status 0; ended 9 processes that it left behind"


async def test_a_limit_of_one_process_is_enough_for_one(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    limits = groups.order({"pids": 1})
    status = await run_unit(launcher, make_unit(tmp_path), "true", limits=limits)
    assert status["Detail"] == "exit status 0"


BUSY = """
import time
begun, used = time.monotonic(), time.process_time()
while time.monotonic() < begun + 5: pass
print(time.process_time() - used)
"""


async def test_a_busy_loop_gets_its_share_of_a_processor_and_no_more(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    share = 0.2
    status = await run_unit(launcher, unit, *PYTHON, BUSY, limits=groups.order({"cpu": share}))
    # Of the 5 s, whatever Python's start takes on a slow machine. It may be stopped for long when
    # those are over: by a busy machine it gets less. One quota more, since it may begin in the
    # middle of a period.
    used = float((unit / "stdout").read_text())
    assert 0 < used <= 5 * share + 2 * share * 0.1
    assert used <= status["Usage"]["CpuSeconds"]


WRITER = """
import mmap, os, resource
piece = mmap.mmap(-1, 2**20)
file = os.open("out", os.O_WRONLY | os.O_CREAT | {flags})
for _ in range(4):
    os.write(file, piece)
    {after}
"""
WRITERS = {
    "past the cache": ("os.O_DIRECT", "pass"),
    "synced": ("0", "os.fsync(file)"),
}


def can_write_directly(directory: Path) -> bool:
    try:
        os.close(os.open(directory / "direct", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("how", WRITERS)
async def test_a_disk_writer_waits_for_its_rate(
    launcher: Launcher, groups: Groups, tmp_path: Path, how: str
) -> None:
    if not can_write_directly(tmp_path):
        pytest.skip("this file system has no writes past the cache, and maybe no disk")
    unit = make_unit(tmp_path)
    flags, after = WRITERS[how]
    # The wait is counted by the writer: it can only be longer on a busy machine.
    script = "import time; begun = time.monotonic()" + WRITER.format(flags=flags, after=after)
    script += "print(time.monotonic() - begun)"
    limits = groups.order({"io-write": 2 * MIB})
    status = await run_unit(launcher, unit, *PYTHON, script, limits=limits, cwd=str(tmp_path))
    assert status["Detail"] == "exit status 0"
    assert float((unit / "stdout").read_text()) >= 1.0
    assert status["Usage"]["WrittenBytes"] >= 4 * MIB


DESCRIPTORS = """
import os, resource
print(*resource.getrlimit(resource.RLIMIT_NOFILE), *resource.getrlimit(resource.RLIMIT_CORE))
held = []
try:
    while True: held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(error.errno, held[-1])
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (17, 20))
    resource.setrlimit(resource.RLIMIT_NOFILE, (17, 100))
except (OSError, ValueError):
    print("not raised")
"""


@pytest.mark.parametrize("may_raise", [False, True] if may_raise_limits() else [False])
async def test_a_descriptor_hog_has_exactly_its_files_and_no_core_and_its_supervisor_its_own(
    launcher: Launcher,
    groups: Groups,
    tmp_path: Path,
    may_raise: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroups, "may_raise_limits", lambda: may_raise)
    unit = make_unit(tmp_path)
    limits = groups.order({"files": 16, "core": 0})
    status = await run_unit(launcher, unit, *PYTHON, DESCRIPTORS, limits=limits)
    assert status["Detail"] == "exit status 0"
    lines = (unit / "stdout").read_text().splitlines()
    assert lines[:2] == ["16 16 0 0", f"{errno.EMFILE} 15"]
    if not may_raise_limits():
        assert lines[2] == "not raised"
    after = make_unit(tmp_path, "after")
    show = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    await run_unit(launcher, after, *PYTHON, show)
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (after / "stdout").read_text().split() == [str(number) for number in own]


@pytest.mark.parametrize("size", [0, 4096])
async def test_a_core_dump_is_as_large_as_it_may_be(
    launcher: Launcher, groups: Groups, tmp_path: Path, size: int
) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("the kernel gives core dumps of this machine to a program")
    unit = make_unit(tmp_path)
    status = await run_unit(
        launcher,
        unit,
        *PYTHON,
        "import os; os.kill(os.getpid(), 11)",
        limits=groups.order({"core": size}),
        cwd=str(tmp_path),
    )
    assert status["Signal"] == "SIGSEGV"
    cores = [path.stat().st_size for path in tmp_path.glob("core*")]
    assert all(found <= size for found in cores)
    if size == 0:
        assert cores == []


async def test_a_program_that_cannot_be_executed_is_named_as_without_limits(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    program = tmp_path / "no-program"
    program.write_text("no program\n\0")
    program.chmod(0o755)
    told = []
    for name, limits in (("plain", None), ("limited", groups.order({"files": 16, "cpu": 1.0}))):
        status = await run_unit(launcher, make_unit(tmp_path, name), str(program), limits=limits)
        told.append((status["State"], status["Detail"]))
    assert told == [(FAILED, f"fork/exec {program}: exec format error")] * 2


HIDDEN = (
    "trap '' INT; setsid env -i bash -c 'trap \"\" INT TERM; sleep 600; :' & "
    "(env -i setsid sleep 600 &) ; sleep 600; :"
)
"""What its group has then: two shells, and what each of them and a daemon sleep in."""


def named(pid: int) -> str:
    process = tree.read_process(pid)
    return "" if process is None else Path(f"/proc/{pid}/comm").read_text().strip()


async def all_hidden(group: group_files.Group) -> list[int]:
    """Return the processes of a group, once all of HIDDEN are there."""
    with trio.fail_after(PATIENCE):
        while sorted(map(named, group.processes())) != ["bash", "bash", *["sleep"] * 3]:
            await trio.sleep(0.01)  # nobody tells
    return group.processes()


async def test_a_cancel_ends_also_who_forked_twice_left_its_session_and_its_environment(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    limits = groups.order({"pids": 50})
    request = StartRequest("unit", unit, ("bash", "-c", HIDDEN), grace=0.2, limits=limits)
    supervisor = await start_lasting(launcher, request)
    inside = await all_hidden(groups.of(unit, pids=50))
    assert supervisor.pid not in inside
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert [pid for pid in inside if is_alive(pid)] == []
    assert groups.left() == []


async def test_a_supervisors_memory_is_not_its_units(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    status = await run_unit(
        launcher, make_unit(tmp_path), "true", limits=groups.order({"memory": 64 * MIB})
    )
    # A supervisor has some 12 MiB.
    assert status["Usage"]["PeakMemory"] < 8 * MIB


@pytest.mark.parametrize("freezes", [False, True])
async def test_what_a_dead_supervisor_left_is_ended_by_its_group_though_nothing_else_tells_of_it(
    launcher: Launcher, groups: Groups, tmp_path: Path, freezes: bool
) -> None:
    unit = make_unit(tmp_path)
    if freezes:
        # As on a kernel that has no cgroup.kill.
        assert groups._layout is not None
        groups._layout.kills = False
    limits = groups.order({"pids": 50})
    request = StartRequest("unit", unit, ("bash", "-c", HIDDEN), limits=limits)
    supervisor = await start_lasting(launcher, request)
    group = groups.of(unit, pids=50)
    inside = await all_hidden(group)
    kill(supervisor)
    await wait_gone(supervisor)
    assert group.processes() == inside, "they go on without their supervisor"
    with trio.fail_after(PATIENCE):
        await end_group(group, 0.1)
    assert [pid for pid in inside if is_alive(pid)] == []


async def test_a_group_that_a_crash_has_left_is_swept_and_those_of_units_that_go_on_are_not(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    going = make_unit(tmp_path, "going")
    limits = groups.order({"pids": 50})
    command = ("sleep", "600")
    supervisor = await start_lasting(
        launcher, StartRequest("going", going, command, grace=0.1, limits=limits)
    )
    # A unit that is gone, another that has ended, and one that never was.
    ended = make_unit(tmp_path, "ended")
    (ended / "status").write_text('{"State": 2}')
    for name in ("ended", "gone"):
        groups.of(tmp_path / name, pids=50).make({})
    stray = groups.of(tmp_path / "gone", pids=50)
    pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    try:
        for directory in {path for path in groups.left() if path.endswith("/gone")}:
            group_files.write(f"{directory}/cgroup.procs", str(pid))
        assert stray.processes() == [pid]
        fresh = Groups(tmp_path)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, os.waitpid, pid, 0)
                await fresh.open(are_wanted=False)
    finally:
        started = current_start_time(pid)
        if started is not None:
            kill(ProcessId(pid, started))
    assert {os.path.basename(path) for path in groups.left()} == {"going"}
    assert supervisor_of(going) == supervisor
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)


async def test_what_goes_on_by_leave_goes_on_outside_of_the_limits(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    script = f"setsid sleep 600 & echo $! > {tmp_path}/pid"
    limits = groups.order({"pids": 5})
    await run_unit(launcher, unit, "bash", "-c", script, limits=limits, leave=True)
    pid = int((tmp_path / "pid").read_text())
    started = current_start_time(pid)
    assert started is not None
    try:
        assert groups.left() == []
        assert unit.name not in Path(f"/proc/{pid}/cgroup").read_text()
    finally:
        kill(ProcessId(pid, started))


async def test_many_limited_units_leave_no_group(
    launcher: Launcher, groups: Groups, tmp_path: Path
) -> None:
    limits = groups.order({"cpu": 1.0, "memory": 64 * MIB, "pids": 20, "io-write": MIB})

    async def some(number: int) -> None:
        for count in range(25):
            unit = make_unit(tmp_path, f"{number}-{count}")
            status = await run_unit(launcher, unit, "true", limits=limits)
            assert status["Detail"] == "exit status 0"
            assert groups.of(unit, pids=20).processes() == []

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(some, number)
    assert groups.left() == []
