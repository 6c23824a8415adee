"""Which members a tar of files may have, and unpacking it into a directory and nowhere else.

A tar of a job's files comes from a client that is not trusted, or from a node that is not.
``tarfile`` reads the headers; what they ask for is judged and done here. Only files, directories
and links that stay inside are made, each new, so that nothing is written through a link. The rules
for links hold whatever else the tar has, in whatever order:

* The directories on the way to a name are real ones, and nothing replaces what is there.
* ``..`` stands in the target of a link at its beginning only, and no more often than there are
  directories on the way to the link.

So a link leads from one real place inside to another, over any number of others. Nodes unpack by
the same rules as clients: meshnode imports this module.
"""

import math
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

MAX_MEMBERS: Final = 100_000
"""Files, directories and links of one tar: each takes an inode, of which a disk may have few, and
512 bytes of a tar are enough for one. Directories that it only has on the way to others count as
well: a name may have dozens."""

MAX_HEADER: Final = 64 * 1024
"""Bytes that the headers of one member may have. tarfile has them in memory; those of any name that
Linux allows, with its times, have less than a tenth of that."""

MAX_NAME: Final = 1024
"""Bytes of a name: with the directory of the unit before it, all of it is a path that Linux takes
(4,096)."""

MAX_PART: Final = 255
"""Bytes of a name between two slashes, as Linux allows."""

MAX_DEPTH: Final = 64
"""Directories below each other: who deletes them again, goes down one by one."""

MAX_TIME: Final = 2**33
"""Seconds since 1970 (the year 2242); later times are none to some file systems."""

PIECE: Final = 1024 * 1024
"""Bytes copied at once."""

SHOWN: Final = 100
"""Characters of a name in an error."""

ODD: Final = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What tarfile raises for bytes that are no tar."""


class BadTar(Exception):
    """The tar is damaged, or asks for what no job's files may be."""


def read_tar(file: BinaryIO, take: Callable[[tarfile.TarInfo], None]) -> None:
    """Call ``take`` for each member. Raises BadTar, and what that does."""
    headers = _Headers(file)
    try:
        with tarfile.TarFile(fileobj=cast("BinaryIO", headers), encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                # It keeps all of them, to be found by name later; there may be many.
                tar.members = []  # type: ignore[attr-defined]
                if tar.pax_headers:
                    raise BadTar("the tar has a header for all of its members")
                take(member)
                headers.rewind_budget()
            rest = tar.offset
    except ODD as error:
        raise BadTar(f"the tar is damaged: {error}") from error
    _check_end(file, rest)


def _check_end(file: BinaryIO, position: int) -> None:
    """Refuse what follows the last member: tarfile takes a damaged header for the end."""
    file.seek(position)
    piece = file.read(PIECE)
    if len(piece) < tarfile.BLOCKSIZE:
        raise BadTar("the tar is damaged: it has no end")
    while piece:
        if piece.strip(b"\0"):
            raise BadTar("the tar is damaged: a header is none")
        piece = file.read(PIECE)


class _Headers:
    """The file as tarfile may read it: only so much for each member, since it is kept in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADER
        self.mode = "rb"
        self.name = ""

    def rewind_budget(self) -> None:
        """Let the headers of another member be read."""
        self._left = MAX_HEADER

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises BadTar."""
        if not 0 <= size <= self._left:
            raise BadTar(f"the headers of a member have more than {MAX_HEADER} bytes")
        self._left -= size
        return self._file.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


class Judge:
    """Says which members one tar may have, whoever unpacks it."""

    def __init__(self, file: BinaryIO) -> None:
        self._size = os.fstat(file.fileno()).st_size
        self._seen = 0
        self._directories: set[int] = set()
        """Hashes, for names may be long. Two of one hash count as one."""
        self._way: tuple[str, ...] = ()

    def place(self, member: tarfile.TarInfo) -> tuple[str, ...]:
        """Return where a member is to lie. Raises BadTar."""
        self._count()
        parts = _parts(member.name)
        self._count_way(parts[:-1])
        if member.issym():
            _check_link(member, len(parts) - 1)
        elif member.isreg() and not member.issparse():
            if member.size < 0 or member.offset_data + member.size > self._size:
                raise bad(member, "is not all there")
        elif member.isdir():
            self._directories.add(hash(parts))
        else:
            raise bad(member, f"is {_kind(member)}, which is none of a job's files")
        if not math.isfinite(member.mtime):
            raise bad(member, "has a time that no file has")
        return parts

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_MEMBERS:
            raise BadTar(f"there are more than {MAX_MEMBERS} files")

    def _count_way(self, way: tuple[str, ...]) -> None:
        """Count the directories that are made because something lies in them."""
        if way == self._way:
            return
        for depth in range(1, len(way) + 1):
            directory = hash(way[:depth])
            if directory not in self._directories:
                self._count()
                self._directories.add(directory)
        self._way = way


class Maker:
    """Makes the members of one tar."""

    def __init__(self, file: BinaryIO, target: Path, *, private: bool) -> None:
        """``private`` leaves them to this user alone; otherwise the umask says to whom."""
        self._mode = 0o600 if private else 0o666
        self._more = 0o100 if private else 0o111
        self._judge = Judge(file)
        self._descriptor = file.fileno()
        self._target = os.fspath(target)
        self._place: tuple[str, ...] = ()
        """A directory that was found to be a real one."""

    def make(self, member: tarfile.TarInfo) -> None:
        """Make one member. Raises BadTar, OSError."""
        parts = self._judge.place(member)
        self._enter(member, parts[:-1])
        path = "/".join((self._target, *parts))
        try:
            if member.isdir():
                self._make_directory(path)
            elif member.issym():
                os.symlink(member.linkname, path)
            else:
                self._make_file(member, path)
        except FileExistsError:
            raise bad(member, "is there twice") from None

    def _enter(self, member: tarfile.TarInfo, place: tuple[str, ...]) -> None:
        """Make sure that the directories on the way are real ones; make those that are missing."""
        if place == self._place:
            return
        path = self._target
        for name in place:
            path = f"{path}/{name}"
            try:
                self._make_directory(path)
            except FileExistsError:
                raise bad(member, "lies in what is no directory") from None
        self._place = place

    def _make_directory(self, path: str) -> None:
        try:
            os.mkdir(path, self._mode | self._more)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise

    def _make_file(self, member: tarfile.TarInfo, path: str) -> None:
        position, left = member.offset_data, member.size
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # Of its mode, what makes a program counts; setuid and setgid do not.
        mode = self._mode | (self._more if member.mode & 0o100 else 0)
        descriptor = os.open(path, flags, mode)
        try:
            while left > 0:
                piece = os.pread(self._descriptor, min(left, PIECE), position)
                if not piece:
                    raise bad(member, "is not all there")
                position += len(piece)
                left -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]
            changed = min(max(int(member.mtime), 0), MAX_TIME)
            os.utime(descriptor, (changed, changed))
        finally:
            os.close(descriptor)


def _parts(name: str) -> tuple[str, ...]:
    """Return the directories of a name, and what it has there. Raises BadTar."""
    parts = tuple(name.split("/"))
    if "\0" in name or len(os.fsencode(name)) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise BadTar(f"the name {name[:SHOWN]!r} is too long, too deep, or has a NUL")
    if any(part in {"", ".", ".."} for part in parts):
        raise BadTar(f"the name {name[:SHOWN]!r} is not one inside its directory")
    if any(len(os.fsencode(part)) > MAX_PART for part in parts):
        raise BadTar(f"the name {name[:SHOWN]!r} has a part of more than {MAX_PART} bytes")
    return parts


def _check_link(member: tarfile.TarInfo, depth: int) -> None:
    """Refuse a link of which it is not certain that it stays inside. Raises BadTar."""
    if not stays_inside(member.linkname, depth):
        raise bad(member, f"is a link that leads out, to {member.linkname[:SHOWN]!r}")


def stays_inside(target: str, depth: int) -> bool:
    """Whether a link so many directories down stays inside, wherever other such links lead."""
    if not target or "\0" in target or target.startswith("/") or len(target) > MAX_NAME:
        return False
    parts = PurePosixPath(target).parts
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return ups <= depth and ".." not in parts[ups:]


def _kind(member: tarfile.TarInfo) -> str:
    if member.islnk():
        return "a hard link"
    if member.isfifo():
        return "a named pipe"
    return "a device" if member.isdev() else "of an unknown kind"


def bad(member: tarfile.TarInfo, why: str) -> BadTar:
    """Return the error that names a member."""
    return BadTar(f"{member.name[:SHOWN]!r} {why}")
