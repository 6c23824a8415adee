"""A store has an identity: another directory, an emptied one or a copy has another."""

import json
import os
import shutil

import pytest

from meshnode.logs import subject_logger
from meshnode.work.units.directory import FILE, store_identity

LOG = subject_logger("test")


def test_it_is_made_once_and_is_the_same_at_each_start(tmp_path):
    identity = store_identity(tmp_path, LOG)
    assert len(identity) == 32
    assert store_identity(tmp_path, LOG) == identity
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_another_directory_and_an_emptied_one_have_another(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    identities = {store_identity(one, LOG), store_identity(two, LOG)}
    (one / FILE).unlink()
    identities.add(store_identity(one, LOG))
    assert len(identities) == 3


def test_a_copy_is_another_store_and_a_directory_that_was_moved_is_the_same(tmp_path, caplog):
    one = tmp_path / "one"
    one.mkdir()
    identity = store_identity(one, LOG)
    shutil.copytree(one, tmp_path / "copy")
    assert store_identity(tmp_path / "copy", LOG) != identity
    assert "is a copy of another store" in caplog.text
    one.rename(tmp_path / "moved")
    assert store_identity(tmp_path / "moved", LOG) == identity


def test_a_copy_is_another_store_also_where_its_file_has_the_same_number(tmp_path):
    """As on a fresh disk of the same kind, where numbers are given in order."""
    one, copy = tmp_path / "one", tmp_path / "copy"
    one.mkdir()
    identity = store_identity(one, LOG)
    record = json.loads((one / FILE).read_bytes())
    if record.get("Born", 0) is None:
        pytest.skip("this file system does not tell when a file was made")
    shutil.copytree(one, copy)
    (copy / FILE).write_text(json.dumps(record | {"Inode": (copy / FILE).stat().st_ino}))
    assert store_identity(copy, LOG) != identity


def test_an_identity_of_the_version_before_is_still_one(tmp_path):
    identity = store_identity(tmp_path, LOG)
    record = json.loads((tmp_path / FILE).read_bytes())
    del record["Born"]
    (tmp_path / FILE).write_text(json.dumps(record))
    assert store_identity(tmp_path, LOG) == identity


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"Store":"x","Inode":1}', b"9" * 9999])
def test_what_is_damaged_counts_as_a_new_store_and_is_mended(tmp_path, content):
    before = store_identity(tmp_path, LOG)
    (tmp_path / FILE).write_bytes(content)
    identity = store_identity(tmp_path, LOG)
    assert identity != before
    assert store_identity(tmp_path, LOG) == identity


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_something_else_in_its_place_is_no_reason_not_to_start(tmp_path, make):
    make(tmp_path / FILE)
    identity = store_identity(tmp_path, LOG)
    assert store_identity(tmp_path, LOG) == identity


def test_a_disk_that_refuses_it_gives_one_that_nobody_will_know(tmp_path, monkeypatch, caplog):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        first = store_identity(tmp_path, LOG)
    assert store_identity(tmp_path, LOG) != first
    assert "cannot record the identity of the store" in caplog.text
