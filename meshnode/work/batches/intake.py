"""Takes in what comes with a batch: the files that its members share, and its list.

Both go to the disk as they come, and are synced. A tar is looked through before anybody hears that
there is a batch.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from meshnode.errors import CommandError, MeshnodeError
from meshnode.work.batches.spec import (
    MAX_LINE_BYTES,
    MAX_LIST_BYTES,
    MAX_MEMBERS,
    MAX_PLACES,
    parse_line,
)
from meshnode.work.files.jobfiles import JobFiles
from meshnode.work.files.unpacking import BadFiles, check
from meshnode.work.units.intake import (
    RECEIVE,
    Input,
    Receive,
    UnitFile,
    WrongInput,
    first_bytes,
    take_input,
)
from meshnode.work.units.shortage import in_thread_or_here

SILENCE: Final = 10.0
"""Seconds in which more of a payload must come while somebody waits to send the same batch: who
has lost a connection sends it again, and this node may hear of the loss in an hour only."""


async def take_files(path: Path, receive: Receive, announced: JobFiles) -> str:
    """Write the tar with which a payload begins to a file, sync it, and return its digest.

    Raises:
        CommandError: it is not what was announced, or may not be unpacked.
        OSError: the disk refuses.
    """
    file = UnitFile(path, append=False)
    try:
        first = first_bytes(receive, announced.size)
        expected = Input(announced.size, announced.sha256)
        taken = await take_input(first, file, expected, keep=True)
        await in_thread_or_here(partial(check, path, announced.script))
    except (WrongInput, BadFiles) as error:
        raise CommandError(f"the tar of dependencies: {error}") from error
    finally:
        file.close()
    return taken.sha256


class Turn:
    """One of several submissions of a batch: the others wait while its payload comes."""

    def __init__(self) -> None:
        self.over = trio.Event()
        """Set when it is known what has become of it."""
        self._scope = trio.CancelScope()
        self._received = 0

    async def receive(self, receive: Receive, size: int) -> bytes:
        """Return what ``receive`` does.

        Raises:
            trio.BrokenResourceError: nothing came for too long, and others wait.
        """
        with trio.CancelScope() as self._scope:
            data = await receive(size)
            self._received += 1
            return data
        raise trio.BrokenResourceError("its client is silent, and has sent the batch again")

    async def wait_over(self) -> None:
        """Wait until it is over; break it off if nothing comes for SILENCE."""
        while not self.over.is_set():
            seen = self._received
            with trio.move_on_after(SILENCE):
                await self.over.wait()
                return
            if seen == self._received:
                self._scope.cancel()


@dataclass(frozen=True, slots=True)
class TakenList:
    """How many lines a list has, what it takes of the disk, its first line, and what came of it.

    Attributes:
        size: bytes on the disk.
        sha256: the digest of all that was sent, in hexadecimal.
    """

    count: int
    size: int
    first: bytes
    sha256: str


async def take_lines(path: Path, receive: Receive, places: set[tuple[str, str]]) -> TakenList:
    """Write a list to a file, and sync it.

    The work types and nodes that its lines name come to ``places``.

    Raises:
        CommandError: a line is none of a member, or there are too many.
        OSError: the disk refuses.
    """
    count, size, first, rest = 0, 0, b"", b""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while True:
            data = await receive(RECEIVE)
            digest.update(data)
            *lines, rest = (rest + data).split(b"\n")
            if not data and rest:
                lines, rest = [rest], b""
            kept = [line for line in lines if line.strip()]
            for number, line in enumerate(kept, count + 1):
                _check_line(number, line, places)
            count, size = count + len(kept), size + sum(map(len, kept)) + len(kept)
            first = first or (kept[0] if kept else b"")
            if len(rest) > MAX_LINE_BYTES:
                raise CommandError(f"line {count + 1} has more than {MAX_LINE_BYTES} bytes")
            if count > MAX_MEMBERS or size > MAX_LIST_BYTES:
                raise CommandError(
                    f"a list has at most {MAX_MEMBERS} lines and {MAX_LIST_BYTES} bytes"
                )
            if kept:
                await in_thread_or_here(file.write, b"".join(line + b"\n" for line in kept))
            if not data:
                break
        if not count:
            raise CommandError("there is no line: a batch has at least one member")
        file.flush()
        await in_thread_or_here(os.fsync, file.fileno())
    return TakenList(count, size, first, digest.hexdigest())


def _check_line(number: int, line: bytes, places: set[tuple[str, str]]) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise CommandError(f"line {number} has more than {MAX_LINE_BYTES} bytes")
    try:
        more = parse_line(line)
    except MeshnodeError as error:
        raise CommandError(f"line {number}: {error}") from error
    if "worktype" in more or "node" in more:
        places.add((more.get("worktype", ""), more.get("node", "")))
        if len(places) > MAX_PLACES:
            raise CommandError(f"a list has at most {MAX_PLACES} pairs of a work type and a node")
