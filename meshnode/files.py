"""Opens the files of this node so that nobody can block or mislead it by what they put there.

The path of a file may lead to something else by now: a named pipe that nobody writes to, a link to
a file that only this user may read, a device, a file without end. Every file below a datadir and
every lock file is opened here. The launcher uses this module, too, so it imports almost nothing.
"""

from __future__ import annotations

import errno
import os
import stat

PRIVATE = 0o600
"""Mode of files that are made here: only the node's user may read them."""

PRIVATE_DIRECTORY = 0o700
"""Mode of directories."""

_GUARDED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Follow no link, do not wait for the other end of a pipe, take no terminal."""

_KINDS = (
    (stat.S_ISDIR, "is a directory and not a file"),
    (stat.S_ISLNK, "is a symbolic link"),
    (stat.S_ISFIFO, "is a named pipe and not a file"),
    (stat.S_ISSOCK, "is a socket and not a file"),
    (stat.S_ISCHR, "is a device and not a file"),
    (stat.S_ISBLK, "is a device and not a file"),
)

_REFUSALS = {
    errno.ELOOP: "is a symbolic link",
    errno.EISDIR: "is a directory and not a file",
    errno.ENXIO: "is a named pipe, a socket or a device and not a file",
}
"""Errors by which the kernel itself refuses what is not a file."""

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors for a path whose directory is gone, or replaced by something else."""

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""Errors that say what the machine lacks at this moment: descriptors, memory, processes."""

BLOCK_BYTES = 512
"""Bytes of a block as stat(2) counts them."""

READ_BYTES = 64 * 1024
"""Bytes of one read: more than nearly every file here has."""


class NotOurs(OSError):
    """A path does not lead to a regular file of this user; ``strerror`` says to what it leads.

    Another try does not help, unlike after an error that is_passing.
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        super().__init__(errno.EPERM, what, os.fspath(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def reason(error: OSError) -> str:
    """Return for a person what is wrong; the path is named if something else is there."""
    return str(error) if isinstance(error, NotOurs) else error.strerror or str(error)


def is_passing(error: BaseException | None) -> bool:
    """Whether the machine lacks something at this moment, so that another try may succeed."""
    return isinstance(error, OSError) and error.errno in PASSING


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file of this user, or make one; never wait, never follow a link.

    The descriptor is non-blocking, which has no effect on a regular file.

    Raises:
        NotOurs: something else is there.
        OSError: it cannot be opened.
    """
    return _open(path, flags)[0]


def _open(path: str | os.PathLike[str], flags: int) -> tuple[int, os.stat_result]:
    try:
        # Empty it only once it is known to be a file of this user.
        descriptor = os.open(path, flags & ~os.O_TRUNC | _GUARDED, PRIVATE)
    except OSError as error:
        what = _REFUSALS.get(error.errno or 0)
        if what is None:
            raise
        raise NotOurs(path, what) from None
    try:
        found = os.fstat(descriptor)
        if fault := _fault(found):
            raise NotOurs(path, fault)
        if flags & os.O_TRUNC and found.st_size:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def make_file(path: str | os.PathLike[str]) -> int:
    """Make a file that must not exist yet; return its descriptor, open for writing.

    Raises:
        OSError: something is there already, or the disk refuses.
    """
    # O_EXCL: the file is new, so it needs none of open_file's checks.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _GUARDED, PRIVATE)


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file of this user that has at most ``most`` bytes.

    Raises:
        NotOurs: something else is there, or a file of more bytes.
        OSError: it cannot be read.
    """
    descriptor, found = _open(path, os.O_RDONLY)
    try:
        data = b""
        # One byte more than there is: if it does not come, one read was enough.
        wanted = min(found.st_size + 1, READ_BYTES)
        while piece := os.read(descriptor, wanted):
            data += piece
            if len(data) > most:
                raise NotOurs(path, f"has more than {most} bytes")
            if len(piece) < wanted and len(data) >= found.st_size:
                break
            wanted = READ_BYTES
    finally:
        os.close(descriptor)
    return data


def open_scratch(path: str | os.PathLike[str]) -> tuple[int, bool]:
    """Open a file that is to be filled and renamed; move aside what else is in its place.

    A file that is there is not emptied, so that the room that it has on the disk stays reserved.

    Returns:
        The descriptor, and whether the file was there, and is to be cut after what is written.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        # As good as always: what is new needs neither a look at it nor a cut.
        return make_file(path), False
    except FileExistsError:
        pass
    try:
        return open_file(path, os.O_WRONLY | os.O_CREAT), True
    except NotOurs:
        move_aside(path)
        return make_file(path), False


def put_in_place(scratch: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename a file to ``path`` in one step, whatever stands there.

    Raises:
        OSError: it cannot be done.
    """
    try:
        os.rename(scratch, path)
    except IsADirectoryError:
        # rename(2) replaces everything but a directory.
        move_aside(path)
        os.rename(scratch, path)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Bring the list of a directory's files to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(path: str | os.PathLike[str], text: bytes) -> None:
    """Write JSON over a file, in the room that it has: the last resort on a full disk.

    One write, filled up with blanks, which JSON allows: whenever this process is killed, the file
    holds the old text or the new one.

    Raises:
        OSError: there is not even that room.
    """
    descriptor = open_file(path, os.O_WRONLY)
    try:
        old = os.fstat(descriptor)
        text = text.ljust(old.st_size)
        if len(text) > old.st_blocks * BLOCK_BYTES or os.pwrite(descriptor, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_aside(path: str | os.PathLike[str]) -> None:
    """Free a file's name: rename a directory that has it, unlink anything else.

    Raises:
        OSError: it cannot be done.
    """
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):
        os.rename(path, f"{os.fspath(path)}.{os.urandom(4).hex()}")


def make_accessible(directory: str | os.PathLike[str]) -> None:
    """Give a directory of this user the mode that it was made with.

    Raises:
        OSError: it belongs to another user, or is no directory.
    """
    # O_PATH needs no permission on the directory, and pins it: the path may lead elsewhere by now.
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", PRIVATE_DIRECTORY)
    finally:
        os.close(descriptor)


def size_of(path: str | os.PathLike[str]) -> int:
    """Return the size of a regular file in bytes; 0 if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def directory_fault(found: os.stat_result) -> str:
    """Return why others may write to this directory, or why it is none; empty if all is well."""
    if not stat.S_ISDIR(found.st_mode):
        what = next((text for is_kind, text in _KINDS if is_kind(found.st_mode)), "is a file")
        return what.removesuffix(" and not a file") + " and not a directory"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return ""


def _fault(found: os.stat_result) -> str:
    """Return why this is no regular file of this user; empty if it is one."""
    if stat.S_ISREG(found.st_mode):
        if found.st_uid == os.geteuid():
            return ""
        return f"belongs to another user (uid {found.st_uid})"
    return next((text for is_kind, text in _KINDS if is_kind(found.st_mode)), "is not a file")
