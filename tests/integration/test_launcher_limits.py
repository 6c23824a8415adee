"""Commands that run too long or print too much are stopped, and their unit says so."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from launching import (
    kill,
    make_unit,
    read_status,
    run_unit,
    running_launcher,
    start_lasting,
    wait_gone,
)

from meshnode.work.launch import Launcher, StartRequest

FAILED = 3


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


async def test_a_command_that_runs_too_long_is_ended_with_all_its_children(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    script = "echo before; setsid sleep 600 & trap '' INT; sleep 600"
    status = await run_unit(launcher, unit, "bash", "-c", script, timeout=0.2, grace=0.2)
    assert (status["State"], status["Detail"]) == (FAILED, "timed out after 0.2 s")
    assert status["Signal"] == "SIGKILL"
    assert (unit / "stdout").read_bytes() == b"before\n"


async def test_a_command_within_its_time_ends_by_itself(launcher: Launcher, tmp_path: Path) -> None:
    status = await run_unit(launcher, make_unit(tmp_path), "true", timeout=600.0, max_output=10)
    assert status["Detail"] == "exit status 0"


async def test_a_command_that_prints_too_much_is_ended(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path)
    status = await run_unit(launcher, unit, "yes", max_output=100_000)
    assert (status["State"], status["Detail"]) == (
        FAILED,
        "stopped: it printed more than 100000 bytes",
    )
    assert status["StdoutSize"] == (unit / "stdout").stat().st_size > 100_000


async def test_as_much_as_the_limit_may_be_printed(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path)
    status = await run_unit(launcher, unit, "head", "-c", "1000", "/dev/zero", max_output=1000)
    assert (status["Detail"], status["StdoutSize"]) == ("exit status 0", 1000)


async def test_output_that_came_before_anybody_watched_counts(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    script = "head -c 5000 /dev/zero; exec sleep 600"
    status = await run_unit(launcher, unit, "bash", "-c", script, max_output=1000)
    assert status["State"] == FAILED


async def test_a_limited_command_can_be_canceled(launcher: Launcher, tmp_path: Path) -> None:
    unit = make_unit(tmp_path)
    argv = ("sleep", "600")
    request = StartRequest("unit", unit, argv, timeout=600.0, max_output=1000)
    supervisor = await start_lasting(launcher, request)
    kill(supervisor, signal.SIGTERM)
    await wait_gone(supervisor)
    assert read_status(unit)["Detail"] == "Canceled"
