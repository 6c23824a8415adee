"""Three nodes in a line: what foo and bar want of each other passes through mid."""

import re

import pytest
from harness import Cluster, Node, free_port

ALL = {"foo", "mid", "bar"}


@pytest.fixture
def line(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, mid and bar; each knows the two others."""
    left, right = free_port(), free_port()
    work = {"whoami": "cat; echo here"}
    foo = cluster.node("foo", listen=left)
    mid = cluster.node("mid", peers=[left], listen=right)
    bar = cluster.node("bar", peers=[right], work=work)
    nodes = (foo, mid, bar)
    wait_all_know_all(*nodes)
    return nodes


def wait_all_know_all(*nodes: Node) -> None:
    for node in nodes:
        node.wait_knows(*(other.name for other in nodes if other is not node))
        for other in nodes:
            node.wait_service(other.name)


def peers(node: Node) -> set[str]:
    return {connection["NodeID"] for connection in node.status()["Connections"]}


def test_the_status_of_each_node_lists_all_nodes(line: tuple[Node, Node, Node]) -> None:
    foo, mid, bar = line
    for node in line:
        status = node.status()
        assert set(status["KnownConnectionCosts"]) == ALL
        assert {ad["NodeID"] for ad in status["Advertisements"]} == ALL
    assert peers(foo) == peers(bar) == {"mid"}
    assert peers(mid) == {"foo", "bar"}
    assert foo.status()["RoutingTable"] == {"mid": "mid", "bar": "mid"}
    assert bar.status()["RoutingTable"] == {"mid": "mid", "foo": "mid"}
    assert foo.status()["KnownConnectionCosts"]["mid"] == {"foo": 1, "bar": 1}
    text = foo.meshctl("status").decode()
    assert all(re.search(rf"\b{name}\b", text) for name in ALL)


def test_a_ping_passes_through_the_middle(line: tuple[Node, Node, Node]) -> None:
    foo, _, bar = line
    assert b"Reply from bar in" in foo.meshctl("ping", "bar", "--count", "1")
    assert b"Reply from foo in" in bar.meshctl("ping", "foo", "--count", "1")


def test_traceroute_names_the_middle_and_the_end(line: tuple[Node, Node, Node]) -> None:
    foo, _, _ = line
    hops = foo.ask("traceroute bar")
    assert [hops[number]["From"] for number in sorted(hops, key=int)][-2:] == ["mid", "bar"]
    assert not any("Error" in hop for hop in hops.values())
    text = foo.meshctl("traceroute", "bar").decode().splitlines()
    assert [line.split()[1] for line in text][-2:] == ["mid", "bar"]


def test_remote_work_passes_through_the_middle(line: tuple[Node, Node, Node]) -> None:
    foo, mid, bar = line
    unit = foo.submit("whoami", "--node", "bar", "-p", "-", stdin=b"sent from foo\n")
    assert foo.results(unit) == b"sent from foo\nhere\n"
    assert foo.unit_status(unit)["StateName"] == "Succeeded"
    assert len(bar.ask("work list")) == 1
    assert mid.ask("work list") == {}


def test_killing_and_restarting_the_middle_heals_by_itself(line: tuple[Node, Node, Node]) -> None:
    foo, mid, bar = line
    unit = foo.submit("whoami", "--node", "bar", "--no-payload")
    assert foo.results(unit) == b"here\n"
    mid.kill()
    for node in (foo, bar):
        node.wait_status(
            lambda status: not status["RoutingTable"] and not status["Connections"],
            what="to have lost its only link",
        )
    mid.start()
    wait_all_know_all(foo, mid, bar)
    assert b"Reply from bar in" in foo.meshctl("ping", "bar", "--count", "1")
    unit = foo.submit("whoami", "--node", "bar", "--no-payload")
    assert foo.results(unit) == b"here\n"


def test_work_submitted_while_the_middle_is_down_is_done_once_it_is_back(
    line: tuple[Node, Node, Node],
) -> None:
    foo, mid, bar = line
    mid.kill()
    foo.wait_status(lambda status: not status["RoutingTable"], what="to have lost its only link")
    unit = foo.submit("whoami", "--node", "bar", "-p", "-", stdin=b"patience\n")
    assert foo.unit_status(unit)["StateName"] == "Pending"
    mid.start()
    assert foo.results(unit) == b"patience\nhere\n"
    assert len(bar.ask("work list")) == 1
