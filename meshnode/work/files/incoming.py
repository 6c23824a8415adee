"""Takes files from a tar that comes in pieces from a machine that is not trusted, into one of ours.

Nothing of that tar is passed on as it is. Of its members only those count that were asked for, each
once, and of each the content, the time and whether it is a program; the rest is skipped. The
headers are read by ``tarfile``; a member may have only so many bytes of them.
"""

import io
import math
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from meshctl.safetar import MAX_HEADER, MAX_TIME, ODD
from meshnode.work.files.archive import Archive, CannotCollect, Room, member_header
from meshnode.work.files.finding import fault_of

BLOCK: Final = tarfile.BLOCKSIZE

MAX_CONTENT: Final = 2**62
"""Bytes of one member, more than any disk has."""

_MORE_HEADERS: Final = frozenset(
    {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)
"""Types of what stands before the header of a member and belongs to it."""

_REFUSED: Final = frozenset({tarfile.GNUTYPE_SPARSE, tarfile.XGLTYPE})
"""Types that no tar has which was asked for as ours are."""


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of the content of the member that came last."""

    data: bytes


class TarReader:
    """Splits a tar that comes in pieces into members and their content. Does no input or output."""

    def __init__(self) -> None:
        self.is_done = False
        """Whether its end has come; what follows does not matter."""
        self._buffer = bytearray()
        self._headers = BLOCK
        """Bytes of the headers of the next member, as far as they are known."""
        self._seen = 0
        """Bytes of them that were looked at."""
        self._content = 0
        self._padding = 0

    def feed(self, data: bytes) -> Iterator[tarfile.TarInfo | Content]:
        """Yield what is complete now. Raises CannotCollect."""
        self._buffer += data
        while not self.is_done:
            if self._content:
                piece = self._take(self._content)
                if not piece:
                    return
                self._content -= len(piece)
                yield Content(piece)
            elif self._padding:
                piece = self._take(self._padding)
                if not piece:
                    return
                self._padding -= len(piece)
            elif len(self._buffer) < self._headers:
                return
            elif (member := self._read_headers()) is not None:
                has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
                self._content = member.size if has_content else 0
                self._padding = -self._content % BLOCK
                yield member
        self._buffer.clear()

    def _take(self, most: int) -> bytes:
        piece = bytes(self._buffer[:most])
        del self._buffer[:most]
        return piece

    def _read_headers(self) -> tarfile.TarInfo | None:
        """Return a member if all of its headers are here, else note how many bytes they have."""
        block = bytes(self._buffer[self._seen : self._headers])
        if not self._seen and not any(block):
            self.is_done = True
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.type in _MORE_HEADERS:
                self._expect_more(info.size)
                return None
            headers = self._take(self._headers)
            member = info if len(headers) == BLOCK else _parsed(headers)
        except ODD as error:
            raise _damaged(str(error)) from error
        if not 0 <= member.size <= MAX_CONTENT:
            raise _damaged("a member has a size that no file has")
        if info.type in _REFUSED or member.issparse():
            raise _damaged("it has sparse files, or a header for all of its members")
        self._headers, self._seen = BLOCK, 0
        return member

    def _expect_more(self, size: int) -> None:
        """Wait for a header of this many bytes, and the one behind it."""
        self._seen = self._headers + size + -size % BLOCK
        self._headers = self._seen + BLOCK
        if size < 0 or self._headers > MAX_HEADER:
            raise _damaged(f"the headers of a member have more than {MAX_HEADER} bytes")


def _parsed(headers: bytes) -> tarfile.TarInfo:
    with tarfile.TarFile(
        fileobj=io.BytesIO(headers), encoding="utf-8", errors="surrogateescape"
    ) as tar:
        member = tar.next()
    if member is None:
        raise _damaged("a member has no header")
    return member


def _damaged(why: str) -> CannotCollect:
    return CannotCollect(f"the tar that came is damaged: {why}")


class Taker:
    """Takes the members that were asked for from one tar. Its methods block.

    Attributes:
        count: files and links that have come.
        links: names that came as hard links, and hashes of those to which, which may be long.
    """

    def __init__(self, archive: Archive, room: Room, names: Iterable[str]) -> None:
        self.count = 0
        self.links: dict[str, int] = {}
        self._archive = archive
        self._room = room
        self._reader = TarReader()
        self._missing = dict.fromkeys(names, "it did not come")
        self._refused: dict[str, str] = {}
        self._left = 0
        """Bytes that the content of a member which is taken still has."""

    @property
    def is_complete(self) -> bool:
        """Whether the tar has come to its end."""
        return self._reader.is_done

    def left_out(self) -> dict[str, str]:
        """Return why names that were asked for are not taken."""
        return self._refused | self._missing

    def take(self, data: bytes) -> None:
        """Take the next piece of it. Raises CannotCollect, OSError."""
        # Whatever else is written meanwhile, room is left for others.
        self._room.check(self._archive.size, len(data))
        for part in self._reader.feed(data):
            if isinstance(part, tarfile.TarInfo):
                self._begin(part)
            elif self._left:
                self._archive.write(part.data)
                self._left -= len(part.data)
                if not self._left:
                    self._archive.pad()

    def _begin(self, member: tarfile.TarInfo) -> None:
        self._left = 0
        name = member.name.removeprefix("./")
        if self._missing.pop(name, None) is None:
            return
        if member.islnk():
            self.links[name] = hash(member.linkname)
            return
        kind = _kind(member)
        if fault := fault_of(name, kind, member.linkname):
            self._refused[name] = fault
            return
        self._left = member.size if member.isreg() else 0
        # A time may be none, or endless.
        changed = int(min(max(member.mtime, 0), MAX_TIME)) if math.isfinite(member.mtime) else 0
        mode = kind | (member.mode & stat.S_IXUSR)
        header = member_header(name, mode, changed, size=self._left, target=member.linkname)
        more = len(header) + self._left
        self._room.check(self._archive.size + more, more)
        self._archive.write(header)
        self.count += 1


def _kind(member: tarfile.TarInfo) -> int:
    if member.issym():
        return stat.S_IFLNK
    return stat.S_IFREG if member.isreg() else stat.S_IFIFO
