"""A node whose descriptors strangers hold: it lives, says so, and serves those it knows."""

import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import yaml
from harness import Cluster, ControlConnection, Node, free_port, wait_until

from meshnode.net.accept import COMPLAINT_INTERVAL

LIMIT = 160
"""Descriptors that the node may have."""

STRANGERS = 300
"""Connections to each port: more than the node has descriptors."""


class PoorNode(Node):
    """A node that may open few files."""

    def start(self) -> "PoorNode":
        script = f'ulimit -n {LIMIT} && exec meshnode -c "{self.config}"'
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", script],
                env=self.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._greets, watch=[self.directory, self.log], what="the poor node to greet")
        return self


def connect(stack: contextlib.ExitStack, address: tuple[str, int] | str) -> socket.socket:
    """Connect and stay, unheard or not."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = stack.enter_context(socket.socket(family))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    return sock


def open_files(node: Node) -> int:
    return len(list(Path(f"/proc/{node.pid}/fd").iterdir()))


def test_strangers_that_hold_all_descriptors_keep_nobody_out_who_was_in(cluster: Cluster) -> None:
    links, ws, control = free_port(), free_port(), free_port()
    plain = cluster.node(
        "poor",
        listen=links,
        work={"cat": {"command": "cat"}},
        more=[
            {"ws-listener": {"port": ws, "bindaddr": "127.0.0.1"}},
            {"control-service": {"service": "other", "tcplisten": f"127.0.0.1:{control}"}},
        ],
        start=False,
    )
    poor = PoorNode(cluster, "poor", yaml.safe_load(plain.config.read_text()))
    cluster.nodes["poor"] = poor
    poor.start()
    bar = cluster.node("bar", peers=[links])
    bar.wait_service("poor")
    idle = open_files(poor)
    began = time.monotonic()
    with contextlib.ExitStack() as strangers:
        for _ in range(STRANGERS):
            for port in (links, ws, control):
                connect(strangers, ("127.0.0.1", port))
        poor.wait_log("cannot accept for now: few file descriptors are left|rejected ")
        # The neighbour and the operator are served, and units of both run.
        assert json.loads(bar_asks(bar, "ping poor"))["Success"]
        assert poor.ask('{"command":"status","requested_fields":["NodeID"]}') == {"NodeID": "poor"}
        for asking in (bar, poor):
            unit = asking.submit("cat", "--node", "poor", "--payload-literal", "served")
            asking.wait_unit(unit, "Succeeded")
            assert asking.results(unit) == b"served\n"
        assert open_files(poor) < LIMIT
        late = cluster.node("late", peers=[links])
        late.wait_knows("bar")
    wait_until(lambda: open_files(poor) <= idle + 10, what="the strangers to be gone")
    assert poor.process is not None
    assert poor.process.poll() is None
    said = poor.log.read_text().count("few file descriptors are left")
    # Once for each listener, and again after a while.
    assert said <= 3 * (1 + (time.monotonic() - began) // COMPLAINT_INTERVAL)


def bar_asks(node: Node, line: str) -> str:
    with ControlConnection(node.socket) as control:
        return control.ask(line)
