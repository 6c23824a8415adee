"""Finds what a job on a host brings back: the host lists directories, and this node judges.

No pattern is given to the host's shell. Directories are listed level by level, and only those in
which something may match. What the host says is not trusted: a name is one inside its directory,
and only so many of them are remembered.
"""

import shlex
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import trio

from meshctl.safetar import MAX_MEMBERS
from meshnode.work.files.archive import CannotCollect
from meshnode.work.files.finding import DENIED, LOOKED_AT, OTHER, Notes, too_many
from meshnode.work.files.globs import Globs, States
from meshnode.work.ssh.session import FarSession

MAX_REQUEST: Final = 32 * 1024
"""Bytes of names in one request: less than any host gives a command as arguments (128 KiB)."""

MAX_ENTRY: Final = 4096
"""Bytes of one name that a host lists; Linux has 255."""

MAX_NAMES: Final = 16 * 1024 * 1024
"""Bytes of all names together that are remembered of one unit: 100,000 of usual length."""

MAX_LISTED: Final = 20 * MAX_MEMBERS
"""Names and ends of directories that a host lists of one unit: two million, whether they match or
not. Each takes time of this node."""

Place = tuple[str, States | None]
"""A directory, and what may match in it; None if all that is in it counts."""


class Listing:
    """Splits what a host sends of directories into names and ends. Does no input or output."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, str] | None]:
        """Yield the kind and the name of each thing, and None behind a directory.

        Raises:
            CannotCollect: that is no name.
        """
        *entries, self._rest = (self._rest + data).split(b"\0")
        for entry in entries:
            kind, name = chr(entry[0]) if entry else "", entry[1:].decode("utf-8", SURROGATES)
            if entry and (name in _NO_NAMES or "/" in name or len(entry) > MAX_ENTRY):
                raise senseless()
            yield (kind, name) if entry else None
        if len(self._rest) > MAX_ENTRY:
            raise senseless()


SURROGATES: Final = "surrogateescape"
"""How bytes that are no UTF-8 stand in texts, as Python has it for names of files."""

_NO_NAMES: Final = frozenset({"", ".", ".."})


class FarFinder:
    """One search on a host, in a stable order.

    Attributes:
        directories: those that are brought back.
        files: files and links that are brought back.
    """

    def __init__(
        self, far: FarSession, globs: Globs, notes: Notes, *, hidden: frozenset[str] = frozenset()
    ) -> None:
        """``hidden`` are names beside ``DEPS`` that are never brought back."""
        self.directories: list[str] = []
        self.files: list[str] = []
        self._far = far
        self._globs = globs
        self._notes = notes
        self._hidden = hidden
        self._names: set[str] = set()
        """All that is remembered, also directories that are only looked through."""
        self._bytes = 0
        self._listed = 0
        self._pending: deque[Place] = deque()

    async def find(self) -> bool:
        """Look through all directories; return whether there is one.

        Raises:
            HostFailure: the session ended before.
            CannotCollect: there is too much, or the answer makes no sense.
        """
        self._pending.append(("", self._globs.start))
        while self._pending:
            places = self._next_places()
            await self._far.list_directories(name for name, _ in places)
            seen = await self._take_all(places)
            if self._far.part_status:
                return False
            if seen != len(places):
                raise senseless()
        return True

    def _next_places(self) -> list[Place]:
        names = next(portions(name for name, _ in self._pending))
        return [self._pending.popleft() for _ in names]

    async def _take_all(self, places: list[Place]) -> int:
        """Take what is listed of directories; return how many there were."""
        listing, at = Listing(), 0
        while data := await self._far.receive_part():
            for entry in listing.feed(data):
                self._listed += 1
                if self._listed % LOOKED_AT == 0:
                    await trio.lowlevel.checkpoint()
                if self._listed > MAX_LISTED:
                    raise CannotCollect(f"there are more than {MAX_LISTED} names to look through")
                if entry is None:
                    at += 1
                elif at < len(places):
                    self._take(places[at], *entry)
                else:
                    raise senseless()
        return at

    def _take(self, place: Place, kind: str, base: str) -> None:
        """Judge one name in a directory."""
        directory, states = place
        if not directory and base in self._hidden:
            return
        below: States | None = None
        if states is not None:
            matched, below = self._globs.step(states, base, top=not directory)
            self._notes.match(matched)
            if matched:
                below = None
            elif not below:
                return
        self._add(f"{directory}/{base}" if directory else base, kind, below)

    def _add(self, name: str, kind: str, below: States | None) -> None:
        """Add what matches, and directories in which something may match."""
        is_wanted = below is None
        if kind == "d":
            if self._notes.is_short(name):
                self._remember(name)
                self._pending.append((name, below))
                if is_wanted:
                    self.directories.append(name)
        elif not is_wanted:
            return
        elif kind == "u":
            self._notes.leave_out(name, DENIED)
        elif kind not in {"f", "l"}:
            self._notes.leave_out(name, OTHER)
        elif self._notes.is_short(name):
            self._remember(name)
            self.files.append(name)

    def _remember(self, name: str) -> None:
        if name in self._names:
            raise senseless()
        self._names.add(name)
        self._bytes += len(name)
        if len(self._names) > MAX_MEMBERS:
            raise too_many()
        if self._bytes > MAX_NAMES:
            raise CannotCollect(f"their names have more than {MAX_NAMES} bytes")


def portions(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield names as one request has them, in their order."""
    portion: list[str] = []
    size = 0
    for name in names:
        # With the blank, and the place in which it is looked up.
        more = len(shlex.quote(name).encode("utf-8", SURROGATES)) + 3
        if portion and size + more > MAX_REQUEST:
            yield portion
            portion, size = [], 0
        portion.append(name)
        size += more
    if portion:
        yield portion


def senseless() -> CannotCollect:
    """Return the error of a host that does not answer as it was asked."""
    return CannotCollect("its answer makes no sense")
