"""Batches on real nodes: spread, the submitting node killed, the client away, each run once."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness import Cluster, Node, bash, free_port, wait_until

MEMBERS = 60


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, which submits, and bar and baz, which work; baz is behind bar."""
    ledger = cluster.directory / "ledger"
    cluster.environment |= {"LEDGER": str(ledger)}
    work = {"job": bash("echo $MESHNODE_ARRAY_INDEX $MESHNODE_UNIT_DIR >> $LEDGER; sleep 0.2")}
    port, behind = free_port(), free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], listen=behind, work=work)
    cluster.node("baz", peers=[behind], work=work)
    for name in ("bar", "baz"):
        foo.wait_knows(name)
        foo.wait_service(name)
    return foo, bar, cluster.nodes["baz"]


def test_each_member_runs_once_on_one_of_the_nodes_through_a_kill_of_the_submitting_one(
    nodes: tuple[Node, Node, Node], cluster: Cluster, tmp_path: Path
) -> None:
    foo, ledger, log = nodes[0], cluster.directory / "ledger", tmp_path / "log"
    array = f"1-{MEMBERS}%12"
    told = foo.meshctl("work", "submit", "job", "--array", array, "--node", "least", "--json")
    batch = json.loads(told)["batch"]
    client = subprocess.Popen(
        [
            *(sys.executable, "-m", "meshctl", "--socket", str(foo.socket)),
            *("work", "batch", "wait", batch, "--joblog", str(log)),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        wait_until(
            lambda: ledger.exists() and len(ledger.read_text().splitlines()) > MEMBERS // 4,
            what="a quarter of the members",
        )
        foo.kill()
        foo.start()
        out, _ = client.communicate(timeout=120)
    finally:
        client.kill()
        client.wait()
    assert f"({batch}, Succeeded: {MEMBERS} succeeded)" in out.decode()
    ran = [line.split() for line in ledger.read_text().splitlines()]
    assert sorted(int(index) for index, _ in ran) == [*range(1, MEMBERS + 1)]
    where = Counter(path.split("/")[-2] for _, path in ran)
    assert set(where) == {"bar", "baz"}
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    assert sorted(int(row[0]) for row in rows[1:]) == [*range(1, MEMBERS + 1)]
    assert foo.meshctl("work", "batch", "release", batch).decode().startswith(f"({batch}, releas")
    wait_until(lambda: json.loads(foo.meshctl("work", "list")) == {}, what="no units")
