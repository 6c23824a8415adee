"""What a supervisor records when the disk is in its way."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from meshnode.work.launcher import statusfile, supervisor, tree
from meshnode.work.launcher.lead import Lead
from meshnode.work.launcher.supervisor import Supervisor


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    (tmp_path / "status").write_text('{"State": 1}')
    return tmp_path


@pytest.fixture
def watching(unit: Path) -> Supervisor:
    """Return a supervisor whose command has just ended with 0 and written three bytes."""
    request = {"start": 1, "unit": "u", "dir": str(unit), "argv": ["x"], "grace": 1, "env": {}}
    request |= {"cwd": None, "timeout": None, "max_output": None, "known": {}}
    myself = tree.read_process(os.getpid())
    assert myself is not None
    node, reports = os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)
    lead = Lead(os.open(os.devnull, os.O_RDONLY), reports)
    result = Supervisor(request, myself, {}, node, lead)
    result._stdout = os.open(unit / "stdout", os.O_CREAT | os.O_WRONLY)
    os.write(result._stdout, b"abc")
    result._end = 0
    return result


def is_status(fd: int) -> bool:
    return "status" in os.readlink(f"/proc/self/fd/{fd}")


def status_of(unit: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((unit / "status").read_bytes())
    return status


def test_an_end_is_recorded_as_soon_as_the_full_disk_has_room(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(waits) < 3 and is_status(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(statusfile.os, "write", full)
    monkeypatch.setattr(supervisor.time, "sleep", waits.append)
    watching._record(watching._outcome(None))
    assert waits == [supervisor.RECORD_RETRY_SECONDS] * 3
    assert (status_of(unit)["State"], status_of(unit)["StdoutSize"]) == (2, 3)


def test_an_end_waits_no_longer_once_the_unit_is_released(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(seconds: float) -> None:
        shutil.rmtree(unit)

    write = os.write

    def full(fd: int, data: bytes) -> int:
        if is_status(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(statusfile.os, "write", full)
    monkeypatch.setattr(supervisor.time, "sleep", release)
    watching._record(watching._outcome(None))
    assert not unit.exists()


@pytest.mark.parametrize("ended", [None, (4, "Canceled"), (3, "timed out after 1 s")])
def test_output_that_the_disk_lost_fails_the_unit(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch, ended: tuple[int, str] | None
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(supervisor, "sync", broken)
    watching._record(watching._outcome(ended))
    status = status_of(unit)
    assert (status["State"], status["ExitCode"]) == (3, 0)
    assert status["Detail"] == "stdout is incomplete: input/output error"


def test_a_supervisor_whose_claim_may_stand_on_disk_takes_no_other_unit(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (unit / "status").write_text('{"State": 0, "SubmissionKey": "bar:1"}')
    watching._argv = ["true"]
    # The claim is written, and only then the disk fails.
    monkeypatch.setattr(statusfile.StatusFile, "_sync_parent", lambda status: broken(0))
    watching.run()
    assert status_of(unit)["State"] == 1
    assert not watching.is_free


def test_stdout_is_synced_before_the_end_is_written(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(statusfile.os, "fsync", record)
    watching._record(watching._outcome(None))
    assert synced == ["stdout", "status.tmp", unit.name]


@pytest.mark.parametrize(
    ("wait_status", "state", "detail"),
    [
        (0, 2, "exit status 0; no space left on the disk of its output, which may be incomplete"),
        (1 << 8, 3, "exit status 1; no space left on the disk of its output"),
    ],
)
def test_an_end_on_a_full_disk_says_so(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch, wait_status: int, state: int, detail: str
) -> None:
    monkeypatch.setattr(supervisor, "_is_full", lambda fd: True)
    watching._end = wait_status
    end = watching._outcome(None)
    assert (end["State"], end["Detail"]) == (state, detail)


@pytest.mark.parametrize("argv", [["true"], ["no-such-program-4711"]])
def test_the_node_hears_of_an_end_before_the_launcher_hears_that_its_supervisor_is_free(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Killed in between, it would leave a unit that runs for ever in the node's memory only."""
    told: list[str] = []

    def tell_node(node: int, request: object, outcome: dict[str, object]) -> bool:
        told.append("ended" if "ended" in outcome else "started")
        return True

    def tell_launcher() -> bool:
        told.append("free")
        return True

    monkeypatch.setattr(supervisor, "answer", tell_node)
    monkeypatch.setattr(watching._lead, "be_free", tell_launcher)
    # However slow the machine is.
    monkeypatch.setattr(supervisor, "FIRST_MOMENT_SECONDS", 60.0)
    (unit / "status").write_text('{"State": 0}')
    watching._argv, watching._end = argv, None
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    try:
        watching.run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    assert told[-2:] == ["ended", "free"]
    assert status_of(unit)["State"] in {2, 3}


def test_a_supervisor_that_cannot_tell_the_node_takes_no_other_unit(
    unit: Path, watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits, which is what tells the launcher, and that tells the node."""
    monkeypatch.setattr(supervisor, "answer", lambda *told: False)
    monkeypatch.setattr(watching._lead, "be_free", lambda: pytest.fail("said to be free"))
    (unit / "status").write_text('{"State": 0}')
    watching._argv, watching._end = ["no-such-program-4711"], None
    watching.run()
    assert not watching.is_free
