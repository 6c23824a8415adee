"""Many clients follow one job over HTTP, by bytes and by events; some of them stop reading."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Cluster, Node, bash, free_port, wait_until
from webclient import PATIENCE, WebClient

LINE = "line {number} of a job: wörds, and some more of them so that it is as long as lines are"
PHASE = 4_000
"""Lines between two moments at which the job waits."""

LOUD = 16 * 1024 * 1024
"""Bytes of the job that prints more than any buffers hold."""

MIB = 1024 * 1024

STALLED_COST = MIB
"""Bytes of memory that a client which does not read may cost; 300 to 700 KiB were seen."""


@dataclass
class World:
    node: Node
    client: WebClient
    go: Path

    def let_go(self) -> None:
        """Have the job go on."""
        with self.go.open("w") as file:
            file.write("go\n")

    @property
    def resident(self) -> int:
        status = Path(f"/proc/{self.node.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    cluster = Cluster()
    try:
        go = cluster.directory / "go"
        os.mkfifo(go)
        cluster.environment["GO"] = str(go)
        printed = f"seq -f '{LINE.format(number='%06.0f')}' 1 {PHASE}"
        work = {
            "phases": bash(f"{printed}; read -r line < $GO; {printed}; echo $line; printf ende")
            | {"stderr": "separate", "timestamps": True},
            "loud": bash(f"yes '{LINE}' | head -c {LOUD}") | {"timestamps": True},
        }
        port = free_port()
        node = cluster.node("foo", work=work, more=[{"http-service": {"port": port}}])
        yield World(node, WebClient(port), go)
    finally:
        cluster.close()


# --- ways to follow ------------------------------------------------------------------------------

Follow = Callable[[WebClient, str], bytes]


def by_bytes(client: WebClient, unit: str) -> bytes:
    return client.ask(f"/units/{unit}/results").body


def by_events(client: WebClient, unit: str) -> bytes:
    *lines, end = client.events(f"/units/{unit}/log")
    assert (end.name, end.data["StateName"]) == ("end", "Succeeded")
    shown = (("" if e.data.get("continues") else "\n") + e.data["text"] for e in lines)
    return "".join(shown).removeprefix("\n").encode()


def by_bytes_of_http_2(client: WebClient, unit: str) -> bytes:
    address = f"http://127.0.0.1:{client.port}/api/v1/units/{unit}/results"
    command = ["curl", "-sSN", "--http2-prior-knowledge", "--max-time", f"{PATIENCE:g}", address]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


WAYS: tuple[Follow, ...] = (by_bytes, by_events, by_bytes_of_http_2)


def test_ten_followers_have_each_byte_of_a_job_whenever_they_come(world: World) -> None:
    phase = "".join(LINE.format(number=f"{n:06d}") + "\n" for n in range(1, PHASE + 1))
    printed = f"{phase}{phase}go\nende".encode()
    unit = world.client.submit({"type": "phases"})
    with ThreadPoolExecutor(10) as pool:

        def follow(*numbers: int) -> dict[Future[bytes], Follow]:
            ways = [WAYS[number % len(WAYS)] for number in numbers]
            return {pool.submit(way, world.client, unit): way for way in ways}

        followers = follow(0, 1, 2, 3)
        wait_until(
            lambda: world.client.ask(f"/units/{unit}").json["StdoutSize"] >= len(phase.encode()),
            what="the job to wait",
        )
        followers |= follow(4, 5, 6)
        world.let_go()
        followers |= follow(7, 8)
        world.client.ask(f"/units/{unit}/wait")
        followers |= follow(9)
        for future, way in followers.items():
            assert future.result() == printed, way


# --- who does not read ---------------------------------------------------------------------------


def stalled(stack: ExitStack, world: World, path: str, accept: str) -> socket.socket:
    """Return the connection of a client that has asked and reads nothing."""
    found = stack.enter_context(socket.socket())
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    found.settimeout(PATIENCE)
    found.connect(("127.0.0.1", world.client.port))
    head = f"GET /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    found.sendall(f"{head}Accept: {accept}\r\n\r\n".encode())
    return found


def stalled_http_2(stack: ExitStack, world: World, path: str) -> "subprocess.Popen[bytes]":
    """Return a client of HTTP/2 that writes into a pipe from which nobody reads."""
    address = f"http://127.0.0.1:{world.client.port}/api/v1{path}"
    command = ["curl", "-sN", "--http2-prior-knowledge", address]
    found = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    stack.callback(found.kill)
    return found


def rest_of(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(MIB):
        pieces.append(piece)
    return b"".join(pieces)


def body_of(response: bytes) -> bytes:
    """Return what a response brings: in chunks, unless the job had ended when it began."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if b"content-length:" in head.lower():
        return rest
    body = bytearray()
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return bytes(body)
        body += rest[:length]
        rest = rest[length + 2 :]


def test_a_follower_that_stops_reading_costs_its_bound_and_nobody_else_anything(
    world: World,
) -> None:
    client = world.client
    line = f"{LINE}\n".encode()
    printed = (line * (LOUD // len(line) + 1))[:LOUD]
    # What the node needs to serve one client is there already.
    first = client.submit({"type": "loud"})
    assert by_bytes(client, first) == printed
    with ExitStack() as stack:
        before = world.resident
        unit = client.submit({"type": "loud"})
        results, log = f"/units/{unit}/results", f"/units/{unit}/log"
        readers = [stalled(stack, world, results, "*/*") for _ in range(5)]
        watchers = [stalled(stack, world, log, "text/event-stream") for _ in range(5)]
        others = [stalled_http_2(stack, world, path) for path in (results, log, results, log)]
        # Others have all of it meanwhile, and so has the job.
        assert by_bytes(client, unit) == printed
        assert by_bytes_of_http_2(client, unit) == printed
        assert client.ask(f"/units/{unit}/wait").json["StateName"] == "Succeeded"
        count = len(readers) + len(watchers) + len(others)
        assert (world.resident - before) / count < STALLED_COST
        # Who reads on has lost nothing.
        for reader in readers:
            assert body_of(rest_of(reader)) == printed
        assert rest_of(watchers[0]).count(b"\nevent: end\n") == 1
