"""Processes named by pid and start time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from meshnode.work.local import processes
from meshnode.work.local.launcher import tree
from meshnode.work.local.processes import (
    ProcessHandle,
    ProcessId,
    current_start_time,
    end_processes,
    end_unit_processes,
    find_unit_processes,
)


class Spawner:
    """Starts processes that say when they are ready, and ends them after the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, code: str = "", env: dict[str, str] | None = None) -> ProcessId:
        """Start Python with ``code``; return when that has run, while the process waits."""
        process = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"import os, signal\n{code}\n" + READY],
                stdout=subprocess.PIPE,
                env=env,
            )
        )
        self._stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = current_start_time(process.pid)
        assert started is not None
        return ProcessId(process.pid, started)


READY = "print('ready', flush=True)\nwhile True: signal.pause()"


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    with ExitStack() as stack:
        yield Spawner(stack)


async def test_the_end_of_a_process_is_noticed(spawn: Spawner) -> None:
    with ProcessHandle.open(spawn()) as handle:
        handle.send_signal(signal.SIGTERM)
        await handle.wait_end()


async def test_an_ended_process_that_nobody_reaped_counts_as_ended(spawn: Spawner) -> None:
    process = spawn()
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with ProcessHandle.open(process) as handle:
        await handle.wait_end()


async def test_a_process_that_got_the_pid_of_another_is_not_taken_for_it(spawn: Spawner) -> None:
    process = spawn()
    with pytest.raises(ProcessLookupError):
        ProcessHandle.open(ProcessId(process.pid, process.started - 1))
    assert not tree.send_signal(process.pid, process.started - 1, signal.SIGKILL)
    with ProcessHandle.open(process):
        pass


async def test_a_pid_that_is_free_names_no_process() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert current_start_time(child.pid) is None
    with pytest.raises(ProcessLookupError):
        ProcessHandle.open(ProcessId(child.pid, 1))


async def test_refused_handles_leave_no_descriptor_open(spawn: Spawner) -> None:
    process = spawn()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ProcessLookupError):
            ProcessHandle.open(ProcessId(process.pid, 0))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_closing_a_handle_ends_the_wait(spawn: Spawner) -> None:
    handle = ProcessHandle.open(spawn())
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await handle.wait_end()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        handle.close()
    with pytest.raises(trio.ClosedResourceError):
        await handle.wait_end()
    handle.close()


def test_a_name_with_blanks_and_brackets_does_not_confuse_the_start_time(spawn: Spawner) -> None:
    process = spawn("open('/proc/self/comm', 'w').write(') R 1 1 (')")
    assert Path(f"/proc/{process.pid}/comm").read_text() == ") R 1 1 (\n"
    found = tree.read_process(process.pid)
    assert found is not None
    assert (found.parent, found.started, found.dead) == (os.getpid(), process.started, False)


def test_descendants_are_found_below_any_root_once_and_without_the_dead() -> None:
    table = [
        tree.Process(2, 1, 2, 10, False),
        tree.Process(3, 2, 2, 11, False),
        tree.Process(4, 3, 2, 12, True),
        tree.Process(5, 9, 5, 13, False),
    ]
    assert [p.pid for p in tree.descendants({2}, table)] == [3]
    assert [p.pid for p in tree.descendants({1, 2}, table)] == [3]
    assert [p.pid for p in tree.descendants({1}, table)] == [2, 3]


CHILD = """
pid = os.fork()
if pid == 0:
    os.execve('/usr/bin/env', ['env', '-i', 'sleep', '1000'], {'PATH': os.defpath})
"""


async def test_a_units_processes_are_found_by_their_environment_and_their_parents(
    spawn: Spawner, tmp_path: Path
) -> None:
    env = {"MESHNODE_UNIT_DIR": str(tmp_path / "unit")}
    mine = spawn(CHILD, env)
    other = spawn(env={"MESHNODE_UNIT_DIR": str(tmp_path / "unit2")})
    found = find_unit_processes(tmp_path / "unit")
    parents = {process.pid: tree.read_process(process.pid) for process in found}
    assert mine in found
    assert other not in found
    assert [p.parent for p in parents.values() if p and p.pid != mine.pid] == [mine.pid]
    assert await end_unit_processes(tmp_path / "unit", grace=60) == []
    assert find_unit_processes(tmp_path / "unit") == []
    assert current_start_time(other.pid) == other.started


@pytest.mark.parametrize("looks", [1, 2, 7])
async def test_a_process_that_is_about_to_execute_a_program_is_found_once_it_has(
    spawn: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """The kernel shows neither words nor environment of it, and nobody is its parent any more."""
    mine = spawn(env={"MESHNODE_UNIT_DIR": str(tmp_path / "unit")})
    real, seen = processes._read, iter(range(looks))

    def read(pid: int, name: str) -> bytes:
        return b"" if pid == mine.pid and next(seen, None) is not None else real(pid, name)

    monkeypatch.setattr(processes, "_read", read)
    assert find_unit_processes(tmp_path / "unit") == [mine]


async def test_processes_that_have_no_environment_are_not_waited_for(
    spawn: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn(env={})
    monkeypatch.setattr(processes, "EXEC_PAUSE", 10_000)
    assert find_unit_processes(tmp_path / "unit") == []


async def test_a_child_that_a_look_came_too_early_for_is_ended_with_its_own_grace(
    spawn: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent ended during that look."""
    polite = spawn("signal.signal(signal.SIGTERM, lambda *_: os._exit(7))")
    looks = iter([[], [polite]])
    monkeypatch.setattr(processes, "find_unit_processes", lambda *_: next(looks, []))
    assert await end_unit_processes(tmp_path / "unit", grace=60) == []
    assert os.waitid(os.P_PID, polite.pid, os.WEXITED | os.WNOWAIT).si_status == 7


async def test_processes_that_leave_when_asked_are_not_killed(spawn: Spawner) -> None:
    polite = spawn("signal.signal(signal.SIGTERM, lambda *_: os._exit(7))")
    assert await end_processes([polite], grace=60) == set()
    assert os.waitid(os.P_PID, polite.pid, os.WEXITED | os.WNOWAIT).si_status == 7


async def test_processes_that_do_not_leave_are_killed_after_the_grace(spawn: Spawner) -> None:
    stubborn = spawn("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    gone = ProcessId(stubborn.pid, stubborn.started - 1)
    assert await end_processes([stubborn, gone], grace=0.01) == set()
    ended = os.waitid(os.P_PID, stubborn.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGKILL


async def test_processes_of_other_users_are_named_and_not_waited_for(
    spawn: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = spawn()

    def refuse(pidfd: int, signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(processes.signal, "pidfd_send_signal", refuse)
    assert await end_processes([process], grace=60) == {process}
