"""Tells when files have changed: one inotify instance for the whole node, however many readers.

receptor opens an instance for each remote unit and stops working at the kernel's 128 (protocol
section 11). Here all watches share one; readers of the same file share its watch.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from meshnode.logs import subject_logger

try:
    import inotify_simple
except ImportError:  # the package is only asked for on Linux
    inotify_simple = None

STAT_INTERVAL = 0.05
"""Seconds between looks at a file without inotify: on another system than Linux, or with all of the
user's watches in use. Results are promised within 50 ms; a stat costs some 0.1 % of a core."""

GATHER = 0.001
"""Seconds for which events gather in the kernel, which merges equal ones: a command that prints a
gigabyte in pieces of 8 KB would wake its readers 100,000 times. After a pause there is no delay."""

MOST_GATHER = 0.02
"""Seconds of that at most, where many are woken: a millisecond for each, of which it uses some 0.1.
A unit that prints a thousand lines a second to ten readers would take a quarter of a core. Results
are promised within 50 ms."""

LOOK_AGAIN = 5.0
"""Seconds between looks at entries of a directory where there is no inotify."""

Wake = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    """One who is to be woken; of a directory, only for the entries of these names."""

    wake: Wake
    names: frozenset[str] | None = None

    def is_about(self, name: str) -> bool:
        """Whether an event is of interest; those of a watched file or directory have no name."""
        return self.names is None or not name or name in self.names


def pause_after(woken: int) -> float:
    """Return the seconds for which events gather after so many were woken."""
    return min(GATHER * max(woken, 1), MOST_GATHER)


class FileWatcher:
    """Calls back when a watched file has grown, was truncated, or went away.

    Resource handling: :meth:`run` owns the kernel's instance; watches may be added before it runs
    and are then served by looking.
    """

    def __init__(self) -> None:
        self._log = subject_logger("watcher")
        self._inotify: Any = None
        self._watchers: dict[int, list[_Watch]] = {}
        self._nursery: trio.Nursery | None = None
        self._is_over = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver events until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._inotify = self._open()
            try:
                task_status.started()
                if self._inotify is None:
                    await trio.sleep_forever()
                while True:
                    await trio.lowlevel.wait_readable(self._inotify.fileno())
                    woken = self._wake(self._inotify.read(timeout=0))
                    await trio.sleep(pause_after(woken))
            finally:
                self._is_over = True
                self._watchers.clear()
                if self._inotify is not None:
                    self._inotify.close()
                    self._inotify = None

    def _open(self) -> Any:
        if inotify_simple is None:
            return None
        try:
            return inotify_simple.INotify(nonblocking=True)
        except OSError as error:
            self._log.warning("no inotify instance (%s): looking at files instead", error)
            return None

    def _wake(self, events: Iterable[Any]) -> int:
        """Wake everybody whom one of these events is about, once; return how many they are."""
        # In their order, each once.
        woken = dict.fromkeys(watch for event in events for watch in self._woken_by(event))
        for watch in woken:
            watch.wake()
        return len(woken)

    def _woken_by(self, event: Any) -> list[_Watch]:
        if event.mask & inotify_simple.flags.Q_OVERFLOW:
            # Events were lost, and nobody knows of which files: every reader looks at its own.
            return [watch for watches in self._watchers.values() for watch in watches]
        return [one for one in self._watchers.get(event.wd, ()) if one.is_about(event.name)]

    @contextmanager
    def watch(self, path: Path, wake: Wake) -> Iterator[None]:
        """Have ``wake`` called after each change of the file, while the context lasts.

        ``wake`` may be called without a change, and must not block. The file is the one that
        ``path`` names now.
        """
        with self._told(self._add(path, _of_file), _Watch(wake)) as is_told:
            if is_told:
                yield
            else:
                with self._looking(_look, path, wake):
                    yield

    @contextmanager
    def watch_entries(self, directory: Path, names: frozenset[str], wake: Wake) -> Iterator[None]:
        """Have ``wake`` called after changes of what has these names in a directory.

        That is: of what is in such a file, which file it is, and where a link of that name leads;
        and when the directory itself goes. ``wake`` may be called without a change.
        """
        with self._told(self._add(directory, _of_entries), _Watch(wake, names)) as is_told:
            if is_told:
                yield
            else:
                with self._looking(_pulse, directory, wake):
                    yield

    @contextmanager
    def _told(self, wd: int | None, watch: _Watch) -> Iterator[bool]:
        """Have the kernel tell of a watch; yield whether it does."""
        if wd is None:
            yield False
            return
        watches = self._watchers.setdefault(wd, [])
        watches.append(watch)
        try:
            yield True
        finally:
            watches.remove(watch)
            if not watches and self._watchers.get(wd) is watches:
                del self._watchers[wd]
                self._remove(wd)

    def _add(self, path: Path, mask_of: Callable[[Any], int]) -> int | None:
        if self._inotify is None:
            return None
        try:
            wd: int = self._inotify.add_watch(path, mask_of(inotify_simple.flags))
        except OSError as error:
            self._log.warning("no watch for %s (%s): looking at it instead", path, error)
            return None
        return wd

    def _remove(self, wd: int) -> None:
        if self._inotify is None:
            return
        try:
            self._inotify.rm_watch(wd)
        except OSError:
            # The kernel drops the watch of a deleted file by itself.
            self._log.debug("watch %d was already gone", wd)

    @contextmanager
    def _looking(self, look: "_Looker", path: Path, wake: Wake) -> Iterator[None]:
        if self._is_over:
            # The node ends, and with it who watches.
            yield
            return
        if self._nursery is None:
            raise RuntimeError("watching files needs a running FileWatcher")
        scope = trio.CancelScope()
        self._nursery.start_soon(look, path, wake, scope)
        try:
            yield
        finally:
            scope.cancel()


def _of_file(flags: Any) -> int:
    # ATTRIB: unlinking an open file changes its link count and nothing else.
    mask = flags.MODIFY | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF
    return int(mask | flags.DONT_FOLLOW)


def _of_entries(flags: Any) -> int:
    # Not MODIFY: who writes a file is done when it is closed, and a log beside it grows often.
    mask = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.CLOSE_WRITE
    mask |= flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF
    return int(mask | flags.ONLYDIR)


_Looker = Callable[[Path, Wake, trio.CancelScope], Awaitable[None]]


async def _pulse(path: Path, wake: Wake, scope: trio.CancelScope) -> None:
    """Call ``wake`` from time to time: who is woken looks at the entries."""
    with scope:
        while True:
            wake()
            await trio.sleep(LOOK_AGAIN)


async def _look(path: Path, wake: Wake, scope: trio.CancelScope) -> None:
    """Call ``wake`` whenever the file's size, identity or existence is another than before."""
    with scope:
        seen = None
        while True:
            try:
                now = os.lstat(path)
                look = (now.st_size, now.st_ino, now.st_nlink)
            except OSError:
                # Gone, or out of reach. Whoever is woken looks, and sees why.
                look = (-1, -1, -1)
            if look != seen:
                seen = look
                wake()
            await trio.sleep(STAT_INTERVAL)
