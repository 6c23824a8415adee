"""Files are made whole, all or none, and never over others."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.certs.outputs import Output, Writer
from meshnode.errors import NotMade

Files = Callable[[], dict[str, tuple[int, bytes]]]

NAMES = ("a.crt", "a.key", "b.key")


def writer(force: bool = False) -> Writer:
    return Writer(force, "choose another")


def outputs(directory: Path) -> list[Output]:
    return [Output(directory / name, name.encode(), 0o600 + 4 * i) for i, name in enumerate(NAMES)]


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@contextmanager
def failing(at: int, error: BaseException) -> Iterator[list[str]]:
    """Have one call fail of all those by which files are made."""
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "fchmod", "fsync", "link", "rename"):
            real = getattr(os, name)

            def call(*args: Any, name: str = name, real: Any = real, **more: Any) -> Any:
                made.append(name)
                if len(made) == at + 1:
                    raise error
                return real(*args, **more)

            patch.setattr(os, name, call)
        yield made


def test_files_have_their_content_and_mode_whatever_the_umask_is(
    tmp_path: Path, files: Files
) -> None:
    before = os.umask(0o277)
    try:
        writer().write_all(outputs(tmp_path))
    finally:
        os.umask(before)
    assert files() == {
        "a.crt": (0o600, b"a.crt"),
        "a.key": (0o604, b"a.key"),
        "b.key": (0o610, b"b.key"),
    }


@given(
    at=st.integers(0, 40),
    there=st.sets(st.sampled_from(NAMES)),
    error=st.sampled_from([OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()]),
)
def test_whatever_fails_at_whatever_moment_the_directory_is_as_before(
    at: int, there: set[str], error: BaseException
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file in there:
            (directory / file).write_bytes(b"old")
        before = listing(directory)
        with failing(at, error) as made:
            try:
                writer(force=True).write_all(outputs(directory))
            except NotMade:
                assert len(made) > at
                assert listing(directory) == before
            except KeyboardInterrupt:
                assert listing(directory) == before
            else:
                assert len(made) <= at
                assert listing(directory) == {file: file.encode() for file in NAMES}


@given(there=st.sets(st.sampled_from(NAMES)))
def test_at_each_moment_a_file_that_is_replaced_is_the_old_or_the_new_one(there: set[str]) -> None:
    """A process can be killed at any of them."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        directory = Path(name)
        for file in there:
            (directory / file).write_bytes(b"old")

        def look() -> None:
            for file in there:
                assert (directory / file).read_bytes() in {b"old", file.encode()}

        for call in ("fchmod", "fsync", "link", "rename", "unlink"):
            real = getattr(os, call)

            def watched(*args: Any, real: Any = real, **more: Any) -> Any:
                look()
                made = real(*args, **more)
                look()
                return made

            patch.setattr(os, call, watched)
        writer(force=True).write_all(outputs(directory))
        assert listing(directory) == {file: file.encode() for file in NAMES}


@given(at=st.integers(0, 40), there=st.sets(st.sampled_from(NAMES)))
def test_without_links_files_are_made_as_well(at: int, there: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        directory = Path(name)

        def refuse(*args: Any, **more: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        for file in there:
            (directory / file).write_bytes(b"old")
        before = listing(directory)
        patch.setattr(os, "link", refuse)
        with failing(at, OSError(errno.EIO, "Input/output error")) as made:
            try:
                writer(force=bool(there)).write_all(outputs(directory))
            except NotMade:
                assert listing(directory) == before
            else:
                assert len(made) <= at
                assert listing(directory) == {file: file.encode() for file in NAMES}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("there", NAMES)
def test_a_file_that_comes_in_the_last_moment_is_not_replaced(
    there: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fchmod

    def chmod(descriptor: int, mode: int) -> None:
        (tmp_path / there).write_bytes(b"another's")
        real(descriptor, mode)

    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", chmod)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(NotMade, match=f'{there}" is there already; choose another'):
        writer().write_all(outputs(tmp_path))
    assert listing(tmp_path) == {there: b"another's"}


@pytest.mark.parametrize("there", NAMES)
@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_nothing_is_overwritten_without_force(there: str, kind: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    if kind != "link to nothing":
        target.write_bytes(b"old")
    if kind == "file":
        target.rename(tmp_path / there)
    else:
        (tmp_path / there).symlink_to(target)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(NotMade, match=f'{there}" is there already'):
        writer().write_all(outputs(tmp_path))
    assert sorted(os.listdir(tmp_path)) == before


def test_by_force_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"old")
    (tmp_path / "a.key").symlink_to(target)
    writer(force=True).write_all([Output(tmp_path / "a.key", b"new")])
    assert target.read_bytes() == b"old"
    assert not (tmp_path / "a.key").is_symlink()


def test_a_key_is_never_readable_by_others_not_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real = os.fchmod

    def chmod(descriptor: int, mode: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o077)
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", chmod)
    (tmp_path / "a.key").write_bytes(b"old")
    (tmp_path / "a.key").chmod(0o666)
    writer(force=True).write_all([Output(tmp_path / "a.key", b"secret")])
    assert modes == [0]
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("paths", "inputs", "text"),
    [
        (["x", "x"], [], '"{0}/x" is named twice; each thing needs a file of its own'),
        (["x", "./x"], [], '"{0}/x" is named twice; each thing needs a file of its own'),
        (["x", "y"], ["y"], '"{0}/y" is read here; write to another file'),
        (["no/x"], [], '"{0}/no/x" cannot be written: no directory "{0}/no"; '
         "make it with: mkdir -p {0}/no"),
        (["there"], [], '"{0}/there" is a directory; name a file'),
        (["x" * 256], [], '"{0}/' + "x" * 256 + '" cannot be written: file name too long'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("force", [True, False])
def test_what_no_file_can_be_is_told_before_anything_is_done(
    paths: list[str], inputs: list[str], text: str, force: bool, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(NotMade) as caught:
        writer(force).check_free([tmp_path / p for p in paths], [tmp_path / p for p in inputs])
    assert str(caught.value) == text.format(tmp_path)
