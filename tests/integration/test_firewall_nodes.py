"""Firewall rules on the middle one of three nodes, as their users meet them."""

from collections.abc import Mapping, Sequence
from subprocess import CompletedProcess

import pytest
import yaml
from harness import Cluster, Node, free_port


@pytest.fixture
def line(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, mid and bar in a line."""
    left, right = free_port(), free_port()
    foo = cluster.node("foo", listen=left)
    mid = cluster.node("mid", peers=[left], listen=right)
    bar = cluster.node("bar", peers=[right], work={"cat": "cat"})
    for node in (foo, mid, bar):
        node.wait_knows(*{"foo", "mid", "bar"} - {node.name})
    return foo, mid, bar


def set_rules(node: Node, *rules: Mapping[str, str]) -> None:
    directives = yaml.safe_load(node.config.read_text())
    directives[0]["node"]["firewallrules"] = [dict(rule) for rule in rules]
    node.config.write_text(yaml.safe_dump(directives, sort_keys=False))
    node.meshctl("reload")


def try_meshctl(node: Node, *arguments: str) -> CompletedProcess[bytes]:
    return node.cluster.run("meshctl", "--socket", node.socket, *arguments, check=False)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_each_command_says_at_once_that_a_firewall_is_in_the_way(
    line: tuple[Node, Node, Node], where: int
) -> None:
    foo, bar = line[0], line[2]
    set_rules(line[where], {"action": "reject", "fromnode": "foo", "tonode": "/b.*/"})
    commands: Sequence[tuple[int, Sequence[str]]] = (
        (2, ("ping", "bar", "--count", "1")),
        (0, ("traceroute", "bar")),
        (104, ("connect", "bar", "control")),
    )
    for code, command in commands:
        done = try_meshctl(foo, *command)
        assert done.returncode == code
        assert b"blocked by firewall" in done.stderr
        assert b"timeout" not in done.stderr
    # The other way is free, and so are the answers to it: the rule names foo as the sender, and
    # mid's other services are not behind it.
    assert foo.ask("ping mid")["From"] == "mid"
    assert bar.ask("ping mid")["From"] == "mid"


def test_work_for_a_node_behind_a_firewall_waits_for_the_firewall_to_open(
    line: tuple[Node, Node, Node],
) -> None:
    foo, mid, bar = line
    set_rules(mid, {"action": "reject", "toservice": "control"})
    unit = foo.submit("cat", "--node", "bar", "--payload-literal", "hello")
    assert foo.unit_status(unit)["StateName"] == "Pending"
    set_rules(mid, {"action": "drop", "toservice": "nothing"})
    assert foo.results(unit) == b"hello\n"
    assert bar.find_log("unit") is not None


@pytest.mark.parametrize("action", ["reject", "drop"])
def test_the_mesh_itself_works_behind_rules_that_let_nothing_pass(
    line: tuple[Node, Node, Node], action: str
) -> None:
    foo, mid, _ = line
    set_rules(mid, {"action": action})
    assert set(foo.status()["RoutingTable"]) == {"mid", "bar"}
    late = foo.cluster.node("late", peers=[mid_port(mid)])
    late.wait_knows("foo", "mid", "bar")
    late.wait_service("bar")
    set_rules(mid)
    assert late.ask("ping bar")["From"] == "bar"


def mid_port(mid: Node) -> int:
    directives = yaml.safe_load(mid.config.read_text())
    return int(next(d["tcp-listener"]["port"] for d in directives if "tcp-listener" in d))
