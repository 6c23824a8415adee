"""Files where others may have put something."""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from strange_files import HUGE, SECRET, STRANGE, put_strange

from meshnode import files
from meshnode.files import NotOurs

PATIENCE = 60.0
"""Seconds until what waits for a pipe's other end is found out."""

PLAIN = ("huge", "empty", "random bytes", "deep", "gone")


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "unit").mkdir()
    return tmp_path / "unit" / "file"


FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY | os.O_CREAT,
    "append": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "empty": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}


@pytest.mark.parametrize("how", FLAGS)
@pytest.mark.parametrize("what", [what for what in STRANGE if what not in PLAIN])
def test_what_is_no_file_of_ours_is_refused_in_words_and_left_as_it_is(
    place: Path, what: str, how: str
) -> None:
    put_strange(place, what)
    before = os.lstat(place)
    with pytest.raises(NotOurs) as refused:
        os.close(files.open_file(place, FLAGS[how]))
    assert str(refused.value).startswith(f"{place} ")
    assert os.lstat(place).st_size == before.st_size
    secret = place.parent.parent / "secret"
    assert what != "link" or secret.read_bytes() == SECRET


@pytest.mark.parametrize("what", STRANGE)
def test_no_more_is_read_than_a_bound(place: Path, what: str) -> None:
    put_strange(place, what)
    with contextlib.suppress(OSError):
        assert len(files.read_file(place, 1000)) <= 1000
    assert files.size_of(place) in {0, 256, 100_000, HUGE, 31}


@pytest.mark.parametrize("what", STRANGE)
def test_whatever_stands_in_the_way_a_file_is_made_and_put_in_place(place: Path, what: str) -> None:
    put_strange(place, what)
    scratch = place.with_name("scratch")
    put_strange(scratch, what)
    descriptor, was_there = files.open_scratch(scratch)
    os.write(descriptor, b"new")
    if was_there:
        os.ftruncate(descriptor, 3)
    os.close(descriptor)
    files.put_in_place(scratch, place)
    assert files.read_file(place, 1000) == b"new"
    assert not os.path.lexists(scratch)


def test_a_file_is_emptied_only_when_it_is_asked_for(place: Path) -> None:
    place.write_bytes(b"abc")
    os.close(files.open_file(place, os.O_WRONLY))
    assert place.read_bytes() == b"abc"
    os.close(files.open_file(place, os.O_WRONLY | os.O_TRUNC))
    assert place.read_bytes() == b""


def test_what_is_made_is_private_and_no_program_inherits_it(place: Path) -> None:
    descriptor = files.open_file(place, os.O_WRONLY | os.O_CREAT)
    assert place.stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("new", [b'{"a":1}', b'{"a":"' + b"x" * 3000 + b'"}'])
def test_a_file_is_written_over_in_the_room_that_it_has(place: Path, new: bytes) -> None:
    place.write_bytes(b'{"a":"' + b"y" * 200 + b'"}')
    files.overwrite(place, new)
    assert place.read_bytes().rstrip() == new


def test_a_file_is_not_written_over_where_it_has_no_room(place: Path) -> None:
    place.write_bytes(b"{}")
    with pytest.raises(OSError, match="No space left") as refused:
        files.overwrite(place, b"x" * 100_000)
    assert refused.value.errno == errno.ENOSPC
    assert place.read_bytes() == b"{}"


@pytest.mark.parametrize("old", [None, b"", b"x" * 100_000])
def test_a_scratch_file_keeps_its_room_and_says_whether_it_is_to_be_cut(
    place: Path, old: bytes | None
) -> None:
    if old is not None:
        place.write_bytes(old)
    descriptor, was_there = files.open_scratch(place)
    assert was_there is (old is not None)
    assert os.fstat(descriptor).st_size == len(old or b"")
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 4096, files.READ_BYTES - 1, files.READ_BYTES, 200_000])
def test_all_of_a_file_is_read_whatever_its_size(place: Path, size: int) -> None:
    content = os.urandom(size)
    place.write_bytes(content)
    assert files.read_file(place, size) == content
    with pytest.raises(NotOurs, match="has more than") if size else contextlib.nullcontext():
        files.read_file(place, max(0, size - 1))
