"""A tar that a machine sends which is not trusted: of it only what was asked for is taken."""

import io
import os
import stat
import tarfile
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tars import entry, link, tar_of

from meshctl.safetar import Maker, read_tar
from meshnode.work.files import archive
from meshnode.work.files.archive import Archive, CannotCollect, Room
from meshnode.work.files.incoming import Taker

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]

HEADER = tarfile.TarInfo("a").tobuf()


class Place:
    """Where files come to: the archive that is made, and what a person is told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.archive = Archive(self.files)

    def take(self, data: bytes, *names: str, cuts=()) -> Taker:
        taker = Taker(self.archive, Room(self.root), names)
        ends = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        for begin, end in pairwise(ends):
            taker.take(data[begin:end])
        return taker

    def members(self) -> dict[str, object]:
        """Finish the archive, and return what whoever fetches it has: content, targets."""
        self.archive.finish()
        self.archive.close()
        if not self.files.stat().st_size:
            return {}
        target = self.root / "fetched"
        target.mkdir()
        with self.files.open("rb") as file:
            read_tar(file, Maker(file, target, private=True).make)
        found: dict[str, object] = {}
        for path in target.rglob("*"):
            name = str(path.relative_to(target))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def packed(form: int, *entries) -> bytes:
    file = io.BytesIO()
    with tarfile.TarFile(
        fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


NAMES = st.sampled_from(
    ["a", "ü", "\udcff", "d/b", "n\nl", "-x", "x" * 99, "y" * 90 + "/" + "z" * 90]
)
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6)


@given(CONTENTS, st.sampled_from(FORMATS[1:]), st.lists(st.integers(0, 5000), max_size=20))
def test_files_are_the_same_in_whatever_pieces_and_form_they_come(files, form, cuts):
    with TemporaryDirectory(dir=MEMORY) as root:
        place = Place(Path(root))
        data = packed(form, *(entry(f"./{name}", content) for name, content in files.items()))
        taker = place.take(data, *files, cuts=cuts)
        assert (taker.is_complete, taker.left_out(), taker.count) == (True, {}, len(files))
        assert place.members() == {
            os.fsencode(name).decode("utf-8", "surrogateescape"): content
            for name, content in files.items()
        }


@given(
    st.binary(max_size=3000)
    | st.builds(
        lambda data, at, by: data[:at] + by + data[at + 1 :],
        st.just(tar_of(entry("./a", b"1" * 700), link("./b", "a"), entry("./" + "c" * 200, b"3"))),
        st.integers(0, 6000),
        st.binary(min_size=1, max_size=1),
    ),
    st.lists(st.integers(0, 3000), max_size=5),
)
def test_any_bytes_are_taken_or_refused_and_what_was_not_asked_for_is_never_there(data, cuts):
    with TemporaryDirectory(dir=MEMORY) as root:
        place = Place(Path(root))
        names = ("a", "b", "c" * 200)
        told = ""
        try:
            if not place.take(data, *names, cuts=cuts).is_complete:
                place.archive.cut(0)
        except CannotCollect as error:
            told = str(error)
            place.archive.cut(0)
        assert told.isprintable()
        assert set(place.members()) <= set(names)


@pytest.mark.parametrize(
    "hostile",
    [
        entry("../a", b"out"),
        entry("/a", b"out"),
        entry("./b/../a", b"out"),
        entry("./not-asked-for", b"x"),
        entry("./a", type=tarfile.CHRTYPE),
        entry("./a", type=tarfile.FIFOTYPE),
        entry("./a", type=tarfile.DIRTYPE),
        link("./a", "/etc/passwd"),
        link("./a", "../x"),
        link("./a", "b/../../x"),
        entry("./a", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    ],
)
def test_nothing_hostile_is_taken_and_what_comes_behind_it_is(place, hostile):
    place.take(tar_of(hostile, entry("./good", b"1")), "a", "good")
    assert place.members() == {"good": b"1"}


def test_of_two_files_of_one_name_only_the_first_is_taken(place):
    taker = place.take(tar_of(entry("./a", b"1"), entry("./a", b"2")), "a")
    assert (place.members(), taker.count) == ({"a": b"1"}, 1)


def test_links_that_stay_inside_come_as_links_and_programs_as_programs_without_setuid(place):
    place.take(tar_of(link("./d/a", "../b"), entry("./b", b"1", mode=0o6755)), "d/a", "b")
    assert place.members() == {"d/a": "../b", "b": b"1"}
    assert stat.S_IMODE((place.root / "fetched" / "b").stat().st_mode) == 0o700


def test_hard_links_are_told_and_asked_for_again(place):
    data = tar_of(entry("./a", b"1"), entry("./b", type=tarfile.LNKTYPE, linkname="./a"))
    taker = place.take(data, "a", "b")
    assert (taker.links, taker.left_out()) == ({"b": hash("./a")}, {})
    assert place.members() == {"a": b"1"}


@pytest.mark.parametrize("cut", [0, 511, 512, 600, 1500, 1536])
def test_a_tar_that_breaks_off_is_not_complete(place, cut):
    data = tar_of(entry("./a", b"1" * 700))
    assert place.take(data, "a").is_complete
    assert not place.take(data[:cut], "a").is_complete


@pytest.mark.parametrize("time", ["nan", "inf", "-inf", "1e300", "-5", "x"])
def test_a_time_that_no_file_has_is_none(place, time):
    info, data = entry("./a", b"1")
    info.pax_headers = {"mtime": time}
    place.take(tar_of((info, data)), "a")
    assert place.members() == {"a": b"1"}


def test_headers_that_would_fill_the_memory_are_refused(place):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    with pytest.raises(CannotCollect, match="the headers of a member have more than 65536 bytes"):
        place.take(info.tobuf(tarfile.GNU_FORMAT), "a")


def test_a_file_that_says_it_is_larger_than_the_disk_is_refused_before_it_comes(place):
    info = tarfile.TarInfo("./a")
    info.size = 2**60
    with pytest.raises(CannotCollect, match="for which the disk is too small"):
        place.take(info.tobuf(tarfile.GNU_FORMAT), "a")


@pytest.mark.parametrize("has_header", [True, False])
def test_a_disk_is_not_filled_up_by_what_comes(place, monkeypatch, has_header):
    """Also by others at the same time: it is looked at again with each piece."""
    data = tar_of(entry("./a", b"1" * 100_000))
    taker = place.take(data[: 10_000 if has_header else 0], "a")
    disk = os.statvfs(place.root)
    sizes = [*disk[:4], archive.ROOM // disk.f_frsize + 1, *disk[5:]]
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(sizes))
    with pytest.raises(OSError, match="No space left on device"):
        taker.take(data[10_000 if has_header else 0 :])
