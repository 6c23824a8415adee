"""Commands that run too long or print too much are stopped, and their unit says so."""

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from launching import (
    Fifo,
    Status,
    kill,
    make_unit,
    read_status,
    run_unit,
    running_launcher,
    start_lasting,
    wait_gone,
)

from meshnode.work.local.client import Launcher
from meshnode.work.local.launcherprocess import StartRequest

FAILED = 3


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


async def timed_out(
    launcher: Launcher, root: Path, script: str, grace: float
) -> tuple[Status, bytes, str]:
    """Return how a script ended that prints ``begun`` and goes on, its output and its time limit.

    On a busy machine its time may be over before it has begun; then it has more.
    """
    for seconds in ("0.2", "2", "20"):
        unit = make_unit(root, f"unit-{seconds}")
        argv = ("bash", "-c", script)
        status = await run_unit(launcher, unit, *argv, timeout=float(seconds), grace=grace)
        if output := (unit / "stdout").read_bytes():
            break
    return status, output, seconds


async def test_a_command_that_runs_too_long_is_ended_with_all_its_children(
    launcher: Launcher, tmp_path: Path
) -> None:
    script = "setsid sleep 600 & trap '' TERM; echo begun; sleep 600"
    status, output, seconds = await timed_out(launcher, tmp_path, script, grace=0.2)
    assert (status["State"], status["Detail"]) == (FAILED, f"timed out after {seconds} s")
    assert status["Signal"] == "SIGKILL"
    assert output == b"begun\n"


async def test_a_command_that_runs_too_long_gets_sigterm_and_its_grace_to_clean_up(
    launcher: Launcher, tmp_path: Path
) -> None:
    script = "trap 'echo late; exit 7' TERM; trap '' INT; echo begun; while :; do sleep 0.05; done"
    status, output, seconds = await timed_out(launcher, tmp_path, script, grace=60.0)
    assert (status["Detail"], status["ExitCode"]) == (f"timed out after {seconds} s", 7)
    # bash may say what became of its sleep.
    assert output.endswith(b"late\n")


async def test_a_command_within_its_time_ends_by_itself(launcher: Launcher, tmp_path: Path) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "true", timeout=600.0, max_output=10)
    assert status["Detail"] == "exit status 0"


LIMIT = 100_000

TOO_MUCH = f"stopped: it printed more than {LIMIT} bytes"

ENDLESS = {
    "fast": "cat /dev/zero",
    "deaf to SIGINT": "trap '' INT; cat /dev/zero",
    "many at once": "for i in 1 2 3 4; do cat /dev/zero & done; wait",
    "in another session": "setsid --wait cat /dev/zero",
    "byte by byte": "while :; do printf x; done",
    "on standard error": "cat /dev/zero >&2",
    "just too much": f"head -c {LIMIT + 1} /dev/zero",
    "just too much, and lives on": f"head -c {LIMIT + 1} /dev/zero; exec sleep 600",
    "after its end": f"(sleep 0.05; head -c {LIMIT + 1} /dev/zero; sleep 600) & exit 0",
}


@pytest.mark.parametrize("how", ENDLESS)
async def test_a_command_that_prints_too_much_is_ended_and_leaves_exactly_what_it_may(
    launcher: Launcher, tmp_path: Path, how: str
) -> None:
    unit = make_unit(tmp_path)
    script = ENDLESS[how]
    if how == "byte by byte":
        options: dict[str, float] = {"max_output": 500}
    else:
        options = {"max_output": LIMIT}
    status = await run_unit(launcher, unit, "bash", "-c", script, grace=0.3, **options)
    if how == "after its end":
        # What the command leaves behind is asked to end as soon as it has ended itself.
        assert (unit / "stdout").stat().st_size <= LIMIT
        return
    assert (status["State"], status["Detail"]) == (
        FAILED,
        TOO_MUCH.replace(str(LIMIT), str(options["max_output"])),
    )
    assert status["StdoutSize"] == (unit / "stdout").stat().st_size == options["max_output"]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 65_536, 300_001])
async def test_as_much_as_the_limit_may_be_printed_and_is_kept_byte_for_byte(
    launcher: Launcher, tmp_path: Path, size: int
) -> None:
    unit = make_unit(tmp_path)
    data = random.Random(size).randbytes(size)
    (unit / "stdin").write_bytes(data)
    status = await run_unit(launcher, unit, "cat", max_output=size)
    assert (status["Detail"], status["StdoutSize"]) == ("exit status 0", size)
    assert (unit / "stdout").read_bytes() == data


async def test_the_limit_is_none_for_other_files_of_the_command(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    script = f"head -c 1000000 /dev/zero >{tmp_path}/other; echo done"
    status = await run_unit(launcher, unit, "bash", "-c", script, max_output=100)
    assert status["Detail"] == "exit status 0"
    assert (tmp_path / "other").stat().st_size == 1_000_000
    assert (unit / "stdout").read_bytes() == b"done\n"


async def test_a_command_that_says_goodbye_when_it_is_stopped_is_not_held_up(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    goodbye = f"head -c 500000 /dev/zero; touch {tmp_path}/said; exit"
    script = f"trap '{goodbye}' INT\nwhile :; do echo x; done"
    status = await run_unit(launcher, unit, "bash", "-c", script, max_output=1000, grace=600.0)
    assert status["Detail"] == "stopped: it printed more than 1000 bytes"
    assert (tmp_path / "said").exists()
    assert (unit / "stdout").stat().st_size == 1000


async def test_what_a_canceled_command_still_prints_is_kept_up_to_the_limit(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "says") as says:
        script = f"trap 'echo bye; exit' INT; echo hi; echo up >{says.path}"
        script += "; while :; do sleep 0.01; done"
        request = StartRequest("unit", unit, ("bash", "-c", script), max_output=1000, grace=600.0)
        supervisor = await start_lasting(launcher, request)
        assert await says.line() == "up"
        kill(supervisor, signal.SIGTERM)
        await wait_gone(supervisor)
    assert read_status(unit)["Detail"].startswith("Canceled by a signal of process ")
    assert (unit / "stdout").read_bytes() == b"hi\nbye\n"


async def test_a_limited_command_can_be_canceled(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path)
    argv = ("sleep", "600")
    request = StartRequest("unit", unit, argv, timeout=600.0, max_output=1000)
    supervisor = await start_lasting(launcher, request)
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert read_status(unit)["Detail"].startswith("Canceled by a signal of process ")
