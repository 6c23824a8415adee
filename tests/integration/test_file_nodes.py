"""Files go along with jobs through real nodes, byte for byte, and no process has them in memory."""

import os
from pathlib import Path

import pytest
from harness import Cluster, Node, bash, free_port
from isolated import BASH, WHO, isolating

from meshctl import ControlClient, JobSettings

LIST = bash("cd DEPS && find . -type f -print0 | sort -z | xargs -0 sha256sum; cat")

SMALL_FILES = 1500
BIG_BYTES = 96 * 1024 * 1024
"""More than a process may grow by, which has a piece of it in memory at a time."""

MOST_GROWTH = 48 * 1024 * 1024


def peak(pid: int) -> int:
    """Return the bytes of memory that a process has had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def line_of_three(cluster: Cluster) -> tuple[Node, Node, Node]:
    middle, last = free_port(), free_port()
    bar = cluster.node("bar", listen=last, work={"list": LIST})
    hop = cluster.node("hop", listen=middle, peers=[last])
    foo = cluster.node("foo", peers=[middle])
    foo.wait_service("bar")
    return foo, hop, bar


def test_many_files_and_a_large_one_arrive_through_a_hop_in_bounded_memory(
    cluster: Cluster, tmp_path: Path
) -> None:
    foo, hop, bar = line_of_three(cluster)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(1024 * 1024) * (BIG_BYTES // 1024 // 1024))
    for number in range(SMALL_FILES):
        place = tree / f"d{number % 40}"
        place.mkdir(exist_ok=True)
        (place / f"f{number}").write_bytes(b"%d\n" % number)
    before = {node.pid: peak(node.pid) for node in (foo, hop, bar)}
    submission = ("work", "submit", "list", "--node", "bar", "-l", "typed", "--dep", tree)
    printed = foo.meshctl(*submission, "--follow")
    find = "cd $1/.. && find ./tree -type f -print0 | sort -z | xargs -0 sha256sum; echo typed"
    expected = cluster.run("bash", "-c", find, "-", str(tree)).stdout
    assert printed == expected
    grown = {pid: peak(pid) - size for pid, size in before.items()}
    assert max(grown.values()) < MOST_GROWTH


def test_files_wait_for_a_node_that_is_away_while_the_submitting_node_is_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    port = free_port()
    foo = cluster.node("foo", peers=[port])
    (tmp_path / "data").write_bytes(b"content\n")
    unit = foo.submit("list", "--node", "bar", "--dep", tmp_path / "data")
    foo.kill()
    foo.start()
    bar = cluster.node("bar", listen=port, work={"list": LIST})
    assert b"./data" in foo.results(unit)
    assert foo.unit_status(unit)["StateName"] == "Succeeded"
    foo.meshctl("work", "release", unit)
    assert bar.ask("work list") == {}


def test_a_script_runs_with_its_files_and_words_here_and_on_another_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    shell = {"command": "/bin/bash", "params": "-e", "allowscripts": True}
    direct = {"command": "/usr/bin/env", "allowscripts": True}
    port = free_port()
    work = {"shell": shell, "direct": direct}
    cluster.node("bar", listen=port, work=work)
    foo = cluster.node("foo", peers=[port], work=work)
    foo.wait_service("bar")
    script, data = tmp_path / "job.sh", tmp_path / "data"
    script.write_text('#!/bin/sh\ncat DEPS/data; printf "%s|" "$@"; cat; exit 3\n')
    data.write_bytes(b"content|")
    for node in ("foo", "bar"):
        for kind in ("shell", "direct"):
            files = ("--script", script, "--dep", data, "-l", "typed")
            submission = ("work", "submit", kind, "--node", node, *files, "--follow")
            printed = foo.meshctl(*submission, "--", "one", "two three", check=False)
            assert printed == b"content|one|two three|typed\n"


MODES = {
    "full": BASH | {"isolation": "full"},
    "pid": BASH | {"isolation": {"pid": True}},
    "readonly": BASH | {"isolation": {"pid": True, "mount": "readonly"}},
}


@pytest.mark.parametrize("who", WHO)
def test_an_isolated_job_has_its_files_and_writes_beside_them_and_nowhere_else_of_the_node(
    cluster: Cluster, tmp_path: Path, who: str
) -> None:
    (tmp_path / "data").write_bytes(b"content\n")
    script = b"cat DEPS/data; echo made > new; cat new; rm DEPS/data; touch ../other; ls ../.."
    with isolating(cluster, who, MODES) as node, ControlClient(str(node.socket)) as client:
        for kind in MODES:
            job = JobSettings(deps=(tmp_path / "data",))
            unit = client.submit(kind, script, job=job).unit_id
            printed = b"".join(client.results(unit)).decode()
            assert printed.startswith("content\nmade\n"), printed
            assert "other" in printed
            assert printed.endswith(f"\n{unit}\n")
            assert sorted(os.listdir(node.units / unit / "work")) == ["DEPS", "new"]
            assert not (node.units / unit / "other").exists()
            client.release(unit)
            assert not (node.units / unit).exists()
