"""Nodes run from files that were written for receptor, in its map form, with Kubernetes."""

from pathlib import Path

import pytest
from harness import Cluster, Node, free_port
from signing_keys import new_key, private_pem, public_pem, write_key

FILES = Path(__file__).parents[1] / "data/configs"

CANNOT = "this node cannot run work type kubernetes-runtime-auth: it needs Kubernetes"


def from_file(cluster: Cluster, name: str, file: str, changes: dict[str, str]) -> Node:
    """Return a node, not started, with a file that is changed to suit this machine."""
    node = cluster.node(name, start=False)
    text = (FILES / file).read_text()
    here = {
        "/etc/receptor": str(cluster.directory),
        "/var/run/awx-receptor/receptor.sock": str(node.socket),
        f"  id: {name}\n": f"  id: {name}\n  datadir: {cluster.directory}/data\n",
    }
    for old, new in (here | changes).items():
        assert old in text or old == "/etc/receptor"
        text = text.replace(old, new)
    node.config.write_text(text)
    return node


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node]:
    """AWX's development pair: a control node, and a worker that dials it."""
    key, port = new_key(), free_port()
    write_key(cluster.directory / "work_private_key.pem", private_pem(key))
    write_key(cluster.directory / "work_public_key.pem", public_pem(key))
    control = from_file(
        cluster,
        "awx-1",
        "awx-devel-control-v2.yml",
        {
            "port: 2222": f"port: {port}\n    bindaddr: 127.0.0.1",
            "awx-2:2222": f"127.0.0.1:{free_port()}",
        },
    )
    worker = from_file(
        cluster,
        "receptor-1",
        "awx-devel-worker-v2.yml",
        {"receptor-hop:5555": f"localhost:{port}", "command: ansible-runner": "command: echo"},
    )
    converted = cluster.run("meshnode", "check", "--convert", worker.config).stdout
    worker.config.write_bytes(converted)
    return control.start(), worker.start()


def test_awxs_development_pair_works_together(nodes: tuple[Node, Node]) -> None:
    control, _ = nodes
    control.wait_service("receptor-1")
    submission = ("work", "submit", "ansible-runner", "--node", "receptor-1", "--signwork")
    output = control.meshctl(*submission, "-f", "--rm", "--no-payload")
    assert b"worker\n" in output


def test_a_type_of_kubernetes_is_declared_and_refused_and_never_offered(
    nodes: tuple[Node, Node],
) -> None:
    control, worker = nodes
    status = worker.wait_service("awx-1")
    (advert,) = [a for a in status["Advertisements"] if a["NodeID"] == "awx-1"]
    assert [kind["WorkType"] for kind in advert["WorkCommands"]] == ["local"]

    refused = control.cluster.run(
        *("meshctl", "--socket", control.socket, "work", "submit"),
        *("kubernetes-runtime-auth", "--no-payload"),
        check=False,
    )
    assert refused.returncode != 0
    assert CANNOT in refused.stderr.decode()

    told = [line for line in control.log.read_text().splitlines() if "kubernetes-runtime" in line]
    at_start = [line for line in told if "cannot be run by this node" in line]
    assert len(at_start) == 1
    (warning,) = control.ask("status")["Warnings"]
    assert warning == (
        "work types that this node cannot run, since they need Kubernetes: kubernetes-runtime-auth"
    )
