"""Work that may run on any of several real nodes: spread, chosen by label, moved in time."""

from collections import Counter

import pytest
from harness import Cluster, Node, bash, free_port, wait_until

SLOW = {"slow": bash("echo $MESHNODE_UNIT_ID; exec sleep 1000"), "cat": {"command": "cat"}}


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, which submits, and bar and baz, which work; baz is behind bar."""
    port, behind = free_port(), free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port], listen=behind, work=SLOW)
    baz = cluster.node("baz", peers=[behind], work=SLOW, settings={"labels": {"gpu": "1"}})
    for node in ("bar", "baz"):
        foo.wait_knows(node)
        foo.wait_service(node)
    return foo, bar, baz


def where(node: Node, unit: str) -> str:
    return str(node.unit_status(unit)["ExtraData"]["RemoteNode"])


def test_a_burst_spreads_and_what_waits_for_a_label_says_so(
    nodes: tuple[Node, Node, Node],
) -> None:
    foo, _, baz = nodes
    units = [foo.submit("slow", "-n", "--node", "least") for _ in range(8)]
    for unit in units:
        foo.wait_unit(unit, "Running")
    assert Counter(where(foo, unit) for unit in units) == {"bar": 4, "baz": 4}
    labelled = foo.submit("cat", "-l", "here", "--node", "any", "--label", "gpu=1")
    foo.wait_unit(labelled, "Succeeded")
    assert where(foo, labelled) == "baz"
    assert foo.results(labelled) == b"here\n"
    none = foo.submit("cat", "-n", "--node", "random", "--label", "tpu", "--unit-label", "x=1")
    status = foo.unit_status(none)
    assert status["Detail"] == ("waiting for a node: 0 of 3 nodes: 3 lack label tpu")
    assert status["Labels"] == {"x": "1"}
    foo.meshctl("work", "cancel", none, *units)
    assert baz.status()["NodeID"] == "baz"


def test_a_node_that_is_gone_is_passed_over_and_one_that_comes_takes_what_waits(
    nodes: tuple[Node, Node, Node],
) -> None:
    foo, bar, baz = nodes
    baz.kill()
    wait_until(
        lambda: "baz" not in foo.status()["RoutingTable"], what="the end of the route to baz"
    )
    units = [foo.submit("cat", "-l", "x", "--node", "least") for _ in range(3)]
    for unit in units:
        foo.wait_unit(unit, "Succeeded")
        assert where(foo, unit) == "bar"
    waits = foo.submit("cat", "-l", "late", "--node", "least", "--label", "gpu")
    assert "2 lack label gpu" in foo.unit_status(waits)["Detail"]
    baz.start()
    foo.wait_unit(waits, "Succeeded")
    assert where(foo, waits) == "baz"
    assert bar.status()["NodeID"] == "bar"


def test_a_choice_outlives_the_death_of_the_node_that_made_it(
    nodes: tuple[Node, Node, Node],
) -> None:
    foo, _, _ = nodes
    unit = foo.submit("slow", "-n", "--node", "least")
    foo.wait_unit(unit, "Running")
    chosen = foo.unit_status(unit)["ExtraData"]
    foo.kill()
    foo.start()
    foo.wait_unit(unit, "Running")
    after = foo.unit_status(unit)["ExtraData"]
    names = ("RemoteNode", "RemoteUnitID", "Placement", "Chosen")
    assert {name: after[name] for name in names} == {name: chosen[name] for name in names}
    foo.meshctl("work", "cancel", unit)
    foo.wait_unit(unit, "Canceled")
