"""Tars of any bytes and members are unpacked inside their directory, whole, or not at all."""

import os
import stat
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tars import entry, link, tar_of

from meshctl import safetar
from meshnode.work.files.unpacking import DEPS, BadFiles, check, unpack

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where files are made that no disk need keep: many, for each example."""

PARTS = st.sampled_from(["a", "b", "c", "..", ".", "", "d e", "ü", "\udcff", "x" * 300])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=5)
TYPES = st.sampled_from(
    [
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE),
        *(tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE),
        *(tarfile.GNUTYPE_SPARSE, b"Z"),
    ]
)


@st.composite
def members(draw):
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(TYPES)
    info.linkname = draw(NAMES) if info.type in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = info.gid = draw(st.integers(0, 70000))
    info.mtime = draw(st.integers(-1, 2**40) | st.floats(allow_nan=False, allow_infinity=False))
    if draw(st.booleans()):
        keys = st.sampled_from(["path", "linkpath", "size", "mtime", "GNU.sparse.map", "uid"])
        info.pax_headers = draw(st.dictionaries(keys, st.text(max_size=9), max_size=2))
    return info, draw(st.binary(max_size=700)) if info.isreg() else b""


def everything(root: Path) -> dict[str, object]:
    """Return all that is below a directory, with its content; links are not followed."""
    found: dict[str, object] = {}
    for place, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(place, name)
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), path
            if stat.S_ISREG(mode):
                found[os.fspath(path)] = path.read_bytes()
            else:
                found[os.fspath(path)] = os.readlink(path) if stat.S_ISLNK(mode) else None
    return found


def unpacked(root: Path, data: bytes) -> bool:
    """Unpack a tar in ``root``, and check that nothing else has changed; return if it was taken."""
    source, work = root / "deps", root / "unit" / "work"
    outside = root / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "b").write_bytes(b"precious")
    work.parent.mkdir()
    source.write_bytes(data)
    before = everything(root)
    try:
        unpack(source, work)
    except (BadFiles, OSError):
        assert everything(root) == before
        return False
    after = everything(root)
    inside = os.path.realpath(work / DEPS)
    new = {path for path in after if path not in before}
    assert before.items() <= after.items()
    assert all(Path(path) == work or work in Path(path).parents for path in new)
    for path in new:
        if Path(path) != work:
            real = os.path.realpath(path)
            assert Path(path).is_symlink() or Path(path).stat().st_mode & 0o7077 == 0
            assert real == inside or real.startswith(f"{inside}/"), (path, real)
    return True


@given(st.lists(members(), max_size=6))
@example([link("up", ".."), entry("up/outside", b"x")])
@example([link("a", "../../../outside"), entry("a/b", b"x")])
@example([entry("a/deep", type=tarfile.DIRTYPE), link("a/up", ".."), link("x", "a/up/../b")])
@example([link("x", "a/up/../../b"), entry("a", type=tarfile.DIRTYPE), link("a/up", "..")])
@example([entry("a", b"1"), entry("a", b"2")])
@example([link("a", "b"), entry("a", b"2")])
@example([entry("a", b"x", mode=0o6755)])
def test_whatever_its_members_are_a_tar_changes_nothing_outside_and_no_link_leads_out(entries):
    with TemporaryDirectory(dir=MEMORY) as root:
        try:
            data = tar_of(*entries)
        except (ValueError, OverflowError):
            return  # no tar can say that
        unpacked(Path(root), data)


@given(st.data())
def test_a_damaged_tar_is_refused_or_is_another_tar(data):
    whole = bytearray(tar_of(entry("a", b"x" * 600), link("b", "a"), entry("c/d", b"y")))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with TemporaryDirectory(dir=MEMORY) as root:
        unpacked(Path(root), bytes(whole[:cut] if data.draw(st.booleans()) else whole))


TIMES = st.sampled_from(["nan", "inf", "-inf", "NaN", "1e999", "-1e999", "1e308", "-5", "x", ""])


@given(TIMES | st.floats().map(repr) | st.text(max_size=9))
def test_whatever_time_a_member_has_it_is_taken_or_the_refusal_says_so(time):
    with TemporaryDirectory(dir=MEMORY) as root:
        source, work = Path(root, "deps"), Path(root, "work")
        source.write_bytes(tar_of(entry("a", b"1", pax_headers={"mtime": time})))
        why = []
        for take in (lambda: unpack(source, work), lambda: check(source)):
            try:
                take()
            except BadFiles as error:
                why.append(str(error))
        assert why in ([], 2 * ["'a' has a time that no file has"])


@pytest.mark.parametrize("other", [[], [entry("b/run", b"")], [entry("run", type=tarfile.DIRTYPE)]])
def test_a_script_that_is_none_of_the_files_is_refused_before_anything_can_start(other, tmp_path):
    source = tmp_path / "deps"
    source.write_bytes(tar_of(entry("a", b"1"), *other))
    for take in (lambda: unpack(source, tmp_path / "work", "run"), lambda: check(source, "run")):
        with pytest.raises(BadFiles, match="the script 'run' is none of the files"):
            take()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("script", ["run", "link", "ü"])
def test_a_script_may_be_a_file_or_a_link_to_one(script, tmp_path):
    source = tmp_path / "deps"
    source.write_bytes(tar_of(entry("run", b"1"), link("link", "run"), entry("ü", b"")))
    unpack(source, tmp_path / "work", script)
    check(source, script)


def test_a_script_that_is_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "deps").write_bytes(tar_of(link("run", "nothing")))
    with pytest.raises(BadFiles, match="the script 'run' is none of the files"):
        unpack(tmp_path / "deps", tmp_path / "work", "run")


@given(st.binary(max_size=3000))
def test_bytes_that_are_no_tar_are_refused(data):
    with TemporaryDirectory(dir=MEMORY) as root:
        unpacked(Path(root), data)


def test_files_directories_links_and_programs_come_out_as_they_went_in(tmp_path):
    big = os.urandom(3 * safetar.PIECE + 17)
    data = tar_of(
        entry("dir", type=tarfile.DIRTYPE, mode=0),
        entry("dir/big", big, mtime=1_700_000_000),
        entry("run", b"#!/bin/sh\n", mode=0o4755),
        entry("new/empty", b""),
        link("dir/link", "../run"),
        entry("n" * 200 + "/\udcff", b"long"),
    )
    assert unpacked(tmp_path, data)
    deps = tmp_path / "unit" / "work" / DEPS
    assert (deps / "dir" / "big").read_bytes() == big
    assert (deps / "dir" / "big").stat().st_mtime == 1_700_000_000
    assert stat.S_IMODE((deps / "run").stat().st_mode) == 0o700
    assert (deps / "dir" / "link").read_bytes() == b"#!/bin/sh\n"
    assert (deps / "new" / "empty").read_bytes() == b""
    assert (deps / ("n" * 200) / "\udcff").read_bytes() == b"long"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("../a")], "the name '../a' is not one inside its directory"),
        ([entry("/a")], "the name '/a' is not one inside its directory"),
        ([link("a", "/etc")], "'a' is a link that leads out, to '/etc'"),
        ([link("a/b", "../../c")], "'a/b' is a link that leads out, to '../../c'"),
        ([entry("a", type=tarfile.LNKTYPE, linkname="b")], "'a' is a hard link, which is none"),
        ([entry("a", type=tarfile.CHRTYPE)], "'a' is a device, which is none of a job's files"),
        ([entry("a", type=tarfile.FIFOTYPE)], "'a' is a named pipe, which is none"),
        ([entry("a"), entry("a")], "'a' is there twice"),
        ([link("a", "b"), entry("a/c")], "'a/c' lies in what is no directory"),
        ([entry("a", pax_headers={"comment": "x" * safetar.MAX_HEADER})], "the headers of a"),
        ([entry("/".join("a" * 65))], "is too long, too deep, or has a NUL"),
        ([entry("d/" + "a" * 256 + "/f")], f"the name '{'d/' + 'a' * 98}' has a part of more than"),
        ([entry("ü" * 128)], f"the name '{'ü' * 100}' has a part of more than 255 bytes"),
    ],
)
def test_a_refusal_names_the_member_and_what_is_wrong(entries, why, tmp_path):
    (tmp_path / "deps").write_bytes(tar_of(*entries))
    with pytest.raises(BadFiles, match=why.replace("(", r"\(")):
        unpack(tmp_path / "deps", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_number_of_members_is_bounded_and_their_headers_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(safetar, "MAX_MEMBERS", 20)
    (tmp_path / "deps").write_bytes(tar_of(*(entry(str(n)) for n in range(20))))
    unpack(tmp_path / "deps", tmp_path / "work")
    (tmp_path / "deps").write_bytes(tar_of(*(entry(str(n)) for n in range(21))))
    with pytest.raises(BadFiles, match="more than 20 files"):
        unpack(tmp_path / "deps", tmp_path / "work")


def take_by_unpacking(source: Path, directory: Path) -> None:
    unpack(source, directory)


def take_by_checking(source: Path, directory: Path) -> None:
    check(source)


@pytest.mark.parametrize("take", [take_by_unpacking, take_by_checking])
@given(
    names=st.lists(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(tuple), max_size=8, unique=True
    )
)
@example(names=[("a", "a", "a", "a", "a")])
def test_directories_that_a_tar_makes_on_the_way_to_its_members_count_as_members(take, names):
    # Each name ends in a letter that no directory has, so that none is in the way of another.
    entries = [entry("/".join((*name[:-1], name[-1].upper()))) for name in names]
    inodes = {name[:depth] for name in names for depth in range(1, len(name))}
    total = len(inodes) + len(entries)
    with TemporaryDirectory(dir=MEMORY) as place, pytest.MonkeyPatch.context() as patch:
        source = Path(place) / "deps"
        source.write_bytes(tar_of(*entries))
        patch.setattr(safetar, "MAX_MEMBERS", total)
        take(source, Path(place) / "fits")
        patch.setattr(safetar, "MAX_MEMBERS", total - 1)
        if total:
            with pytest.raises(BadFiles, match=f"more than {total - 1} files"):
                take(source, Path(place) / "beyond")


def test_a_directory_that_is_a_member_and_on_the_way_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(safetar, "MAX_MEMBERS", 2)
    (tmp_path / "deps").write_bytes(tar_of(entry("d", type=tarfile.DIRTYPE), entry("d/f")))
    unpack(tmp_path / "deps", tmp_path / "work")


def test_a_tar_in_the_middle_of_which_a_header_is_spoiled_is_not_taken_for_a_shorter_one(tmp_path):
    data = bytearray(tar_of(entry("a", b"1"), entry("b", b"2")))
    data[1024 + 148] ^= 1  # the checksum of the second header
    assert not unpacked(tmp_path, bytes(data))


def test_a_tar_without_its_end_is_refused(tmp_path):
    assert not unpacked(tmp_path, tar_of(entry("a", b"1"))[:1024])
