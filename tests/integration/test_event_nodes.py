"""Three real nodes in a line, and what the first one tells of them as they change."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from harness import Cluster, ControlConnection, Node, free_port, wait_until


class Told:
    """What a node tells whoever listens, and what that adds up to."""

    def __init__(self, connection: ControlConnection) -> None:
        self._connection = connection
        self.routes: dict[str, str] = {}
        self.links: set[str] = set()

    def until(self, **wanted: str) -> dict[str, Any]:
        """Return the next event that has these values; a node that tells none fails the test."""
        while True:
            event = json.loads(self._connection.read_line())
            assert event["topic"] != "lost"
            self._apply(event)
            if all(event.get(key) == value for key, value in wanted.items()):
                return dict(event)

    def until_all(self, *wanted: Mapping[str, str]) -> None:
        """Read on until there was an event with each of these sets of values, in any order."""
        left = list(wanted)
        while left:
            event = self.until()
            left = [one for one in left if not one.items() <= event.items()]

    def _apply(self, event: dict[str, Any]) -> None:
        change, thing = event.get("change"), str(event.get("id"))
        if event["topic"] == "route":
            self.routes.pop(thing, None)
            if change != "removed":
                self.routes[thing] = event["route"]["via"]
        elif event["topic"] == "link" and change in {"up", "down"}:
            self.links.discard(thing)
            if change == "up":
                self.links.add(thing)


@contextmanager
def listening(node: Node, command: str = "events") -> Iterator[Told]:
    with ControlConnection(node.socket) as connection:
        assert connection.ask(command) == "Streaming events"
        told = Told(connection)
        told.until(topic="start")
        yield told


@pytest.fixture
def ends(cluster: Cluster) -> tuple[Node, Node]:
    """foo - mid - bar; foo and bar, and mid's port."""
    port, beyond = free_port(), free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", work={"echo": "cat"}, listen=beyond)
    cluster.node("mid", peers=[port, beyond])
    foo.wait_service("bar")
    return foo, bar


def test_a_node_that_goes_and_returns_is_told_of_two_hops_away(ends: tuple[Node, Node]) -> None:
    foo, bar = ends
    with listening(foo, "events mesh") as told:
        bar.kill()
        told.until_all(
            {"topic": "link", "change": "down", "id": "bar/mid"},
            {"topic": "route", "change": "removed", "id": "bar"},
        )
        assert "bar" not in told.routes
        bar.start()
        told.until(topic="service", change="added", id="bar/control")
        while "bar" not in told.routes or "bar/mid" not in told.links:
            told.until()
        assert told.routes["bar"] == foo.status()["RoutingTable"]["bar"] == "mid"


def test_a_unit_on_another_node_is_told_of_live_to_its_end(ends: tuple[Node, Node]) -> None:
    foo, _ = ends
    with listening(foo, "events units") as told:
        unit = foo.submit("echo", "--node", "bar", "--payload", "-", stdin=b"hello")
        last = told.until(change="ended")
        assert last["id"] == unit
        assert last["unit"]["Node"] == "bar"
        assert last["unit"]["StateName"] == "Succeeded"
        assert last["unit"]["RemoteWorkType"] == "echo"
        foo.meshctl("work", "release", unit)
        assert told.until(change="released")["id"] == unit


def test_why_a_configured_peer_is_down_is_told_and_that_it_is_back(cluster: Cluster) -> None:
    port = free_port()
    foo = cluster.node("foo", peers=[port])
    with listening(foo, "events links") as told:
        bar = cluster.node("bar", listen=port)
        # Which of the two is told first depends on what comes together.
        state = ""
        while state != "up" or "foo/bar" not in told.links:
            event = told.until()
            state = event["peer"]["state"] if event.get("change") == "peer" else state
        bar.kill()
        while (event := told.until(change="peer"))["peer"]["state"] == "up":
            pass
        assert event["peer"]["reason"]
        assert event["peer"]["address"].endswith(str(port))


def test_the_whole_mesh_is_seen_from_one_node_with_what_the_others_know(
    ends: tuple[Node, Node],
) -> None:
    foo, _ = ends
    seen = wait_until(lambda: _whole(foo), what="the round-trip time of the far link")
    nodes = {node["id"]: node for node in seen["nodes"]}
    version = foo.status()["Version"]
    for node in ("mid", "bar"):
        assert (nodes[node]["version"], nodes[node]["kind"]) == (version, "meshnode")
        assert nodes[node]["error"] is None
    assert nodes["bar"]["types"] == ["echo"]
    assert (nodes["bar"]["hops"], nodes["bar"]["via"]) == (2, "mid")
    [far] = [link for link in seen["links"] if link["a"] == "bar"]
    assert far["kind"] == "tcp"
    assert far["bytes_sent"] > 0
    # Without asking nobody knows how far links fare.
    [far] = [link for link in foo.ask('{"command":"mesh"}')["links"] if link["a"] == "bar"]
    assert far["rtt"] is None


def _whole(node: Node) -> Any:
    seen = node.ask('{"command":"mesh","detail":true}')
    far = [link for link in seen["links"] if link["a"] == "bar"]
    # A busy one may not answer in time.
    is_whole = far and far[0]["rtt"] and not any(one["error"] for one in seen["nodes"])
    return seen if is_whole else None
