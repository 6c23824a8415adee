"""Files that come in parts of a request become the tar that goes along with a submission.

The tar lies in a file without a name, on the disk of the units, until the submission has taken it:
a submission says how large it is before the first byte of it.
"""

import os
import stat
import tarfile
import tempfile
from collections.abc import Callable
from hashlib import sha256
from typing import IO, Final, Self, TypeVar

import trio

from meshnode.web.api.multipart import Parts
from meshnode.web.problems import MALFORMED, TOO_LARGE, UNAVAILABLE, Problem
from meshnode.web.spool import Room

MAX_BYTES: Final = 4 * 1024**3
"""Bytes of all files of one request; more is for meshctl, which keeps nothing on the way."""

MAX_FILES: Final = 1000
"""Files of one request; more is for meshctl, which sends directories."""

MAX_NAME: Final = 1024
"""Bytes of a name, as nodes unpack it."""

MAX_PART: Final = 255
"""Bytes between two slashes of a name, as file systems have it."""

READ: Final = 256 * 1024
"""Bytes read at a time."""

FILE_TIME: Final = 946_684_800
"""When each file was last changed, in seconds since 1970: a request does not say it, and the same
files that are sent again are to be the same tar. It is the beginning of 2000, since zip knows
nothing before 1980."""

FORMAT: Final = tarfile.GNU_FORMAT
"""Its headers have one length whatever size is in them: they are written when that is known."""


Found = TypeVar("Found")


class Tar:
    """A tar in the making. An async context manager; the file is gone behind it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._file: IO[bytes] | None = None
        self._names: set[str] = set()
        self._directories: set[str] = set()
        self.size = 0
        self.digest = ""
        """SHA-256 of it all, once it is finished."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._file is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._file.close)
        finally:
            self._room.give_back()

    async def add(self, filename: str, parts: Parts, *, is_script: bool) -> None:
        """Add the part that is being read.

        Raises:
            Problem: the name is none, or the files are too many or too large, or the disk is full.
            trio.BrokenResourceError: the client is gone.
        """
        name = self._checked(filename)
        head = _header(name, 0, is_script=is_script)
        start = self.size
        await self._write(head)
        while piece := await parts.content():
            await self._write(piece)
        size = self.size - start - len(head)
        await self._write(bytes(-size % tarfile.BLOCKSIZE))
        await self._do(
            lambda file: _write_at(file, start, _header(name, size, is_script=is_script))
        )

    async def finish(self) -> None:
        """End the tar and take its digest; nothing is added any more. Raises Problem."""
        await self._write(bytes(2 * tarfile.BLOCKSIZE))
        self.digest = await self._do(_digest)

    async def read(self, position: int, max_bytes: int) -> bytes:
        """Return bytes of the tar, none at its end. Raises Problem."""
        return await self._do(lambda file: os.pread(file.fileno(), min(max_bytes, READ), position))

    async def _write(self, data: bytes) -> None:
        if self.size + len(data) > MAX_BYTES:
            raise Problem(
                TOO_LARGE, f"the files have more than {MAX_BYTES >> 30} GiB; meshctl sends more"
            )
        looks = self._room.count(self.size + len(data))
        start, self.size = self.size, self.size + len(data)

        def write(file: IO[bytes]) -> None:
            if looks:
                self._room.check_disk()
            _write_at(file, start, data)

        await self._do(write)

    async def _do(self, what: Callable[[IO[bytes]], Found]) -> Found:
        def run() -> Found:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._room.directory)  # noqa: SIM115
            return what(self._file)

        try:
            return await trio.to_thread.run_sync(run)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Problem(UNAVAILABLE, f"the node cannot keep the files: {reason}") from error

    def _checked(self, filename: str) -> str:
        name = filename.replace("\\", "/").strip("/")
        parts = name.split("/")
        odd = {"", ".", ".."} & set(parts) or any(len(part.encode()) > MAX_PART for part in parts)
        if odd or not name.isprintable() or len(name.encode()) > MAX_NAME:
            raise Problem(MALFORMED, f"a file cannot be called {filename[:60]!r}")
        if name in self._names:
            raise Problem(MALFORMED, f"two files are called {name[:60]!r}")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if name in self._directories or above & self._names:
            raise Problem(MALFORMED, f"{name[:60]!r} and another file: one lies below the other")
        if len(self._names) == MAX_FILES:
            raise Problem(TOO_LARGE, f"there are more than {MAX_FILES} files; meshctl sends more")
        self._names.add(name)
        self._directories |= above
        return name


def _header(name: str, size: int, *, is_script: bool) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, FILE_TIME
    info.mode = stat.S_IRUSR | stat.S_IWUSR | (stat.S_IXUSR if is_script else 0)
    return info.tobuf(FORMAT, "utf-8", "surrogateescape")


def _write_at(file: IO[bytes], position: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, position)
        position, view = position + written, view[written:]


def _digest(file: IO[bytes]) -> str:
    digest = sha256()
    position = 0
    while piece := os.pread(file.fileno(), READ, position):
        digest.update(piece)
        position += len(piece)
    return digest.hexdigest()
