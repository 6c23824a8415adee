"""Work and services between real nodes with TLS over the mesh, through a node that has none."""

import json
import signal
from typing import Any

import pytest
from harness import Cluster, Directive, Node, free_port

WORK = {
    "cat": "cat",
    "talking": "echo begun; while [ ! -e end ]; do sleep 0.05; done; echo over",
    "lasting": "echo begun; exec sleep 1000",
}

SECURED = {"tls": "srv"}


@pytest.fixture
def files(cluster: Cluster) -> None:
    """Make certificates of foo, bar and eve."""
    names = [f"--node={name}" for name in ("foo", "bar", "eve")]
    cluster.run("meshnode", "cert", "mesh", *names, "--out", "mesh")


def directives(cluster: Cluster, name: str, **more: Any) -> list[Directive]:
    """Return the TLS directives of a node that shows a certificate of ``name``."""
    directory = cluster.directory / "mesh"
    shown = {"cert": str(directory / f"{name}.crt"), "key": str(directory / f"{name}.key")}
    ca = str(directory / "ca.crt")
    server = {"name": "srv", **shown, "requireclientcert": True, "clientcas": ca, **more}
    return [
        {"tls-server": server},
        {"tls-client": {"name": "cli", **shown, "rootcas": ca, **more}},
        {"tls-client": {"name": "none", "rootcas": ca}},
    ]


@pytest.fixture
def port() -> int:
    """Return the port of the node in the middle."""
    return free_port()


@pytest.fixture
def three(cluster: Cluster, files: None, port: int) -> tuple[Node, Node]:
    """Start foo and bar, which has work and a secured control service, and mid between them."""
    cluster.node("mid", listen=port)
    work = {
        name: {"command": "bash", "params": f'-c "{script}"', "cwd": str(cluster.directory)}
        for name, script in WORK.items()
    }
    bar = cluster.node(
        "bar", peers=[port], work=work, control=SECURED, more=directives(cluster, "bar")
    )
    foo = cluster.node("foo", peers=[port], more=directives(cluster, "foo"))
    foo.wait_service("bar")
    return foo, bar


def submit(foo: Node, *words: str, stdin: bytes = b"") -> str:
    return foo.submit(*words, "--node", "bar", "--tls-client", "cli", stdin=stdin)


def refused(node: Node, *words: str) -> str:
    done = node.cluster.run("meshctl", "--socket", node.socket, *words, check=False)
    assert done.returncode != 0
    return done.stderr.decode()


def test_work_runs_and_its_results_come_back(three: tuple[Node, Node]) -> None:
    foo, bar = three
    data = bytes(range(256)) * 4000
    unit = submit(foo, "cat", "--payload", "-", stdin=data)
    assert foo.results(unit) == data
    status = foo.wait_unit(unit, "Succeeded")
    assert status["ExtraData"]["TLSClient"] == "cli"
    far = status["ExtraData"]["RemoteUnitID"]
    submitter = bar.unit_status(far)["SubmittedBy"]
    assert submitter["Node"] == "foo"
    assert submitter["Certificate"]["Nodes"] == ["foo"]
    foo.meshctl("work", "release", unit)
    assert far not in bar.ask("work list")


def test_a_unit_is_followed_across_kills_of_both_nodes(three: tuple[Node, Node]) -> None:
    foo, bar = three
    unit = submit(foo, "talking", "--no-payload")
    foo.wait_output(unit, b"begun\n")
    foo.kill()
    bar.kill()
    foo.start()
    bar.start()
    (foo.cluster.directory / "end").touch()
    assert foo.wait_unit(unit, "Succeeded")["ExtraData"]["TLSClient"] == "cli"
    foo.wait_output(unit, b"begun\nover\n")


def test_a_unit_is_cancelled_after_a_restart(three: tuple[Node, Node]) -> None:
    foo, _ = three
    unit = submit(foo, "lasting", "--no-payload")
    foo.wait_output(unit, b"begun\n")
    foo.stop(signal.SIGTERM)
    foo.start()
    foo.wait_service("bar")
    foo.meshctl("work", "cancel", unit)
    foo.wait_unit(unit, "Canceled")


def test_a_unit_is_adopted(three: tuple[Node, Node]) -> None:
    foo, bar = three
    far = bar.submit("cat", "--payload", "-", stdin=b"ours")
    bar.wait_unit(far, "Succeeded")
    words = ("work", "adopt", "--node", "bar", far)
    assert "insecure connection to secure service" in refused(foo, *words)
    reply = json.loads(foo.meshctl(*words, "--tls-client", "cli", "--json"))
    assert foo.results(reply["unitid"]) == b"ours"


def test_connect_names_its_tls_client(three: tuple[Node, Node]) -> None:
    foo, bar = three
    words = ("connect", "bar", "control")
    greeting = foo.meshctl(*words, "--tls-client", "cli", stdin=b"")
    assert greeting.startswith(b"Receptor Control, node bar")
    assert "insecure connection to secure service" in refused(foo, *words)
    assert "unknown TLS config nosuch" in refused(foo, *words, "--tls-client", "nosuch")
    assert "the client showed no certificate" in refused(foo, *words, "--tls-client", "none")
    bar.wait_log(r"connection foo:\w+: the client showed no certificate")
    foo.wait_log(r"connection bar:control: the other end refused: .*showed no certificate")


def test_work_without_tls_fails_and_says_why(three: tuple[Node, Node]) -> None:
    foo, _ = three
    told = refused(foo, "work", "submit", "cat", "--node", "bar", "--no-payload")
    assert "TLS error connecting to remote service" in told
    assert "insecure connection to secure service" in told


def test_a_node_with_the_certificate_of_another_gets_in_nowhere(
    cluster: Cluster, three: tuple[Node, Node], port: int
) -> None:
    foo, bar = three
    more = directives(cluster, "foo", skipreceptornamescheck=True)
    eve = cluster.node("eve", peers=[port], control=SECURED, more=more)
    eve.wait_service("bar")
    foo.wait_service("eve")
    told = refused(eve, "connect", "bar", "control", "--tls-client", "cli")
    assert "does not name node eve; it names node foo" in told
    bar.wait_log(r"connection eve:\w+: .* does not name node eve; it names node foo")
    told = refused(foo, "connect", "eve", "control", "--tls-client", "cli")
    assert "does not name node eve; it names node foo" in told


def test_check_refuses_certificates_that_are_too_large_for_the_mesh(
    cluster: Cluster, files: None
) -> None:
    bundle = cluster.directory / "mesh" / "foo.crt"
    ca = (cluster.directory / "mesh" / "ca.crt").read_bytes()
    bundle.write_bytes(bundle.read_bytes() + ca * 60)
    below = [{"tcp-listener": {"port": free_port(), "bindaddr": "127.0.0.1", "tls": "srv"}}]
    ends = directives(cluster, "foo")[:1]
    node = cluster.node("foo", more=ends + below, start=False)
    cluster.run("meshnode", "check", node.config)
    node = cluster.node("foo", control=SECURED, more=ends + below, start=False)
    for command in (["meshnode", "check", node.config], ["meshnode", "-c", node.config]):
        done = cluster.run(*command, check=False)
        assert done.returncode == 2
        for word in ("tls-server: cert", str(bundle), "at most 15360", "leave out the root"):
            assert word in done.stderr.decode()


def test_a_bundle_of_forty_cas_is_no_hindrance(cluster: Cluster, files: None) -> None:
    ca = (cluster.directory / "mesh" / "ca.crt").read_bytes()
    others = b""
    for number in range(3):
        cluster.run("meshnode", "cert", "mesh", "--node", "x", "--out", f"other{number}")
        others += (cluster.directory / f"other{number}" / "ca.crt").read_bytes()
    (cluster.directory / "mesh" / "ca.crt").write_bytes(others * 14 + ca)
    port = free_port()
    bar = cluster.node("bar", listen=port, control=SECURED, more=directives(cluster, "bar"))
    foo = cluster.node("foo", peers=[port], more=directives(cluster, "foo"))
    foo.wait_service("bar")
    greeting = foo.meshctl("connect", "bar", "control", "--tls-client", "cli", stdin=b"")
    assert greeting.startswith(b"Receptor Control, node bar")
    assert bar.find_log("WARNING connection") is None


def test_a_client_looks_at_another_nodes_units_through_its_own(three: tuple[Node, Node]) -> None:
    foo, bar = three
    far = bar.submit("cat", "--payload", "-", stdin=b"there")
    bar.wait_unit(far, "Succeeded")
    there = ("--node", "bar", "--tls-client", "cli")
    assert far in json.loads(foo.meshctl("work", "list", *there, "--json"))
    assert foo.meshctl("work", "results", far, *there) == b"there"
    assert "insecure connection" in refused(foo, "work", "list", "--node", "bar")
