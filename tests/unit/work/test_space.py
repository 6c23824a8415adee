"""When there is little room for units."""

import json
import os
from types import SimpleNamespace

import pytest
from test_batches import ask

from meshnode.protocol.control import DEPS_SIZE_KEY
from meshnode.work.batches.files import BatchFiles
from meshnode.work.units.shortage import FREE_SIZE, LOW_FILES, shortages

GIB = 1 << 30


def disk(monkeypatch, free, size, files=(0, 0)):
    figures = SimpleNamespace(
        f_bavail=free // 4096,
        f_blocks=size // 4096,
        f_frsize=4096,
        f_favail=files[0],
        f_files=files[1],
    )
    monkeypatch.setattr(os, "statvfs", lambda path: figures)


@pytest.mark.parametrize(
    ("free", "size"), [(2 * GIB, 1000 * GIB), (GIB, 1000 * GIB), (GIB // 10, GIB), (GIB, GIB)]
)
def test_a_disk_with_room_is_not_spoken_of(monkeypatch, tmp_path, free, size):
    disk(monkeypatch, free, size)
    assert shortages(tmp_path) == []


@pytest.mark.parametrize(("free", "size"), [(GIB - 4096, 1000 * GIB), (GIB // 25, GIB), (0, GIB)])
def test_a_disk_that_is_nearly_full_is_named_with_what_is_left(monkeypatch, tmp_path, free, size):
    disk(monkeypatch, free, size)
    left = f"{free >> 20} MiB left of {size >> 20} MiB"
    assert shortages(tmp_path) == [f"{tmp_path} has {left}: units will fail"]


def test_a_directory_that_is_gone_is_named(tmp_path):
    assert shortages(tmp_path / "x") == [
        f"the space left in {tmp_path}/x is unknown: No such file or directory"
    ]


@pytest.mark.parametrize("files", [(LOW_FILES - 1, 10_000_000), (40, 1000), (0, 1000)])
def test_a_disk_that_is_short_of_inodes_is_named(monkeypatch, tmp_path, files):
    disk(monkeypatch, GIB, GIB, files)
    left, size = files
    assert shortages(tmp_path) == [
        f"{tmp_path} has inodes for {left} more files of {size}: units will fail"
    ]


@pytest.mark.parametrize("files", [(LOW_FILES, 10_000_000), (60, 1000), (0, 0)])
def test_a_disk_with_inodes_is_not_spoken_of(monkeypatch, tmp_path, files):
    disk(monkeypatch, GIB, GIB, files)
    assert shortages(tmp_path) == []


# --- what is announced as larger than the room that there is --------------------------------------

ROOM = 3 * FREE_SIZE
SUBMIT = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
BATCH = {"command": "work", "subcommand": "batch", "action": "submit", "worktype": "cat"}


@pytest.mark.parametrize(
    ("deps", "stdin"), [(0, ROOM + 1), (ROOM + 512, 0), (ROOM, FREE_SIZE), (1 << 50, 1)]
)
@pytest.mark.parametrize("to", ["foo", "bar"])
async def test_what_is_announced_as_more_than_the_disk_has_left_fills_no_disk(
    foo, bar, monkeypatch, deps, stdin, to, autojump_clock
):
    disk(monkeypatch, ROOM, 1000 * GIB)
    files = {DEPS_SIZE_KEY: str(deps)} if deps else {}
    async with foo.running(), bar.running():
        # Nothing is sent: who is not refused before is told of a payload that is not all there.
        lines = await foo.talk(SUBMIT | {"node": to, "stdinsize": str(stdin)} | files, b"")
        told = f"{deps + stdin} bytes do not fit on the disk of this node, which has {ROOM} left"
        assert told in lines[-1]
        (unit,) = foo.units.all()
        assert unit.is_final


@pytest.mark.parametrize("free", [ROOM, 0])
async def test_what_fits_or_is_small_is_taken_as_ever(foo, monkeypatch, free, autojump_clock):
    size = ROOM if free else FREE_SIZE - 1
    disk(monkeypatch, free, 1000 * GIB)
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", bytes(size), stdinsize=str(size))
        await foo.wait_final(unit_id)
        assert foo.stdout(unit_id) == bytes(size)


async def test_files_of_a_batch_that_do_not_fit_are_refused_before_they_come(
    foo, monkeypatch, autojump_clock
):
    disk(monkeypatch, ROOM, 1000 * GIB)
    given = BATCH | {"node": "foo", "array": "1-3", DEPS_SIZE_KEY: str(ROOM + 512)}
    async with foo.running():
        lines = await foo.talk(given, b"")
        assert f"{ROOM + 512} bytes do not fit on the disk of this node" in lines[-1]
        assert json.loads((await ask(foo, "list"))[0]) == {}


@pytest.mark.parametrize("payload", [b"", b'{"node": "foo"}\n'])
async def test_a_disk_that_takes_no_batch_is_told_to_its_client(
    foo, monkeypatch, payload, autojump_clock
):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BatchFiles, "put_in_place", full)
    more = {"lines": "true"} if payload else {"array": "1-3"}
    async with foo.running():
        lines = await foo.talk(BATCH | {"node": "foo"} | more, payload)
        assert lines[-1] == "ERROR: cannot keep the batch: No space left on device"
