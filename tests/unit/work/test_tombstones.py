"""What a store remembers of units that are gone: in memory, on disk, and within bounds."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.logs import subject_logger
from meshnode.work.units import tombstones
from meshnode.work.units.tombstones import Tombstone, TombstoneFile, Tombstones

DAY = 86400
LOG = subject_logger("test")
START = 1_800_000_000.0


@pytest.fixture
def few(monkeypatch):
    """Bounds that a test reaches."""
    monkeypatch.setattr(tombstones, "MOST", 100)
    monkeypatch.setattr(tombstones, "DROPPED_AT_ONCE", 10)
    monkeypatch.setattr(tombstones, "REWRITE_AFTER", 200)
    monkeypatch.setattr(tombstones, "MOST_HORIZONS", 5)


def load(root, now=START, keep=7 * DAY) -> tuple[Tombstones, TombstoneFile]:
    stones, file = Tombstones(keep), TombstoneFile(root, LOG)
    file.load(stones, now, is_new=not os.path.lexists(root / tombstones.FILE))
    return stones, file


def put(stones, submitter, key, now=START, state=2):
    stone = Tombstone.of(submitter, key, "unit" + key[-4:].rjust(4, "0"), state, stones.now(now))
    stones.add(stone)
    return stone


def test_what_was_appended_is_known_after_a_restart_by_submitter_and_key(tmp_path):
    stones, file = load(tmp_path)
    file.append([put(stones, "foo", "k1"), put(stones, "", "k2", state=3)])
    file.append([Tombstone.of_damaged("DAMAGED1", stones.now(START))])
    again, _ = load(tmp_path)
    assert again.find("foo", "k1") == stones.find("foo", "k1")
    assert again.find("", "k2").state == 3
    assert again.find("baz", "k1") is again.find("", "k1") is again.find("foo", "k2") is None
    assert again.is_damaged("DAMAGED1")
    assert not again.is_damaged("DAMAGED2")
    assert again.horizon("foo") == 0


def test_what_is_older_than_it_is_kept_leaves_a_horizon_for_its_submitter(tmp_path):
    stones, file = load(tmp_path)
    old = put(stones, "foo", "old")
    young = put(stones, "foo", "young", START + 3 * DAY)
    other = put(stones, "bar", "other", START + 4 * DAY)
    file.append([old, young, other])
    for _ in range(2):
        again, _ = load(tmp_path, START + 8 * DAY)
        assert again.find("foo", "old") is None
        assert again.find("foo", "young") == young
        assert again.horizon("foo") == old.moment
        assert again.horizon("bar") == 0
    assert len((tmp_path / tombstones.FILE).read_bytes().splitlines()) == 3


def test_a_submitter_that_releases_without_end_has_only_its_own_forgotten(tmp_path, few):
    stones, _ = load(tmp_path)
    honest = [put(stones, "foo", f"k{n}", START + n) for n in range(20)]
    for number in range(2000):
        put(stones, "flood", f"f{number}", START + 100 + number)
    assert all(stones.find("foo", f"k{n}") == stone for n, stone in enumerate(honest))
    assert stones.horizon("foo") == 0
    assert stones.horizon("flood") > 0
    # The newest of its own are known still.
    assert stones.find("flood", "f1999") is not None


def test_submitters_without_number_cost_little_and_what_is_forgotten_is_said(tmp_path, few):
    stones, _ = load(tmp_path)
    for number in range(2000):
        put(stones, f"node{number}", "k", START + number)
    snapshot = stones.prune()
    assert len(snapshot.stones) <= 100
    assert len(snapshot.horizons) <= 6
    for number in range(2000):
        node = f"node{number}"
        moment = int((START + number) * 1e6)
        assert stones.find(node, "k") is not None or stones.horizon(node) >= moment


def test_the_file_is_written_anew_before_it_is_long(tmp_path, few):
    stones, file = load(tmp_path)
    for number in range(1000):
        stone = put(stones, "foo", f"k{number}", START + number)
        if file.is_due:
            file.replace(stones.prune())
        else:
            file.append([stone])
    assert len((tmp_path / tombstones.FILE).read_bytes().splitlines()) <= 202
    again, _ = load(tmp_path, START + 1000)
    assert again.horizon("foo") == stones.horizon("foo")
    for number in range(1000):
        assert again.find("foo", f"k{number}") == stones.find("foo", f"k{number}")


def test_half_a_line_at_the_end_is_of_a_write_that_did_not_end_and_forgets_nothing(tmp_path):
    stones, file = load(tmp_path)
    kept = put(stones, "foo", "kept")
    file.append([kept])
    path = tmp_path / tombstones.FILE
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        again, file = load(tmp_path)
        assert again.find("foo", "kept") == kept
        assert again.horizon("foo") == 0
        file.append([put(again, "foo", "later")])
        assert load(tmp_path)[0].horizon("foo") == 0


def test_a_write_that_the_disk_refuses_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    stones, file = load(tmp_path)
    file.append([put(stones, "foo", "first")])
    write = os.write

    def half(descriptor, data):
        if len(data) > 20:
            return write(descriptor, bytes(data[:20]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            file.append([put(stones, "foo", "x" * 300)])
    file.append([put(stones, "foo", "second")])
    again, _ = load(tmp_path)
    assert again.find("foo", "first")
    assert again.find("foo", "second")
    assert again.horizon("foo") == 0


lines = st.one_of(
    st.binary(max_size=100),
    st.dictionaries(
        st.sampled_from(["k", "u", "s", "o", "t", "since"]),
        st.none() | st.integers() | st.text(max_size=40) | st.just("00" * 16) | st.floats(),
    ).map(lambda data: json.dumps(data).encode()),
)


@given(st.lists(lines, min_size=1, max_size=5))
def test_a_line_that_says_nothing_has_the_store_say_that_it_has_forgotten(tmp_path_factory, junk):
    root = tmp_path_factory.mktemp("root")
    stones, file = load(root)
    file.append([put(stones, "foo", "kept")])
    with open(root / tombstones.FILE, "ab") as out:
        out.write(b"".join(line + b"\n" for line in junk))
    taken = Tombstones(7 * DAY)
    sound = all(taken.take_line(line) for line in b"\n".join(junk).splitlines())
    again, _ = load(root, START + 1)
    if not sound:
        assert again.horizon("foo") >= int((START + 1) * 1e6)
    # And what it says then, it says after the next start as well.
    assert load(root, START + 2)[0].horizon("foo") == again.horizon("foo")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_something_else_in_place_of_the_file_is_no_reason_not_to_start(tmp_path, make):
    make(tmp_path / tombstones.FILE)
    stones, file = load(tmp_path)
    assert stones.horizon("foo") > 0
    file.append([put(stones, "foo", "k", START + 1)])
    assert load(tmp_path)[0].find("foo", "k")


@given(st.lists(st.floats(0, 4e9), max_size=20))
def test_the_clock_of_a_store_never_goes_back(moments):
    stones = Tombstones(DAY)
    seen = [stones.now(moment) for moment in moments]
    assert seen == sorted(seen)
