"""Real nodes log their QUIC connections where QLOGDIR says, and run on where they cannot."""

import json
from pathlib import Path

import pytest
from harness import Cluster, Node, free_port


def start_pair(cluster: Cluster, directory: Path) -> tuple[Node, Node]:
    cluster.environment["QLOGDIR"] = str(directory)
    port = free_port()
    foo = cluster.node("foo", listen=port, work={"cat": {"command": "cat"}})
    bar = cluster.node("bar", peers=[port])
    bar.wait_knows("foo")
    bar.wait_service("foo")
    return foo, bar


def run_work(bar: Node) -> None:
    unit = bar.submit("cat", "--node", "foo", "--payload", "-", stdin=b"x" * 5000)
    assert bar.results(unit) == b"x" * 5000


def test_both_nodes_log_each_connection_also_those_that_a_stop_ends(cluster: Cluster) -> None:
    directory = cluster.directory / "qlog"
    directory.mkdir()
    foo, bar = start_pair(cluster, directory)
    run_work(bar)
    assert (bar.stop(), foo.stop()) == (0, 0)
    files = {path.name: json.loads(path.read_text()) for path in directory.iterdir()}
    clients = {name for name in files if name.endswith("_client.qlog")}
    servers = {name for name in files if name.endswith("_server.qlog")}
    assert clients
    assert {name.replace("_client", "_server") for name in clients} == servers
    for content in files.values():
        (trace,) = content["traces"]
        names = {event["name"] for event in trace["events"]}
        assert {"transport:packet_sent", "transport:packet_received"} <= names
    assert foo.find_log("Traceback") is None
    assert bar.find_log("Traceback") is None


@pytest.mark.parametrize("name", ["none", "foo.yml"])
def test_where_nothing_can_be_written_a_node_warns_once_and_runs(
    cluster: Cluster, name: str
) -> None:
    foo, bar = start_pair(cluster, cluster.directory / name)
    run_work(bar)
    for node in (foo, bar):
        assert node.log.read_text().count("no QUIC logs are written") == 1
