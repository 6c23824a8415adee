"""What a node costs that tells a hundred browsers of events while nothing changes."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from bench import processes
from bench.nodes import PATIENCE, Node, World, free_port
from bench.report import Report
from bench.rows import Options, Row, Target

LISTENERS = 100
SECONDS = 60.0
"""Three times as long as a stream is quiet before its client is sent a comment."""

STRETCHES = 5
SETTLED = 3.0
"""Seconds after which nothing is left of the work of starting."""

REQUEST = b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n"
FIRST = b"event: start"


def run(options: Options) -> Report:
    """Have clients listen to the node in the middle of three, and see what it needs for that."""
    listeners, seconds = (20, 15.0) if options.quick else (LISTENERS, SECONDS)
    port, first, second = free_port(), free_port(), free_port()
    with World() as world:
        world.node("left", listen=first)
        world.node("right", listen=second)
        middle = world.node(
            "middle", peers=[first, second], more=[{"http-service": {"port": port}}]
        )
        for other in ("left", "right"):
            middle.wait_for(other)
        with _listening(port, listeners):
            time.sleep(SETTLED)
            values = [_share(middle, seconds / STRETCHES) for _ in range(STRETCHES)]
        usage = world.usage()
    name = f"{listeners} listeners to events, quiet mesh"
    return Report(
        rows=[Row(name, "% of a core", values, Target(0.5), usage=usage)],
        notes=[f"{listeners} clients of /api/v1/events for {seconds:g} s; three nodes in a line"],
    )


@contextmanager
def _listening(port: int, clients: int) -> Iterator[None]:
    """Have so many clients listen while the context lasts; they leave unread what they are told."""
    with ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            client.settimeout(PATIENCE)
            client.sendall(REQUEST)
            told = b""
            while FIRST not in told:
                told += client.recv(65536)
        yield


def _share(node: Node, seconds: float) -> float:
    """Return which part of a core the node needs, in %."""
    before = processes.thread_seconds(node.process.pid)
    time.sleep(seconds)
    after = processes.thread_seconds(node.process.pid)
    # A thread that ended meanwhile had slept for ten seconds, so what it did is not missed.
    return sum(taken - before.get(t, 0) for t, taken in after.items()) / seconds * 100
