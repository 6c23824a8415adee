"""Clients of a real node that mean it no good: pages in a browser, users who take all there is."""

import http.client
import os
import subprocess
import sys

import pytest
from harness import PATIENCE, Cluster, Node, free_port

CROWD = """
import os, socket, sys
os.setgid(65534), os.setuid(65534)
held = []
refused = 0
while len(held) < 2048:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    refused += client.recv(100).startswith(b"ERROR")
    held.append(client)
print(refused, flush=True)
sys.stdin.read()
"""
"""A user who opens sessions and says nothing; prints how many were refused."""


def start(cluster: Cluster, **control: object) -> Node:
    second = {"control-service": {"service": "control2", **control}}
    return cluster.node("foo", work={"echo": "cat"}, more=[second])


def test_a_page_in_a_browser_runs_no_work(cluster: Cluster) -> None:
    port = free_port()
    foo = start(cluster, tcplisten=f"127.0.0.1:{port}")
    body = b"work submit localhost echo\n" * 3 + b'{"command":"reload"}\n'
    for method in ("POST", "PUT", "OPTIONS"):
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        browser.request(method, "/", body, {"Origin": "https://page.example"})
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            browser.getresponse()
        browser.close()
    assert foo.meshctl("work", "list", "--json").strip() == b"{}"
    foo.wait_log("it does not speak HTTP")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_whoever_looks_after_a_node_gets_in_when_a_user_has_taken_all_sessions(
    cluster: Cluster,
) -> None:
    foo = start(cluster, filename=str(cluster.directory / "open.sock"), permissions="0666")
    cluster.directory.chmod(0o755)
    crowd = subprocess.Popen(
        [sys.executable, "-c", CROWD, str(cluster.directory / "open.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert crowd.stdout is not None
        assert int(crowd.stdout.readline()) > 0
        for _ in range(100):
            assert foo.status()["NodeID"] == "foo"
    finally:
        crowd.kill()
        crowd.communicate()
