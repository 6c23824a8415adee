"""The status file as supervisors change it."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from strange_files import STRANGE, put_strange

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher import statusfile
from meshnode.work.local.launcher.statusfile import NotPending, StatusFile, UnitVanished


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    write(tmp_path, {"State": 0, "WorkType": "t", "ExtraData": {"Any": [1]}, "Ours": "kept"})
    return tmp_path


def write(unit: Path, status: dict[str, Any]) -> None:
    (unit / "status").write_text(json.dumps(status))


def read(unit: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((unit / "status").read_bytes())
    return status


def test_the_numbers_of_the_states_are_those_of_the_life_cycle() -> None:
    for state in UnitState:
        assert getattr(statusfile, state.name) == state


def test_a_claim_changes_its_own_keys_and_keeps_all_others(unit: Path) -> None:
    StatusFile(str(unit)).claim({"State": 1, "Pid": 7})
    assert read(unit) == {
        "State": 1,
        "WorkType": "t",
        "ExtraData": {"Any": [1]},
        "Ours": "kept",
        "Pid": 7,
    }
    assert (unit / "status").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("state", [1, 2, 3, 4, None])
def test_a_unit_that_is_not_pending_cannot_be_claimed(unit: Path, state: int | None) -> None:
    write(unit, {"State": state})
    with pytest.raises(NotPending):
        StatusFile(str(unit)).claim({"State": 1})
    assert read(unit) == {"State": state}


def test_a_status_that_cannot_be_read_cannot_be_claimed(unit: Path) -> None:
    for text in ("", "{", "[]"):
        (unit / "status").write_text(text)
        with pytest.raises(ValueError, match=r"."):
            StatusFile(str(unit)).claim({"State": 1})
        assert (unit / "status").read_text() == text


def test_the_end_is_recorded_over_a_status_damaged_meanwhile(unit: Path) -> None:
    status = StatusFile(str(unit))
    status.claim({"State": 1})
    (unit / "status").write_text("{ damaged")
    status.finish({"State": 2})
    assert read(unit) == {"State": 2, "WorkType": "t", "ExtraData": {"Any": [1]}, "Ours": "kept"}


def test_a_released_unit_is_not_brought_back(unit: Path) -> None:
    directory = unit / "unit"
    directory.mkdir()
    write(directory, {"State": 0})
    status = StatusFile(str(directory))
    status.claim({"State": 1})
    shutil.rmtree(directory)
    with pytest.raises(UnitVanished):
        status.finish({"State": 2})
    assert not directory.exists()


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", ["status", "status.tmp"])
def test_the_end_is_recorded_whatever_the_command_put_in_the_place_of_a_file(
    unit: Path, what: str, name: str
) -> None:
    status = StatusFile(str(unit))
    status.claim({"State": 1})
    status.reserve()
    put_strange(unit / name, what)
    status.finish({"State": 2})
    assert read(unit) == {"State": 2, "WorkType": "t", "ExtraData": {"Any": [1]}, "Ours": "kept"}


@pytest.mark.parametrize("what", [what for what in STRANGE if what not in {"gone", "empty"}])
def test_no_status_but_a_file_of_ours_is_claimed(unit: Path, what: str) -> None:
    put_strange(unit / "status", what)
    with pytest.raises((OSError, ValueError)):
        StatusFile(str(unit)).claim({"State": 1})


@pytest.mark.parametrize("what", ["named pipe", "link to a directory", "file"])
def test_what_stands_in_the_place_of_the_directory_is_no_unit(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "unit"
    directory.mkdir()
    write(directory, {"State": 0})
    status = StatusFile(str(directory))
    status.claim({"State": 1})
    directory.rename(tmp_path / "aside")
    match what:
        case "named pipe":
            os.mkfifo(directory)
        case "link to a directory":
            directory.symlink_to(tmp_path / "aside")
        case "file":
            directory.touch()
    with pytest.raises(UnitVanished):
        status.finish({"State": 2})
    assert read(tmp_path / "aside")["State"] == 1


def test_a_claim_waits_for_the_lock(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.open(unit, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(other, fcntl.LOCK_EX)
    waits: list[float] = []

    def let_go_later(seconds: float) -> None:
        assert read(unit)["State"] == 0
        waits.append(seconds)
        if len(waits) == 3:
            os.close(other)

    monkeypatch.setattr(statusfile.time, "sleep", let_go_later)
    StatusFile(str(unit)).claim({"State": 1})
    assert waits == [statusfile.LOCK_RETRY_SECONDS] * 3
    assert read(unit)["State"] == 1


def test_a_claim_does_not_wait_for_ever_for_a_lock_that_somebody_keeps(
    unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(statusfile.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(statusfile.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    other = os.open(unit, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="is locked by another program"):
            StatusFile(str(unit)).claim({"State": 1})
    finally:
        os.close(other)
    assert read(unit)["State"] == 0


def test_an_end_needs_no_lock(unit: Path) -> None:
    status = StatusFile(str(unit))
    status.claim({"State": 1})
    command = os.open(unit, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(command, fcntl.LOCK_EX)
        status.note({"Pid": 7})
        status.finish({"State": 2})
    finally:
        os.close(command)
    assert (read(unit)["State"], read(unit)["Pid"]) == (2, 7)


def test_a_full_disk_leaves_the_old_status(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(statusfile.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        StatusFile(str(unit)).claim({"State": 1})
    assert read(unit)["State"] == 0


def test_a_final_status_is_synced_before_and_its_directory_after_the_rename(
    unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    rename = os.rename

    def record_sync(fd: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    def record_rename(source: str, target: str) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(statusfile.os, "fsync", record_sync)
    monkeypatch.setattr(statusfile.os, "rename", record_rename)
    StatusFile(str(unit)).finish({"State": 2})
    assert steps == ["status.tmp", "rename", unit.name]


def test_a_file_system_without_sync_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [errno.EINVAL, errno.EIO]

    def refuse(fd: int) -> None:
        raise OSError(answers.pop(0), "refused")

    monkeypatch.setattr(statusfile.os, "fsync", refuse)
    statusfile.sync(0)
    with pytest.raises(OSError, match="refused"):
        statusfile.sync(0)


def test_room_is_kept_for_the_end_and_none_of_it_is_in_the_status(unit: Path) -> None:
    status = StatusFile(str(unit))
    status.claim({"State": 1})
    status.reserve()
    kept = (unit / "status.tmp").stat()
    assert kept.st_blocks * 512 >= kept.st_size > (unit / "status").stat().st_size
    status.finish({"State": 2})
    assert read(unit)["State"] == 2
    assert not (unit / "status.tmp").exists()


def test_an_end_is_recorded_also_where_no_room_could_be_kept(
    unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    status = StatusFile(str(unit))
    status.claim({"State": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        status.reserve()
        patch.setattr(os, "open", full)
        status.reserve()
    status.finish({"State": 2})
    assert read(unit)["State"] == 2


@pytest.mark.parametrize(("key", "synced"), [("", False), ("bar:6jF7F76k", True)])
def test_the_start_of_what_another_node_submitted_is_synced_before_it_happens(
    unit: Path, monkeypatch: pytest.MonkeyPatch, key: str, synced: bool
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(
        statusfile.os,
        "fsync",
        lambda fd: steps.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name),
    )
    write(unit, {"State": 0, "SubmissionKey": key})
    StatusFile(str(unit)).claim({"State": 1})
    assert steps == (["status.tmp", unit.name, unit.parent.name] if synced else [])


def test_what_a_client_gave_the_job_goes_with_the_end_and_not_before(unit: Path) -> None:
    given = {"Job": {"Env": {"secret_x": "y"}}, "Params": ["c", "--key=z"]}
    write(unit, {"State": 0, "WorkType": "t", **given})
    status = StatusFile(str(unit))
    status.claim({"State": 1})
    status.note({"Detail": "Running"})
    assert read(unit) == {"State": 1, "WorkType": "t", "Detail": "Running", **given}
    status.finish({"State": 2})
    assert read(unit) == {
        "State": 2,
        "WorkType": "t",
        "Detail": "Running",
        "Job": None,
        "Params": None,
    }
