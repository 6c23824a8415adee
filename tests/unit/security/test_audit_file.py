"""The file of the audit log: who may write to it, and what a disk that is full leaves of a line."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnode import files
from meshnode.security.auditfile import MAX_TAIL, AuditFile, Tail

LINES = [b'{"n":1}\n', b'{"n":22}\n', b'{"n":333}\n']


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let this process make no file longer than that: what is written is cut off there."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_new_file_can_be_read_and_written_by_nobody_else(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    assert file.write(LINES, sync=False).lines == 3
    assert file.path.read_bytes() == b"".join(LINES)
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused_with_the_remedy(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    path.chmod(mode)
    with pytest.raises(OSError, match="written by other users") as caught:
        AuditFile(path).check()
    assert f"chmod go-w {path}" in files.reason(caught.value)
    written = AuditFile(path).write(LINES, sync=True)
    assert (written.lines, written.is_durable) == (0, False)
    assert path.read_bytes() == b""


def test_a_file_that_a_group_may_read_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    path.chmod(0o640)
    AuditFile(path).check()
    assert path.stat().st_mode & 0o777 == 0o640


def test_no_link_and_no_pipe_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(files.NotOurs):
            AuditFile(tmp_path / name).check()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("room", range(sum(map(len, LINES)) + 1))
@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_keeps_whole_lines_only_and_says_how_many(
    tmp_path: Path, room: int, sync: bool
) -> None:
    file = AuditFile(tmp_path / "audit.log")
    with room_for(room):
        written = file.write(LINES, sync=sync)
    assert file.path.read_bytes() == b"".join(LINES[: written.lines])
    assert (written.error is None) == (written.lines == len(LINES))
    assert written.is_durable == (sync and written.lines > 0)
    # With room again, the others follow.
    assert file.write(LINES[written.lines :], sync=sync).error is None
    assert file.path.read_bytes() == b"".join(LINES)


def test_a_line_that_cannot_be_taken_back_is_closed_off_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise PermissionError(1, "Operation not permitted")  # as with chattr +a

    monkeypatch.setattr(os, "ftruncate", refuse)
    file = AuditFile(tmp_path / "audit.log")
    with room_for(len(LINES[0]) + 3):
        assert file.write(LINES, sync=False).lines == 1
    assert file.write(LINES[1:], sync=False).lines == 2
    assert file.path.read_bytes().splitlines(keepends=True) == [LINES[0], b'{"n\n', *LINES[1:]]


def test_a_line_that_a_killed_node_left_unfinished_is_closed_off(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"n":0}\n{"n"')
    path.chmod(0o600)
    AuditFile(path).write(LINES, sync=False)
    assert path.read_bytes() == b'{"n":0}\n{"n"\n' + b"".join(LINES)


def test_a_file_that_was_truncated_meanwhile_gets_no_hole(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    file.write(LINES * 10, sync=False)
    os.truncate(file.path, 0)
    with room_for(3):
        assert file.write(LINES, sync=False).lines == 0
    file.write(LINES, sync=False)
    assert file.path.read_bytes().endswith(b"".join(LINES))
    assert b"\0" not in file.path.read_bytes()


def test_a_deleted_file_is_made_anew_and_a_renamed_one_is_kept(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    file.write(LINES[:1], sync=False)
    file.path.rename(tmp_path / "audit.log.1")
    file.write(LINES[1:2], sync=False)
    assert (tmp_path / "audit.log.1").read_bytes() == b"".join(LINES[:2])
    (tmp_path / "audit.log.1").unlink()
    file.write(LINES[2:], sync=False)
    assert file.path.read_bytes() == LINES[2]


def test_a_new_file_outlives_a_power_cut_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    file = AuditFile(tmp_path / "audit.log")
    assert file.write(LINES, sync=True).is_durable
    assert done == [str(tmp_path)]
    file.write(LINES, sync=True)
    assert done == [str(tmp_path)]


def test_how_a_file_ends_is_known_and_no_more_than_that_is_read(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    assert file.check().data == b""
    file.write(LINES, sync=False)
    os.utime(file.path, (1, 1000.0))
    assert file.check() == Tail(1000.0, b"".join(LINES))
    file.path.write_bytes(b"x" * MAX_TAIL + b"".join(LINES))
    tail = file.check().data
    assert len(tail) == MAX_TAIL
    assert tail.endswith(b"".join(LINES))
