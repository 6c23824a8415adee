"""Why a node is not in the mesh: its `status` and its log say so, and those of the other end."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Cluster, Node, Status, free_port


def listener(port: int, **more: Any) -> dict[str, Any]:
    return {"tcp-listener": {"port": port, "bindaddr": "127.0.0.1", **more}}


def peer(port: int, host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return {"tcp-peer": {"address": f"{host}:{port}", **more}}


def last_error(status: Status, of: str = "Peers") -> str:
    """Return the last error of the only configured peer (or listener)."""
    (entry,) = status.get(of) or [{}]
    return entry.get("LastError") or ""


def wait_error(node: Node, words: str, of: str = "Peers") -> dict[str, Any]:
    """Wait until the node's only peer or listener has an error with these words; return it."""
    status = node.wait_status(lambda s: words in last_error(s, of), what=f"the error {words!r}")
    (entry,) = status[of]
    return dict(entry)


NO_NAME = "no!such.invalid"
"""A name that the resolver of the system refuses by itself: no name server is asked."""

# --- nobody there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "refused: nothing listens on that port"),
        ("255.255.255.255", "unreachable: "),
        (NO_NAME, "name not found"),
    ],
    ids=["refused", "unreachable", "name"],
)
def test_a_peer_that_is_not_there(cluster: Cluster, host: str, words: str) -> None:
    foo = cluster.node("foo", level="info", more=[peer(free_port(), host)])
    entry = wait_error(foo, words)
    assert entry["Directive"] == "tcp-peer"
    assert entry["Address"].startswith(host)
    assert entry["State"] in ("waiting", "dialing")
    assert entry["NodeID"] is None
    assert entry["Attempts"] >= 1
    assert entry["Since"] <= entry["LastErrorTime"]
    assert entry["Age"] >= entry["LastErrorAge"] >= 0
    foo.wait_log(rf"peer tcp {re.escape(host)}.* cannot connect: {re.escape(words)}")
    foo.wait_status(
        lambda s: s["Peers"][0]["Attempts"] > entry["Attempts"], what="the next attempt"
    )
    waiting = foo.wait_status(
        lambda s: s["Peers"][0]["State"] == "waiting", what="to wait for the next try"
    )["Peers"][0]
    assert waiting["NextTry"] > waiting["LastErrorTime"]
    assert 0 <= waiting["NextTryIn"] <= 20e9


# --- somebody there who rejects ------------------------------------------------------------------

REJECTED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    # what bar's listener has, what foo's peer has, bar's words, foo's
    "cost": (
        {"cost": 5},
        {},
        "cost 5 here, 1 there; both ends must name the same",
        "cost 1 here, 5 there; both ends must name the same",
    ),
    "allowedpeers of the listener": (
        {"allowedpeers": ["baz"]},
        {},
        "foo is not in allowedpeers",
        "we are not in its allowedpeers",
    ),
    "allowedpeers of the peer": (
        {},
        {"allowedpeers": ["baz"]},
        "we are not in its allowedpeers",
        "bar is not in allowedpeers",
    ),
}


@pytest.mark.parametrize("kind", ["ws", "udp"])
def test_links_of_all_kinds_tell_why_they_are_rejected(cluster: Cluster, kind: str) -> None:
    port = free_port()
    here = {"port": port, "bindaddr": "127.0.0.1", "cost": 5}
    bar = cluster.node("bar", level="info", more=[{f"{kind}-listener": here}])
    address = f"127.0.0.1:{port}" if kind == "udp" else f"ws://127.0.0.1:{port}/"
    foo = cluster.node("foo", level="info", more=[{f"{kind}-peer": {"address": address}}])
    wait_error(foo, "cost 1 here, 5 there; both ends must name the same")
    bar.wait_log("cost 5 here, 1 there; both ends must name the same")


@pytest.mark.parametrize(("ours", "its", "here", "there"), REJECTED.values(), ids=REJECTED)
def test_a_rejected_link_is_explained_at_both_ends(
    cluster: Cluster, ours: dict[str, Any], its: dict[str, Any], here: str, there: str
) -> None:
    port = free_port()
    bar = cluster.node("bar", level="info", more=[listener(port, **ours)])
    foo = cluster.node("foo", level="info", more=[peer(port, **its)])
    entry = wait_error(foo, there)
    assert entry["State"] in ("waiting", "dialing", "opening")
    foo.wait_log(rf"link tcp 127\.0\.0\.1:{port}: closed .*: .*{re.escape(there)}")
    bar.wait_log(rf"closed .*: .*{re.escape(here)}")

    def told(status: Status) -> bool:
        rejected = [r["Reason"] for r in status.get("Rejected", ())]
        return here in rejected or here in last_error(status, "Listeners")

    bar.wait_status(told, what=f"the words {here!r}")
    for rejecting, reason, other in ((bar, here, "foo"), (foo, there, "bar")):
        for rejected in rejecting.status().get("Rejected", ()):
            assert rejected["Reason"] == reason
            assert (rejected["NodeID"], rejected["Address"]) == (other, "127.0.0.1")
            assert rejected["Via"].startswith("tcp 127.0.0.1:")
            assert rejected["Count"] >= 1
            assert rejected["First"] <= rejected["Last"]


@pytest.mark.parametrize("by", ["two addresses", "each other"])
def test_a_node_that_is_linked_already_is_shown_as_linked_and_is_no_fault(
    cluster: Cluster, by: str
) -> None:
    ports = free_port(), free_port()
    twice = [peer(ports[1]), peer(ports[1], "localhost")]
    back = [peer(ports[0])] if by == "each other" else []
    bar = cluster.node("bar", level="info", more=[listener(ports[1]), *back])
    foo = cluster.node("foo", level="info", more=[listener(ports[0]), *twice[: 2 - len(back)]])

    def entries() -> list[dict[str, Any]]:
        return [e for node in (foo, bar) for e in node.status().get("Peers", ())]

    foo.wait_status(
        lambda _: sorted(e["State"] for e in entries()) == ["linked", "up"],
        what="one of the two to be up, and the other linked",
    )
    assert all(e["NodeID"] in ("foo", "bar") for e in entries())
    for node in (foo, bar):
        assert "Rejected" not in node.status()
        assert node.find_log("WARNING link") is None


def test_both_ends_that_reject_each_other_tell_both_reasons(cluster: Cluster) -> None:
    port = free_port()
    bar = cluster.node("bar", level="info", more=[listener(port, allowedpeers=["baz"])])
    foo = cluster.node("foo", level="info", more=[peer(port, allowedpeers=["baz"])])
    wait_error(foo, "bar is not in allowedpeers; and it rejects us: we are not in its allowedpeers")
    bar.wait_log("foo is not in allowedpeers; and it rejects us: we are not in its allowedpeers")


def test_a_peer_that_leads_to_the_node_itself(cluster: Cluster) -> None:
    port = free_port()
    foo = cluster.node("foo", level="info", listen=port, peers=[port])
    wait_error(foo, "node ID")
    foo.wait_log("we rejected it: it uses our own node ID")
    rejected = foo.wait_status(lambda s: s.get("Rejected"), what="a rejection")["Rejected"]
    assert {(r["NodeID"], r["Reason"]) for r in rejected} == {("foo", "it uses our own node ID")}


# --- somebody there who is no node ---------------------------------------------------------------


def test_the_port_of_a_control_service_is_named(cluster: Cluster) -> None:
    port = free_port()
    bar = cluster.node(
        "bar",
        level="info",
        more=[{"control-service": {"service": "tcp", "tcplisten": f"127.0.0.1:{port}"}}],
    )
    foo = cluster.node("foo", level="info", more=[peer(port)])
    wait_error(foo, "the control service of node bar answers there")
    foo.wait_log("control service of node bar answers there")
    bar.wait_log("this is a control service; links are for the port of a listener")


def test_a_listener_of_another_kind_is_named_at_both_ends(cluster: Cluster) -> None:
    port = free_port()
    bar = cluster.node(
        "bar", level="info", more=[{"ws-listener": {"port": port, "bindaddr": "127.0.0.1"}}]
    )
    foo = cluster.node("foo", level="info", more=[peer(port)])
    wait_error(foo, "an HTTP server answers there; if it is a ws-listener, dial it with ws-peer")
    foo.wait_log("an HTTP server answers there")
    wait_error(bar, "no websocket handshake, answered 400", of="Listeners")
    bar.wait_log("no websocket handshake, answered 400")


def test_a_websocket_to_a_tcp_listener_is_named_where_it_listens(cluster: Cluster) -> None:
    port = free_port()
    bar = cluster.node("bar", level="info", listen=port)
    foo = cluster.node(
        "foo", level="info", more=[{"ws-peer": {"address": f"ws://127.0.0.1:{port}/"}}]
    )
    wait_error(bar, "it sends an HTTP request; a tcp-listener is dialed with tcp-peer", "Listeners")
    bar.wait_log("it sends an HTTP request")
    wait_error(foo, "closed the connection during the handshake, as a tcp-listener does")


def test_a_port_where_nobody_says_anything_is_named(cluster: Cluster) -> None:
    with silent_port() as port:
        foo = cluster.node("foo", level="info", more=[peer(port)])
        wait_error(foo, "no routing update after 10 of ours")


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose owner accepts and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


# --- at this end ---------------------------------------------------------------------------------


def test_a_listener_whose_port_is_taken_at_a_reload_is_listed_as_closed(cluster: Cluster) -> None:
    port = free_port()
    foo = cluster.node("foo", level="info", more=[listener(port)])
    with silent_port() as taken:
        rewrite(foo.config, lambda directives: [*directives, listener(taken)])
        assert foo.ask("reload")["Success"] is False
        open_one, closed = foo.status()["Listeners"]
    assert (open_one["State"], open_one["Address"]) == ("listening", f"127.0.0.1:{port}")
    assert (closed["State"], closed["Address"]) == ("closed", f"127.0.0.1:{taken}")
    assert closed["LastError"] == "cannot listen: the address is in use already"
    foo.wait_log(rf"reload: refused.*127\.0\.0\.1:{taken}.*in use")
    assert foo.ask("reload")["Success"] is True
    states = [entry["State"] for entry in foo.status()["Listeners"]]
    assert states == ["listening", "listening"]


def rewrite(path: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change a configuration file."""
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text()))))


def test_a_link_that_is_up_says_so_at_both_ends_and_fields_can_be_asked_for(
    cluster: Cluster,
) -> None:
    port = free_port()
    bar = cluster.node("bar", level="info", listen=port)
    foo = cluster.node("foo", level="info", peers=[port])
    status = foo.wait_status(lambda s: s["Peers"][0]["State"] == "up", what="to be linked")
    (entry,) = status["Peers"]
    assert (entry["NodeID"], entry["NextTry"], entry["NextTryIn"]) == ("bar", None, None)
    assert "Listeners" not in status
    assert "Rejected" not in status
    (listening,) = bar.wait_status(lambda s: s["Listeners"][0]["Links"], what="a link")["Listeners"]
    assert (listening["State"], listening["Opening"]) == ("listening", 0)
    some = foo.ask('{"command":"status","requested_fields":["Peers","NodeID","Nope"]}')
    assert set(some) == {"Peers", "NodeID"}
