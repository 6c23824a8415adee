"""Two IP networks joined over the mesh: two nodes in network namespaces of their own."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, wait_until

LINK = {"foo": "10.77.0.1", "bar": "10.77.0.2"}
"""Addresses of the wire between the namespaces, which carries the mesh."""

HOSTED = "192.168.77.1"
"""An address in a network that only bar leads to."""

ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7777))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(data)
"""

ASK = """
import socket, sys, threading
data = sys.stdin.buffer.read()
with socket.create_connection((sys.argv[1], 7777), timeout=30) as client:
    def send():
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    while part := client.recv(65536):
        sys.stdout.buffer.write(part)
"""


@dataclass(frozen=True)
class Namespace:
    """A network namespace."""

    name: str

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str | Path, stdin: bytes = b"", check: bool = True) -> bytes:
        return subprocess.run(
            self.command(*words), input=stdin, stdout=subprocess.PIPE, timeout=PATIENCE, check=check
        ).stdout


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def namespaces(cluster: Cluster) -> Iterator[dict[str, Namespace]]:
    """Two namespaces with a wire between them; skips where this machine has none to give."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command (Debian: apt-get install iproute2)")
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces and TUN devices")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/net/tun")
    names = {node: f"mn-{node}-{os.getpid()}" for node in LINK}
    made: list[str] = []
    try:
        for name in names.values():
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        near, far = names["foo"], names["bar"]
        ip("link", "add", "wire", "netns", near, "type", "veth", "peer", "wire", "netns", far)
        for node, name in names.items():
            ip("-n", name, "addr", "add", f"{LINK[node]}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield {node: Namespace(name) for node, name in names.items()}
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


def start(cluster: Cluster, name: str, namespace: Namespace, *directives: dict) -> Node:
    """Start a node in a namespace."""
    common = [
        {"node": {"id": name, "datadir": str(cluster.directory / "data")}},
        {"control-service": {"filename": str(cluster.directory / f"{name}.sock")}},
    ]
    node = cluster.nodes[name] = Node(cluster, name, [*common, *directives])
    with node.log.open("ab") as log:
        node.process = subprocess.Popen(
            namespace.command(COMMANDS / "meshnode", "-c", node.config),
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    wait_until(node._greets, watch=[cluster.directory], what=f"{name} to greet")
    return node


@pytest.fixture
def joined(cluster: Cluster, namespaces: dict[str, Namespace]) -> tuple[Node, Node]:
    """foo and bar with an ip-router each; bar leads to one more network."""
    ip("-n", namespaces["bar"].name, "addr", "add", f"{HOSTED}/24", "dev", "lo")
    bar = start(
        cluster,
        "bar",
        namespaces["bar"],
        {"tcp-listener": {"port": 2222, "bindaddr": LINK["bar"]}},
        {
            "ip-router": {
                "networkname": "lan",
                "localnet": "10.9.2.0/30",
                "routes": "192.168.77.0/24,fd77::/64",
            }
        },
    )
    foo = start(
        cluster,
        "foo",
        namespaces["foo"],
        {"tcp-peer": f"{LINK['bar']}:2222"},
        {"ip-router": {"networkname": "lan", "interface": "mesh0", "localnet": "10.9.1.0/30"}},
    )
    bar.wait_log("added the route to 10.9.1.0/30")
    for network in ("10.9.2.0/30", "192.168.77.0/24", "fd77::/64"):
        foo.wait_log(f"added the route to {network}")
    return foo, bar


def test_programs_of_two_networks_talk_over_the_mesh(
    joined: tuple[Node, Node], namespaces: dict[str, Namespace]
) -> None:
    foo, _ = joined
    near, far = namespaces["foo"], namespaces["bar"]
    (advert,) = [
        a for a in foo.status()["Advertisements"] if a["NodeID"] == "bar" and a["Service"] == "lan"
    ]
    assert advert["ConnType"] == 0
    assert advert["Tags"] == {
        "type": "IP Router",
        "network": "lan",
        "route_local": "10.9.2.0/30",
        "route_0": "192.168.77.0/24",
        "route_1": "fd77::/64",
    }
    data = random.Random(5).randbytes(1_000_000)
    server = subprocess.Popen(
        far.command(sys.executable, "-c", ECHO), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        for address in ("10.9.2.1", HOSTED):
            assert near.run(sys.executable, "-c", ASK, address, stdin=data) == data
    finally:
        server.kill()
        server.communicate()


def test_routes_and_interface_go_with_their_nodes(
    joined: tuple[Node, Node], namespaces: dict[str, Namespace]
) -> None:
    foo, bar = joined
    near = namespaces["foo"]
    routes = near.run("ip", "route", "show", "dev", "mesh0").decode()
    assert "192.168.77.0/24" in routes
    assert b"fd77::/64" in near.run("ip", "-6", "route", "show", "dev", "mesh0")
    assert bar.stop() == 0
    foo.wait_log("removed the route to 192.168.77.0/24")
    foo.wait_log("removed the route to fd77::/64")
    assert "192.168.77.0" not in near.run("ip", "route", "show", "dev", "mesh0").decode()
    assert foo.stop() == 0
    assert b"mesh0" not in near.run("ip", "link", "show")


def test_an_interface_that_is_removed_is_made_again(
    joined: tuple[Node, Node], namespaces: dict[str, Namespace]
) -> None:
    foo, _ = joined
    near = namespaces["foo"]
    near.run("ip", "link", "del", "mesh0")
    foo.wait_log("the interface mesh0 is gone")
    wait_until(
        lambda: b"192.168.77.0/24" in near.run("ip", "route", "show", "dev", "mesh0", check=False),
        what="the interface to be made again",
    )
    assert foo.status()["NodeID"] == "foo"


def test_an_interface_that_is_taken_is_a_fault_with_its_line(
    cluster: Cluster, namespaces: dict[str, Namespace]
) -> None:
    router = {"networkname": "lan", "interface": "wire", "localnet": "10.9.1.0/30"}
    directives = [
        {"node": {"id": "foo", "datadir": str(cluster.directory / "data")}},
        {"local-only": None},
        {"ip-router": router},
    ]
    node = cluster.nodes["foo"] = Node(cluster, "foo", directives)
    done = subprocess.run(
        namespaces["foo"].command(COMMANDS / "meshnode", "-c", node.config),
        env=cluster.environment,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{node.config}:")
    assert "ip-router: interface: wire: " in last
