"""What the commands of a storm write down themselves: that they run, and that they are through."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import trio
from inotify_simple import INotify, flags


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the command of a unit at its start, or at its end."""

    at: float
    """Seconds since the epoch."""
    what: str
    token: str
    node: str
    unit: str

    @classmethod
    def parse(cls, line: str) -> "Entry":
        """Read ``TIME WHAT TOKEN DIRECTORY``."""
        at, what, token, directory = line.split()
        unit = PurePath(directory)
        return cls(float(at), what, token, unit.parent.name, unit.name)


class Ledger:
    """Follows the file while :meth:`run` runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._grown = trio.Event()
        path.touch()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what is written until cancelled."""
        with INotify(nonblocking=True) as events, self.path.open() as file:
            events.add_watch(str(self.path), flags.MODIFY)
            task_status.started()
            rest = ""
            while True:
                *lines, rest = (rest + file.read()).split("\n")
                self.entries += map(Entry.parse, lines)
                if lines:
                    self._grown.set()
                    self._grown = trio.Event()
                await trio.lowlevel.wait_readable(events.fileno())
                events.read(timeout=0)

    async def next(self, wanted: Callable[[Entry], bool]) -> Entry:
        """Return the next entry from now on that is wanted."""
        seen = len(self.entries)
        while True:
            for entry in self.entries[seen:]:
                if wanted(entry):
                    return entry
            seen = len(self.entries)
            await self._grown.wait()


def read_ledger(path: Path) -> list[Entry]:
    """Return all that has been written down."""
    return [Entry.parse(line) for line in path.read_text().splitlines()]
