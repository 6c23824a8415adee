"""Commands as the launcher starts them: what they get, how they end, how they are ended."""

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from launching import (
    Fifo,
    Status,
    kill,
    launcher_of,
    make_unit,
    read_status,
    run_unit,
    running_launcher,
    supervisor_of,
    wait_gone,
)

from meshnode.errors import WorkError
from meshnode.work.launch import Launcher, StartRequest
from meshnode.work.launcher import tree
from meshnode.work.processes import ProcessId, current_start_time, find_unit_processes

LONG_GRACE = 600.0
"""Seconds that no test waits: whoever has to be killed after it fails by its time limit."""

SHORT_GRACE = 0.01


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


# --- what a command gets ------------------------------------------------------------------------


async def test_a_command_that_succeeds_leaves_its_output_and_every_fact_of_its_end(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    status = await run_unit(launcher, unit, "echo", "hi")
    assert output(unit) == b"hi\n"
    for key in ("Started", "Finished"):
        assert status.pop(key).endswith("Z")
    assert status.pop("Supervisor") is not None
    assert status.pop("Pid") > 0
    assert status == {
        "State": 2,
        "Detail": "exit status 0",
        "StdoutSize": 3,
        "ExitCode": 0,
        "Signal": None,
        "WorkType": "t",
        "ExtraData": None,
        "Created": "now",
    }
    modes = {p.name: p.stat().st_mode & 0o777 for p in unit.iterdir()}
    assert modes == {"status": 0o600, "status.lock": 0o600, "stdout": 0o600}


@pytest.mark.parametrize(
    ("script", "detail", "code", "name"),
    [
        ("exit 3", "exit status 3", 3, None),
        ("kill -9 $$", "signal: killed", None, "SIGKILL"),
        ("kill -INT $$", "signal: interrupt", None, "SIGINT"),
        ("kill -TERM $$", "signal: terminated", None, "SIGTERM"),
        ("ulimit -c 0; kill -SEGV $$", "signal: segmentation fault", None, "SIGSEGV"),
        ("kill -PIPE $$", "signal: broken pipe", None, "SIGPIPE"),
        ("kill -HUP $$", "signal: hangup", None, "SIGHUP"),
    ],
)
async def test_a_command_that_fails_says_how(
    launcher: Launcher, tmp_path: Path, script: str, detail: str, code: int | None, name: str | None
) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "bash", "-c", script)
    assert (status["State"], status["Detail"]) == (3, detail)
    assert (status["ExitCode"], status["Signal"]) == (code, name)


async def test_arguments_reach_the_command_as_they_are(launcher: Launcher, tmp_path: Path) -> None:
    words = ["${line^^}", "a b", "", "'\"\\", "$(id)", "ünïcode", "\udcff", "x\ny", "*"]
    unit = make_unit(tmp_path)
    code = "import os, sys; os.write(1, b'|'.join(map(os.fsencode, sys.argv[1:])))"
    await run_unit(launcher, unit, sys.executable, "-I", "-X", "utf8", "-c", code, *words)
    assert output(unit) == "|".join(words).encode("utf-8", "surrogateescape")


async def test_a_command_line_longer_than_a_packet_arrives_whole(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    words = [f"{i:06}" + "x" * 100_000 for i in range(12)]
    status = await run_unit(launcher, unit, "bash", "-c", 'printf %s "$@"', "bash", *words)
    assert status["Detail"] == "exit status 0"
    assert output(unit) == "".join(words).encode()


async def test_a_command_line_longer_than_the_kernel_takes_fails_the_unit(
    launcher: Launcher, tmp_path: Path
) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "echo", "x" * 200_000)
    assert (status["State"], status["ExitCode"]) == (3, None)
    assert status["Detail"] == f"fork/exec {shutil.which('echo')}: argument list too long"


async def test_a_command_line_that_nothing_could_take_is_refused(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    with pytest.raises(WorkError, match="too long"):
        await run_unit(launcher, unit, "echo", "x" * 17_000_000)
    assert read_status(unit)["State"] == 0


async def test_stdin_is_the_payload_and_stderr_goes_into_stdout(
    launcher: Launcher, tmp_path: Path
) -> None:
    payload = os.urandom(1_000_000)
    unit = make_unit(tmp_path, stdin=payload)
    await run_unit(launcher, unit, "bash", "-c", "cat; echo one; echo two >&2; echo three")
    assert output(unit) == payload + b"one\ntwo\nthree\n"
    assert read_status(unit)["StdoutSize"] == len(payload) + 14


async def test_without_a_payload_stdin_is_empty(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path)
    status = await run_unit(launcher, unit, "cat")
    assert (status["Detail"], output(unit)) == ("exit status 0", b"")


PROBE = """
import json, os, signal
print(json.dumps({
    "fds": [int(fd) for fd in os.listdir("/proc/self/fd")
            if os.path.exists("/proc/self/fd/" + fd)],
    "group": os.getpgrp() == os.getpid(),
    "session": os.getsid(0) == os.getppid(),
    "status": {key: int(value, 16) for key, value in (
        line.split(":") for line in open("/proc/self/status") if line.startswith("Sig")
    ) if key in ("SigBlk", "SigIgn")},
    "unit": [os.environ.get("MESHNODE_UNIT_ID"), os.environ.get("MESHNODE_UNIT_DIR")],
    "umask": os.umask(0),
}))
"""


async def test_a_command_starts_with_a_clean_slate(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path, "clean")
    # -S -E: Python itself sets up less; it ignores two signals at its start all the same.
    await run_unit(launcher, unit, sys.executable, "-I", "-S", "-c", PROBE)
    umask = os.umask(0)
    os.umask(umask)
    pythons_own = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert json.loads(output(unit)) == {
        "fds": [0, 1, 2],
        "group": True,
        "session": True,
        "status": {"SigBlk": 0, "SigIgn": pythons_own},
        "unit": ["clean", str(unit)],
        "umask": umask,
    }


async def test_no_signal_is_ignored_or_blocked_in_a_command(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    await run_unit(launcher, unit, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    zeros = b"0" * 16
    assert output(unit) == b"SigBlk:\t" + zeros + b"\nSigIgn:\t" + zeros + b"\n"


async def test_environment_and_directory_are_those_asked_for(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    (tmp_path / "there").mkdir()
    bash = shutil.which("bash") or ""
    await run_unit(
        launcher, unit, bash, "-c", "echo $ASKED-$HOME; pwd", env={"ASKED": "yes"},
        cwd=str(tmp_path / "there"),
    )  # fmt: skip
    assert output(unit).decode() == f"yes-\n{tmp_path}/there\n"


# --- what cannot be executed --------------------------------------------------------------------


async def test_a_command_that_is_not_there_fails_the_unit(
    launcher: Launcher, tmp_path: Path
) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "nosuch-command", "x")
    assert (status["State"], status["ExitCode"], status["Signal"]) == (3, None, None)
    assert status["Detail"] == 'exec: "nosuch-command": executable file not found in $PATH'
    assert status["Finished"].endswith("Z")
    assert status["Supervisor"] is not None


async def test_a_path_that_cannot_be_executed_fails_the_unit_with_the_reason(
    launcher: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "garbage").write_text("no program\n")
    (tmp_path / "garbage").chmod(0o755)
    cases = {
        f"{tmp_path}/nosuch": "no such file or directory",
        f"{tmp_path}": "permission denied",
        f"{tmp_path}/garbage": "exec format error",
        f"{tmp_path}/nul\0": "invalid argument",
    }
    for number, (path, reason) in enumerate(cases.items()):
        status = await run_unit(launcher, make_unit(tmp_path, f"unit{number}"), path)
        assert (status["State"], status["Detail"]) == (3, f"fork/exec {path}: {reason}")
        assert status["StdoutSize"] == 0


async def test_a_missing_working_directory_fails_the_unit(
    launcher: Launcher, tmp_path: Path
) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "true", cwd="/no/such")
    assert (status["State"], status["Detail"]) == (3, "chdir /no/such: no such file or directory")


@pytest.mark.parametrize("state", [1, 2, 3, 4])
async def test_a_unit_that_is_not_pending_is_not_started(
    launcher: Launcher, tmp_path: Path, state: int
) -> None:
    unit = make_unit(tmp_path)
    (unit / "status").write_text(json.dumps({"State": state}))
    with pytest.raises(WorkError, match="has been started or has ended before"):
        await run_unit(launcher, unit, "touch", str(tmp_path / "ran"))
    assert read_status(unit) == {"State": state}
    assert not (tmp_path / "ran").exists()


async def test_a_unit_without_a_directory_is_not_started(
    launcher: Launcher, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match="no such file or directory"):
        await run_unit(launcher, tmp_path / "nosuch", "true")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkError, match="directory is gone"):
        await run_unit(launcher, tmp_path / "empty", "true")


# --- cancel and left-behind processes -----------------------------------------------------------


async def cancel(supervisor: ProcessId, unit: Path) -> Status:
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    return read_status(unit)


async def start(launcher: Launcher, unit: Path, script: str, says: Fifo, grace: float) -> ProcessId:
    argv = ("bash", "-c", script, "bash", str(says.path))
    return await launcher.start(StartRequest(unit.name, unit, argv, grace))


async def start_python(
    launcher: Launcher, unit: Path, code: str, says: Fifo, grace: float
) -> ProcessId:
    argv = (sys.executable, "-I", "-S", "-c", PRELUDE + code, str(says.path))
    return await launcher.start(StartRequest(unit.name, unit, argv, grace))


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
    assert (status["State"], status["Detail"], status["ExitCode"]) == (4, "Canceled", 0)
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
    assert (status["State"], status["Detail"]) == (4, "Canceled")
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
    assert (status["State"], status["Detail"]) == (3, "exit status 5")
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
    assert read_status(unit)["Detail"] == "exit status 5"


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


# --- many ---------------------------------------------------------------------------------------


async def test_200_starts_at_once_all_run_and_leave_nothing_behind(
    launcher: Launcher, tmp_path: Path
) -> None:
    process = launcher_of(os.getpid())
    await run_unit(launcher, make_unit(tmp_path, "first"), "true")
    descriptors = Path(f"/proc/{process.pid}/fd")
    before = len(list(descriptors.iterdir())), len(os.listdir("/proc/self/fd"))
    units = [make_unit(tmp_path, f"unit{i}") for i in range(200)]
    async with trio.open_nursery() as nursery:
        for i, unit in enumerate(units):
            nursery.start_soon(run_unit, launcher, unit, "echo", str(i))
    assert [output(unit) for unit in units] == [f"{i}\n".encode() for i in range(200)]
    assert {read_status(unit)["Detail"] for unit in units} == {"exit status 0"}
    assert (len(list(descriptors.iterdir())), len(os.listdir("/proc/self/fd"))) == before
    # One more start goes through the launcher's loop, which reaps before it takes a request.
    await run_unit(launcher, make_unit(tmp_path, "last"), "true")
    last = supervisor_of(tmp_path / "last")
    zombies = [p.pid for p in tree.all_processes() if p.parent == process.pid]
    assert set(zombies) <= {last.pid if last else 0}


async def test_one_unit_started_many_times_at_once_runs_once(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    argv = ("bash", "-c", "echo ran >>$1", "bash", str(tmp_path / "ledger"))
    supervisors: set[ProcessId] = set()

    async def attempt() -> None:
        supervisors.add(await launcher.start(StartRequest("unit", unit, argv)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attempt)
    assert supervisors == {supervisor_of(unit)}
    await wait_gone(*supervisors)
    assert (tmp_path / "ledger").read_text() == "ran\n"
