"""How commands are ended: cancel, and what a command leaves behind."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from launching import (
    PATIENCE,
    Fifo,
    Status,
    kill,
    make_unit,
    read_status,
    run_on,
    run_unit,
    running_launcher,
    start_lasting,
    supervisor_of,
    wait_gone,
)

from meshnode.work.local.client import Launcher
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcherprocess import StartRequest
from meshnode.work.local.processes import (
    ProcessHandle,
    ProcessId,
    current_start_time,
    find_unit_processes,
)

LONG_GRACE = 600.0
"""Seconds that no test waits: whoever has to be killed after it fails by its time limit."""

SHORT_GRACE = 0.01

BY_THIS_PROCESS = f"Canceled by a signal of process {os.getpid()}, uid {os.getuid()}"
"""Detail of a unit whose supervisor got SIGTERM of a test, and not a cancel of its node."""

ONE_LEFT = "exit status 5; ended 1 process that it left behind"


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "says") as fifo:
        yield fifo


def output(unit: Path) -> bytes:
    return (unit / "stdout").read_bytes()


async def cancel(supervisor: ProcessId, unit: Path) -> Status:
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    return read_status(unit)


async def start(launcher: Launcher, unit: Path, script: str, says: Fifo, grace: float) -> ProcessId:
    argv = ("bash", "-c", script, "bash", str(says.path))
    return await start_lasting(launcher, StartRequest(unit.name, unit, argv, grace))


async def start_python(
    launcher: Launcher, unit: Path, code: str, says: Fifo, grace: float
) -> ProcessId:
    argv = (sys.executable, "-I", "-S", "-c", PRELUDE + code, str(says.path))
    return await start_lasting(launcher, StartRequest(unit.name, unit, argv, grace))


PRELUDE = """
import os, signal, sys

def say(text):
    with open(sys.argv[1], "w") as says:
        says.write(text + chr(10))

def on(signum, action):
    signal.signal(signum, lambda *_: action())

def leave(text, code=0):
    os.write(1, text.encode())
    os._exit(code)

def rest():
    while True:
        signal.pause()
"""


async def test_a_cancel_interrupts_the_command(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    code = "on(signal.SIGINT, lambda: leave('bye')); say('up'); rest()"
    supervisor = await start_python(launcher, unit, code, says, LONG_GRACE)
    assert await says.line() == "up"
    running = read_status(unit)
    assert (running["State"], running["Detail"]) == (1, f"Running: PID {running['Pid']}")
    status = await cancel(supervisor, unit)
    assert (status["State"], status["Detail"], status["ExitCode"]) == (4, BY_THIS_PROCESS, 0)
    assert (output(unit), status["StdoutSize"]) == (b"bye", 3)


async def test_a_cancel_reaches_children_and_daemons_too(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    code = """
name = "A"
if os.fork() == 0:
    name = "B"
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        name = "C"
    else:
        os.wait()
on(signal.SIGINT, lambda: leave(name))
say("up")
rest()
"""
    supervisor = await start_python(launcher, unit, code, says, LONG_GRACE)
    assert [await says.line() for _ in range(3)] == ["up"] * 3
    status = await cancel(supervisor, unit)
    assert (status["State"], sorted(output(unit).decode())) == (4, ["A", "B", "C"])


STUBBORN = {
    "ignores SIGINT and SIGTERM": "trap '' INT TERM; echo up >$1; while :; do sleep 1000; done",
    "changed its session": "trap '' INT TERM; setsid bash -c 'echo up >$1; sleep 1000' - $1; wait",
    "became a daemon": """trap '' INT TERM
        (setsid bash -c '(echo up >$1; exec sleep 1000) &' - $1 &); sleep 1000""",
    "dropped its environment": """trap '' INT
        env -i setsid --wait bash -c 'echo up >$1; sleep 1000' - $1""",
    "is stopped": "trap '' INT; (echo up >$1; kill -STOP $BASHPID); wait",
}


@pytest.mark.parametrize("how", STUBBORN)
async def test_a_cancel_ends_processes_that_resist(
    launcher: Launcher, tmp_path: Path, says: Fifo, how: str
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start(launcher, unit, STUBBORN[how], says, SHORT_GRACE)
    assert await says.line() == "up"
    session = tree.descendants({supervisor.pid}, tree.all_processes())
    assert session
    status = await cancel(supervisor, unit)
    assert (status["State"], status["Detail"]) == (4, BY_THIS_PROCESS)
    assert [p.pid for p in session if current_start_time(p.pid) == p.started] == []
    assert find_unit_processes(unit) == []


async def test_a_cancel_catches_a_process_that_forks_and_leaves_for_ever(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
if os.fork() == 0:
    say("up")
    while True:
        if os.fork():
            os._exit(0)
rest()
"""
    supervisor = await start_python(launcher, unit, code, says, SHORT_GRACE)
    assert await says.line() == "up"
    status = await cancel(supervisor, unit)
    assert (status["State"], status["Signal"]) == (4, "SIGKILL")
    assert find_unit_processes(unit) == []


async def test_a_cancel_ends_a_crowd_that_grows_all_the_time(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
say("up")
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() == 0:
                os._exit(0)
rest()
"""
    supervisor = await start_python(launcher, unit, code, says, SHORT_GRACE)
    assert await says.line() == "up"
    assert (await cancel(supervisor, unit))["State"] == 4
    assert find_unit_processes(unit) == []


LEAVES_ONE_BEHIND = """
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    on(signal.SIGTERM, asked)
    os.write(tell, b"x")
    rest()
os.read(ready, 1)
os._exit(5)
"""


async def test_processes_left_behind_are_ended_before_the_end_is_recorded(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    code = "asked = lambda: leave('late')\n" + LEAVES_ONE_BEHIND
    supervisor = await start_python(launcher, unit, code, says, LONG_GRACE)
    await wait_gone(supervisor)
    status = read_status(unit)
    assert (status["State"], status["Detail"]) == (3, ONE_LEFT)
    assert (output(unit), status["StdoutSize"]) == (b"late", 4)
    assert find_unit_processes(unit) == []


async def test_a_cancel_after_the_commands_end_changes_nothing(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "go") as go:
        code = f"asked = lambda: (say('asked'), open({str(go.path)!r}).readline(), leave(''))\n"
        code += LEAVES_ONE_BEHIND
        supervisor = await start_python(launcher, unit, code, says, LONG_GRACE)
        assert await says.line() == "asked"
        kill(supervisor, signal.SIGTERM)
        go.write("go")
        await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == ONE_LEFT


async def test_a_cancel_that_comes_too_late_does_not_hit_the_supervisors_next_unit(
    launcher: Launcher, tmp_path: Path
) -> None:
    first = make_unit(tmp_path, "first")
    await run_unit(launcher, first, "true")
    supervisor = supervisor_of(first)
    assert supervisor is not None
    kill(supervisor, signal.SIGTERM)
    status = await run_on(launcher, tmp_path, supervisor, "sleep", "0.01")
    assert status["Detail"] == "exit status 0"


async def test_a_cancel_for_another_unit_is_none_for_this_one(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "go") as go:
        script = f"echo up >$1; read <{go.path}"
        supervisor = await start(launcher, unit, script, says, LONG_GRACE)
        assert await says.line() == "up"
        with ProcessHandle.open(supervisor) as handle:
            # As a node sends it that has not heard yet of the end of the unit before this one.
            handle.cancel("another")
            go.write("")
            await handle.wait_end()
    assert read_status(unit)["Detail"] == "exit status 0"


async def test_a_command_that_locks_its_units_directory_is_canceled_like_any_other(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    script = 'exec 9<"$MESHNODE_UNIT_DIR"; flock 9; echo up >$1; sleep 1000'
    supervisor = await start(launcher, unit, script, says, LONG_GRACE)
    assert await says.line() == "up"
    with ProcessHandle.open(supervisor) as handle:
        handle.cancel("unit")
        with trio.fail_after(PATIENCE):
            await handle.wait_end()
    assert read_status(unit)["Detail"] == "Canceled"


async def test_a_supervisor_ends_quietly_when_its_unit_is_deleted(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    supervisor = await start(launcher, unit, "echo up >$1; sleep 1000", says, LONG_GRACE)
    assert await says.line() == "up"
    shutil.rmtree(unit)
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert not unit.exists()


async def test_signals_that_mean_no_cancel_leave_a_supervisor_alone(
    launcher: Launcher, tmp_path: Path, says: Fifo
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "go") as go:
        script = f"echo up >$1; read <{go.path}"
        supervisor = await start(launcher, unit, script, says, LONG_GRACE)
        assert await says.line() == "up"
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
            kill(supervisor, signum)
        go.write("")
        await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == "exit status 0"
