"""Unpacks a tar that a client has made into a directory of a unit, and nowhere else.

The rules are those of :mod:`meshctl.safetar`.
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from meshctl.safetar import SHOWN, BadTar, Judge, Maker, bad, read_tar
from meshnode.errors import WorkError

DEPS: Final = "DEPS"
"""The directory of dependencies in the one that a job starts in."""


class BadFiles(WorkError):
    """The tar is damaged, or asks for what no job's files may be."""


def unpack(source: Path, directory: Path, script: str = "") -> None:
    """Make ``directory`` anew, with what the tar ``source`` has in its DEPS. Blocks.

    A ``script`` is the name of one of the files, without which the others are of no use.

    Raises:
        BadFiles: the tar may not be unpacked; nothing of it is left.
        OSError: the disk refuses; nothing of it is left.
    """
    make_directory(directory)
    target = directory / DEPS
    os.mkdir(target, 0o700)
    try:
        with _as_bad_files(), open(source, "rb") as file:
            read_tar(file, Maker(file, target, private=True).make)
        # No link leads out, so this one does not either.
        if script and not os.path.isfile(target / script):
            raise _no_script(script)
    except BaseException:
        # Its room may be what others wait for.
        shutil.rmtree(directory, ignore_errors=True)
        raise


def make_directory(directory: Path) -> None:
    """Make the empty directory of a job, whatever is there. Blocks. Raises OSError."""
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory, 0o700)


def check(source: Path, script: str = "") -> None:
    """Look whether a tar that another machine is to unpack may be. Blocks.

    Its tar(1) cannot be told all that is refused here. So nothing may lie behind a link, wherever
    that leads, and no program may be setuid.

    Raises:
        BadFiles: it may not.
        OSError: it cannot be read.
    """
    with _as_bad_files(), open(source, "rb") as file:
        checker = _Checker(file, script)
        read_tar(file, checker.check)
    if script and not checker.has_script:
        raise _no_script(script)


@contextmanager
def _as_bad_files() -> Iterator[None]:
    """Raise BadFiles where a tar is bad."""
    try:
        yield
    except BadTar as error:
        raise BadFiles(str(error)) from error


class _Checker:
    """Looks at the members of one tar."""

    def __init__(self, file: BinaryIO, script: str) -> None:
        self.has_script = False
        """Whether there is a file, or a link, of the name of the script."""
        self._script = script
        self._judge = Judge(file)
        self._links: set[int] = set()
        """Hashes, for names may be long. Two of one hash have a good tar refused, and no bad one
        taken."""

    def check(self, member: tarfile.TarInfo) -> None:
        """Look at one member. Raises BadTar."""
        parts = self._judge.place(member)
        if any(hash(parts[:depth]) in self._links for depth in range(1, len(parts) + 1)):
            raise bad(member, "lies behind a link, or is there twice")
        if member.issym():
            self._links.add(hash(parts))
        if member.isreg() and member.mode & (stat.S_ISUID | stat.S_ISGID):
            raise bad(member, "is setuid or setgid, which none of a job's files may be")
        self.has_script |= parts == (self._script,) and not member.isdir()


def _no_script(name: str) -> BadFiles:
    return BadFiles(f"the script {name[:SHOWN]!r} is none of the files")
