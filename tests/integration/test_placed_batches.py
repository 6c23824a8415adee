"""An array over three nodes by load: spread evenly, each member once, through kills of who waits
and of who submits."""

import os
import signal
import subprocess
from collections import Counter
from itertools import chain

from harness import Cluster, Node, bash, free_port, wait_until

MEMBERS = int(os.environ.get("MEMBERS", "150"))
"""How many; 2,000 take some minutes (``MEMBERS=2000 pytest …``)."""

PATIENT = 100.0 + MEMBERS
"""Seconds that it may take on a busy machine."""

AT_ONCE = 4
"""Members that run at once on each node."""

NAPS = "echo $MESHNODE_ARRAY_INDEX >> $LEDGER/$WHERE; sleep 0.0$((RANDOM % 9))"


def ran(cluster: Cluster) -> dict[str, list[str]]:
    """Return the indices that each node has run."""
    ledger = cluster.directory / "ledger"
    return {file.name: file.read_text().split() for file in ledger.iterdir()}


def how_many(cluster: Cluster) -> int:
    return sum(map(len, ran(cluster).values()))


def worker(cluster: Cluster, name: str, port: int) -> Node:
    work = {"nap": bash(NAPS) | {"maxconcurrent": AT_ONCE, "env": {"WHERE": name}}}
    return cluster.node(name, peers=[port], work=work, level="info")


def test_an_array_spreads_and_each_member_runs_once_though_client_and_submitter_are_killed(
    cluster: Cluster,
) -> None:
    (cluster.directory / "ledger").mkdir()
    cluster.environment["LEDGER"] = str(cluster.directory / "ledger")
    port = free_port()
    foo = cluster.node("foo", listen=port, level="info")
    names = ("bar", "baz", "qux")
    for name in names:
        worker(cluster, name, port)
    for name in names:
        foo.wait_service(name)
    meshctl = ["meshctl", "--socket", str(foo.socket)]
    array = ["--array", f"1-{MEMBERS}%{8 * AT_ONCE}"]
    client = subprocess.Popen(
        [*meshctl, "work", "submit", "nap", "-n", "--node", "least", *array, "--wait"],
        stdout=subprocess.PIPE,
        env=cluster.environment,
        cwd=cluster.directory,
    )
    wait_until(lambda: how_many(cluster) >= MEMBERS // 4, what="a quarter", seconds=PATIENT)
    client.send_signal(signal.SIGKILL)
    client.communicate()
    (batch,) = foo.ask('{"command":"work","subcommand":"batch","action":"list"}')
    wait_until(lambda: how_many(cluster) >= MEMBERS // 2, what="half", seconds=PATIENT)
    foo.kill()
    foo.start()
    subprocess.run(
        [*meshctl, "work", "batch", "wait", batch],
        env=cluster.environment,
        timeout=PATIENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    by_node = ran(cluster)
    indices = sorted(chain.from_iterable(by_node.values()), key=int)
    assert indices == [str(index + 1) for index in range(MEMBERS)]
    # By units, which all take the same on average: within a fifth of even, and some chance.
    even = MEMBERS / len(names)
    slack = even / 5 + 3 * even**0.5
    counts = Counter({name: len(by_node[name]) for name in names})
    assert all(abs(number - even) <= slack for number in counts.values()), counts
