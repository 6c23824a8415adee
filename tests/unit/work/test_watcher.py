"""Growth of files as events, with the kernel's help and without."""

import pytest
import trio

from meshnode.work.units import watcher as watcher_module
from meshnode.work.units.watcher import FileWatcher


class Bell:
    def __init__(self):
        self.rings = 0
        self._event = trio.Event()

    def ring(self):
        self.rings += 1
        self._event.set()

    async def wait(self):
        with trio.fail_after(60):
            await self._event.wait()
        self._event = trio.Event()


class NoInotify:
    @staticmethod
    def INotify(**options):  # noqa: N802
        raise OSError(24, "Too many open files")


@pytest.fixture(params=["inotify", "no inotify", "no instance left", "no watch left"])
def way(request, monkeypatch):
    if request.param == "no inotify":
        monkeypatch.setattr(watcher_module, "inotify_simple", None)
    if request.param == "no instance left":
        monkeypatch.setattr(watcher_module, "inotify_simple", NoInotify)
    if request.param == "no watch left":

        def add_watch(self, path, mask):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(watcher_module.inotify_simple.INotify, "add_watch", add_watch)
    return request.param


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "stdout"
    path.write_bytes(b"")
    return path


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


async def test_readers_of_one_file_are_woken_when_it_grows(way, file, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    one, other = Bell(), Bell()
    with growth.watch(file, one.ring), growth.watch(file, other.ring):
        for _ in range(3):
            append(file, b"x")
            await one.wait()
            await other.wait()
    nursery.cancel_scope.cancel()


async def test_truncating_and_deleting_wake_too(way, file, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    append(file, b"12345")
    bell = Bell()
    with growth.watch(file, bell.ring):
        if way != "inotify":
            await bell.wait()
        file.write_bytes(b"")
        await bell.wait()
        file.unlink()
        await bell.wait()
    nursery.cancel_scope.cancel()


async def test_who_has_left_is_not_woken_and_who_stays_is(file, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    left, stays = Bell(), Bell()
    with growth.watch(file, stays.ring):
        with growth.watch(file, left.ring):
            pass
        append(file, b"x")
        await stays.wait()
        assert left.rings == 0
    nursery.cancel_scope.cancel()


async def test_a_watch_costs_the_kernel_nothing_after_its_last_reader(file, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    for _ in range(3):
        with growth.watch(file, Bell().ring), growth.watch(file, Bell().ring):
            assert len(growth._watchers) == 1
        assert growth._watchers == {}
    file.unlink()
    nursery.cancel_scope.cancel()


async def test_lost_events_wake_everybody(file, tmp_path, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    bell = Bell()
    with growth.watch(file, bell.ring):
        growth._deliver(-1, watcher_module.inotify_simple.flags.Q_OVERFLOW)
        assert bell.rings == 1
    nursery.cancel_scope.cancel()
