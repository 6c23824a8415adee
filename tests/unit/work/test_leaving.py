"""Which processes go on after their unit's end."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.local.launcher import leaving, tree
from meshnode.work.local.launcher.leaving import Leaving, Names, matches, names_of

COMMAND = 10
"""PID of the command in all of these trees."""

HELPER, KEEPER, OTHER = "catatonit", "conmon", "sleep"

PATTERNS = [HELPER, KEEPER]


def process(pid: int, parent: int) -> tree.Process:
    return tree.Process(pid, parent, pid, 1000 + pid, dead=False)


Shape = dict[int, tuple[int, str]]
"""Parent and name by PID."""


def named(monkeypatch: pytest.MonkeyPatch, shape: Shape) -> list[tree.Process]:
    """Return the processes of a tree, which are called so from now on."""
    monkeypatch.setattr(leaving, "names_of", lambda pid: Names(shape[pid][1], shape[pid][1]))
    return [process(pid, parent) for pid, (parent, _) in shape.items()]


PODMAN: Shape = {
    COMMAND: (1, "podman"),
    20: (1, HELPER),
    30: (1, KEEPER),
    31: (30, OTHER),
    32: (31, OTHER),
    40: (1, OTHER),
}
"""A command, a pause process, a container with its keeper, and something else."""


def test_nothing_but_what_matches_and_what_that_started_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = named(monkeypatch, PODMAN)
    assert Leaving(PATTERNS, COMMAND).after_the_command(found) == {20, 30, 31, 32}


def test_a_cancel_ends_a_keeper_with_what_it_keeps_and_spares_a_helper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = named(monkeypatch, PODMAN)
    assert Leaving(PATTERNS, COMMAND).at_a_cancel(found) == {20}


def test_all_is_left_of_a_command_that_ends_by_itself_and_nothing_of_one_that_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = named(monkeypatch, PODMAN)
    assert Leaving(True, COMMAND).after_the_command(found) == set(PODMAN)
    assert Leaving(True, COMMAND).at_a_cancel(found) == set()


def test_a_command_is_not_spared_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = named(monkeypatch, {COMMAND: (1, HELPER), 11: (1, HELPER)})
    assert Leaving(PATTERNS, COMMAND).at_a_cancel(found) == {11}


NAMES = st.sampled_from([HELPER, KEEPER, OTHER])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw processes of which each has any of the others, or nobody among them, as its parent.

    They are read one after the other, while PIDs are used again: even a circle may be seen.
    """
    pids = draw(st.sets(st.integers(2, 20), max_size=12))
    parents = st.sampled_from(sorted({1, *pids}))
    return {pid: (draw(parents), draw(NAMES)) for pid in pids}


def below(shape: Shape, pid: int) -> set[int]:
    found = {pid}
    while True:
        more = {one for one, (parent, _) in shape.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more


@given(shapes())
def test_whatever_the_tree_a_canceled_unit_leaves_no_process_of_another_name(shape: Shape) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kept = Leaving(PATTERNS, COMMAND).at_a_cancel(named(monkeypatch, shape))
    for pid in shape:
        is_helper = shape[pid][1] in PATTERNS and pid != COMMAND
        keeps = {one for one in below(shape, pid) if shape[one][1] == OTHER or one == COMMAND}
        assert (pid in kept) == (is_helper and not keeps)


@given(shapes())
def test_whatever_the_tree_an_ended_command_leaves_what_matches_and_its_children(
    shape: Shape,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kept = Leaving(PATTERNS, COMMAND).after_the_command(named(monkeypatch, shape))
    helpers = {pid for pid in shape if shape[pid][1] in PATTERNS and pid != COMMAND}
    assert kept == helpers.union(*(below(shape, pid) for pid in helpers))


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ("catatonit", True),
        ("catatonit -P", True),
        ("cat*", True),
        ("catatonit *", True),
        ("catatonit -Q", False),
        ("-P", False),
        ("Catatonit", False),
        ("atonit", False),
    ],
)
def test_a_pattern_is_compared_with_the_whole_name_or_command_line(
    pattern: str, is_match: bool
) -> None:
    assert matches(Names("catatonit", "catatonit -P"), [pattern]) is is_match


def test_a_process_in_a_container_is_left_by_no_name() -> None:
    assert not matches(Names("conmon", "conmon", is_contained=True), ["conmon", "*"])


def test_a_process_is_known_by_what_ps_shows_without_the_directory_of_its_program() -> None:
    with subprocess.Popen(["/bin/sleep", "1000"]) as running:
        names = names_of(running.pid)
        running.kill()
    assert (names.name, names.line, names.is_contained) == ("sleep", "sleep 1000", False)


def test_a_process_that_has_ended_has_no_name() -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        dead = names_of(ended.pid)
    gone = names_of(ended.pid)
    assert (dead.line, gone.name, gone.line) == ("", "", "")
    assert not matches(gone, ["conmon"])


def can_have_namespaces() -> bool:
    words = ["unshare", "--pid", "--fork", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_have_namespaces(), reason="PID namespaces cannot be made here")
def test_a_process_in_a_namespace_of_its_own_is_contained(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    script = f"echo > {ready}; exec sleep 1000"
    words = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(words) as outside:
        ready.read_bytes()
        (inside,) = tree.descendants({outside.pid}, tree.all_processes())
        try:
            assert not tree.is_contained(outside.pid)
            assert tree.is_contained(inside.pid)
        finally:
            outside.kill()
