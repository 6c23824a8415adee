"""Processes that go on after their unit's end, and containers that end before their keeper."""

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from launching import (
    PATIENCE,
    Fifo,
    kill,
    make_unit,
    read_status,
    run_unit,
    running_launcher,
    start_lasting,
    supervisor_of,
    wait_gone,
)

from meshnode.work.local.client import Launcher
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.leaving import Leaving
from meshnode.work.local.launcherprocess import StartRequest
from meshnode.work.local.processes import (
    ProcessHandle,
    ProcessId,
    current_start_time,
    end_unit_processes,
    find_unit_processes,
)

LONG_GRACE = 600.0
SHORT_GRACE = 0.01

HELPERS = ("helper *", "keeper *")

STAYS = """
stay() { setsid --fork bash -c 'exec -a $0 bash -c "echo $0 $$ >$1; exec -a $0 sleep 1000"' $1 $2; }
"""
"""Has a daemon of that name say its name and PID."""


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "says") as fifo:
        yield fifo


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "go") as fifo:
        yield fifo


async def start(
    launcher: Launcher, unit: Path, script: str, says: Fifo, **options: Any
) -> ProcessId:
    argv = ("bash", "-c", script, "bash", str(says.path))
    return await start_lasting(launcher, StartRequest(unit.name, unit, argv, **options))


async def next_process(says: Fifo) -> ProcessId:
    """Return the next process that has said its PID, with or without a name before it."""
    pid = int((await says.line()).split()[-1])
    started = current_start_time(pid)
    assert started is not None
    return ProcessId(pid, started)


def is_running(process: ProcessId) -> bool:
    """Whether it has not ended; who has may still wait to be reaped by another."""
    found = tree.read_process(process.pid)
    return found is not None and found.started == process.started and not found.dead


DAEMON = "(echo $BASHPID >$1; exec sleep 1000) & echo started"


async def test_a_daemon_goes_on_after_its_command_where_the_type_leaves_processes(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    argv = ("bash", "-c", DAEMON, "bash", str(says.path))
    status = await run_unit(launcher, unit, *argv, grace=LONG_GRACE, leave=True)
    assert (status["State"], status["Detail"]) == (2, "exit status 0; left 1 process running")
    assert status["StdoutSize"] == len("started\n")
    assert is_running(await next_process(says))


async def test_what_one_unit_leaves_is_not_ended_with_the_next(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    first = make_unit(tmp_path, "first")
    argv = ("bash", "-c", DAEMON, "bash", str(says.path))
    await run_unit(launcher, first, *argv, leave=True)
    daemon = await next_process(says)
    for number in range(5):
        unit = make_unit(tmp_path, f"next-{number}")
        status = await run_unit(launcher, unit, "bash", "-c", "sleep 1000 & exit 3")
        assert status["Detail"] == "exit status 3; ended 1 process that it left behind"
        assert supervisor_of(unit) != supervisor_of(first)
    assert is_running(daemon)


async def test_a_cancel_ends_all_that_would_have_been_left(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    script = f"{DAEMON}; echo $$ >$1; wait"
    supervisor = await start(launcher, unit, script, says, grace=SHORT_GRACE, leave=True)
    processes = [await next_process(says) for _ in range(2)]
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert read_status(unit)["State"] == 4
    assert not any(map(is_running, processes))


async def test_of_what_a_command_leaves_only_what_is_named_goes_on(
    launcher: Launcher, tmp_path: Path, says: Fifo, go: Fifo
) -> None:
    unit = make_unit(tmp_path)
    script = f"{STAYS} stay helper $1; stay other $1; read <{go.path}"
    supervisor = await start(launcher, unit, script, says, grace=LONG_GRACE, leave=HELPERS)
    names = dict([await named(says) for _ in range(2)])
    go.write("on")
    await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == (
        "exit status 0; ended 1 process that it left behind; left 1 process running"
    )
    assert is_running(names["helper"])
    assert not is_running(names["other"])


async def named(says: Fifo) -> tuple[str, ProcessId]:
    name, pid = (await says.line()).split()
    started = current_start_time(int(pid))
    assert started is not None
    return name, ProcessId(int(pid), started)


async def test_a_cancel_spares_what_is_named_even_in_a_group_that_must_be_killed(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    # All are of one group, which is deaf to SIGINT.
    script = """
        trap '' INT TERM
        for name in helper other; do
            bash -c 'echo $0 $$ >$1; exec -a $0 sleep 1000' $name $1 &
        done
        wait"""
    supervisor = await start(launcher, unit, script, says, grace=SHORT_GRACE, leave=HELPERS)
    names = dict([await named(says) for _ in range(2)])
    await wait_until_named(names["helper"].pid, b"helper\x001000\x00")
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    status = read_status(unit)
    assert (status["State"], status["Signal"]) == (4, "SIGKILL")
    assert is_running(names["helper"])
    assert not is_running(names["other"])


async def wait_until_named(pid: int, words: bytes) -> None:
    """Wait until a process has executed a program with these words."""
    with trio.fail_after(PATIENCE):
        while Path(f"/proc/{pid}/cmdline").read_bytes() != words:
            await trio.sleep(0.001)  # nobody tells


async def test_what_a_killed_supervisor_left_is_ended_but_for_helpers(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    script = f"{STAYS} stay helper $1; stay other $1; echo command $$ >$1; wait; sleep 1000"
    supervisor = await start(launcher, unit, script, says, leave=HELPERS)
    names = dict([await named(says) for _ in range(3)])
    kill(supervisor)
    await wait_gone(supervisor)
    leaving = Leaving(HELPERS, names["command"].pid)
    assert await end_unit_processes(unit, 0, leaving) == []
    assert find_unit_processes(unit) == [names["helper"]]
    assert await end_unit_processes(unit, 0, Leaving(True, names["command"].pid)) == []
    assert find_unit_processes(unit) == []


# --- containers -----------------------------------------------------------------------------------

KEEPER = r"""
(
    trap "" INT TERM
    # What runs in it is the first process of its namespace, which no signal but SIGKILL ends.
    unshare --pid --fork bash -c 'echo container $2 >$1; exec sleep 1000' - $1 $BASHPID 2>/dev/null
    echo cleaned up; echo gone $BASHPID >$1
) &
wait
"""
"""A command that starts a container, and a process that cleans up after that."""


def can_have_namespaces() -> bool:
    words = ["unshare", "--pid", "--fork", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not can_have_namespaces(), reason="PID namespaces cannot be made here"
)


@needs_namespaces
@pytest.mark.parametrize("leave", [None, HELPERS])
async def test_who_keeps_a_container_that_is_deaf_to_a_cancel_can_clean_up_after_it(
    launcher: Launcher, tmp_path: Path, says: Fifo, leave: tuple[str, ...] | None
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start(launcher, unit, KEEPER, says, grace=SHORT_GRACE, leave=leave)
    keeper = await next_process(says)
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert (unit / "stdout").read_bytes() == b"cleaned up\n"
    assert not is_running(keeper)
    assert read_status(unit)["State"] == 4


@needs_namespaces
async def test_who_keeps_a_container_of_a_lost_unit_can_clean_up_after_it(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start(launcher, unit, KEEPER, says, grace=SHORT_GRACE)
    keeper = await next_process(says)
    kill(supervisor)
    await wait_gone(supervisor)
    assert await end_unit_processes(unit, SHORT_GRACE) == []
    assert (unit / "stdout").read_bytes() == b"cleaned up\n"
    assert not is_running(keeper)


@needs_namespaces
async def test_who_does_not_clean_up_after_its_container_is_killed(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    script = KEEPER.replace("echo cleaned up", "echo gone >$1; sleep 1000")
    supervisor = await start(launcher, unit, script, says, grace=SHORT_GRACE)
    keeper = await next_process(says)
    with ProcessHandle.open(supervisor) as handle:
        kill(supervisor, signal.SIGTERM)
        assert await says.line() == "gone"
        await handle.wait_end()
    assert not is_running(keeper)
    assert find_unit_processes(unit) == []
