"""When there is little room for units."""

import os
from types import SimpleNamespace

import pytest

from meshnode.work.units.shortage import LOW_FILES, shortages

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
