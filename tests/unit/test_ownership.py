"""Which directories are trusted: tried by a user who would misuse them."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strangers import STRANGER, as_stranger

from meshnode.ownership import (
    MOST_LINKS,
    check_ownership,
    cleaned_place,
    make_private,
    ownership_warnings,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to other users")


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that anybody may look into, as those above a datadir are."""
    path = Path(tempfile.mkdtemp(prefix="mn-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass(frozen=True)
class Step:
    """One directory on the way, or a link to it."""

    uid: int
    mode: int
    link_uid: int | None


owners = st.sampled_from([0, 0, STRANGER])
steps = st.builds(
    Step,
    uid=owners,
    mode=st.sampled_from([0o700, 0o755, 0o775, 0o777, 0o1777, 0o1775, 0o750]),
    link_uid=st.none() | owners,
)


def build(root: Path, way: list[Step]) -> Path:
    """Make the directories, each below the one before; return the path over the links."""
    at = root
    for number, step in enumerate(way):
        real = at / f"d{number}"
        real.mkdir()
        shown = real
        if step.link_uid is not None:
            shown = at / f"l{number}"
            shown.symlink_to(real.name)
            os.chown(shown, step.link_uid, step.link_uid, follow_symlinks=False)
        os.chown(real, step.uid, step.uid)
        real.chmod(step.mode)
        at = shown
    return at


def is_misused(path: Path, root: Path, own: int) -> bool:
    """Whether a stranger can put something into the last directories, or in the place of any."""
    return as_stranger(lambda: _try(path, root, own))


def _try(path: Path, root: Path, own: int) -> bool:
    ways = [path, *path.parents][: len(path.relative_to(root).parts)]
    for number, place in enumerate(ways):
        try:
            if place.is_symlink():
                real = place.parent / os.readlink(place)
                os.rename(real, f"{real}x")
                return True
        except OSError:
            pass
        try:
            os.rename(place, f"{place}x")
            return True
        except OSError:
            pass
        try:
            # Of a datadir with the sticky bit, as /tmp, what is in it is still its owner's.
            if number < own and not (number and place.stat().st_mode & stat.S_ISVTX):
                (place / "planted").touch()
                return True
        except OSError:
            pass
    return False


@needs_root
@given(st.lists(steps, min_size=2, max_size=4), st.integers(0, 2))
def test_what_a_stranger_can_misuse_is_refused_or_warned_of(way: list[Step], own: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="mn-"))
    try:
        root.chmod(0o755)
        path = build(root, way)
        judgement = check_ownership(path, own=own)
        if is_misused(path, root, own):
            assert judgement.refusal or judgement.warnings
    finally:
        shutil.rmtree(root)


@needs_root
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_a_directory_of_our_own_that_another_user_owns_is_refused(
    root: Path, depth: int, mode: int
) -> None:
    path = root / "data" / "foo"
    path.mkdir(parents=True)
    theirs = (path, path.parent)[depth]
    os.chown(theirs, STRANGER, STRANGER)
    theirs.chmod(mode)
    assert check_ownership(path, own=2).refusal.startswith(
        f'"{theirs}" belongs to another user (uid {STRANGER}); choose another directory'
    )


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o775, 0o777])
def test_a_directory_of_our_own_that_others_may_write_to_is_refused(
    root: Path, depth: int, mode: int
) -> None:
    path = root / "data" / "foo"
    path.mkdir(parents=True)
    open_one = (path, path.parent)[depth]
    open_one.chmod(mode)
    assert check_ownership(path, own=2).refusal == (
        f'"{open_one}" can be written by other users;'
        f" look at what is in it, then: chmod go-w {open_one}"
    )


def test_a_directory_in_a_place_for_all_is_ours_if_only_its_owner_can_move_it(root: Path) -> None:
    path = root / "foo"
    path.mkdir()
    root.chmod(0o1777)
    assert check_ownership(path, own=2).refusal == ""
    root.chmod(0o777)
    assert "can be written by other users" in check_ownership(path, own=1).refusal


def test_a_group_that_may_write_to_a_directory_on_the_way_is_warned_of(root: Path) -> None:
    path = root / "data" / "foo"
    path.mkdir(parents=True)
    root.chmod(0o775)
    judgement = check_ownership(path, own=2)
    assert judgement.refusal == ""
    assert judgement.warnings == (f'"{root}" can be written by its group (gid {os.getegid()})',)


@needs_root
def test_a_link_that_another_user_can_turn_is_refused(root: Path) -> None:
    (root / "real" / "foo").mkdir(parents=True)
    link = root / "data"
    link.symlink_to("real")
    assert check_ownership(link / "foo", own=2).refusal == ""
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert f'"{link}" is a link that another user' in check_ownership(link / "foo", own=2).refusal


def test_links_are_followed_to_where_they_lead(root: Path) -> None:
    (root / "open" / "foo").mkdir(parents=True)
    (root / "open").chmod(0o777)
    (root / "closed").mkdir()
    (root / "closed" / "data").symlink_to("../open")
    path = root / "closed" / "data" / "foo"
    assert check_ownership(path, own=2).refusal.startswith(f'"{root}/open" can be written')


def test_links_in_a_circle_are_an_error_and_no_endless_way(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        check_ownership(root / "a" / "foo")
    at = root
    for number in range(MOST_LINKS):
        (root / f"l{number}").symlink_to(f"l{number + 1}")
        at = root / f"l{number}"
    assert check_ownership(at / "foo").refusal == ""


def test_what_does_not_exist_yet_is_judged_as_far_as_it_does(root: Path) -> None:
    assert check_ownership(root / "a" / "b" / "c", own=2).refusal == ""
    root.chmod(0o777)
    assert check_ownership(root / "a" / "b" / "c", own=2).refusal != ""


def test_all_that_is_made_is_for_us_alone(root: Path) -> None:
    old = os.umask(0)
    try:
        make_private(root / "a" / "b" / "c")
    finally:
        os.umask(old)
    for path in (root / "a", root / "a" / "b", root / "a" / "b" / "c"):
        assert path.stat().st_mode & 0o777 == 0o700
    make_private(root / "a")
    assert root.stat().st_mode & 0o777 == 0o755


def test_doubts_are_a_refusal_or_warnings(root: Path) -> None:
    assert ownership_warnings(root) == ()
    root.chmod(0o777)
    assert len(ownership_warnings(root)) == 1


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/tmp", "/tmp"),
        ("/tmp/receptor/foo", "/tmp"),
        ("/var/tmp/x", "/var/tmp"),
        ("/dev/shm/x", "/dev/shm"),
        ("/var/lib/meshnode", None),
        ("/tmpfoo/x", None),
    ],
)
def test_a_place_that_systems_clean_is_known(path: str, place: str | None) -> None:
    assert cleaned_place(Path(path)) == place
