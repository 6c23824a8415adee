"""Commands as the launcher starts them: what they get and how they end."""

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from launching import (
    kill,
    launcher_of,
    make_unit,
    read_status,
    run_on,
    run_unit,
    running_launcher,
    supervisor_of,
    wait_gone,
)

from meshnode.errors import WorkError
from meshnode.work.local.client import Launcher
from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.pool import MOST_FREE
from meshnode.work.local.launcherprocess import StartRequest
from meshnode.work.local.processes import ProcessId


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


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
    assert modes == {"status": 0o600, "stdout": 0o600}


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


async def test_room_for_the_record_of_its_end_is_taken_before_a_command_can_fill_the_disk(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    await run_unit(launcher, unit, "sh", "-c", 'stat -c %b "$MESHNODE_UNIT_DIR/status.tmp"')
    assert int(output(unit)) > 0


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


LIBC_OWN = 1 << (32 - 1) | 1 << (33 - 1)
"""Two signals that the C library keeps for itself and no program can set: who is started by
posix_spawn, as make starts its commands, has them ignored, and so has all that it starts."""

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
    seen = json.loads(output(unit))
    seen["status"]["SigIgn"] &= ~LIBC_OWN
    assert seen == {
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
    masks = [int(line.split()[1], 16) & ~LIBC_OWN for line in output(unit).splitlines()]
    assert masks == [0, 0]


OWN_SCORE = Path("/proc/self/oom_score_adj")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be spared by the kernel")
@pytest.mark.parametrize(("own", "of_command"), [(-100, 0), (0, 0), (300, 300)])
async def test_a_node_that_the_kernel_spares_has_commands_that_it_does_not_spare(
    tmp_path: Path, own: int, of_command: int
) -> None:
    before = OWN_SCORE.read_text()
    try:
        try:
            OWN_SCORE.write_text(str(own))
        except PermissionError:
            pytest.skip("not permitted in this container")
        async with running_launcher(tmp_path) as launcher:
            unit = make_unit(tmp_path)
            await run_unit(launcher, unit, "cat", str(OWN_SCORE))
    finally:
        OWN_SCORE.write_text(before)
    assert int(output(unit)) == of_command


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


async def test_a_unit_whose_stdin_cannot_be_opened_is_not_started(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    (unit / "stdin").symlink_to("stdin")
    with pytest.raises(WorkError, match=r"cannot start the command: .*stdin is a symbolic link"):
        await run_unit(launcher, unit, "touch", str(tmp_path / "ran"))
    assert read_status(unit)["State"] == 0
    assert not (tmp_path / "ran").exists()


# --- many ---------------------------------------------------------------------------------------


async def test_200_starts_at_once_all_run_and_leave_nothing_behind(
    launcher: Launcher, tmp_path: Path
) -> None:
    process = launcher_of(os.getpid())
    await run_unit(launcher, make_unit(tmp_path, "first"), "true")
    before = len(os.listdir("/proc/self/fd"))
    units = [make_unit(tmp_path, f"unit{i}") for i in range(200)]
    async with trio.open_nursery() as nursery:
        for i, unit in enumerate(units):
            nursery.start_soon(run_unit, launcher, unit, "echo", str(i))
    assert [output(unit) for unit in units] == [f"{i}\n".encode() for i in range(200)]
    assert {read_status(unit)["Detail"] for unit in units} == {"exit status 0"}
    assert len(os.listdir("/proc/self/fd")) == before
    # Supervisors are kept for further units, but not more than a few.
    while len(left := children_of(process.pid)) > MOST_FREE:
        await wait_any_gone(left)


def children_of(parent: int) -> list[ProcessId]:
    return [ProcessId(p.pid, p.started) for p in tree.all_processes() if p.parent == parent]


async def wait_any_gone(processes: list[ProcessId]) -> None:
    async def wait(process: ProcessId) -> None:
        await wait_gone(process)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for process in processes:
            nursery.start_soon(wait, process)


async def test_a_supervisor_whose_unit_ended_at_once_takes_the_next_one(
    launcher: Launcher, tmp_path: Path
) -> None:
    first = make_unit(tmp_path, "first")
    assert (await run_unit(launcher, first, "true"))["Detail"] == "exit status 0"
    supervisor = supervisor_of(first)
    assert supervisor is not None
    status = await run_on(launcher, tmp_path, supervisor, "sh", "-c", "exit 3")
    assert status["Detail"] == "exit status 3"


async def test_a_supervisor_killed_while_it_was_free_is_not_missed(
    launcher: Launcher, tmp_path: Path
) -> None:
    first = make_unit(tmp_path, "first")
    await run_unit(launcher, first, "true")
    kill(supervisor_of(first))
    assert (await run_unit(launcher, make_unit(tmp_path, "second"), "true"))["State"] == 2


async def test_free_supervisors_end_with_their_launcher(tmp_path: Path) -> None:
    async with running_launcher(tmp_path) as launcher:
        await run_unit(launcher, make_unit(tmp_path), "true")
        supervisor = supervisor_of(tmp_path / "unit")
    await wait_gone(supervisor)


async def test_one_unit_started_many_times_at_once_runs_once(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    argv = ("bash", "-c", "echo ran >>$1", "bash", str(tmp_path / "ledger"))
    supervisors: set[ProcessId] = set()

    async def attempt() -> None:
        started = await launcher.start(StartRequest("unit", unit, argv))
        supervisors.add(started.process)
        await started.first_moment()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attempt)
    assert supervisors == {supervisor_of(unit)}
    assert (tmp_path / "ledger").read_text() == "ran\n"
