"""A storm over a batch: every node is killed again and again while its members run.

``make faults`` has it with more members; a seed draws the same order of kills again.
"""

import json
import os
import random
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import pytest
from harness import Cluster, Node, bash, free_port

SEEDS = [int(word) for word in os.environ.get("FAULTS_SEEDS", "1").split()]
MEMBERS = int(os.environ.get("FAULTS_UNITS", "40"))
"""Members of the batch; there are two units more, one before and one after it."""

PAUSES = (0.3, 1.2)
"""Seconds between two kills."""

MOST_KILLS = MEMBERS
"""Kills after which the rest is left to end: on a busy machine little is done between two."""

PATIENCE = max(300, MEMBERS * 5)
"""Seconds until all must have ended."""

SCRIPT = "echo $MESHNODE_ARRAY_INDEX. $MESHNODE_UNIT_DIR >> $LEDGER; cat DEPS/data; sleep 0.3"
"""What a member does: it writes down that it runs, and shows the file that all share."""


def nodes_of(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, which has the batch, and bar and baz, which run it; baz is behind bar."""
    work = {"job": bash(SCRIPT)}
    port, behind = free_port(), free_port()
    foo = cluster.node(
        "foo", listen=port, work={"wait": bash("until [ -e $GO ]; do sleep 0.1; done")}
    )
    bar = cluster.node("bar", peers=[port], listen=behind, work=work)
    baz = cluster.node("baz", peers=[behind], work=work)
    for name in ("bar", "baz"):
        foo.wait_knows(name)
        foo.wait_service(name)
    return foo, bar, baz


def status(node: Node, batch: str) -> dict[str, object]:
    """Return what a node says of its batch."""
    request = {"command": "work", "subcommand": "batch", "action": "status", "batch": batch}
    reply: dict[str, object] = node.ask(json.dumps(request))
    return reply


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_member_of_a_batch_runs_once_whichever_nodes_are_killed(
    cluster: Cluster, tmp_path: Path, seed: int
) -> None:
    print(f"make faults SEED={seed} UNITS={MEMBERS}")
    ledger, data, go = cluster.directory / "ledger", tmp_path / "data", tmp_path / "go"
    data.write_bytes(os.urandom(50_000).hex().encode())
    cluster.environment |= {"LEDGER": str(ledger), "GO": str(go)}
    foo, bar, baz = nodes_of(cluster)
    first = foo.submit("wait", "-n")
    told = foo.meshctl(
        *("work", "submit", "job", "--array", f"1-{MEMBERS}%8", "--node", "least", "--json"),
        *("--dep", str(data), "--after", first),
    )
    batch = json.loads(told)["batch"]
    last = foo.submit("job", "-n", "--node", "bar", "--dep", str(data), "--after", batch)
    go.touch()
    draw = random.Random(seed)
    kills: Counter[str] = Counter()
    until = monotonic() + PATIENCE
    next_ones: list[Node] = []
    while not (ends := status(foo, batch)).get("Finished"):
        assert monotonic() < until, ends
        sleep(draw.uniform(*PAUSES))
        if kills.total() == MOST_KILLS:
            continue
        next_ones = next_ones or draw.sample((foo, bar, baz), 3)
        node = next_ones.pop()
        kills[node.name] += 1
        node.kill()
        node.start()
    print(f"{dict(kills)} kills")
    assert (ends["StateName"], ends["Succeeded"]) == ("Succeeded", MEMBERS), ends
    assert foo.meshctl("work", "wait", last).decode().startswith(f"({last}, Succeeded")
    ran = Counter(line.split(".")[0] for line in ledger.read_text().splitlines())
    assert ran == Counter([*map(str, range(1, MEMBERS + 1)), ""])
    assert foo.meshctl("work", "results", last) == data.read_bytes()
    members = json.loads(foo.meshctl("work", "list", "--json", "--label", f"batch={batch}"))
    assert len(members) == MEMBERS
    for unit in members:
        assert foo.meshctl("work", "results", unit) == data.read_bytes()
