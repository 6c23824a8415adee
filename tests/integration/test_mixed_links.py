"""Five nodes linked in all ways: the cheapest path is taken, and the next when it is cut."""

import hashlib
import subprocess
from typing import Any

import pytest
from harness import Cluster, Node, free_port, wait_until

SIZE = 100 * 1024 * 1024
"""Bytes of the transfer."""

PART = 35 * 1024 * 1024
"""Bytes after which the transfer waits to be let on: each cut falls into a part of it."""

SOME = 4 * 1024 * 1024
"""Bytes of a part that show that it flows."""

TRANSFER_PATIENCE = 300.0
"""Seconds until the transfer has failed; on a machine with nothing else to do it takes a few."""


def link(kind: str, port: int, cost: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the directives of both ends: who listens and who dials."""
    address = f"ws://127.0.0.1:{port}/mesh" if kind == "ws" else f"127.0.0.1:{port}"
    listener = {"port": port, "bindaddr": "127.0.0.1", "cost": cost}
    if kind == "ws":
        listener["path"] = "/mesh"
    return {f"{kind}-listener": listener}, {f"{kind}-peer": {"address": address, "cost": cost}}


def parts_script(gates: list[str]) -> str:
    """Return a script that prints SIZE bytes, each PART of them once its gate is open."""
    sizes = [PART] * len(gates)
    sizes.append(SIZE - sum(sizes))
    steps = [f"head -c {sizes[0]}"]
    for gate, size in zip(gates, sizes[1:], strict=True):
        steps += [f"until [ -e {gate} ]; do sleep 0.02; done", f"head -c {size}"]
    return f"seq 1 99999999 | {{ {'; '.join(steps)}; }}"


def expected_digest() -> str:
    """Return the digest of what the script prints."""
    command = f"seq 1 99999999 | head -c {SIZE}"
    printed = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert len(printed) == SIZE
    return hashlib.sha256(printed).hexdigest()


@pytest.fixture
def five(cluster: Cluster) -> dict[str, Node]:
    """Return foo and bar, with three ways between them: by cheap, by fair, and by dear."""
    directives: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("foo", "bar", "cheap", "fair", "dear")
    }
    for kind, cost, listening, dialing in (
        ("tcp", 1.0, "foo", "cheap"),
        ("ws", 1.5, "bar", "cheap"),
        # A killed listener is noticed by its dialer; the other way round UDP takes 21 s.
        ("udp", 2.0, "fair", "foo"),
        ("tcp", 2.5, "bar", "fair"),
        ("ws", 5.0, "dear", "foo"),
        ("udp", 6.0, "dear", "bar"),
    ):
        listener, peer = link(kind, free_port(), cost)
        directives[listening].append(listener)
        directives[dialing].append(peer)
    gates = [str(cluster.directory / f"gate{number}") for number in (1, 2)]
    work = {"transfer": parts_script(gates)}
    nodes = {
        name: cluster.node(name, more=more, work=work if name == "bar" else None)
        for name, more in directives.items()
    }
    costs = {
        "foo": {"cheap": 1, "fair": 2, "dear": 5},
        "bar": {"cheap": 1.5, "fair": 2.5, "dear": 6},
    }
    for node in nodes.values():
        node.wait_status(
            lambda status: costs.items() <= status["KnownConnectionCosts"].items(),
            what="all links to be up",
        )
    nodes["foo"].wait_service("bar")
    return nodes


def wait_path(node: Node, target: str, *path: str) -> None:
    """Wait until every hop of a traceroute is the one that it should be."""
    # A ping to a hop that has just been killed would be waited for in vain.
    node.wait_status(
        lambda status: (status["RoutingTable"] or {}).get(target) == path[1],
        what=f"the route to {target} via {path[1]}",
    )

    def hops() -> bool:
        reply = node.ask(f"traceroute {target}")
        names = [reply[number].get("From") for number in sorted(reply, key=int)]
        return names == list(path)

    wait_until(hops, watch=[node.log], what=f"the path {' → '.join(path)}")


def test_the_cheapest_path_is_taken_and_the_next_when_it_is_cut(five: dict[str, Node]) -> None:
    foo, bar = five["foo"], five["bar"]
    wait_path(foo, "bar", "foo", "cheap", "bar")
    wait_path(bar, "foo", "bar", "cheap", "foo")
    five["cheap"].kill()
    wait_path(foo, "bar", "foo", "fair", "bar")
    wait_path(bar, "foo", "bar", "fair", "foo")
    five["fair"].kill()
    wait_path(foo, "bar", "foo", "dear", "bar")
    assert b"Reply from bar in" in foo.meshctl("ping", "bar", "--count", "1")
    five["cheap"].start()
    wait_path(foo, "bar", "foo", "cheap", "bar")


@pytest.mark.timeout(2 * TRANSFER_PATIENCE)
def test_a_transfer_ends_byte_exact_though_its_path_is_cut_twice(
    cluster: Cluster, five: dict[str, Node]
) -> None:
    foo = five["foo"]
    unit = foo.submit("transfer", "--node", "bar", "--no-payload")
    stdout = foo.units / unit / "stdout"

    def wait_size(size: int) -> None:
        wait_until(
            lambda: stdout.exists() and stdout.stat().st_size >= size,
            watch=[foo.units / unit],
            what=f"{size} bytes of the transfer",
            seconds=TRANSFER_PATIENCE,
        )

    wait_size(SOME)
    five["cheap"].kill()
    wait_path(foo, "bar", "foo", "fair", "bar")
    wait_size(PART)
    (cluster.directory / "gate1").touch()
    wait_size(PART + SOME)
    five["fair"].kill()
    wait_path(foo, "bar", "foo", "dear", "bar")
    wait_size(2 * PART)
    (cluster.directory / "gate2").touch()
    wait_size(SIZE)
    assert foo.wait_unit(unit, "Succeeded", "Failed")["StateName"] == "Succeeded"
    assert foo.unit_status(unit)["StdoutSize"] == SIZE
    assert hashlib.sha256(stdout.read_bytes()).hexdigest() == expected_digest()
