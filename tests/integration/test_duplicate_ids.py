"""Two nodes with one ID: the newcomer ends and says why, wherever in the mesh it comes."""

import subprocess

import pytest
from harness import COMMANDS, Cluster, Node, free_port

FAILED = 1
"""The exit code for a node that had to end."""


def start_twin(cluster: Cluster, of: str, port: int) -> subprocess.CompletedProcess[bytes]:
    """Start another node with the ID ``of``, linked to a port; wait for its end."""
    config = cluster.directory / "twin.yml"
    config.write_text(
        f"- node: {{id: {of}, datadir: {cluster.directory}/twin}}\n"
        "- log-level: {level: error}\n"
        f"- control-service: {{filename: {cluster.directory}/twin.sock}}\n"
        f"- tcp-peer: {{address: '127.0.0.1:{port}'}}\n"
    )
    return cluster.run(COMMANDS / "meshnode", "-c", config, check=False)


@pytest.fixture
def chain(cluster: Cluster) -> tuple[Node, int, int]:
    """foo, linked to hub, linked to end; and the ports of those two."""
    hub_port, end_port = free_port(), free_port()
    cluster.node("end", listen=end_port)
    hub = cluster.node("hub", listen=hub_port, peers=[end_port])
    foo = cluster.node("foo", peers=[hub_port])
    hub.wait_knows("foo", "end")
    return foo, hub_port, end_port


@pytest.mark.parametrize("where", ["at the same neighbour", "elsewhere"])
def test_the_newcomer_ends_with_one_line_and_the_first_owner_of_the_id_lives(
    cluster: Cluster, chain: tuple[Node, int, int], where: str
) -> None:
    foo, hub_port, end_port = chain
    twin = start_twin(cluster, "foo", hub_port if where == "at the same neighbour" else end_port)
    assert twin.returncode == FAILED
    assert twin.stderr.decode().splitlines() == [
        "meshnode: another node of this mesh already uses the ID foo: "
        "give this one another ID (node: id)"
    ]
    assert foo.process is not None
    assert foo.process.poll() is None
    if where == "at the same neighbour":
        hub = cluster.nodes["hub"]
        hub.wait_log("connected using a node ID we are already connected to")
        (rejected,) = hub.status()["Rejected"]
        assert (rejected["NodeID"], rejected["Address"]) == ("foo", "127.0.0.1")
    end = cluster.nodes["end"]
    end.wait_knows("foo")
    assert end.ask("ping foo")["Success"]


def test_a_node_that_is_killed_and_started_again_is_no_duplicate_of_itself(
    chain: tuple[Node, int, int], cluster: Cluster
) -> None:
    foo, _, _ = chain
    foo.kill()
    foo.start()
    cluster.nodes["end"].wait_status(
        lambda status: status["KnownConnectionCosts"].get("foo") == {"hub": 1},
        what="foo to be back",
    )
    assert foo.process is not None
    assert foo.process.poll() is None
