"""Checks that only this user can change a directory, or put another one in its place.

The check is sshd's for home directories: the directory itself and each one on the way to it. Links
are followed step by step, since whoever owns a link or its directory chooses where it leads.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_LINKS = 40
"""Links on the way of one path, as in the kernel."""

CLEANED = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108
"""Directories that systems clean: at a start of the machine, or of what is unused for days."""

NODE_DIRECTORIES = 2
"""Directories at the end of a node's path that must be private: datadir, and the node's in it."""

_ROOT = 0
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Ownership:
    """What was found on the way to a directory.

    Attributes:
        refusal: why the directory cannot be trusted, with the remedy; empty if it can.
        warnings: what a person should look at all the same, one line each.
    """

    refusal: str = ""
    warnings: tuple[str, ...] = ()


def check_ownership(path: Path, *, own: int = 0) -> Ownership:
    """Check a directory and the way to it, as far as it exists.

    The last ``own`` directories are what a node makes for itself: they must belong to this user,
    and nobody else may write to them.

    * Refused: one of these belongs to another user, or others may write to it; on the way to them,
      a link of another user, or a directory without the sticky bit that everybody may write to.
    * Warned of: on the way, a directory of another user who is not root (in a container, root may
      look like that), or one that a group may write to.

    Raises:
        OSError: the way cannot be followed.
    """
    steps = list(_way(os.path.abspath(path)))
    warnings = []
    ours = os.geteuid()
    for at, found, left in steps:
        mine = left < own
        where = f'"{at}"'
        if stat.S_ISLNK(found.st_mode):
            if found.st_uid not in {_ROOT, ours}:
                return Ownership(f"{where} is a link that {_who(found)} can turn elsewhere")
        elif found.st_uid not in {_ROOT, ours}:
            if mine:
                return Ownership(f"{where} belongs to {_who(found)}; {_ELSEWHERE}")
            warnings.append(
                f"{where} belongs to {_who(found)}, who can put something else in its place"
            )
        elif not found.st_mode & _OTHERS or (found.st_mode & stat.S_ISVTX and (left or not own)):
            # The sticky bit, as /tmp has it, lets nobody replace what belongs to this user.
            continue
        elif mine or found.st_mode & stat.S_IWOTH:
            return Ownership(f"{where} can be written by other users; {_close(at)}")
        else:
            warnings.append(f"{where} can be written by its group (gid {found.st_gid})")
    return Ownership(warnings=tuple(warnings))


_ELSEWHERE = "choose another directory, or move it away if it is a leftover"


def _who(found: os.stat_result) -> str:
    return f"another user (uid {found.st_uid})"


def _close(path: str) -> str:
    return f"look at what is in it, then: chmod go-w {path}"


def ownership_warnings(path: Path) -> tuple[str, ...]:
    """Return all that is wrong with a directory that is used all the same, one line each.

    Raises:
        OSError: the way to it cannot be followed.
    """
    found = check_ownership(path)
    return (found.refusal, *found.warnings) if found.refusal else found.warnings


def cleaned_place(path: Path) -> str | None:
    """Return which of CLEANED a directory is in, if any."""
    real = os.path.realpath(path)
    return next((place for place in CLEANED if real == place or real.startswith(place + "/")), None)


def make_private(path: Path) -> None:
    """Make a directory and the missing ones on the way, all for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    at = path
    while not os.path.lexists(at):
        missing.append(at)
        at = at.parent
    for directory in reversed(missing):
        # mkdir(parents=True) would give the mode to the last one only.
        directory.mkdir(mode=0o700, exist_ok=True)


def _way(path: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield each directory and link on the way to a path, from the root on.

    With each comes the number of steps that are left after it.
    """
    todo = [name for name in reversed(path.split("/")) if name not in {"", "."}]
    at = "/"
    links = 0
    yield at, os.lstat(at), len(todo)
    while todo:
        name = todo.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return
        yield here, found, len(todo)
        if not stat.S_ISLNK(found.st_mode):
            at = here
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(here)
        if target.startswith("/"):
            at = "/"
        todo += [name for name in reversed(target.split("/")) if name not in {"", "."}]
