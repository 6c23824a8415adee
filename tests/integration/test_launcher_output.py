"""Commands whose errors are separate, or whose lines have times: real processes, real files."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import (
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

from meshctl.api.logindex import INDEX, STDERR, STDOUT, STREAMS, IndexReader, Line, LogLines
from meshnode.work.local.client import Launcher
from meshnode.work.local.launcherprocess import StartRequest

FAILED = 3

SEPARATE: dict[str, Any] = {"separate": True, "indexed": True}
TIMED: dict[str, Any] = {"indexed": True}


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with running_launcher(tmp_path) as launcher:
        yield launcher


def lines_of(unit: Path) -> list[Line]:
    log = LogLines()
    lines = []
    for name in (INDEX, *STREAMS):
        if (unit / name).exists():
            lines += log.feed(name, (unit / name).read_bytes())
    return lines + log.finish()


def ends_of(unit: Path) -> dict[str, int]:
    """Return how far the index knows of each stream."""
    ends = dict.fromkeys(STREAMS, 0)
    for record in IndexReader().feed((unit / INDEX).read_bytes()):
        ends[record.stream] = record.end
    return ends


async def bash(launcher: Launcher, unit: Path, script: str, **options: Any) -> Status:
    return await run_unit(launcher, unit, "bash", "-c", script, **options)


async def test_results_and_errors_are_files_of_their_own_in_the_order_in_which_they_came(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    before = time.time_ns() // 1000
    # A pause is what tells one moment from the next; nothing is expected of its length.
    script = "for i in 1 2 3; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; done"
    status = await bash(launcher, unit, script, **SEPARATE)
    after = time.time_ns() // 1000
    assert (unit / STDOUT).read_bytes() == b"out 1\nout 2\nout 3\n"
    assert (unit / STDERR).read_bytes() == b"err 1\nerr 2\nerr 3\n"
    sizes = [status[key] for key in ("StdoutSize", "StderrSize", "IndexSize")]
    assert sizes == [18, 18, (unit / INDEX).stat().st_size]
    lines = lines_of(unit)
    assert {line.text for line in lines} == {
        f"{name} {number}\n".encode() for name in ("out", "err") for number in (1, 2, 3)
    }
    times = [line.time or 0 for line in lines]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert [path.stat().st_mode & 0o777 for path in map(unit.joinpath, (STDERR, INDEX))] == [
        0o600,
        0o600,
    ]


async def test_with_times_alone_errors_stay_in_stdout_in_their_order(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    status = await bash(launcher, unit, "echo a; echo b >&2; printf c", **TIMED)
    assert (unit / STDOUT).read_bytes() == b"a\nb\nc"
    assert not (unit / STDERR).exists()
    assert "StderrSize" not in status
    assert [(line.stream, line.text) for line in lines_of(unit)] == [
        (STDOUT, b"a\n"),
        (STDOUT, b"b\n"),
        (STDOUT, b"c"),
    ]


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
async def test_what_is_printed_is_kept_byte_for_byte_and_the_index_knows_all_of_it(
    launcher: Launcher, tmp_path: Path, size: int
) -> None:
    unit = make_unit(tmp_path)
    data = random.Random(size).randbytes(size)
    (unit / "stdin").write_bytes(data)
    status = await bash(launcher, unit, "tee /dev/stderr", **SEPARATE)
    assert status["Detail"] == "exit status 0"
    assert (unit / STDOUT).read_bytes() == (unit / STDERR).read_bytes() == data
    assert ends_of(unit) == {STDOUT: size, STDERR: size}


LIMIT = 100_000

ENDLESS = {
    "on both at once": "cat /dev/zero & cat /dev/zero >&2",
    "on errors only": "cat /dev/zero >&2",
    "deaf to SIGINT": "trap '' INT; cat /dev/zero & cat /dev/zero >&2",
    "alternating": "while :; do echo out; echo err >&2; done",
}


@pytest.mark.parametrize("how", ENDLESS)
async def test_the_limit_is_one_for_results_and_errors_together(
    launcher: Launcher, tmp_path: Path, how: str
) -> None:
    unit = make_unit(tmp_path)
    limit = 5000 if how == "alternating" else LIMIT
    status = await bash(launcher, unit, ENDLESS[how], grace=0.3, max_output=limit, **SEPARATE)
    assert (status["State"], status["Detail"]) == (
        FAILED,
        f"stopped: it printed more than {limit} bytes",
    )
    sizes = [(unit / name).stat().st_size for name in STREAMS]
    assert sum(sizes) == limit == status["StdoutSize"] + status["StderrSize"]
    assert list(ends_of(unit).values()) == sizes


async def test_a_command_deaf_to_sigint_is_heard_until_it_is_killed(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "says") as says:
        script = f"trap '' INT; trap 'echo deaf >&2' INT; echo up >{says.path}"
        script += "; while :; do sleep 0.01; done"
        argv = ("bash", "-c", script)
        request = StartRequest("unit", unit, argv, grace=0.3, **SEPARATE)
        supervisor = await start_lasting(launcher, request)
        assert await says.line() == "up"
        kill(supervisor, signal.SIGTERM)
        await wait_gone(supervisor)
    status = read_status(unit)
    assert (status["State"], status["Signal"]) == (4, "SIGKILL")
    assert (unit / STDERR).read_bytes() == b"deaf\n"
    assert ends_of(unit) == {STDOUT: 0, STDERR: 5}


async def test_a_supervisor_that_is_killed_leaves_an_index_of_nothing_that_is_not_there(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    with Fifo(tmp_path / "says") as says:
        script = "for i in {1..50}; do echo out; echo err >&2; done"
        script += f"; echo up >{says.path}; while :; do echo out; echo err >&2; done"
        request = StartRequest("unit", unit, ("bash", "-c", script), **SEPARATE)
        supervisor = await start_lasting(launcher, request)
        assert await says.line() == "up"
        kill(supervisor, signal.SIGKILL)
        await wait_gone(supervisor)
    sizes = {name: (unit / name).stat().st_size for name in STREAMS}
    ends = ends_of(unit)
    assert all(0 < ends[name] <= sizes[name] for name in STREAMS)
    for name, line in ((STDOUT, b"out\n"), (STDERR, b"err\n")):
        text = (unit / name).read_bytes()
        assert text == (line * (len(text) // 4 + 1))[: len(text)]
        told = b"".join(one.text for one in lines_of(unit) if one.stream == name)
        assert told == text


async def test_short_units_with_times_share_a_supervisor_as_ordinary_ones_do(
    launcher: Launcher, tmp_path: Path
) -> None:
    first = make_unit(tmp_path, "first")
    await run_unit(launcher, first, "true", **SEPARATE, timeout=600.0, max_output=1000)
    supervisor = supervisor_of(first)
    assert supervisor is not None
    status = await run_on(launcher, tmp_path, supervisor, "bash", "-c", "echo x; echo y >&2")
    assert (status["Detail"], status["StdoutSize"]) == ("exit status 0", 4)


async def test_a_time_limit_holds_in_the_first_moment_too(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    status = await bash(launcher, unit, "echo x; exec sleep 600", timeout=0.02, **TIMED)
    assert status["Detail"] == "timed out after 0.02 s"
    # A busy machine may not have come to it by then.
    assert [line.text for line in lines_of(unit)] in ([b"x\n"], [])


async def test_a_command_finds_no_descriptor_of_its_pipes_but_its_own(
    launcher: Launcher, tmp_path: Path
) -> None:
    unit = make_unit(tmp_path)
    await bash(launcher, unit, "ls /proc/self/fd | wc -l", **SEPARATE)
    # stdin, stdout, stderr, and the directory that ls reads.
    assert (unit / STDOUT).read_bytes() == b"4\n"


@pytest.mark.parametrize("name", [STDERR, INDEX])
async def test_a_link_in_the_place_of_an_output_keeps_the_command_from_being_started(
    launcher: Launcher, tmp_path: Path, name: str
) -> None:
    unit = make_unit(tmp_path)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (unit / name).symlink_to(victim)
    with pytest.raises(Exception, match="is a symbolic link"):
        await bash(launcher, unit, f"touch {tmp_path}/ran", **SEPARATE)
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "ran").exists()
    assert read_status(unit)["State"] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with little room."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "script",
    ["cat /dev/zero", "cat /dev/zero >&2", "while :; do echo out; echo err >&2; done"],
)
async def test_on_a_full_disk_the_command_is_stopped_and_the_index_is_of_what_had_room(
    launcher: Launcher, small_disk: Path, script: str
) -> None:
    unit = make_unit(small_disk)
    with open(small_disk / "filler", "wb") as filler:
        filler.write(bytes(100 * 1024))
    status = await bash(launcher, unit, script, grace=0.3, **SEPARATE)
    assert (status["State"], status["Detail"]) == (
        FAILED,
        "stopped: no space left on the disk of its output",
    )
    assert status["EndedBy"] == {"Cause": "output"}
    for name, end in ends_of(unit).items():
        assert end <= (unit / name).stat().st_size
    assert status["StdoutSize"] + status["StderrSize"] > 0
