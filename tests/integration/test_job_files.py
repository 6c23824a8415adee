"""Files go along with jobs through real nodes, byte for byte, and no process has them in memory."""

import os
from pathlib import Path

from harness import Cluster, Node, bash, free_port

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
