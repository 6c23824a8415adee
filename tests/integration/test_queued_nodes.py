"""Queues on real nodes: order, restarts by kill -9, and what a node over a hop is told."""

import os

import pytest
from harness import Cluster, Node, bash, free_port, wait_until

QUEUED = "Queued: {} of {} (maxconcurrent 1)"


@pytest.fixture
def pipe(cluster: Cluster) -> str:
    """Return a pipe that each unit's command writes its ID to, and then waits for a line."""
    os.mkfifo(cluster.directory / "ran")
    os.mkfifo(cluster.directory / "go")
    cluster.environment |= {
        "RAN": str(cluster.directory / "ran"),
        "GO": str(cluster.directory / "go"),
    }
    return str(cluster.directory / "ran")


WORK = {"one": bash("echo $MESHNODE_UNIT_ID > $RAN; read -r line < $GO") | {"maxconcurrent": 1}}


def next_to_run(pipe: str) -> str:
    with open(pipe) as file:
        return file.read().strip()


def let_go(cluster: Cluster) -> None:
    with open(cluster.directory / "go", "w") as file:
        file.write("go\n")


def detail(node: Node, unit: str) -> str:
    return str(node.unit_status(unit)["Detail"])


def wait_detail(node: Node, unit: str, text: str) -> None:
    wait_until(lambda: detail(node, unit) == text, what=text)


def test_units_start_in_the_order_they_came_each_once_through_kills_of_the_node(
    cluster: Cluster, pipe: str
) -> None:
    foo = cluster.node("foo", work=WORK)
    units = [foo.submit("one", "--no-payload") for _ in range(4)]
    assert next_to_run(pipe) == units[0]
    assert detail(foo, units[1]) == QUEUED.format("1st", 3)
    assert detail(foo, units[3]) == QUEUED.format("3rd", 3)
    for number, unit in enumerate(units[:-1]):
        foo.kill()
        foo.start()
        assert foo.unit_status(units[number + 1])["StateName"] == "Pending"
        let_go(cluster)
        assert next_to_run(pipe) == units[number + 1]
        foo.wait_unit(unit, "Succeeded")
    let_go(cluster)
    foo.wait_unit(units[-1], "Succeeded")


def test_a_unit_for_another_node_waits_there_and_says_so_here_and_can_be_canceled(
    cluster: Cluster, pipe: str
) -> None:
    port = free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], work=WORK)
    foo.wait_knows("bar")
    foo.wait_service("bar")
    first, second, third = [foo.submit("one", "-n", "--node", "bar") for _ in range(3)]
    there = foo.unit_status(first)["ExtraData"]["RemoteUnitID"]
    assert next_to_run(pipe) == there
    # What is told over a hop comes at most once a second.
    wait_detail(foo, third, QUEUED.format("2nd", 2))
    wait_detail(foo, second, QUEUED.format("1st", 2))
    foo.meshctl("work", "cancel", second)
    foo.wait_unit(second, "Canceled")
    let_go(cluster)
    foo.wait_unit(first, "Succeeded")
    assert next_to_run(pipe) == foo.unit_status(third)["ExtraData"]["RemoteUnitID"]
    let_go(cluster)
    foo.wait_unit(third, "Succeeded")
    assert bar.status()["NodeID"] == "bar"
