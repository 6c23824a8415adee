"""Nodes run from files that were written for receptor, in its map form, with Kubernetes."""

import re
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from harness import Cluster, Node, free_port
from signing_keys import new_key, private_pem, public_pem, write_key
from tls_makers import authority

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


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return new_key()


def write_keys(key: rsa.RSAPrivateKey, directory: Path) -> None:
    write_key(directory / "work_private_key.pem", private_pem(key))
    write_key(directory / "work_public_key.pem", public_pem(key))


@pytest.fixture
def nodes(cluster: Cluster, key: rsa.RSAPrivateKey) -> tuple[Node, Node]:
    """AWX's development pair: a control node, and a worker that dials it."""
    port = free_port()
    write_keys(key, cluster.directory)
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
    (warning,) = control.status()["Warnings"]
    assert warning == (
        "work types that this node cannot run, since they need Kubernetes: kubernetes-runtime-auth"
    )


def as_here(converted: str, node: Node, keys: Path) -> str:
    """Change paths, ports and addresses of a list of directives to some of this machine's own."""
    changes = {
        r"/\S+/(?:work_private_key\.pem|signwork_key)$": f"{keys}/work_private_key.pem",
        r"/\S+/(?:work_public_key\.pem|signwork_key\.pub)$": f"{keys}/work_public_key.pem",
        r"filename: \S+$": f"filename: {node.socket}",
        r"^    datadir: .*\n": "",
        r"^- node:\n": f"- node:\n    datadir: {node.directory}/data\n",
        r"address: (?!wss:)\S+:\d+$": f"address: 127.0.0.1:{free_port()}",
        r"address: wss:\S+$": f"address: wss://127.0.0.1:{free_port()}",
        r"^    cert: \S+$": f"    cert: {keys}/node.crt",
        r"^    key: \S+$": f"    key: {keys}/node.key",
        r"(clientcas|rootcas): \S+$": rf"\1: {keys}/ca.crt",
        r"^- tcp-listener: 2222$": "- tcp-listener:\n    port: 2222",
        r"^    port: \d+$": f"    port: {free_port()}\n    bindaddr: 127.0.0.1",
    }
    for pattern, text in changes.items():
        converted = re.sub(pattern, text, converted, flags=re.MULTILINE)
    if "- node:" not in converted:
        converted += f"- node:\n    datadir: {node.directory}/data\n"
    if "control-service" not in converted:
        converted += f"- control-service:\n    filename: {node.socket}\n"
    return converted


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.yml")))
def test_a_node_runs_from_each_file(name: str, cluster: Cluster, key: rsa.RSAPrivateKey) -> None:
    write_keys(key, cluster.directory)
    authority().write(cluster.directory)
    nodes = ["exec01.example.org", "foo", socket.gethostname()]
    authority().issue("node", nodes=nodes).write(cluster.directory, "node")
    converted = cluster.run("meshnode", "check", "--convert", FILES / name).stdout.decode()
    named = re.search(r"^    id: (\S+)$", converted, re.MULTILINE)
    node = cluster.node(named[1] if named else socket.gethostname(), start=False)
    node.config.write_text(as_here(converted, node, cluster.directory))
    status = node.start().status()
    offered = {
        kind["WorkType"] for a in status["Advertisements"] for kind in a["WorkCommands"] or ()
    }
    assert offered == set(
        re.findall(r"^- work-command:\n(?:    .*\n)*?    worktype: (\S+)$", converted, re.MULTILINE)
    )


def test_the_execution_node_of_awxs_bundle_is_linked_by_tls_and_works(
    cluster: Cluster, key: rsa.RSAPrivateKey
) -> None:
    """The node of the file shows its certificate to the link, to streams and to submissions."""
    write_keys(key, cluster.directory)
    authority().write(cluster.directory)
    authority().issue("node", nodes=["exec01.example.org"]).write(cluster.directory, "node")
    authority().issue("hub", nodes=["hub"]).write(cluster.directory, "hub")
    file = FILES / "awx-bundle-execution.yml"
    converted = cluster.run("meshnode", "check", "--convert", file).stdout.decode()
    node = cluster.node("exec01.example.org", start=False)
    text = as_here(converted, node, cluster.directory)
    text = text.replace("command: ansible-runner", "command: echo")
    node.config.write_text(text)
    port = re.search(r"^- tcp-listener:\n    port: (\d+)$", text, re.MULTILINE)
    assert port is not None
    node.start()

    files = {
        name: f"{cluster.directory}/hub.{end}" for name, end in (("cert", "crt"), ("key", "key"))
    }
    client = {"name": "awx", **files, "rootcas": f"{cluster.directory}/ca.crt", "mintls13": False}
    signing = {"privatekey": f"{cluster.directory}/work_private_key.pem"}
    peer = {"address": f"localhost:{port[1]}", "tls": "awx"}
    hub = cluster.node(
        "hub", more=[{"tls-client": client}, {"work-signing": signing}, {"tcp-peer": peer}]
    )
    hub.wait_service("exec01.example.org")
    (connection,) = hub.status()["Connections"]
    assert (connection["NodeID"], connection["Kind"]) == ("exec01.example.org", "tls")
    submission = ("work", "submit", "ansible-runner", "--node", "exec01.example.org", "--signwork")
    output = hub.meshctl(*submission, "--tls-client", "awx", "-f", "--rm", "--no-payload")
    assert output == b"worker\n"
