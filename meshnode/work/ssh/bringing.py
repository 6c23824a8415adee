"""Brings the files of a job from its host, in one session: finds them, and has them sent as tars.

What comes is put into a tar of this node's own, which takes the place of the unit's ``files`` when
all of it is on the disk. Broken off at any moment it is made again, since the directory on the host
is removed later. It reads there, and runs nothing.
"""

import stat
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from meshnode.work.files.archive import Archive, CannotCollect, Room, collected, member_header
from meshnode.work.files.finding import Notes
from meshnode.work.files.globs import Globs
from meshnode.work.files.incoming import Taker
from meshnode.work.ssh.finding import FarFinder, portions
from meshnode.work.ssh.session import FarSession
from meshnode.work.units.shortage import in_thread_or_here

NOT_FOUND: Final = 127
"""What a shell says of a command that it does not find."""

GONE: Final = "collected no files: its directory is gone"
"""What is told of a unit whose directory somebody has removed."""


class FarCollection:
    """The files of one unit. ``place`` is the file that is made of them."""

    def __init__(
        self, far: FarSession, place: Path, globs: tuple[str, ...], hidden: frozenset[str]
    ) -> None:
        """``hidden`` are names that are not brought back, whatever the patterns say."""
        self._far = far
        self._place = place
        self._notes = Notes(Globs(globs))
        self._finder = FarFinder(far, Globs(globs), self._notes, hidden=hidden)
        self._queue: deque[list[str]] = deque()
        """What is to be asked for, a request each."""
        self._links: dict[str, int] = {}
        """Files that came as hard links; those to the same file have the same number."""
        self._count = 0

    async def run(self) -> str:
        """Make the file; return for a person what there was.

        Raises:
            HostFailure: the session ended before.
            CannotCollect: there is too much, or the host does not answer as it was asked.
            OSError: the disk here refuses. Whichever it is, nothing is left of the file.
        """
        if not await self._finder.find():
            return GONE
        room = await in_thread_or_here(Room, self._place.parent)
        archive = await in_thread_or_here(Archive, self._place)
        try:
            await in_thread_or_here(self._add_directories, archive, room)
            await self._bring_all(archive, room)
            await in_thread_or_here(archive.finish)
        finally:
            with trio.CancelScope(shield=True):
                await in_thread_or_here(archive.close)
        return "; ".join((collected(self._count), *self._notes.lines()))

    def _add_directories(self, archive: Archive, room: Room) -> None:
        for name in self._finder.directories:
            header = member_header(name, stat.S_IFDIR | stat.S_IXUSR, 0)
            room.check(archive.size + len(header), len(header))
            archive.write(header)

    async def _bring_all(self, archive: Archive, room: Room) -> None:
        names: Iterable[str] = self._finder.files
        while names:
            before = self._count
            self._queue.extend(portions(names))
            while self._queue:
                await self._bring(self._queue.popleft(), archive, room)
            if self._count == before:
                break
            # One of those that are the same is a file when it comes without the others.
            names = {target: name for name, target in self._links.items()}.values()
            for name in names:
                del self._links[name]
        for name in self._links:
            self._notes.leave_out(name, "it did not come")

    async def _bring(self, names: list[str], archive: Archive, room: Room) -> None:
        """Have files sent. If something is wrong with one of them, ask for fewer at once."""
        begin, taker = archive.size, Taker(archive, room, names)
        await self._far.bring(names)
        while data := await self._far.receive_part():
            await in_thread_or_here(taker.take, data)
        if self._far.part_status == NOT_FOUND:
            raise CannotCollect("there is no tar, which brings files back: install it")
        if self._far.part_status or not taker.is_complete:
            # Of what cannot be read tar sends something all the same.
            await in_thread_or_here(archive.cut, begin)
            if len(names) == 1:
                self._notes.leave_out(names[0], "it cannot be read there")
            else:
                half = len(names) // 2
                self._queue.extendleft((names[half:], names[:half]))
            return
        self._count += taker.count
        self._links |= taker.links
        for name, why in taker.left_out().items():
            self._notes.leave_out(name, why)
