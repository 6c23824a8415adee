"""Real shells complete command lines of meshctl and meshnode at TAB, with a real node to ask."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import terminals
from harness import PATIENCE, Cluster, Node, wait_until

from meshctl import ControlClient
from meshctl.shells import SHELLS

NAMES = ["n$(touch${IFS}ran)", """n;`touch${IFS}ran`&'"*\\#~|<>?$x"""]
"""IDs of nodes that mean a lot to shells; those with blanks or commas are none. What ``!`` means
between double quotes only a shell on a terminal knows."""


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")


@pytest.fixture
def told(cluster: Cluster) -> Cluster:
    """The cluster, whose shells wait for a node however busy the machine is."""
    cluster.environment["MESHCTL_COMPLETION_SECONDS"] = "60"
    return cluster


@pytest.fixture
def foo(told: Cluster) -> Node:
    """A node with two work types, which meshctl asks."""
    foo = told.node("foo", work={"echo": "echo hi", "nap": "sleep 1000"})
    told.environment["MESHCTL_SOCKET"] = str(foo.socket)
    return foo


@pytest.fixture
def units(foo: Node) -> tuple[str, str]:
    """One unit that has ended, and a newer one that goes on."""
    ended = foo.submit("echo", "--no-payload", "--label", "job=nightly")
    with ControlClient(str(foo.socket)) as client:
        client.wait(ended)
    return ended, foo.submit("nap", "--no-payload")


@contextmanager
def on_terminal(shell: str, cluster: Cluster, place: Path) -> Iterator[terminals.Shell]:
    """Start a shell that has evaluated both scripts."""
    needs(shell)
    lines = "".join(f'eval "$({p} completion {shell})"\n' for p in ("meshctl", "meshnode"))
    with terminals.started(shell, lines, cluster.environment, place / "home") as terminal:
        yield terminal


def in_fish(cluster: Cluster, *lines: str) -> dict[str, list[str]]:
    """Return what fish offers for each line, with the descriptions."""
    needs("fish")
    script = "meshctl completion fish | source; meshnode completion fish | source; "
    script += "for line in $argv; complete --do-complete $line; echo; end"
    environment = {"HOME": str(cluster.directory), "XDG_CONFIG_HOME": str(cluster.directory)}
    done = subprocess.run(
        ["fish", "--no-config", "--command", script, *lines],
        env={**cluster.environment, **environment, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stderr == b""
    answers = re.split(r"^\n", done.stdout.decode(), flags=re.MULTILINE)
    return {line: said.splitlines() for line, said in zip(lines, answers, strict=False)}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes_commands_options_units_labels_nodes_and_files(
    shell: str, told: Cluster, foo: Node, units: tuple[str, str], tmp_path: Path
) -> None:
    ended, running = units
    log, at = str(foo.log), f"meshctl --socket unix:{foo.socket}"
    expected = {
        "meshctl work rel": "meshctl work release ",
        "meshctl work list --unit-": "meshctl work list --unit-id ",
        "meshctl work list --state run": "meshctl work list --state Running ",
        "meshctl work submit na": "meshctl work submit nap ",
        "meshctl work cancel ": f"meshctl work cancel {running} ",
        f"meshctl work status {ended[:-1]}": f"meshctl work status {ended} ",
        "meshctl work list --label jo": "meshctl work list --label job=nightly ",
        "meshctl work list --label job=n": "meshctl work list --label job=nightly ",
        "meshctl work list --node=fo": "meshctl work list --node=foo ",
        "meshctl ping 'fo": "meshctl ping 'foo' ",
        "meshctl work submit nap -a para": "meshctl work submit nap -a params=",
        f"meshctl work submit x --payload={log[:-1]}": f"meshctl work submit x --payload={log} ",
        f"{at} ping fo": f"{at} ping foo ",
        f"meshctl --socket {log[:-1]}": f"meshctl --socket {log} ",
        "meshnode --tcp-li": "meshnode --tcp-listener ",
        "meshnode --tcp-listener bind": "meshnode --tcp-listener bindaddr=",
        "meshnode --log-level format=js": "meshnode --log-level format=json ",
        f"meshnode --tls-server key={log[:-1]}": f"meshnode --tls-server key={log} ",
        f"meshnode check {log[:-1]}": f"meshnode check {log} ",
        "meshnode cert ver": "meshnode cert verify ",
    }
    with on_terminal(shell, told, tmp_path) as terminal:
        assert {line: terminal.typed(f"{line}\t") for line in expected} == expected


def test_zsh_shows_types_and_states_of_units(
    told: Cluster, units: tuple[str, str], tmp_path: Path
) -> None:
    with on_terminal("zsh", told, tmp_path) as terminal:
        terminal.typed("meshctl work status \t")
        # The line is told before all that was drawn has been read here.
        for line in (f"{units[1]}  -- nap, Running", f"{units[0]}  -- echo, Succeeded"):
            wait_until(lambda line=line: line in terminal.drawn, what=line)


def test_fish_offers_the_same_with_descriptions(
    told: Cluster, foo: Node, units: tuple[str, str]
) -> None:
    ended, running = units
    log = str(foo.log)
    expected = {
        "meshctl work rel": ["release\tStop units of work and delete their files."],
        "meshctl work status ": [f"{running}\tnap, Running", f"{ended}\techo, Succeeded"],
        "meshctl work cancel ": [f"{running}\tnap, Running"],
        "meshctl work list --label job=n": ["job=nightly"],
        "meshctl work list --node=fo": ["--node=foo\tthe node itself"],
        f"meshctl work submit nap --payload={log}": [f"--payload={log}"],
        f"meshctl --socket {foo.socket} work submit n": ["nap"],
        "meshnode --tcp-li": ["--tcp-listener\tAccept links from other nodes over TCP."],
        "meshnode --log-level format=js": ["format=json"],
        f"meshnode --tls-server key={log}": [f"key={log}"],
    }
    assert in_fish(told, *expected) == expected


def start(cluster: Cluster, name: str) -> None:
    """Start a node of an odd name, which meshctl asks from then on."""
    # Variables in the path of a socket are replaced: it cannot have the node's name.
    path = cluster.directory / f"{NAMES.index(name)}.sock"
    node = cluster.node(name, control={"filename": str(path)}, start=False)
    node.socket = path
    node.start()
    cluster.environment["MESHCTL_SOCKET"] = str(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_name_of_a_node_is_one_word_and_no_command(
    shell: str, name: str, told: Cluster, tmp_path: Path
) -> None:
    start(told, name)
    with on_terminal(shell, told, tmp_path) as terminal:
        lines = [terminal.typed(f"meshctl ping {opening}n\t") for opening in ("", '"', "'")]
    assert lines[0].endswith(" ")
    for line in lines:
        if line.endswith(" "):  # else nothing was offered: not every name fits into quotes
            word = line.removeprefix("meshctl ping ")
            done = told.run(shell, "-c", f"printf '%s' {word}")
            assert done.stdout.decode() == name
    assert not (told.directory / "ran").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_without_a_node_a_tab_changes_nothing_and_says_nothing(
    shell: str, told: Cluster, tmp_path: Path
) -> None:
    told.environment["MESHCTL_SOCKET"] = str(tmp_path / "nosuch.sock")
    with on_terminal(shell, told, tmp_path) as terminal:
        before = len(terminal.drawn)
        for line in ("meshctl work status ", "meshctl ping ", "meshctl work submit --node x y"):
            assert terminal.typed(f"{line}\t") == line
        said = terminal.drawn[before:]
    assert "rror" not in said
    assert "Traceback" not in said
    assert "nosuch" not in said


def test_fish_says_nothing_either_and_takes_any_name(told: Cluster, tmp_path: Path) -> None:
    told.environment["MESHCTL_SOCKET"] = str(tmp_path / "nosuch.sock")
    assert in_fish(told, "meshctl ping n") == {"meshctl ping n": []}
    for name in NAMES:
        start(told, name)
        (offer,) = in_fish(told, "meshctl ping n")["meshctl ping n"]
        assert offer == f"{name}\tthe node itself"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", ["meshctl", "meshnode"])
def test_a_shell_finds_no_fault_with_the_script(
    shell: str, program: str, cluster: Cluster, tmp_path: Path
) -> None:
    needs(shell)
    file = tmp_path / "script"
    file.write_bytes(cluster.run(program, "completion", shell).stdout)
    done = cluster.run(shell, "-n", file)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_zsh_loads_the_script_when_it_is_first_needed(told: Cluster, tmp_path: Path) -> None:
    """As the Debian package has it: a file of fpath, and no line in anybody's own files."""
    needs("zsh")
    directory = tmp_path / "functions"
    directory.mkdir()
    (directory / "_meshctl").write_bytes(told.run("meshctl", "completion", "zsh").stdout)
    lines = f"fpath=({directory} $fpath)\ncompinit -D -u\n"
    with terminals.started("zsh", lines, told.environment, tmp_path / "home") as terminal:
        assert terminal.typed("meshctl work rel\t") == "meshctl work release "
        assert terminal.typed("meshctl work canc\t") == "meshctl work cancel "
