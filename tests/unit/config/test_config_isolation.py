"""How isolation of work is written, and what of it is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import ConfigFaults, WorkDirective, load_file
from meshnode.config.isolation_values import CAPABILITIES, FULL, UNDOING, Isolation


def load(tmp_path: Path, *lines: str) -> WorkDirective:
    file = tmp_path / "foo.yml"
    text = "".join(f"    {line}\n" for line in lines)
    file.write_text(
        "- node: {id: foo}\n- local-only\n- work-command:\n    worktype: t\n    command: true\n"
        + text
    )
    (directive,) = load_file(str(file)).work_types
    return directive


def fault(tmp_path: Path, *lines: str) -> str:
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, *lines)
    (one,) = caught.value.faults
    return str(one).partition(": ")[2]


def test_work_without_a_word_of_it_runs_as_the_node_does(tmp_path: Path) -> None:
    plain = load(tmp_path)
    assert not plain.is_isolated
    assert not load(tmp_path, "isolation: none").is_isolated


def test_isolation_drops_whatever_could_undo_it_unless_told_otherwise(tmp_path: Path) -> None:
    full = load(tmp_path, "isolation: full")
    assert full.isolation == FULL
    assert (full.gains_nothing, full.kept_capabilities, full.has_filter) == (True, (), True)
    less = load(
        tmp_path,
        "isolation: {Network: loopback}",
        "capabilities: [CAP_NET_BIND_SERVICE]",
        "seccomp: none",
        "no-new-privileges: false",
    )
    assert less.isolation == Isolation(network="loopback")
    assert less.kept_capabilities == ("net_bind_service",)
    assert (less.gains_nothing, less.has_filter) == (False, False)


@pytest.mark.parametrize(
    ("line", "kept", "gains_nothing", "is_filtered"),
    [
        ("capabilities: []", (), False, False),
        ("capabilities: all", None, False, False),
        ("capabilities: [chown, kill]", ("chown", "kill"), False, False),
        ("no-new-privileges: true", None, True, False),
        ("seccomp: default", None, True, True),
    ],
)
def test_each_of_them_also_works_alone(
    tmp_path: Path, line: str, kept: object, gains_nothing: bool, is_filtered: bool
) -> None:
    made = load(tmp_path, line)
    assert (made.kept_capabilities, made.gains_nothing, made.has_filter) == (
        kept,
        gains_nothing,
        is_filtered,
    )


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["isolation: {pids: true}"], '"pids" is unknown; did you mean "pid"?'),
        (["isolation: {network: lo}"], 'network: "lo" is not one of none, loopback, host'),
        (["isolation: all"], '"all" is neither full nor none nor a map'),
        (["isolation: {pid: true, PID: false}"], '"pid" is given twice'),
        (["isolation: {visible: /run/../etc}"], "is no plain path"),
        (["isolation: {hidden: /}"], "/ is everything"),
        (["isolation: {writable: /srv}"], "writable: says nothing without mount: readonly"),
        (["capabilities: [net_bind]"], '"net_bind" is no capability'),
        (["umask: 22"], '"22" is not an octal number'),
        (["user: 'a b:c'"], "is neither the name nor the number"),
        (["user: 4294967295"], "4294967295 is no number of a user or group"),
        (
            ["seccomp: default", "no-new-privileges: false"],
            "false stands against the filter of system calls",
        ),
        (
            ["isolation: full", "capabilities: all"],
            "all of them would let it take its isolation off",
        ),
        (
            ["isolation: {pid: true}", "leave-processes: true"],
            "all processes of a PID namespace end with its unit",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_says_so(
    tmp_path: Path, lines: list[str], told: str
) -> None:
    assert told in fault(tmp_path, *lines)


@given(name=st.sampled_from(CAPABILITIES))
def test_no_capability_that_could_undo_an_isolation_stands_beside_it(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    lines = ("isolation: {network: none}", f"capabilities: [{name}]")
    place = tmp_path_factory.mktemp("c")
    if name in UNDOING:
        assert f"{name} would let it take its isolation off" in fault(place, *lines)
    else:
        assert load(place, *lines).kept_capabilities == (name,)
