"""Files where others may have put something: opened so that they can neither stop nor mislead us.

Whatever stands where this node keeps a file may be something else by now: a named pipe that nobody
ever writes to, a link to a file that only we may read, a device, a file without end. Every file
below a datadir, and every lock file, is opened here. The launcher uses this module, too: it imports
almost nothing.
"""

from __future__ import annotations

import errno
import os
import stat

PRIVATE = 0o600
"""Mode of what is made here: it may hold what only the node's user should see."""

PRIVATE_DIRECTORY = 0o700
"""The same for directories."""

_GUARDED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""No link is followed, no opening waits for another end, nothing becomes our terminal."""

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
"""What the kernel answers of its own accord for what is no file."""

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What the kernel answers where a directory is not any more, or something else is."""

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})
"""Errors that speak of what the machine lacks at this moment: descriptors, memory, processes."""

BLOCK_BYTES = 512
"""What stat(2) counts blocks in."""

READ_BYTES = 64 * 1024
"""Bytes asked for in one read: more than nearly all that is read here."""


class NotOurs(OSError):
    """Something else stands where our file should be; ``strerror`` says what, as the kernel does.

    It is a lasting fault of that file, never one of the machine at this moment.
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        super().__init__(errno.EPERM, what, os.fspath(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def reason(error: OSError) -> str:
    """Return for a person what is wrong; the path is told only where something strange is there."""
    return str(error) if isinstance(error, NotOurs) else error.strerror or str(error)


def is_passing(error: BaseException | None) -> bool:
    """Whether an error says what the machine lacks now, and nothing about what was to be done."""
    return isinstance(error, OSError) and error.errno in PASSING


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file of ours, or make one; never wait, never follow a link.

    The descriptor is a non-blocking one, which means nothing for a regular file.

    Raises:
        NotOurs: something else is there.
        OSError: it cannot be opened.
    """
    try:
        # Emptied only when it is known to be ours.
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
    return descriptor


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """Return what a regular file of ours holds, if that is at most ``most`` bytes.

    Raises:
        NotOurs: something else is there, or a file of more bytes.
        OSError: it cannot be read.
    """
    descriptor = open_file(path, os.O_RDONLY)
    try:
        data = b""
        while piece := os.read(descriptor, READ_BYTES):
            data += piece
            if len(data) > most:
                raise NotOurs(path, f"has more than {most} bytes")
    finally:
        os.close(descriptor)
    return data


def open_scratch(path: str | os.PathLike[str]) -> int:
    """Open a file that is to be filled and renamed; something else in its place is moved aside.

    The file is not emptied: room that was taken for it is not given back.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT
    try:
        return open_file(path, flags)
    except NotOurs:
        move_aside(path)
        return open_file(path, flags | os.O_EXCL)


def put_in_place(scratch: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename a file to ``path`` in one step, whatever stands there.

    Raises:
        OSError: it cannot be done.
    """
    try:
        os.rename(scratch, path)
    except IsADirectoryError:
        # The one thing that a file is not renamed over.
        move_aside(path)
        os.rename(scratch, path)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Have the disk keep which files a directory has. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(path: str | os.PathLike[str], text: bytes) -> None:
    """Write JSON over a file in the room that it has: the last resort on a full disk.

    In one call, and filled up with blanks, which JSON takes: whenever this process is killed, the
    file holds the old text or the new one.

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
    """Take what is no file of ours from a file's name: a directory is renamed, the rest unlinked.

    Raises:
        OSError: it cannot be done.
    """
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):
        os.rename(path, f"{os.fspath(path)}.{os.urandom(4).hex()}")


def make_accessible(directory: str | os.PathLike[str]) -> None:
    """Give a directory of ours the mode that it was made with.

    Raises:
        OSError: it is not ours, or no directory.
    """
    # Opened for nothing but its name, which needs no permission; a path could be another by now.
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", PRIVATE_DIRECTORY)
    finally:
        os.close(descriptor)


def size_of(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a regular file; 0 for anything else, or nothing, in its place."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def directory_fault(found: os.stat_result) -> str:
    """Say why this is no directory that only we may write to; nothing if it is one."""
    if not stat.S_ISDIR(found.st_mode):
        what = next((text for is_kind, text in _KINDS if is_kind(found.st_mode)), "is a file")
        return what.removesuffix(" and not a file") + " and not a directory"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return ""


def _fault(found: os.stat_result) -> str:
    """Say why this is no regular file of ours; nothing if it is one."""
    if stat.S_ISREG(found.st_mode):
        if found.st_uid == os.geteuid():
            return ""
        return f"belongs to another user (uid {found.st_uid})"
    return next((text for is_kind, text in _KINDS if is_kind(found.st_mode)), "is not a file")
