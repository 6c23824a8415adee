"""What a real node says of its links, to programs, to pipes and to people."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from contextlib import suppress
from typing import Any

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, free_port


@pytest.fixture
def linked(cluster: Cluster) -> Node:
    """foo, to which bar has connected; the link has been measured."""
    port = free_port()
    foo = cluster.node("foo", listen=port)
    cluster.node("bar", peers=[port])
    foo.wait_knows("bar")
    foo.wait_status(
        lambda status: link(status).get("RoundTrip") is not None, what="a round-trip time"
    )
    return foo


def link(status: dict[str, Any]) -> dict[str, Any]:
    (connection,) = status["Connections"]
    return dict(connection)


def test_a_link_says_what_it_is_and_how_it_fares(linked: Node) -> None:
    first = link(linked.status())
    assert (first["NodeID"], first["Cost"], first["Kind"]) == ("bar", 1, "tcp")
    assert first["Address"].startswith("127.0.0.1:")
    assert 0 < first["RoundTrip"] < PATIENCE * 1e9
    assert linked.ask("ping bar")["Success"]
    second = link(linked.status())
    assert second["Since"] == first["Since"]
    assert second["Uptime"] > first["Uptime"]
    for key in ("SentMessages", "SentBytes", "ReceivedMessages", "ReceivedBytes"):
        assert second[key] > first[key] > 0
    assert second["Dropped"] == 0


def shown(node: Node, columns: int, **environment: str) -> str:
    """Return what meshctl shows of a node's status on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {k: v for k, v in node.cluster.environment.items() if k != "NO_COLOR"}
    with os.fdopen(theirs, "wb") as stdout:
        subprocess.run(
            [COMMANDS / "meshctl", "--socket", node.socket, "status"],
            stdout=stdout,
            env=clean | {"TERM": "xterm"} | environment,
            timeout=PATIENCE,
            check=True,
        )
    text = b""
    with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO is the end
        while data := terminal.read(65536):
            text += data
    return text.decode()


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_gets_columns_that_fit_it_and_colours_unless_they_are_unwanted(
    linked: Node, columns: int
) -> None:
    coloured = shown(linked, columns)
    assert "\x1b[32mlistening\x1b[0m" in coloured
    plain = shown(linked, columns, NO_COLOR="1")
    assert "\x1b" not in plain
    lines = [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("tcp-listener 127.0.0.1:") for line in lines)
    assert "\x1b" not in linked.meshctl("status").decode()


def test_a_pipe_gets_receptorctls_columns_and_a_terminal_gets_more(linked: Node) -> None:
    piped = linked.meshctl("status").decode().splitlines()
    assert "Connection   Cost" in piped
    assert "bar          1" in piped
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb") as stdout:
            done = subprocess.run(
                [COMMANDS / "meshctl", "--socket", linked.socket, "status"],
                stdout=stdout,
                timeout=PATIENCE,
                check=True,
            )
        assert done.returncode == 0
        shown = b""
        while b"Route" not in shown:
            shown += terminal.read(65536)
    (line,) = [row for row in shown.decode().splitlines() if row.startswith("bar          1 ")]
    assert "tcp 127.0.0.1:" in line
