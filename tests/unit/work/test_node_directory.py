"""The directory of a node: only ours, one node at a time, made anew if it goes."""

import os
import shutil
from pathlib import Path

import pytest

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore

STATUS = UnitStatus(UnitState.PENDING, "Unit Created", "echo", params=("echo", "hi"))
STRANGER = 4242


@pytest.fixture
def store(tmp_path: Path):
    store = UnitStore(tmp_path / "data" / "foo")
    store.prepare()
    yield store
    store.close()


def is_locked(path: Path) -> bool:
    second = UnitStore(path)
    try:
        second.prepare()
    except WorkError as error:
        assert "is in use by a running node" in str(error)  # noqa: PT017
        return True
    second.close()
    return False


def test_datadir_and_node_directory_are_made_for_this_user_alone(tmp_path, store):
    for path in (tmp_path / "data", tmp_path / "data" / "foo"):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("which", ["data", "data/foo"])
def test_what_others_may_write_to_is_refused_and_left_as_it_is(tmp_path, which):
    (tmp_path / "data" / "foo").mkdir(parents=True)
    (tmp_path / which).chmod(0o775)
    with pytest.raises(WorkError, match=r"can be written by other users; .* chmod go-w"):
        UnitStore(tmp_path / "data" / "foo").prepare()
    assert (tmp_path / which).stat().st_mode & 0o777 == 0o775


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to other users")
@pytest.mark.parametrize("which", ["data", "data/foo"])
def test_what_another_user_made_is_refused(tmp_path, which):
    (tmp_path / "data" / "foo").mkdir(parents=True)
    os.chown(tmp_path / which, STRANGER, STRANGER)
    with pytest.raises(WorkError, match=r"belongs to another user \(uid 4242\)"):
        UnitStore(tmp_path / "data" / "foo").prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to other users")
def test_a_unit_that_another_user_planted_is_not_taken(tmp_path):
    unit = tmp_path / "data" / "foo" / "PLANTED1"
    unit.mkdir(parents=True)
    (unit / "status").write_text('{"State": 2, "WorkType": "cat", "StdoutSize": 3}')
    (unit / "stdout").symlink_to("/etc/shadow")
    os.chown(unit, STRANGER, STRANGER)
    store = UnitStore(tmp_path / "data" / "foo")
    store.prepare()
    assert store.scan() == []
    assert store.warnings() == [
        f"unit PLANTED1 is left out: {unit} belongs to another user (uid 4242)"
    ]
    assert unit.exists()
    store.close()


def test_a_place_that_systems_clean_is_told_at_a_start(tmp_path, store):
    assert [text for text in store.doubts if "systems delete what is old" in text]


@pytest.mark.parametrize("how", ["removed", "moved", "with its datadir", "replaced"])
def test_a_directory_that_went_is_made_and_locked_anew_for_the_next_unit(
    tmp_path, store, caplog, how
):
    store.create(STATUS)
    match how:
        case "removed":
            shutil.rmtree(store.root)
        case "moved":
            store.root.rename(tmp_path / "elsewhere")
        case "with its datadir":
            shutil.rmtree(store.root.parent)
        case "replaced":
            shutil.rmtree(store.root)
            store.root.mkdir(mode=0o700)
    assert "is gone or another one" in store.warnings()[0]
    unit_id = store.create(STATUS)
    assert store.read_status(unit_id) == STATUS
    assert store.root.parent.stat().st_mode & 0o777 == 0o700
    assert is_locked(store.root)
    assert store.warnings() == []
    assert "this node has lost what was in it" in caplog.text
    store.close()
    assert not is_locked(store.root)


@pytest.mark.parametrize("what", ["file", "named pipe", "open to others", "dangling link"])
def test_what_stands_in_the_place_of_a_directory_that_went_is_named_and_no_unit_is_made(
    tmp_path, store, what
):
    shutil.rmtree(store.root)
    match what:
        case "file":
            store.root.touch()
        case "named pipe":
            os.mkfifo(store.root)
        case "open to others":
            store.root.mkdir()
            store.root.chmod(0o777)
        case "dangling link":
            store.root.symlink_to("nowhere")
    for _ in range(2):
        with pytest.raises(WorkError, match=str(store.root)):
            store.create(STATUS)
        assert "is gone or another one" in store.warnings()[0]
    # As soon as it is out of the way, the node goes on.
    store.root.rename(tmp_path / "aside") if what != "dangling link" else store.root.unlink()
    store.create(STATUS)
    assert store.warnings() == []


def test_a_directory_that_another_node_has_taken_meanwhile_is_left_to_it(tmp_path, store):
    store.root.rename(tmp_path / "elsewhere")
    other = UnitStore(store.root)
    other.prepare()
    with pytest.raises(WorkError, match="is in use by a running node"):
        store.create(STATUS)
    assert os.listdir(store.root) == []
    other.close()
    store.create(STATUS)


def test_a_directory_that_came_back_is_taken_again(tmp_path, store):
    unit_id = store.create(STATUS)
    store.root.rename(tmp_path / "elsewhere")
    store.create(STATUS)
    shutil.rmtree(store.root)
    (tmp_path / "elsewhere").rename(store.root)
    store.create(STATUS)
    assert store.read_status(unit_id) == STATUS
    assert is_locked(store.root)
