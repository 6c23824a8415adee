"""Growth of files as events, with the kernel's help and without."""

from contextlib import ExitStack

import pytest
import trio
from inotify_simple import Event

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
        growth._wake([Event(-1, watcher_module.inotify_simple.flags.Q_OVERFLOW, 0, "")])
        assert bell.rings == 1
    nursery.cancel_scope.cancel()


async def test_of_many_events_of_a_moment_each_reader_hears_once(file, tmp_path, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    index = tmp_path / "index"
    index.write_bytes(b"")
    bells = {path: [Bell(), Bell()] for path in (file, index)}
    with ExitStack() as watches:
        for path, both in bells.items():
            for bell in both:
                watches.enter_context(growth.watch(path, bell.ring))
        modify = watcher_module.inotify_simple.flags.MODIFY
        events = [Event(wd, modify, 0, "") for wd in growth._watchers]
        assert growth._wake(events * 20) == 4
    assert {bell.rings for both in bells.values() for bell in both} == {1}
    nursery.cancel_scope.cancel()


def test_a_single_reader_waits_a_millisecond_at_most_and_many_no_longer_than_is_promised():
    pauses = [watcher_module.pause_after(woken) for woken in range(2000)]
    assert pauses == sorted(pauses)
    assert pauses[0] == pauses[1] == 0.001
    assert pauses[-1] == watcher_module.MOST_GATHER < watcher_module.STAT_INTERVAL


# --- entries of a directory ----------------------------------------------------------------------


def _renamed(path):
    fresh = path.with_name("fresh")
    fresh.write_bytes(b"new")
    fresh.rename(path)


def _turned(path):
    link = path.with_name("link")
    link.symlink_to("elsewhere")
    link.rename(path)


CHANGES = {
    "written": lambda path: path.write_bytes(b"new"),
    "renamed": _renamed,
    "turned": _turned,
    "away": lambda path: path.rename(path.with_name("away")),
    "gone": lambda path: path.unlink(),
    "chmod": lambda path: path.chmod(0o600),
    "directory away": lambda path: path.parent.rename(path.parent.with_name("away")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_each_change_of_a_named_entry_wakes(way, tmp_path, nursery, monkeypatch, change):
    monkeypatch.setattr(watcher_module, "LOOK_AGAIN", 0.01)
    path = tmp_path / "keys" / "tls.key"
    path.parent.mkdir()
    path.write_bytes(b"old")
    growth = FileWatcher()
    await nursery.start(growth.run)
    bell = Bell()
    with growth.watch_entries(path.parent, frozenset({"tls.key"}), bell.ring):
        if way != "inotify":
            await bell.wait()
        change(path)
        await bell.wait()
    nursery.cancel_scope.cancel()


async def test_other_entries_of_a_directory_wake_nobody(tmp_path, nursery):
    growth = FileWatcher()
    await nursery.start(growth.run)
    one, other = Bell(), Bell()
    with (
        growth.watch_entries(tmp_path, frozenset({"one"}), one.ring),
        growth.watch_entries(tmp_path, frozenset({"other"}), other.ring),
    ):
        (tmp_path / "third").write_bytes(b"")
        (tmp_path / "other").write_bytes(b"")
        await other.wait()
        assert one.rings == 0
    assert growth._watchers == {}
    nursery.cancel_scope.cancel()


async def test_who_begins_to_watch_while_the_node_ends_costs_no_error(way, file):
    watcher, bell = FileWatcher(), Bell()
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        nursery.cancel_scope.cancel()
    with watcher.watch(file, bell.ring), watcher.watch_entries(file.parent, frozenset(), bell.ring):
        pass
