"""Whether a directory is only ours: what others may put into it, or in its place, is not trusted.

Judged as sshd judges a home directory: the directory itself and each on the way to it, links
followed by hand, since whoever owns a link or its directory chooses where it leads.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_LINKS = 40
"""Links that a path may lead over, as the kernel has it."""

CLEANED = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108
"""Places that systems clean: at a start of the machine, or of what nobody used for some days."""

NODE_DIRECTORIES = 2
"""Directories at the end of a node's path that must be its user's alone: datadir and the node's."""

_ROOT = 0
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found on the way to a directory.

    Attributes:
        refusal: why nothing there can be trusted, with the remedy; empty if it can.
        warnings: what a person should look at all the same, one line each.
    """

    refusal: str = ""
    warnings: tuple[str, ...] = ()


def judge(path: Path, *, own: int = 0) -> Judgement:
    """Judge a directory and the way to it, as far as it exists.

    The last ``own`` directories are what a node makes for itself: those must be this user's, and
    nobody else may write to them.

    * Refused is what others surely can misuse: a directory of another user among our own, or one
      that others may write to; and on the way, a link of another user, or a directory that
      everybody may write to without the sticky bit, so that anybody may put another one in its
      place.
    * Warned of is what may be meant so: on the way, a directory of another user who is not root
      (in a container, that is how root may look), or one that a group may write to.

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
                return Judgement(f"{where} is a link that {_who(found)} can turn elsewhere")
        elif found.st_uid not in {_ROOT, ours}:
            if mine:
                return Judgement(f"{where} belongs to {_who(found)}; {_ELSEWHERE}")
            warnings.append(
                f"{where} belongs to {_who(found)}, who can put something else in its place"
            )
        elif not found.st_mode & _OTHERS or (found.st_mode & stat.S_ISVTX and (left or not own)):
            # In a directory with the sticky bit, such as /tmp, what is ours stays ours.
            continue
        elif mine or found.st_mode & stat.S_IWOTH:
            return Judgement(f"{where} can be written by other users; {_close(at)}")
        else:
            warnings.append(f"{where} can be written by its group (gid {found.st_gid})")
    return Judgement(warnings=tuple(warnings))


_ELSEWHERE = "choose another directory, or move it away if it is a leftover"


def _who(found: os.stat_result) -> str:
    return f"another user (uid {found.st_uid})"


def _close(path: str) -> str:
    return f"look at what is in it, then: chmod go-w {path}"


def doubts(path: Path) -> tuple[str, ...]:
    """Return what a person should look at about a directory that is used all the same.

    Raises:
        OSError: the way to it cannot be followed.
    """
    judgement = judge(path)
    return (*([judgement.refusal] if judgement.refusal else []), *judgement.warnings)


def cleaned_place(path: Path) -> str | None:
    """Return the place that the system cleans in which a directory is, if it is in one."""
    real = os.path.realpath(path)
    return next((place for place in CLEANED if real == place or real.startswith(place + "/")), None)


def make_private(path: Path) -> None:
    """Make a directory and those on the way that are missing, all for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    at = path
    while not os.path.lexists(at):
        missing.append(at)
        at = at.parent
    for directory in reversed(missing):
        # Python's own gives the mode to the last one only.
        directory.mkdir(mode=0o700, exist_ok=True)


def _way(path: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield each directory and link on the way to a path, from the root, to where it ends.

    With each comes how many steps of the path are left after it.
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
