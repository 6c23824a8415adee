"""Whether units can be written, for those who watch a node."""

import os
from pathlib import Path

import pytest

from meshnode.web.health import LEAST_ROOM, unwritable

BLOCK = 4096


def disk_with(
    monkeypatch: pytest.MonkeyPatch, room: int, *, inodes: int = 10, all_inodes: int = 100
) -> None:
    """Have each disk say that it has so much left."""
    told = (BLOCK, BLOCK, 10**6, 10**6, room // BLOCK, all_inodes, inodes, inodes, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(told))


async def test_units_can_be_written_in_a_directory_with_room(tmp_path: Path) -> None:
    assert await unwritable(tmp_path) == ""


async def test_units_cannot_be_written_where_there_is_no_directory(tmp_path: Path) -> None:
    assert await unwritable(tmp_path / "no") == "the directory of units cannot be written"


@pytest.mark.parametrize("room", [0, LEAST_ROOM - BLOCK])
async def test_units_cannot_be_written_to_a_full_disk(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_with(monkeypatch, room)
    assert await unwritable(tmp_path) == "the disk of the units is full"


async def test_a_disk_without_inodes_left_is_full_and_one_that_counts_none_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_with(monkeypatch, LEAST_ROOM, inodes=0)
    assert await unwritable(tmp_path) == "the disk of the units is full"
    disk_with(monkeypatch, LEAST_ROOM, inodes=0, all_inodes=0)
    assert await unwritable(tmp_path) == ""
