"""Finds what a job brings back, in a directory in which what the job has left may still run.

Each name is looked up in a directory that is open, and no link is followed: whatever is put in the
place of another thing meanwhile, nothing outside is seen. Only files, directories and links that
stay inside count. What else a pattern matches is left out, and told.
"""

import errno
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from meshctl.safetar import MAX_DEPTH, MAX_MEMBERS, MAX_NAME, stays_inside
from meshnode.work.files.archive import CannotCollect
from meshnode.work.files.globs import Globs, States

LOOKED_AT: Final = 256
"""Names of a directory that are looked at before the search pauses."""

TOLD: Final = 3
"""Things of a kind that are told by name."""

SHOWN: Final = 60
"""Characters of a name that is told."""

DENIED: Final = "permission denied"
"""Why something is left out that may not be read."""

OTHER: Final = "neither a file nor a directory"
"""Why pipes, sockets and devices are not brought back."""

CHANGED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
"""Errors that say that something is not what it was a moment ago."""

LOOK: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened: never through a link."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is to be brought back.

    Attributes:
        name: the way to it.
        base: the last name of that, in the directory ``at``, which is open until the next is found.
        mode: with the type, as stat(2) has it.
        target: of a link.
    """

    name: str
    base: str
    at: int
    mode: int
    size: int
    mtime: int
    target: str = ""


Finds = Generator[Found | None, None, None]
"""What a search yields; None where it may be broken off."""


class Notes:
    """What a person should know of one search: what matched nothing, and what was left out."""

    def __init__(self, globs: Globs) -> None:
        self._globs = globs
        self._matched: set[int] = set()
        self._left_out: list[str] = []
        self._left = 0

    def match(self, globs: Iterable[int]) -> None:
        """Note that something matches patterns of these numbers."""
        self._matched.update(globs)

    def leave_out(self, name: str, why: str) -> None:
        """Note that something is not brought back."""
        self._left += 1
        if self._left <= TOLD:
            self._left_out.append(f"{shown(name)} ({why})")

    def is_short(self, name: str) -> bool:
        """Whether whoever unpacks takes a name; one that is too long is left out."""
        is_short = name.count("/") + 1 < MAX_DEPTH and len(os.fsencode(name)) <= MAX_NAME
        if not is_short:
            self.leave_out(name, "its name is too long or too deep")
        return is_short

    def lines(self) -> Iterator[str]:
        """Yield what there is to know."""
        texts = self._globs.texts
        missing = [shown(text) for at, text in enumerate(texts) if at not in self._matched]
        if missing:
            yield f"nothing matches {_listed(missing[:TOLD], len(missing))}"
        if self._left:
            yield f"left out {_listed(self._left_out, self._left)}"


class Finder:
    """One search, in a stable order."""

    def __init__(self, globs: Globs) -> None:
        self.notes = Notes(globs)
        self._globs = globs
        self._members = 0
        self._waiting = 0
        """Names in memory that were not looked at yet."""

    def find(self, root: int) -> Finds:
        """Yield what there is below an open directory. Raises CannotCollect, OSError."""
        return self._below(os.dup(root), "", self._globs.start)

    def _below(self, at: int, before: str, states: States | None) -> Finds:
        """Yield what there is in a directory; without ``states``, all of it.

        ``before`` stands before its names.
        """
        try:
            names: dict[str, States | None] = {}
            yield from self._look(at, before, states, names)
            self._waiting += len(names)
            # Whoever unpacks a tar counts the directories on the way as well.
            is_counted = states is None or not before
            for name in sorted(names):
                self._waiting -= 1
                for found in self._entry(at, before, name, names[name]):
                    if found is not None and not is_counted:
                        is_counted = True
                        self._count()
                    yield found
        finally:
            os.close(at)

    def _look(
        self, at: int, before: str, states: States | None, names: dict[str, States | None]
    ) -> Iterator[None]:
        """Find the names that count in a directory, and what may match below each."""
        with os.scandir(at) as entries:
            for number, entry in enumerate(entries, 1):
                if number % LOOKED_AT == 0:
                    yield None
                below = self._states_below(states, entry, top=not before)
                if below is None or below:
                    names[entry.name] = below
                if self._waiting + len(names) > MAX_MEMBERS:
                    raise too_many()

    def _states_below(
        self, states: States | None, entry: "os.DirEntry[str]", *, top: bool
    ) -> States | None:
        """Return what may match below a name: None if all of it counts, empty if nothing does."""
        if states is None:
            return None
        matched, below = self._globs.step(states, entry.name, top=top)
        self.notes.match(matched)
        if matched:
            return None
        return below if below and entry.is_dir(follow_symlinks=False) else frozenset()

    def _entry(self, at: int, before: str, base: str, below: States | None) -> Finds:
        """Yield what is there under a name, and below it."""
        name = before + base
        try:
            looked_up = _look_up(at, base)
        except PermissionError:
            # The directory may be listed, and not entered.
            self.notes.leave_out(name, DENIED)
            return
        if looked_up is None:
            return
        found, target = looked_up
        one = Found(name, base, at, found.st_mode, found.st_size, int(found.st_mtime), target)
        if stat.S_ISDIR(one.mode):
            if not self.notes.is_short(name):
                return
            if below is None:
                self._count()
                yield one
            inside = self._enter(one)
            if inside >= 0:
                yield from self._below(inside, f"{name}/", below)
        elif below is None and self._is_wanted(one):
            self._count()
            yield one

    def _is_wanted(self, one: Found) -> bool:
        """Whether something that is no directory can be brought back."""
        if not self.notes.is_short(one.name):
            return False
        fault = fault_of(one.name, one.mode, one.target)
        if fault:
            self.notes.leave_out(one.name, fault)
        return not fault

    def _enter(self, one: Found) -> int:
        """Open a directory; -1 if that cannot be."""
        try:
            return os.open(one.base, LOOK, dir_fd=one.at)
        except OSError as error:
            if error.errno in CHANGED:
                return -1
            if error.errno == errno.EACCES:
                self.notes.leave_out(one.name, DENIED)
                return -1
            raise

    def _count(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise too_many()


def _look_up(at: int, base: str) -> tuple[os.stat_result, str] | None:
    """Return what is there, and where it leads if it is a link; None if it has gone."""
    try:
        found = os.stat(base, dir_fd=at, follow_symlinks=False)
        target = os.readlink(base, dir_fd=at) if stat.S_ISLNK(found.st_mode) else ""
    except OSError as error:
        if error.errno in CHANGED:
            return None
        raise
    return found, target


def fault_of(name: str, mode: int, target: str) -> str:
    """Return why something that is no directory cannot be brought back, empty if it can."""
    if stat.S_ISLNK(mode):
        is_inside = stays_inside(target, name.count("/"))
        return "" if is_inside else f"a link that leads out, to {shown(target)}"
    return "" if stat.S_ISREG(mode) else OTHER


def shown(text: str) -> str:
    """Return a name as it is told: one line, printable, not too long."""
    cut = text[:SHOWN] + ("…" if len(text) > SHOWN else "")
    return repr(cut)


def _listed(names: list[str], count: int) -> str:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return ", ".join(names) + more


def too_many() -> CannotCollect:
    """Return the error of a job that has more than can be unpacked again."""
    return CannotCollect(f"there are more than {MAX_MEMBERS} files and directories to bring back")
