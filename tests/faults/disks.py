"""A small disk of its own for a node: it can be full for a while, and another can be in its place.

It is a tmpfs in a mount namespace that only the node and its processes are in. An ordinary user may
make one where user namespaces are allowed; elsewhere a disk is a plain directory, which never gets
full.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOMY = 1 << 30
"""Bytes of a disk that is not full: more than a storm writes, and taken from memory when used."""

FILL_TRIES = 20
"""Tries to make a disk as small as what is on it: more may be written at the same time."""

_PAGE = 4096


APART = ("unshare", "-rm")
"""What has a process in a mount namespace of its own, in which it may mount."""

AS_ROOT = ("unshare", "-m")
"""The same for root only, who is root there as well and may have processes of other users."""


def why_no_mounts(apart: Sequence[str] = APART) -> str:
    """Return why no disk can be mounted here; nothing if one can."""
    command = [*apart, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        return f"there is no {error.filename}"
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


class Disk:
    """Holds the datadir of one node, as ``data``, or the units of one host."""

    def __init__(self, place: Path, *, mounted: bool, apart: Sequence[str] = APART) -> None:
        place.mkdir()
        self._apart = apart
        self.place = place
        """Where the node sees it."""
        self.seen = place
        """Where everybody else does."""
        self._keeper: subprocess.Popen[bytes] | None = None
        self._swaps = 0
        if mounted:
            self._mount()

    def _mount(self) -> None:
        # The keeper is all that holds the mount. It ends with its standard input: with us at last.
        script = f"mount -t tmpfs -o size={ROOMY} none {self.place} && echo && exec cat"
        self._keeper = subprocess.Popen(
            [*self._apart, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"\n", "the disk was not mounted"
        self.seen = Path(f"/proc/{self._keeper.pid}/root{self.place}")

    @property
    def entering(self) -> list[str]:
        """The words before a command that is to run where the disk is mounted."""
        if self._keeper is None:
            return []
        users = [] if self._apart == AS_ROOT else ["--preserve-credentials", "-U"]
        return ["nsenter", *users, "-m", "-t", str(self._keeper.pid)]

    @property
    def datadir(self) -> Path:
        """The datadir, as the node sees it."""
        return self.place / "data"

    def fill(self, slack: int) -> None:
        """Leave room for no more than ``slack`` bytes."""
        for _ in range(FILL_TRIES):
            found = os.statvfs(self.seen)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            if self._resize(max(_PAGE, used + slack // _PAGE * _PAGE)):
                return
        raise AssertionError(f"{self.place} could not be filled in {FILL_TRIES} tries")

    def free(self) -> None:
        """Be roomy again."""
        assert self._resize(ROOMY)

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self.place)]
        done = subprocess.run([*self.entering, *command], capture_output=True, check=False)
        return done.returncode == 0

    def swap(self) -> Path:
        """Put an empty datadir in the place of the one that is there; return where that went."""
        self._swaps += 1
        away = self.seen / f"away{self._swaps}"
        (self.seen / "data").rename(away)
        return away

    def swap_back(self, away: Path) -> Path:
        """Undo :meth:`swap`; return where the other datadir went."""
        other = self.seen / f"other{self._swaps}"
        (self.seen / "data").rename(other)
        away.rename(self.seen / "data")
        return other

    def mounts(self) -> list[str]:
        """Return what is mounted on the disk."""
        pid = "self" if self._keeper is None else str(self._keeper.pid)
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        places = [line.split()[4] for line in lines]
        return [place for place in places if place.startswith(f"{self.place}/")]

    def close(self) -> None:
        """Let go of the mount: it goes with the last process that is there."""
        if self._keeper is not None:
            self._keeper.communicate()
