"""What a job brings back is what its patterns match, of its own directory, and nothing else."""

import errno
import fnmatch
import json
import os
import socket
import stat
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import GLOBS, TREES, make, members

from meshnode.work.files import archive, collecting, finding
from meshnode.work.files.archive import CannotCollect
from meshnode.work.files.collecting import Collection
from meshnode.work.files.globs import Globs, checked_glob, parse_globs
from meshnode.work.files.unpacking import DEPS, unpack

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def collect(root: Path, *globs: str) -> Collection:
    collection = Collection(root / "work", root / "files", globs)
    while not collection.step():
        pass
    return collection


def is_matched(parts: list[str], names: list[str], at: int = 0) -> bool:
    """Whether a pattern matches a whole path, as the documentation says it in words."""
    if not parts:
        return not names
    if parts[0] == "**":
        rest = parts[1:] or ["*"]
        hidden = not names or names[0].startswith(".") or (at == 0 and names[0] == DEPS)
        return is_matched(rest, names, at) or (not hidden and is_matched(parts, names[1:], at + 1))
    if not names:
        return False
    if names[0].startswith(".") and not parts[0].startswith("."):
        return False
    if at == 0 and names[0] == DEPS and parts[0] != DEPS:
        return False
    return fnmatch.fnmatchcase(names[0], parts[0]) and is_matched(parts[1:], names[1:], at + 1)


def stays(target: str, depth: int) -> bool:
    return target == "a" or (target in {"../a", ".."} and depth > 1)


def expected(tree, globs: list[str], names: tuple[str, ...] = (), whole: bool = False):
    found: dict[str, object] = {}
    for name, what in tree.items():
        path = (*names, name)
        taken = whole or any(is_matched(one.split("/"), list(path)) for one in globs)
        text = "/".join(path)
        if isinstance(what, dict):
            if taken:
                found[text] = None
            found |= expected(what, globs, path, taken)
        elif (taken and isinstance(what, bytes)) or (
            taken and (what[1] == "a" or (what[1] in {"../a", ".."} and len(path) > 1))
        ):
            found[text] = what
    return found


@given(TREES, GLOBS)
def test_a_tar_has_what_the_patterns_match_and_can_be_unpacked(tree, globs):
    with TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        make(root / "work", tree)
        collect(root, *globs)
        found = members(root / "files")
        assert found == expected(tree, globs)
        assert list(found) == [
            "/".join(names) for names in sorted(tuple(name.split("/")) for name in found)
        ]
        if found:
            unpack(root / "files", root / "unpacked")
            for name, what in found.items():
                path = root / "unpacked" / DEPS / name
                if isinstance(what, bytes):
                    assert path.read_bytes() == what
        first = (root / "files").read_bytes()
        collect(root, *globs)
        assert (root / "files").read_bytes() == first
        assert {path.name for path in root.iterdir()} <= {"work", "files", "unpacked"}


@given(st.text() | st.lists(st.text(max_size=9)).map(json.dumps) | st.lists(GLOBS).map(json.dumps))
def test_any_text_is_patterns_or_is_refused(text):
    try:
        globs = parse_globs(text)
    except ValueError:
        return
    assert globs == parse_globs(json.dumps(globs))
    for one in globs:
        assert not one.startswith("/")
        assert ".." not in one.split("/")
    Globs(globs).step(Globs(globs).start, "a", top=True)


@pytest.mark.parametrize(
    "text", ["/etc/*", "a/../../b", "..", "", ".", "/", "a\0", "x" * 1025, "a/" * 65, "\ud800"]
)
def test_a_pattern_that_leads_out_or_is_none_is_refused(text):
    with pytest.raises(ValueError, match="pattern"):
        checked_glob(text)


def test_what_is_no_file_is_told_and_not_opened(tmp_path):
    make(tmp_path / "work", {"a": b"1", "out": ("link", "/etc/passwd")})
    os.mkfifo(tmp_path / "work" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path / "work")
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        words = collect(tmp_path, "*", "*.png").words
    assert members(tmp_path / "files") == {"a": b"1"}
    assert words == (
        "collected 1 file; nothing matches '*.png'; left out 'out' (a link that leads out, to "
        "'/etc/passwd'), 'pipe' (neither a file nor a directory), "
        "'sock' (neither a file nor a directory)"
    )


def test_nothing_is_an_empty_file(tmp_path):
    make(tmp_path / "work", {})
    assert collect(tmp_path, "a", "b/*").words == ("collected 0 files; nothing matches 'a', 'b/*'")
    assert (tmp_path / "files").stat().st_size == 0


def test_a_job_that_took_its_directory_away_brings_nothing(tmp_path):
    (tmp_path / "work").symlink_to("/etc")
    assert collect(tmp_path, "*").words == "collected no files: its directory is gone"
    assert not (tmp_path / "files").exists()


TREE = {"a": b"inside a", "d": {"x": b"inside x", "y": {"z": b"inside z"}}, "l": ("link", "a")}


def run_with_swaps(root: Path, monkeypatch, call: int, swap) -> int:
    """Collect, and change something just before a call of the kernel; return how many there are."""
    calls = 0

    def wrapped(act):
        def act_later(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                swap()
            return act(*args, **kwargs)

        return act_later

    with monkeypatch.context() as patched:
        for name in ("open", "stat", "readlink", "scandir", "fstat", "pread"):
            patched.setattr(os, name, wrapped(getattr(os, name)))
        collect(root, "**", "l")
    return calls


@pytest.mark.parametrize("what", ["a", "d", "d/x", "d/y", "d/y/z", "l"])
@pytest.mark.parametrize("to", ["file", "directory", "pipe"])
def test_nothing_outside_is_read_whatever_is_swapped_for_a_link_at_whatever_moment(
    what, to, monkeypatch
):
    call = 0
    while True:
        call += 1
        with TemporaryDirectory(dir=MEMORY) as directory:
            root = Path(directory)
            make(root / "work", TREE)
            secret = root / "secret"
            make(secret, {"x": b"precious", "z": b"precious", "y": {"z": b"precious"}})

            def swap(root=root, secret=secret):
                path = root / "work" / what
                path.rename(root / "aside")
                if to == "pipe":
                    os.mkfifo(path)
                else:
                    path.symlink_to(secret / "x" if to == "file" else secret)

            calls = run_with_swaps(root, monkeypatch, call, swap)
            assert b"precious" not in (root / "files").read_bytes()
            if members(root / "files"):
                unpack(root / "files", root / "unpacked")
        if call > calls:
            return


def test_a_collection_that_is_broken_off_at_any_moment_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "STEP_SECONDS", 0)
    make(tmp_path / "work", TREE)
    steps = 0
    while True:
        collection = Collection(tmp_path / "work", tmp_path / "files", ("*",))
        is_done = False
        for _ in range(steps):
            is_done = collection.step()
        collection.close()
        if is_done:
            break
        assert [path.name for path in tmp_path.iterdir()] == ["work"]
        steps += 1
    assert steps > 5
    assert len(members(tmp_path / "files")) == 6


def test_what_a_kill_left_is_replaced_and_not_followed(tmp_path):
    make(tmp_path / "work", {"a": b"1"})
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "files.new").symlink_to("precious")
    (tmp_path / "files").symlink_to("precious")
    collect(tmp_path, "a")
    assert members(tmp_path / "files") == {"a": b"1"}
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "files").is_symlink()


def test_a_file_without_end_does_not_fill_the_disk(tmp_path):
    make(tmp_path / "work", {})
    with open(tmp_path / "work" / "hole", "wb") as file:
        file.truncate(2**42)
    with pytest.raises(CannotCollect, match="the disk is too small"):
        collect(tmp_path, "hole")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_disk_without_room_is_told_before_it_is_full(tmp_path, monkeypatch):
    make(tmp_path / "work", {"a": b"1" * 5000})
    disk = os.statvfs(tmp_path)
    sizes = [*disk[:4], archive.ROOM // disk.f_frsize + 1, *disk[5:]]
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(sizes))
    with pytest.raises(OSError, match="space") as caught:
        collect(tmp_path, "a")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 1 << 40])
def test_a_job_on_a_disk_of_any_size_brings_back_what_has_room_there(tmp_path, monkeypatch, size):
    make(tmp_path / "work", {"a": b"1" * 5000})
    disk = os.statvfs(tmp_path)
    blocks = size // disk.f_frsize
    sizes = [*disk[:2], blocks, blocks, blocks * 9 // 10, *disk[5:]]
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(sizes))
    collect(tmp_path, "a")
    assert members(tmp_path / "files") == {"a": b"1" * 5000}


@pytest.mark.parametrize("tree", [{str(n): b"" for n in range(9)}, {"d": {"e": {"f": {"g": {}}}}}])
def test_more_files_than_whoever_unpacks_them_takes_are_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "MAX_MEMBERS", 4)
    make(tmp_path / "work", tree)
    if "d" in tree:
        collect(tmp_path, "d")
        make(tmp_path / "work" / "h", {})
    with pytest.raises(CannotCollect, match="more than 4 files and directories"):
        collect(tmp_path, "*")


def test_a_file_that_becomes_shorter_is_as_long_as_its_header_says(tmp_path, monkeypatch):
    make(tmp_path / "work", {"a": b"x" * 5000, "b": b"1"})
    path, pread, cuts = tmp_path / "work" / "a", os.pread, iter([4000, 3000])

    def cut(*args):
        if (size := next(cuts, None)) is not None:
            os.truncate(path, size)
        return pread(*args)

    monkeypatch.setattr(os, "pread", cut)
    collect(tmp_path, "*")
    assert members(tmp_path / "files") == {"a": b"x" * 3000, "b": b"1"}


def test_of_permissions_only_that_of_a_program_is_kept(tmp_path):
    make(tmp_path / "work", {"a": b"1", "b": b"2"})
    (tmp_path / "work" / "a").chmod(0o6755)
    (tmp_path / "work" / "b").chmod(0o604)
    collect(tmp_path, "*")
    with tarfile.open(tmp_path / "files") as tar:
        found = {member.name: (member.mode, member.uid, member.uname) for member in tar}
    assert found == {"a": (0o755, 0, ""), "b": (0o644, 0, "")}
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o444, 0o600])
@pytest.mark.parametrize("glob", ["d", "*", "**", "d/*", "d/a"])
def test_what_lies_in_a_directory_that_may_not_be_entered_is_left_out_and_told(
    mode, glob, tmp_path, monkeypatch
):
    def guarded(function):
        def guard(path, *args, dir_fd=None, **more):
            if dir_fd is not None and not os.fstat(dir_fd).st_mode & 0o111:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return function(path, *args, dir_fd=dir_fd, **more)

        return guard

    make(tmp_path / "work", {"d": {"a": b"1", "l": ("link", "a")}, "e": b"2"})
    (tmp_path / "work" / "d").chmod(mode)
    # Root may do all of this; others may not.
    for name in ("stat", "open", "readlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    words = collect(tmp_path, glob, "e").words
    found = members(tmp_path / "files")
    assert {name: what for name, what in found.items() if what is not None} == {"e": b"2"}
    assert "left out 'd/a' (permission denied)" in words


def test_a_directory_of_a_job_that_may_not_be_read_is_told_and_costs_no_success(
    tmp_path, monkeypatch
):
    def refuse(path, *args, **more):
        if os.fspath(path) == os.fspath(tmp_path / "work"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *args, **more)

    make(tmp_path / "work", {"a": b"1"})
    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    assert collect(tmp_path, "*").words == "collected no files: its directory may not be read"
