"""What changes at a real node, as a browser is told it: server-sent events over HTTP."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import PATIENCE, Cluster, Node, free_port

Event = tuple[str, str, Any]
"""ID, type and data."""


class Events:
    """A response that goes on."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.request("GET", path, headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["content-type"].startswith("text/event-stream")

    def next(self) -> Event:
        """Return the next event; comments are none."""
        fields: dict[str, str] = {}
        while line := self.response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name and line[0] != ":":
                fields[name] = value
            elif fields:
                return fields["id"], fields["event"], json.loads(fields["data"])
        raise AssertionError("the response has ended")

    def until(self, **wanted: str) -> Event:
        """Return the next event whose data has these values."""
        while True:
            event = self.next()
            if all(event[2].get(key) == value for key, value in wanted.items()):
                return event


@contextmanager
def listening(port: int, topics: str, **headers: str) -> Iterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    events = Events(port, f"/api/v1/events?topics={topics}", named)
    try:
        yield events
    finally:
        events.connection.close()


@pytest.fixture
def foo(cluster: Cluster) -> tuple[Node, int]:
    """A node with an HTTP service, and its port."""
    port = free_port()
    return cluster.node("foo", work={"echo": "cat"}, more=[{"http-service": {"port": port}}]), port


def submit(foo: Node, text: bytes = b"hello") -> str:
    return foo.submit("echo", "--payload", "-", stdin=text)


def test_a_browser_sees_a_link_go_down_and_come_back(cluster: Cluster) -> None:
    port, there = free_port(), free_port()
    cluster.node("foo", peers=[there], more=[{"http-service": {"port": port}}])
    with listening(port, "links") as events:
        bar = cluster.node("bar", listen=there)
        events.until(change="up", id="foo/bar")
        bar.kill()
        events.until(change="down", id="foo/bar")
        bar.start()
        _, topic, told = events.until(change="up", id="foo/bar")
        assert topic == "link"
        assert told["link"]["kind"] == "tcp"


def test_a_browser_that_comes_back_is_told_what_it_has_missed(foo: tuple[Node, int]) -> None:
    node, port = foo
    with listening(port, "units") as events:
        first = submit(node)
        last, _, told = events.until(change="ended")
        assert told["id"] == first
    second = submit(node)
    node.wait_unit(second, "Succeeded")
    with listening(port, "units", last_event_id=last) as events:
        assert events.next()[1] == "start"
        _, _, told = events.until(change="ended")
        assert told["id"] == second


def test_clients_that_read_nothing_hold_up_neither_the_node_nor_those_that_read(
    foo: tuple[Node, int],
) -> None:
    node, port = foo
    deaf = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    try:
        for client in deaf:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with listening(port, "units") as events:
            for _ in range(10):
                unit = submit(node)
                assert events.until(change="ended")[2]["id"] == unit
                node.meshctl("work", "release", unit)
                assert events.until(change="released")[2]["id"] == unit
    finally:
        for client in deaf:
            client.close()
