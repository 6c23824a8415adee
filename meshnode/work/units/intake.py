"""Takes in the payload of a unit and writes it to disk. Nothing is started with a part of one."""

import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import CommandError
from meshnode.work.units.shortage import in_thread_or_here

WRITE_OUT = 8 * 1024 * 1024
"""Bytes after which the kernel is told to write a file out, so that little is left for the sync at
its end, for which a client waits."""


class UnitFile:
    """A unit's stdin or stdout as this node writes it: appending, from where the file ends."""

    def __init__(
        self, path: Path, *, append: bool, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Open ``path``, and empty it without ``append``. Raises OSError.

        Writes are dropped while the file is not ``wanted``.
        """
        self._path = path
        self._wanted = wanted
        mode = os.O_CREAT | os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC)
        self._descriptor = files.open_file(path, mode)
        self.size = os.fstat(self._descriptor).st_size if append else 0
        self._given = self.size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of ``data``. Raises OSError; ``size`` counts what was written."""
        if not self._wanted():
            self.size += len(data)
            return
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]
        if self.size - self._given >= WRITE_OUT:
            # For dirty pages the kernel begins to write, and keeps them until that is done.
            os.posix_fadvise(
                self._descriptor, self._given, self.size - self._given, os.POSIX_FADV_DONTNEED
            )
            self._given = self.size

    def read(self, position: int, most: int) -> bytes:
        """Return some of what is in the file from a byte on. Raises OSError, also at its end."""
        descriptor = files.open_file(self._path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, most, position)
        finally:
            os.close(descriptor)
        if not data:
            raise OSError(errno.EIO, f"{self._path.name} has become shorter")
        return data

    def cut(self, size: int) -> None:
        """Truncate the file. Raises OSError."""
        os.ftruncate(self._descriptor, size)
        self.size = self._given = size

    def sync(self) -> None:
        """Sync what was written. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


RECEIVE = 256 * 1024
"""Bytes asked of a client at a time."""

WRITE = 1024 * 1024
"""Bytes of payload in one write, which goes to a thread. One piece is written while the next one is
received: a payload of any size takes no more memory than these two."""

Receive = Callable[[int], Awaitable[bytes]]


class WrongInput(CommandError):
    """The payload that came is not the one that was announced."""


class EndedEarly(WrongInput):
    """The payload has ended before all that was announced: its connection may have been cut.

    Where that was a proxy's, the end of what was cut looks like any other.
    """


class InputRefused(CommandError):
    """The payload of a unit could not be taken in, and the unit has failed."""


@dataclass(frozen=True, slots=True)
class Input:
    """Size and digest of a payload, as announced by a client or as received."""

    size: int | None = None
    """Bytes."""

    sha256: str = ""
    """Digest in lower-case hexadecimal; empty where nobody knows it."""

    def check_size(self, size: int) -> None:
        """Refuse more bytes than were announced. Raises WrongInput."""
        if self.size is not None and size > self.size:
            raise WrongInput(f"more than the {self.size} bytes that were announced")

    def is_more_than(self, size: int) -> bool:
        """Whether more bytes were announced."""
        return self.size is not None and size < self.size

    def check(self, received: "Input") -> None:
        """Refuse what is not as announced. Raises WrongInput, EndedEarly."""
        if self.size is not None and received.size != self.size:
            raise EndedEarly(f"{received.size} of the {self.size} bytes that were announced")
        if self.sha256 and received.sha256 != self.sha256:
            raise WrongInput("its SHA-256 is not the one that was announced")


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload that a client is about to send."""

    announced: Input
    invite: Callable[[int], Awaitable[None]]
    """Tells the client to send it, from some byte on."""
    receive: Receive
    """Returns the next bytes of it, none at its end."""
    deps: Path | None = None
    """Where the tar lies already with which it would begin; only the rest is received then."""


def first_bytes(receive: Receive, size: int) -> Receive:
    """Return what receives the first ``size`` bytes of a payload, and then its end."""

    async def receive_first(most: int) -> bytes:
        nonlocal size
        if not size:
            return b""
        data = await receive(min(most, size))
        size -= len(data)
        return data

    return receive_first


class Digest:
    """The SHA-256 of the first bytes of a file, as many as ``size``."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def text(self) -> str:
        """What it is, in lower-case hexadecimal."""
        return self._hash.hexdigest()

    def add(self, data: bytes | bytearray) -> None:
        """Take in what is written next."""
        self._hash.update(data)
        self.size += len(data)

    async def catch_up(self, file: UnitFile) -> None:
        """Take in what is in a file already, after a restart all of it. Raises OSError."""
        if self.size > file.size:
            self.size, self._hash = 0, hashlib.sha256()
        while self.size < file.size:
            self.add(await in_thread_or_here(file.read, self.size, WRITE))


async def take_input(
    receive: Receive,
    file: UnitFile,
    announced: Input,
    *,
    keep: bool = False,
    digest: Digest | None = None,
) -> Input:
    """Write a whole payload to ``file``, or the rest of it, and return what it is.

    With ``keep`` it is synced, and its digest is known: the client will be told that it was
    accepted, and it is sent on later. With ``digest``, which knows what is in the file already, all
    that came is in the file and synced when the client is gone, or ends early: the rest may come
    later.

    Raises:
        OSError: the disk refuses.
        WrongInput: it is not as announced.
        EndedEarly: it has ended before all that was announced.
        trio.BrokenResourceError: the client is gone.
    """
    keeps_parts = digest is not None
    if digest is not None:
        await digest.catch_up(file)
    elif keep or announced.sha256:
        digest = Digest()
    source = _Source(receive, announced, file.size)
    intake = _Intake(file, digest)
    piece = await source.gather()
    if source.has_more:
        await _take_long_input(source, intake, piece)
        piece = bytearray()
    if source.lost is not None and not keeps_parts:
        raise source.lost
    is_cut = source.lost is not None or announced.is_more_than(source.size)
    is_synced = keep or (keeps_parts and is_cut)
    if piece or (is_synced and file.size):
        # An empty file needs no sync of its own: it is there with its directory.
        await in_thread_or_here(intake.finish, piece, is_synced)
    if source.lost is not None:
        raise source.lost
    received = Input(file.size, intake.digest)
    announced.check(received)
    return received


async def _take_long_input(source: "_Source", intake: "_Intake", piece: bytearray) -> None:
    """Write each piece while the next one is received. Raises as :func:`take_input`."""
    fault: Exception | None = None
    async with trio.open_nursery() as nursery:
        pieces, to_write = trio.open_memory_channel[bytearray](0)
        nursery.start_soon(intake.run, to_write, nursery.cancel_scope)
        try:
            async with pieces:
                await pieces.send(piece)
                while source.has_more:
                    await pieces.send(await source.gather())
        except WrongInput as error:
            # Raised here, inside the nursery, it would be wrapped in a group.
            fault = error
            nursery.cancel_scope.cancel()
    if fault := fault or intake.fault:
        raise fault


class _Source:
    """Receives the payload in pieces that are worth a write."""

    def __init__(self, receive: Receive, announced: Input, size: int) -> None:
        """``size`` is how many bytes came before."""
        self._receive = receive
        self._announced = announced
        self.size = size
        self.has_more = True
        self.lost: trio.BrokenResourceError | None = None
        """How the client was lost, if it was."""

    async def gather(self) -> bytearray:
        """Return the next piece; of fewer than WRITE bytes it is the last one."""
        gathered = bytearray()
        while len(gathered) < WRITE:
            try:
                data = await self._receive(RECEIVE)
            except trio.BrokenResourceError as error:
                self.lost = error
                data = b""
            if not data:
                self.has_more = False
                break
            gathered += data
            self.size += len(data)
            self._announced.check_size(self.size)
        return gathered


class _Intake:
    """Hashes and writes each piece, in a thread."""

    def __init__(self, file: UnitFile, digest: Digest | None) -> None:
        self._file = file
        self._digest = digest
        self.fault: OSError | None = None
        """Why the disk refused."""

    @property
    def digest(self) -> str:
        return self._digest.text if self._digest is not None else ""

    async def run(
        self, pieces: trio.MemoryReceiveChannel[bytearray], both: trio.CancelScope
    ) -> None:
        """Write pieces until there are no more; cancel ``both`` when the disk refuses one."""
        try:
            async for piece in pieces:
                await in_thread_or_here(self.write, piece)
        except OSError as error:
            self.fault = error
            both.cancel()

    def write(self, data: bytearray) -> None:
        if self._digest is not None:
            self._digest.add(data)
        self._file.write(data)

    def finish(self, rest: bytearray, is_synced: bool) -> None:
        self.write(rest)
        if is_synced:
            self._file.sync()
