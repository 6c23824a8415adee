"""A node with an HTTP service stops: each client can tell, and goes on with the next life."""

import os
import subprocess
from pathlib import Path

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, bash, free_port

WORK = {"held": bash("echo begun; read -r line < $GO; echo $line")}


@pytest.fixture
def go(cluster: Cluster) -> Path:
    """Return the pipe from which units read their last line."""
    path = cluster.directory / "go"
    os.mkfifo(path)
    cluster.environment["GO"] = str(path)
    return path


def start(cluster: Cluster, *words: str | Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [str(word) for word in words],
        env=cluster.environment,
        cwd=cluster.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, bytes]:
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def read_until(process: "subprocess.Popen[bytes]", text: bytes) -> None:
    assert process.stdout is not None
    while text not in process.stdout.readline():
        pass


@pytest.mark.parametrize("option", ["--http1.1", "--http2-prior-knowledge"])
def test_events_end_whole_and_what_has_not_come_is_broken_off(
    cluster: Cluster, go: Path, option: str
) -> None:
    port = free_port()
    node = cluster.node("foo", work=WORK, more=[{"http-service": {"port": port}}])
    unit = node.submit("held", "--no-payload")
    base = f"http://127.0.0.1:{port}/api/v1"
    asks = ["curl", "-sSN", option]
    log = start(
        cluster, *asks, "-H", "Accept: text/event-stream", f"{base}/units/{unit}/log?follow=true"
    )
    events = start(cluster, *asks, f"{base}/events")
    output = start(cluster, *asks, f"{base}/units/{unit}/results")
    read_until(output, b"begun")
    read_until(log, b"begun")
    read_until(events, b"event:")
    assert node.stop() == 0
    assert [end(one)[0] for one in (log, events)] == [0, 0]
    assert end(output)[0] != 0
    assert "Traceback" not in node.log.read_text()


def test_meshctl_says_that_the_node_stops_and_goes_on_with_its_next_life(
    cluster: Cluster, go: Path
) -> None:
    port = free_port()
    node: Node = cluster.node("foo", work=WORK, more=[{"http-service": {"port": port}}])
    unit = node.submit("held", "--no-payload")
    address = f"http://127.0.0.1:{port}"
    reading = start(cluster, COMMANDS / "meshctl", "--socket", address, "work", "results", unit)
    read_until(reading, b"begun")
    assert node.stop() == 0
    node.start()
    go.write_text("done\n")
    code, output, errors = end(reading)
    assert (code, output) == (0, b"done\n")
    assert b"the node stops. Waiting for the node." in errors
