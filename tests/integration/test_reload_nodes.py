"""A node that runs takes its changed file over, by meshctl and by SIGHUP."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import COMMANDS, Cluster, Node, bash, free_port, wait_until
from signing_keys import new_key, private_pem, public_pem, write_key

Directives = list[dict[str, Any]]
Change = Callable[[Directives], None]


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Node, Node]:
    """Return foo, which listens, and bar, which is linked to it."""
    port = free_port()
    foo = cluster.node("foo", listen=port)
    bar = cluster.node("bar", peers=[port])
    bar.wait_knows("foo")
    foo.wait_knows("bar")
    return foo, bar


def rewrite(node: Node, change: Change) -> None:
    directives = yaml.safe_load(node.config.read_text())
    change(directives)
    node.config.write_text(yaml.safe_dump(directives, sort_keys=False))


def add_peer(port: int) -> Change:
    return lambda directives: directives.append({"tcp-peer": {"address": f"127.0.0.1:{port}"}})


def add_listener(port: int) -> Change:
    return lambda directives: directives.append(
        {"tcp-listener": {"port": port, "bindaddr": "127.0.0.1"}}
    )


def add_control(directives: Directives) -> None:
    directives.append({"control-service": {"service": "other"}})


def set_work(**types: str) -> Change:
    """Return what gives a file these work types, each with a script for bash, and no others."""

    def change(directives: Directives) -> None:
        directives[:] = [d for d in directives if "work-command" not in d]
        directives += [{"work-command": {"worktype": t} | bash(s)} for t, s in types.items()]

    return change


def types_of(status: dict[str, Any], node: str) -> set[str]:
    """Return the work types that a node advertises, as another one has heard."""
    found = (
        a for a in status["Advertisements"] if (a["NodeID"], a["Service"]) == (node, "control")
    )
    return {kind["WorkType"] for a in found for kind in a["WorkCommands"] or ()}


def link(node: Node, peer: str) -> dict[str, Any]:
    (found,) = (c for c in node.status()["Connections"] if c["NodeID"] == peer)
    return dict(found)


def reload(node: Node) -> subprocess.CompletedProcess[bytes]:
    return node.cluster.run("meshctl", "--socket", node.socket, "reload", check=False)


def assert_same_link(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert after["Since"] == before["Since"]
    assert after["Address"] == before["Address"]
    assert after["Uptime"] > before["Uptime"]


def test_one_more_peer_leaves_the_other_links_up(cluster: Cluster, pair: tuple[Node, Node]) -> None:
    foo, bar = pair
    port = free_port()
    cluster.node("new", listen=port)
    before, far_before = link(bar, "foo"), link(foo, "bar")
    rewrite(bar, add_peer(port))
    done = reload(bar)
    assert (done.returncode, done.stdout) == (0, b"Reload successful\n")
    bar.wait_knows("new")
    foo.wait_knows("new")
    assert_same_link(before, link(bar, "foo"))
    assert_same_link(far_before, link(foo, "bar"))
    assert bar.find_log("link .*: closed") is None


def test_sighup_does_what_reload_does(cluster: Cluster, pair: tuple[Node, Node]) -> None:
    foo, _ = pair
    port = free_port()
    new = cluster.node("new", peers=[port])
    before = link(foo, "bar")
    rewrite(foo, add_listener(port))
    assert foo.process is not None
    foo.process.send_signal(signal.SIGHUP)
    new.wait_knows("foo", "bar")
    assert_same_link(before, link(foo, "bar"))
    # A refused one is told in the log, and ends nothing.
    rewrite(foo, add_control)
    foo.process.send_signal(signal.SIGHUP)
    foo.wait_log(r"WARNING reload: refused, .*foo.yml:\d+: control-service: new or changed")
    assert_same_link(before, link(foo, "bar"))
    assert foo.stop() == 0


def test_a_link_that_is_gone_from_the_file_is_closed(pair: tuple[Node, Node]) -> None:
    foo, bar = pair

    def alone(directives: Directives) -> None:
        directives[:] = [d for d in directives if "tcp-peer" not in d] + [{"local-only": None}]

    rewrite(bar, alone)
    assert reload(bar).returncode == 0
    assert bar.status()["Connections"] == []
    foo.wait_status(lambda status: not status["Connections"], what="the end of the link to bar")
    bar.wait_log("INFO links: closed tcp-peer 127.0.0.1")


def test_a_reload_may_remove_the_only_peer(pair: tuple[Node, Node]) -> None:
    """Receptor calls it a success; a start with that file is refused."""
    foo, bar = pair
    rewrite(bar, lambda directives: directives.remove(directives[-1]))
    assert reload(bar).returncode == 0
    assert bar.status()["Connections"] == []
    bar.wait_log("WARNING reload: no link is configured any more; a start .* add a tcp-listener")
    foo.wait_status(lambda status: not status["Connections"], what="the end of the link to bar")


def test_work_types_come_change_and_go_without_a_restart(
    cluster: Cluster, pair: tuple[Node, Node]
) -> None:
    foo, bar = pair
    gate = cluster.directory / "gate"
    os.mkfifo(gate)
    rewrite(bar, set_work(job=f"echo one; read -r < {gate}; echo end", gone="true"))
    assert reload(bar).returncode == 0
    foo.wait_status(lambda s: types_of(s, "bar") == {"job", "gone"}, what="bar's types")
    before = link(foo, "bar")
    running = foo.submit("job", "--node", "bar", "--no-payload")
    foo.wait_output(running, b"one\n")
    rewrite(bar, set_work(job="echo two", new="echo new"))
    assert reload(bar).returncode == 0
    foo.wait_status(lambda s: types_of(s, "bar") == {"job", "new"}, what="bar's other types")
    assert foo.results(foo.submit("job", "--node", "bar", "--no-payload")) == b"two\n"
    assert foo.results(foo.submit("new", "--node", "bar", "--no-payload")) == b"new\n"
    command = ("meshctl", "--socket", bar.socket, "work", "submit", "gone", "--no-payload")
    assert b"unknown work type gone" in cluster.run(*command, check=False).stderr
    gate.write_text("on\n")
    assert foo.results(running) == b"one\nend\n"
    assert_same_link(before, link(foo, "bar"))


def test_keys_come_and_are_replaced_without_a_restart(
    cluster: Cluster, pair: tuple[Node, Node]
) -> None:
    foo, bar = pair
    private, public = cluster.directory / "private.pem", cluster.directory / "public.pem"

    def write_keys() -> None:
        key = new_key()
        write_key(private, private_pem(key))
        write_key(public, public_pem(key), 0o644)

    def ask_for_signatures(directives: Directives) -> None:
        directives.append({"work-verification": {"publickey": str(public)}})
        work = {"worktype": "signed", "command": "cat", "verifysignature": True}
        directives.append({"work-command": work})

    write_keys()
    rewrite(bar, ask_for_signatures)
    rewrite(foo, lambda ds: ds.append({"work-signing": {"privatekey": str(private)}}))
    for _ in range(2):
        assert (reload(foo).returncode, reload(bar).returncode) == (0, 0)
        foo.wait_status(lambda s: "signed" in types_of(s, "bar"), what="the type signed")
        unit = foo.submit("signed", "--node", "bar", "--signwork", "--payload", "-", stdin=b"x")
        assert foo.results(unit) == b"x"
        write_keys()
    bar.wait_log("INFO work: verification key: changed")


REFUSALS: dict[str, tuple[Change, int, str]] = {
    "a directive that needs a restart": (
        add_control,
        3,
        r"bar\.yml:\d+: control-service: .*restart",
    ),
    "a parameter that needs a restart": (
        lambda directives: directives[0]["node"].update(id="other"),
        3,
        r"bar\.yml:2: node: id: changed; restart",
    ),
    "a mistake": (
        lambda directives: directives.append({"tcp-peer": {"adress": "x:1"}}),
        4,
        r'bar\.yml:\d+: tcp-peer: adress: unknown parameter; did you mean "address"',
    ),
}


@pytest.mark.parametrize(("change", "code", "text"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_reload_changes_nothing_and_says_why(
    cluster: Cluster, pair: tuple[Node, Node], change: Change, code: int, text: str
) -> None:
    _, bar = pair
    port = free_port()
    new = cluster.node("new", listen=port)
    before = link(bar, "foo")
    # What could be taken over is in the file too.
    rewrite(bar, add_peer(port))
    rewrite(bar, change)
    done = reload(bar)
    assert done.returncode == code
    assert re.search(text, done.stderr.decode())
    assert b"ERRORCODE" not in done.stderr
    bar.wait_log(text)
    # receptor's own client comes to the same.
    receptorctl = cluster.run(
        COMMANDS / "receptorctl", "--socket", bar.socket, "reload", check=False
    )
    assert receptorctl.returncode == code
    assert_same_link(before, link(bar, "foo"))
    assert new.status()["Connections"] == []


def test_a_port_that_is_taken_changes_nothing(pair: tuple[Node, Node]) -> None:
    _, bar = pair
    before = link(bar, "foo")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        rewrite(bar, add_listener(free_port()))
        rewrite(bar, add_listener(other.getsockname()[1]))
        done = reload(bar)
    assert done.returncode == 5
    assert b"Address already in use" in done.stderr
    assert_same_link(before, link(bar, "foo"))
    # Once the port is free the same file is taken over.
    assert reload(bar).returncode == 0
    assert_same_link(before, link(bar, "foo"))


def test_firewall_rules_are_taken_over_without_a_restart(pair: tuple[Node, Node]) -> None:
    foo, bar = pair
    before = link(bar, "foo")
    assert foo.ask("ping bar")["Success"] is True
    rules = [{"action": "reject", "fromnode": "/f.*/", "toservice": "ping"}]
    rewrite(bar, lambda directives: directives[0]["node"].update(firewallrules=rules))
    assert reload(bar).returncode == 0
    assert foo.ask("ping bar") == {"Success": False, "Error": "blocked by firewall"}
    rewrite(bar, lambda directives: directives[0]["node"].pop("firewallrules"))
    assert reload(bar).returncode == 0
    assert foo.ask("ping bar")["Success"] is True
    assert_same_link(before, link(bar, "foo"))


def test_a_control_socket_that_a_cleaner_deletes_comes_back(cluster: Cluster) -> None:
    foo = cluster.node("foo")
    lock = Path(f"{foo.socket}.lock")
    foo.socket.unlink()
    lock.unlink()
    foo.wait_log("made the socket .* again")
    foo.meshctl("status")
    wait_until(lock.exists, watch=[foo.directory], what="the lock file")
